"""Tests of the emulated arm64 board, and of a cross-compiled function on it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tvm
from board import COMMAND, Board
from tvm import te

# Linux, arch/arm64/include/uapi/asm/hwcap.h; 16 is AT_HWCAP in include/uapi/linux/auxvec.h.
HWCAP_BITS = {"asimd": 1, "crc32": 7, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimddp": 20}
ARMV8_0 = {"asimd", "crc32"}
ARMV8_2 = {"asimd", "crc32", "atomics", "fphp", "asimdhp", "asimddp"}


def output_of(board: Board, code: str, *args: str, cpu: str = "cortex-a72") -> str:
    finished = board.run(["-c", code, *args], cpu=cpu)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def compiled_multiply_add(folder: Path, cpu: str, dtype: str) -> Path:
    """Cross-compile y = a * b + a over 64 elements, in vectors of 8."""
    a = te.placeholder((64,), dtype, "a")
    b = te.placeholder((64,), dtype, "b")
    y = te.compute((64,), lambda i: a[i] * b[i] + a[i], "y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, b, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    schedule.vectorize(schedule.split(loop, [None, 8])[1])
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu})

    def link(output: str, objects: list[str], **_: object) -> None:
        lld = [sys.executable, "-m", "ziglang", "ld.lld"]
        subprocess.run([*lld, "-shared", "-o", output, *objects], check=True)

    library = folder / f"multiply_add_{dtype}.so"
    tvm.compile(schedule.mod, target).export_library(str(library), fcompile=link)
    return library


RUN_MULTIPLY_ADD = """
import ctypes, sys, numpy as np, tvm_ffi
runtime, library, dtype = sys.argv[1:]
ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL)
random = np.random.default_rng(0)
a, b = random.integers(-8, 8, (2, 64)).astype(dtype)
y = np.zeros(64, dtype)
tvm_ffi.load_module(library)["main"](*map(tvm_ffi.from_dlpack, (a, b, y)))
np.testing.assert_array_equal(y, a * b + a)
print(y.any())
"""


def test_python_reports_aarch64_though_the_machine_below_may_be_another(board: Board) -> None:
    code = (
        "import platform, sys; print(platform.machine(), sys.byteorder, sys.maxsize.bit_length())"
    )
    assert output_of(board, code) == "aarch64 little 63"


def test_numpy_multiplies_matrices_as_integers_do(board: Board) -> None:
    code = """
import numpy as np
a, b = np.random.default_rng(0).integers(-9, 9, (2, 65, 65))
for dtype in "float32", "float64":
    np.testing.assert_array_equal(a.astype(dtype) @ b.astype(dtype), a @ b)
print("equal")
"""
    assert output_of(board, code) == "equal"


def test_an_app_finds_no_package_beside_numpy_and_tvm_ffi(board: Board) -> None:
    code = """
from importlib.util import find_spec
names = "numpy", "tvm_ffi", "tvm", "mobilenet_tvm", "onnx", "psutil", "click"
print([name for name in names if find_spec(name)])
"""
    assert output_of(board, code) == "['numpy', 'tvm_ffi']"


def test_libtvm_runtime_registers_its_functions_with_tvm_ffi(board: Board) -> None:
    code = """
import ctypes, sys, tvm_ffi
name = "runtime.NumThreads"
before = tvm_ffi.get_global_func(name, allow_missing=True)
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
print(before, tvm_ffi.get_global_func(name)() > 0)
"""
    assert output_of(board, code, str(board.runtime_library)) == "None True"


@pytest.mark.parametrize(
    ("cpu", "features"),
    [
        ("cortex-a53", ARMV8_0),
        ("cortex-a57", ARMV8_0),
        ("cortex-a72", ARMV8_0),
        ("cortex-a76", ARMV8_2),
        ("max", ARMV8_2),
    ],
)
def test_hwcap_tells_the_features_of_the_emulated_cpu(
    board: Board, cpu: str, features: set[str]
) -> None:
    hwcap = int(output_of(board, "import ctypes; print(ctypes.CDLL(None).getauxval(16))", cpu=cpu))
    assert {name for name, bit in HWCAP_BITS.items() if hwcap >> bit & 1} == features


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_a_cross_compiled_function_computes_right(board: Board, tmp_path: Path, cpu: str) -> None:
    library = compiled_multiply_add(tmp_path, "cortex-a72", "float32")
    args = (str(board.runtime_library), str(library), "float32")
    assert output_of(board, RUN_MULTIPLY_ADD, *args, cpu=cpu) == "True"


@pytest.mark.parametrize(("cpu", "status"), [("cortex-a76", 0), ("cortex-a72", -signal.SIGILL)])
def test_half_precision_code_needs_a_cpu_that_has_it(
    board: Board, tmp_path: Path, cpu: str, status: int
) -> None:
    library = compiled_multiply_add(tmp_path, "cortex-a76", "float16")
    args = ["-c", RUN_MULTIPLY_ADD, str(board.runtime_library), str(library), "float16"]
    finished = board.run(args, cpu=cpu)
    assert finished.returncode == status, finished.stderr


def test_sys_executable_starts_a_second_emulated_process(board: Board) -> None:
    code = """
import subprocess, sys
child = "import numpy, platform, sys; print(platform.machine(), sys.argv[1:], flush=True)"
subprocess.run([sys.executable, "-c", child, "a b", "$HOME", ""], check=True)
"""
    assert output_of(board, code) == "aarch64 ['a b', '$HOME', '']"


def test_run_passes_its_environment_and_none_of_this_process(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("QEMU_CPU", "cortex-a53")
    code = "import os; print(os.getcwd(), os.environ['A'], os.environ.get('PYTHONPATH'))"
    finished = board.run(["-c", code], env={"A": "with, comma = and space"}, cwd=tmp_path)
    assert finished.stdout == f"{tmp_path} with, comma = and space None\n"


def test_run_reports_status_and_error_output(board: Board) -> None:
    finished = board.run(["-c", "import sys; sys.exit('broken')"])
    assert (finished.returncode, finished.stdout, finished.stderr) == (1, "", "broken\n")


def test_run_kills_what_takes_too_long(board: Board) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        board.run(["-c", "while True: pass"], timeout=1)


def test_an_unknown_cpu_is_refused_by_name(board: Board) -> None:
    finished = board.run(["-c", ""], cpu="cortex-a1")
    assert finished.returncode != 0
    assert "cortex-a1" in finished.stderr


@pytest.mark.alone
def test_a_second_set_up_fetches_nothing_and_clears_what_a_killed_one_left(board: Board) -> None:
    leftover = board.folder / "unfinished-by-a-test"
    leftover.mkdir()
    lines: list[str] = []
    start = time.monotonic()
    board.set_up(lines.append)
    assert time.monotonic() - start < 1
    assert not leftover.exists()
    assert not any("fetching" in line for line in lines)
    assert lines[-1] == "the board is complete, nothing to do"


def test_an_empty_cache_gives_the_command_that_fills_it(tmp_path: Path) -> None:
    reason = Board(tmp_path).reason()
    assert reason is not None
    assert COMMAND in reason
    assert not Board(tmp_path).available()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 error"), ("", "1 skipped")])
def test_a_missing_board_skips_here_but_fails_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    test = f"{__file__}::{test_run_reports_status_and_error_output.__name__}"
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "", "-p", "no:cacheprovider", test],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
    )
    assert outcome in finished.stdout
    assert COMMAND in finished.stdout
