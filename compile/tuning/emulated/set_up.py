"""Sets up tools of the emulator: Debian packages without root, and parts that are made once."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mobilenet_tvm.targets.errors import UserError

#: Gets a line for each thing done.
Say = Callable[[str], None]


class SetUpError(UserError):
    """A part cannot be set up; the message is one line with the cause and the mend."""


@contextmanager
def only_one(folder: Path, say: Say) -> Iterator[None]:
    """Wait until no other process sets up what is in the folder, and keep others out."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_once(path: Path, name: str, source: str, make: Callable[[Path], Path], say: Say) -> None:
    """Make a part that has its folder's place to itself, unless it is there.

    Parameters
    ----------
    path : Path
        Where the part is to be.
    name, source : str
        What it is, and where from, for people.
    make : callable
        Works in the scratch folder that it is given, and returns the finished part in it.
    say : callable
        Called with one line for each thing done.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder, say):
        for leftover in folder.glob("unfinished-*"):
            say(f"removing what an interrupted set-up left: {leftover}")
            shutil.rmtree(leftover)
        if path.exists():
            say(f"{name}: there, {path}")
            return
        say(f"{name}: fetching it ({source})")
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as scratch:
            make(Path(scratch)).replace(path)
        say(f"{name}: done in {time.monotonic() - start:.1f} s, {path}")


def program(name: str) -> str:
    """Return where a program is."""
    path = shutil.which(name)
    if path is None:
        raise SetUpError(f"{name} is missing: this needs Linux with apt and dpkg")
    return path


def complaint(finished: subprocess.CompletedProcess[str]) -> str:
    """Return the line in which a program says what went wrong; empty if it says nothing."""
    lines = finished.stderr.strip().splitlines()
    marked = (line for line in lines if line.startswith(("E: ", "ERROR: ", "W: Failed to fetch")))
    return next(marked, lines[-1] if lines else "")


def _attempt(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False
    )


def execute(command: Sequence[str]) -> str:
    """Run a command and return its output."""
    finished = _attempt(command)
    if finished.returncode:
        reason = complaint(finished) or f"exit status {finished.returncode}"
        raise SetUpError(f"{shlex.join(command[:4])} ... failed: {reason}")
    return finished.stdout


def unpacked_packages(packages: Sequence[str], architecture: str, scratch: Path) -> Path:
    """Return a folder with Debian packages, and all that they need, unpacked.

    apt reads the system's sources and keys but has its own state in `scratch`,
    where no package is installed: so it resolves every dependency and needs no root.
    """
    state, archives, root = scratch / "state", scratch / "archives", scratch / "root"
    for folder in (state / "lists/partial", archives / "partial", root):
        folder.mkdir(parents=True)
    (state / "status").touch()
    configuration = scratch / "apt.conf"
    configuration.write_text(f"""\
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
#clear APT::Update;
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{scratch}";
Dir::Cache::archives "{archives}";
""")
    apt = [program("apt-get"), "-c", str(configuration)]
    # Its status is no matter: another source may be out of order, or lack arm64.
    update = _attempt([*apt, "update"])
    install = _attempt(
        [*apt, "install", "--yes", "--download-only", "--no-install-recommends", *packages]
    )
    if install.returncode:
        complaints = filter(None, (complaint(install), complaint(update)))
        raise SetUpError(
            f"apt finds no {architecture} {' '.join(packages)} ({'; '.join(complaints)}): check "
            f"the network, or give apt a source of {architecture} packages "
            "(Ubuntu's for arm64 is http://ports.ubuntu.com/ubuntu-ports)"
        )
    for archive in sorted(archives.glob("*.deb")):
        execute([program("dpkg"), "--extract", str(archive), str(root)])
    return root
