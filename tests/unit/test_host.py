"""Tests of targets/host.py: what it says of this machine, against other sources of the same."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from board import Board

from mobilenet_tvm.targets import cgroup, host
from mobilenet_tvm.targets.errors import UserError


def test_architecture_is_that_of_the_interpreter() -> None:
    assert host.architecture() == {"AMD64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine(), platform.machine()
    )


@pytest.mark.skipif(host.architecture() != "x86_64", reason="flags are x86's")
def test_x86_features_are_the_kernels_flags() -> None:
    features = host.cpu_features()
    assert {"fpu", "sse2", "lm"} <= features
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags"))
    assert " ".join(sorted(features)) == " ".join(sorted(flags.split()[2:]))


@pytest.mark.parametrize(
    ("cpu", "has", "lacks"),
    [
        ("cortex-a53", {"fp", "asimd", "crc32"}, {"asimddp", "fphp", "atomics"}),
        ("cortex-a72", {"fp", "asimd", "crc32"}, {"asimddp", "fphp", "atomics"}),
        (
            "cortex-a76",
            {"asimd", "asimddp", "fphp", "asimdhp", "atomics", "lrcpc"},
            {"sve", "i8mm"},
        ),
        ("max", {"asimddp", "sve", "sve2", "i8mm", "bf16"}, set[str]()),
    ],
)
def test_arm_features_are_the_emulated_cpus(
    board: Board, tmp_path: Path, cpu: str, has: set[str], lacks: set[str]
) -> None:
    code = "from mobilenet_tvm.targets.host import *; print(architecture(), *cpu_features())"
    finished = board.run(["-c", code], cpu=cpu, env={"PYTHONPATH": _loader_path(tmp_path)})
    assert finished.returncode == 0, finished.stderr
    machine, *features = finished.stdout.split()
    assert machine == "aarch64"
    assert has <= set(features)
    assert not lacks & set(features)


@pytest.mark.skipif(host.core_count() < 2, reason="needs two cores")
def test_core_count_and_default_threads_respect_the_affinity() -> None:
    code = (
        "import os; from mobilenet_tvm.targets.host import *\n"
        "os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])\n"
        "print(core_count(), default_threads())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["1", "1"]


def test_default_threads_fit_on_the_cores() -> None:
    assert 1 <= host.default_threads() <= min(host.core_count(), 8)


def _machine(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("files", "cpus", "threads"),
    [
        # Four cores and nothing told of them.
        ({}, 4, 4),
        # RK3399: four A53, two A72.
        ({f"cpu{i}/cpu_capacity": "485" if i < 4 else "1024" for i in range(6)}, 6, 2),
        # A phone's 1 + 3 + 4.
        ({f"cpu{i}/cpu_capacity": ("250", "250", "250", "250", "870", "870", "870", "1024")[i]
          for i in range(8)}, 8, 4),
        # Two hardware threads on each of four cores.
        ({f"cpu{i}/topology/thread_siblings_list": f"{i % 4},{i % 4 + 4}" for i in range(8)}, 8, 4),
        ({}, 64, 8),
    ],
)  # fmt: skip
def test_default_threads_are_the_fast_physical_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int, threads: int
) -> None:
    monkeypatch.setattr(host, "_CPUS", _machine(tmp_path, files))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    assert host.default_threads() == threads


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        # Docker's --cpus 1.5 with version 2, in a namespace of its own.
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, float("inf")),
        # The least of nested groups.
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        # Version 1; a container sees its own group at the root, under the host's path.
        ("4:cpu,cpuacct:/docker/f00",
         {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
        ("3:memory:/x\n1:cpu:/x",
         {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, float("inf")),
        # Without /proc.
        ("", {"cpu.max": "50000 100000"}, 0.5),
        ("", {"cpu.max": "?"}, float("inf")),
        ("", {}, float("inf")),
    ],
)  # fmt: skip
def test_default_threads_keep_a_containers_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    files: dict[str, str],
    quota: float,
) -> None:
    monkeypatch.setattr(cgroup, "_MOUNT", _machine(tmp_path, {**files, "own": own}))
    monkeypatch.setattr(cgroup, "_OWN", tmp_path / "own")
    monkeypatch.setattr(host, "_CPUS", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert cgroup.cpu_quota() == quota
    assert host.default_threads() == max(1, min(4, quota // 1))


def test_caches_are_the_data_caches_of_each_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = [("1", "Data", "32K"), ("1", "Instruction", "48K"), ("2", "Unified", "1M")]
    files: dict[str, str] = {}
    for index, (level, kind, size) in enumerate(caches):
        folder = f"cpu0/cache/index{index}"
        files |= {f"{folder}/level": level, f"{folder}/type": kind, f"{folder}/size": size}
    monkeypatch.setattr(host, "_CPUS", _machine(tmp_path, files))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert [host.cache_bytes(level) for level in (1, 2, 3)] == [32 << 10, 1 << 20, None]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        # Raspberry Pi 4 (Linux 6.6), two of its four cores.
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\n"
         "processor\t: 1\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n", (0xD08, 0xD08)),
        # Qualcomm's Kryo: its part numbers are its own.
        ("CPU implementer\t: 0x51\nCPU part\t: 0x801\n", (0,)),
        ("model name\t: AMD EPYC\n", ()),
        ("", ()),
    ],
)  # fmt: skip
def test_arm_cores_are_told_by_their_part_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, parts: tuple[int, ...]
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(host, "_CPUINFO", path)
    assert host.cpu_parts() == parts


def test_a_machine_that_tells_nothing_has_no_features_and_no_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(host, "_CPUS", tmp_path / "none")
    assert host.cpu_parts() == ()
    assert host.cache_bytes(1) is None
    assert host.default_threads() >= 1
    if host.architecture() == "x86_64":
        with pytest.raises(UserError, match="mount /proc"):
            host.cpu_features()


def _loader_path(folder: Path) -> str:
    """Return a folder that holds the package, also where it is installed for editing."""
    (folder / "mobilenet_tvm").mkdir()
    (folder / "mobilenet_tvm" / "targets").symlink_to(Path(host.__file__).parent)
    return str(folder)


@pytest.mark.parametrize(
    ("board", "cpuinfo", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4\0", "", "Raspberry Pi 4 Model B Rev 1.4"),
        (
            "",
            "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n",
            "AMD EPYC, family 25, model 17",
        ),
        ("", "", host.architecture()),
    ],
    ids=["board", "x86", "unknown"],
)
def test_machine_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str, cpuinfo: str, name: str
) -> None:
    for attribute, text in (("_BOARD", board), ("_CPUINFO", cpuinfo)):
        (tmp_path / attribute).write_text(text)
        monkeypatch.setattr(host, attribute, tmp_path / attribute)
    assert host.machine_name() == name
