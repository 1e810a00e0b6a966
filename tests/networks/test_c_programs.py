"""C programs with compiled models: examples, other machines, the sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import odd_models as odd
import onnx
import pytest
from board import Board
from board_models import run_on_board
from c_programs import FOLDER, WARNINGS, build, execute, model_macros, run_model, zig_cc
from networks import EXPORTS, ROOT

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.codegen.c_interface import library
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.bench import random_inputs

pytestmark = pytest.mark.full

EXAMPLES = ROOT / "examples" / "c"


def static_program(folder: Path, triple: str) -> Path:
    """Build run_model.c with the static library in a folder and musl."""
    options = [*WARNINGS, "-std=c99", "-D_POSIX_C_SOURCE=200112L", *model_macros("model")]
    sources = [f"-I{folder}", FOLDER / "run_model.c", folder / "libmodel.a"]
    return build([*zig_cc(triple), *options, *sources, "-lm"], folder / "run_model")


@pytest.mark.parametrize(
    ("network", "target", "cpu"),
    [("float32", "arm64", "cortex-a72"), ("int8", "cortex-a76", "cortex-a76")],
)
def test_arm64_programs_get_the_same_outputs(
    network: str, target: str, cpu: str, board: Board, tmp_path: Path
) -> None:
    model = (
        odd.tiny_v2(widths=(8, 12), resolution=33)
        if network == "float32"
        else onnx.load(EXPORTS / "qdq_v3_small_opset17.onnx")
    )
    python = compile_model(model, target, tmp_path / "python.so")
    in_c = compile_model(model, target, tmp_path / "c", interface="c", static=True).path
    (info,) = python.metadata.inputs
    images = np.random.default_rng(0).standard_normal((2, *info.shape)).astype(info.dtype)
    expected, in_python = (
        run_on_board(board, artifact, images, tmp_path / f"board{number}", cpu)
        for number, artifact in enumerate((python.path, in_c))
    )
    np.testing.assert_array_equal(in_python, expected)
    program = static_program(in_c.parent, "aarch64-linux-musl")
    for threads, image, output in zip((1, 2), images, expected, strict=True):
        emulator = (board.qemu, "-cpu", cpu)
        found = run_model(program, threads, image, tmp_path, *emulator)
        assert found == output.tobytes()


def test_a_program_on_musl_gets_the_same_outputs(tmp_path: Path) -> None:
    network = odd.tiny_v2(widths=(8, 12), resolution=33)
    model = load(compile_model(network, "x86", tmp_path / "python.so").path)
    in_c = compile_model(network, "x86", tmp_path / "c", interface="c", static=True).path
    program = static_program(in_c.parent, "x86_64-linux-musl")
    (array,) = random_inputs(model).values()
    for threads in (1, 2):
        assert run_model(program, threads, array, tmp_path) == model(array).tobytes()


@pytest.mark.parametrize(
    "export", ["qdq_v3_small_opset17", "tflite_v1_int8_opset16", "float16_v3_small_opset17"]
)
def test_networks_of_other_types_are_equal(export: str, tmp_path: Path) -> None:
    path = EXPORTS / f"{export}.onnx"
    model = load(compile_model(path, "x86", tmp_path / "python.so").path)
    in_c = load(compile_model(path, "x86", tmp_path / "c", interface="c").path)
    for seed in range(3):
        (array,) = random_inputs(model, seed).values()
        assert in_c(array).tobytes() == model(array).tobytes()


@pytest.mark.usefixtures("gcc")
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_ten_thousand_calls_from_four_threads(
    sanitizer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked = ["gcc", "-O1", "-g", "-fPIC", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    compile_c = library.compile_c

    def instrumented(source: Path, triple: str, output: Path) -> None:
        if source.suffix == ".c":
            build([*checked, "-c", source], output)
        else:
            compile_c(source, triple, output)

    monkeypatch.setattr(library, "compile_c", instrumented)
    network = odd.tiny_v2(widths=(4,), resolution=17, expand=1)
    folder = compile_model(network, "x86", tmp_path, interface="c", static=True).path.parent
    sources = [FOLDER / "many_threads.c", folder / "libmodel.a", f"-I{folder}"]
    options = [*model_macros("model"), "-pthread", "-lm"]
    program = build([*checked, *sources, *options], tmp_path / "many_threads")
    # The sanitizer for threads takes few layouts of the memory.
    command = ["setarch", "-R", str(program), "10000", "2"]
    execute(command)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small network called mobilenet_v2, which the examples expect."""
    folder = tmp_path_factory.mktemp("mobilenet")
    onnx.save(odd.tiny_v2(widths=(8,), resolution=33), folder / "mobilenet_v2.onnx")
    options = {"interface": "c", "static": True}
    return compile_model(folder / "mobilenet_v2.onnx", "x86", folder, **options).path.parent


@pytest.fixture(scope="module")
def picture(mobilenet: Path) -> Path:
    path = mobilenet / "picture.ppm"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    path.write_bytes(b"P6\n# of the tests\n52 40\n255\n" + pixels.tobytes())
    return path


def classes(*command: str | Path) -> list[str]:
    """Return the lines that the example prints."""
    lines = execute(command).splitlines()
    assert len(lines) == 5
    return lines


@pytest.mark.usefixtures("gcc")
def test_the_example_classifies(mobilenet: Path, picture: Path, tmp_path: Path) -> None:
    def make(name: str, *variables: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in EXAMPLES.iterdir():
            (folder / file.name).symlink_to(file)
        execute(["make", "-C", folder, f"MODEL={mobilenet}", *variables])
        return folder / "classify"

    strict = f"CFLAGS=-O2 {' '.join(WARNINGS)}"
    program = make("shared", strict)
    expected = classes(program, picture)
    assert all(line.split()[1] == "class" for line in expected)
    assert sum(float(line.split()[0]) for line in expected) <= 1.001
    assert classes(program, picture, "2") == expected
    assert classes(make("static", strict, "STATIC=1"), picture) == expected
    with_zig = f"CC={' '.join(zig_cc('x86_64-linux-musl'))}"
    assert classes(make("musl", strict, "STATIC=1", with_zig), picture) == expected
    for arguments in (["missing.ppm"], [EXAMPLES / "classify.c"], [picture, "0"]):
        words = list(map(str, [program, *arguments]))
        assert subprocess.run(words, capture_output=True, check=False).returncode == 1


@pytest.mark.usefixtures("gcc")
def test_cmake_builds_the_example(mobilenet: Path, picture: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    execute(["cmake", "-S", EXAMPLES, "-B", tmp_path, f"-DMODEL={mobilenet}"])
    execute(["cmake", "--build", tmp_path])
    classes(tmp_path / "classify", picture)


@pytest.mark.usefixtures("gcc")
def test_the_class_for_cpp(mobilenet: Path, tmp_path: Path) -> None:
    options = ["-std=c++17", *WARNINGS, f"-I{mobilenet}", f"-I{EXAMPLES}"]
    libraries = [mobilenet / "libmobilenet_v2.a", "-pthread", "-lm"]
    command = ["g++", *options, FOLDER / "wrapper.cc", *libraries]
    execute([build(command, tmp_path / "wrapper")])
