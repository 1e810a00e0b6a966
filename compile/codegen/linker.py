"""Links object files of any supported architecture with lld."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mobilenet_tvm.targets.errors import UserError


def linker_command() -> list[str]:
    """Return the command of lld: the system's, or else the one in the package ziglang.

    Raises
    ------
    UserError
        If neither is installed.
    """
    system = shutil.which("ld.lld")
    if system:
        return [system]
    try:
        return [str(zig()), "ld.lld"]
    except UserError:
        raise UserError("no linker; run: pip install ziglang, or install ld.lld") from None


def zig() -> Path:
    """Return the program of the package ziglang: compiler, linker and archiver.

    Raises
    ------
    UserError
        If it is not installed.
    """
    package = importlib.util.find_spec("ziglang")
    if package and package.origin:
        # Not through Python, whose start-up takes four times as long as linking.
        return Path(package.origin).with_name("zig")
    raise UserError("no compiler for C; run: pip install ziglang")


def link_shared(
    output: str | Path,
    objects: Sequence[str | Path],
    soname: str = "",
    exports: Sequence[str] = (),
) -> None:
    """Link objects into a stripped shared library that depends on no other library.

    Symbols of libm and TVM's runtime stay undefined and unversioned: they resolve in the process
    that loads the library, whatever its version of glibc.

    Parameters
    ----------
    output : str or Path
        The library to write.
    objects : sequence of str or Path
        ELF relocatable files of one architecture.
    soname : str
        The name by which programs that are linked with it find it. Default: the path given to
        their linker.
    exports : sequence of str
        The symbols that others see. If they are given, the library finds those that it needs when
        it is loaded, not at the first call. Default: all.

    Raises
    ------
    UserError
        If the linker fails, with the first line of its output.
    """
    flags = ["-shared", "--strip-all", "--hash-style=gnu", "-z", "noexecstack", "-z", "relro"]
    if soname:
        flags += ["-soname", soname]
    if not exports:
        _link(flags, output, objects)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".map") as script:
        script.write(f"{{ global: {'; '.join(exports)}; local: *; }};")
        script.flush()
        _link([*flags, "-z", "now", f"--version-script={script.name}"], output, objects)


def link_relocatable(output: str | Path, objects: Sequence[str | Path]) -> None:
    """Link objects into one, without debugging information.

    Parameters
    ----------
    output : str or Path
        The object file to write.
    objects : sequence of str or Path
        ELF relocatable files of one architecture.

    Raises
    ------
    UserError
        If the linker fails, with the first line of its output.
    """
    _link(["-r", "--strip-debug"], output, objects)


def _link(flags: Sequence[str], output: str | Path, objects: Sequence[str | Path]) -> None:
    # A relative path may begin with a dash, and would be an option.
    paths = [str(Path(path).absolute()) for path in (output, *objects)]
    command = [*linker_command(), *flags, "-o", *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        # It writes through a mapping, so that a full disk may end it by a signal.
        free = shutil.disk_usage(Path(output).parent).free
        ended = f"the linker was ended; its disk has {free >> 10} KiB left"
        lines = (result.stderr or result.stdout).strip().splitlines() or [ended]
        raise UserError(f"linking failed: {lines[0]}")
