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
from c_programs import (
    FOLDER,
    WARNINGS,
    build,
    execute,
    model_macros,
    parts_of_program,
    run_model,
)
from networks import EXPORTS, ROOT
from quantized_models import residual

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.codegen.c_interface import library
from mobilenet_tvm.compile.codegen.linker import zig
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.bench import random_inputs

pytestmark = pytest.mark.full

EXAMPLES = ROOT / "examples" / "c"

#: A cross compiler that links statically. Its first use compiles musl, a minute of CPU time.
ARM64_MUSL = [str(zig()), "cc", "-target", "aarch64-linux-musl", "-static", "-O1"]


@pytest.mark.parametrize(
    ("network", "target", "dtype"),
    [
        (odd.tiny_v2(widths=(8, 12), resolution=33), "cortex-a72", "float32"),
        (odd.tiny_v2(widths=(8, 12), resolution=33), "cortex-a76", "float16"),
        (residual(), "cortex-a76", "float32"),
    ],
    ids=["float32", "float16", "int8"],
)
def test_arm64_programs_get_the_same_outputs(
    network: onnx.ModelProto, target: str, dtype: str, board: Board, tmp_path: Path
) -> None:
    python = compile_model(network, target, tmp_path / "python.so", dtype=dtype)
    options = {"dtype": dtype, "interface": "c", "static": True}
    in_c = compile_model(network, target, tmp_path / "c", **options).path
    (info,) = python.metadata.inputs
    images = np.random.default_rng(0).standard_normal((2, *info.shape)).astype(info.dtype)
    expected, in_python = (
        run_on_board(board, artifact, images, tmp_path / f"board{number}", target)
        for number, artifact in enumerate((python.path, in_c))
    )
    np.testing.assert_array_equal(in_python, expected)
    words = [*WARNINGS, "-std=c99", "-D_DEFAULT_SOURCE", *model_macros("model")]
    sources = [f"-I{in_c.parent}", FOLDER / "run_model.c", in_c.with_suffix(".a")]
    program = build([*ARM64_MUSL, *words, *sources, "-lm"], tmp_path / "run_model")
    for threads, image, output in zip((1, 2), images, expected, strict=True):
        found = run_model(program, threads, image, tmp_path, board.qemu, "-cpu", target)
        assert found == output.tobytes()
    if target == "cortex-a76":
        older = [
            board.qemu,
            "-cpu",
            "cortex-a53",
            program,
            "1",
            tmp_path / "input.bin",
            tmp_path / "none",
        ]
        result = subprocess.run(list(map(str, older)), capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (
            1,
            "the CPU lacks a feature that the model's code uses\n",
        )


@pytest.mark.parametrize("export", ["tflite_v1_int8_opset16", "float16_v3_small_opset17"])
def test_networks_of_other_types_are_equal(export: str, tmp_path: Path) -> None:
    path = EXPORTS / f"{export}.onnx"
    model = load(compile_model(path, "x86", tmp_path / "python.so").path)
    in_c = load(compile_model(path, "x86", tmp_path / "c", interface="c").path)
    for seed in range(3):
        (array,) = random_inputs(model, seed).values()
        assert in_c(array).tobytes() == model(array).tobytes()


@pytest.mark.usefixtures("gcc")
@pytest.mark.parametrize(
    ("sanitizer", "programs"),
    [
        ("thread", ["many_threads", "bad_calls"]),
        ("address,undefined", ["many_threads", "bad_calls", "hostile_system"]),
    ],
    ids=["thread", "address"],
)
def test_sanitizers_find_nothing(
    sanitizer: str, programs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked = ["gcc", "-O1", "-g", "-fPIC", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    compile_c = library.compile_c

    def instrumented(source: Path, triple: str, output: Path) -> None:
        if source.suffix == ".c":
            build([*checked, "-std=gnu11", *WARNINGS, "-c", source], output)
        else:
            compile_c(source, triple, output)

    monkeypatch.setattr(library, "compile_c", instrumented)
    network = odd.tiny_v2(widths=(4,), resolution=17, expand=1)
    folder = compile_model(network, "x86", tmp_path, interface="c", static=True).path.parent
    for name in programs:
        program = build([*checked, *parts_of_program(name, folder)], tmp_path / name)
        arguments = ["10000", "2"] if name == "many_threads" else []
        # The sanitizer for threads takes few layouts of the memory.
        execute(["setarch", "-R", program, *arguments])


def compile_mobilenet(target: str, folder: Path) -> Path:
    """Compile a small network called mobilenet_v2, which the examples expect."""
    onnx.save(odd.tiny_v2(widths=(8,), resolution=33), folder / "mobilenet_v2.onnx")
    options = {"interface": "c", "static": True}
    return compile_model(folder / "mobilenet_v2.onnx", target, folder, **options).path.parent


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_mobilenet("x86", tmp_path_factory.mktemp("mobilenet"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.ppm"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    path.write_bytes(b"P6\n# of the tests\n52 40\n255\n" + pixels.tobytes())
    return path


def make(model: Path, folder: Path, *variables: str) -> Path:
    """Build the example in a folder."""
    folder.mkdir()
    for file in EXAMPLES.iterdir():
        (folder / file.name).symlink_to(file)
    strict = f"CFLAGS=-O1 {' '.join(WARNINGS)}"
    execute(["make", "-C", folder, f"MODEL={model}", strict, *variables])
    return folder / "classify"


def classes(*command: str | Path) -> list[str]:
    """Return the lines that the example prints."""
    lines = execute(command).splitlines()
    assert len(lines) == 5
    return lines


@pytest.mark.usefixtures("gcc")
def test_the_example_classifies(mobilenet: Path, picture: Path, tmp_path: Path) -> None:
    program = make(mobilenet, tmp_path / "shared")
    expected = classes(program, picture)
    assert all(line.split()[1] == "class" for line in expected)
    assert classes(program, picture, "2") == expected
    assert classes(make(mobilenet, tmp_path / "static", "STATIC=1"), picture) == expected
    for arguments in (["missing.ppm"], [EXAMPLES / "classify.c"], [picture, "0"]):
        words = list(map(str, [program, *arguments]))
        assert subprocess.run(words, capture_output=True, check=False).returncode == 1


def test_the_example_on_arm64_and_musl(
    mobilenet: Path, picture: Path, board: Board, tmp_path: Path
) -> None:
    model = compile_mobilenet("arm64", tmp_path)
    program = make(model, tmp_path / "static", "STATIC=1", f"CC={' '.join(ARM64_MUSL)}")
    on_arm64 = classes(board.qemu, "-cpu", "cortex-a72", program, picture)
    on_x86 = classes(make(mobilenet, tmp_path / "shared"), picture)
    for one, other in zip(on_arm64, on_x86, strict=True):
        assert abs(float(one.split()[0]) - float(other.split()[0])) <= 0.001


@pytest.mark.usefixtures("gcc")
def test_a_program_with_two_models(mobilenet: Path, tmp_path: Path) -> None:
    other = compile_model(odd.tiny_v2(), "x86", tmp_path, interface="c", static=True).path
    folders = [f"-I{mobilenet}", f"-I{tmp_path}"]
    archives = [mobilenet / "libmobilenet_v2.a", other.with_suffix(".a")]
    options = ["-std=gnu11", *WARNINGS, "-pthread"]
    command = ["gcc", *options, *folders, FOLDER / "two_models.c", *archives, "-lm"]
    program = build(command, tmp_path / "two_models")
    values = [float(np.float32(line)) for line in execute([program]).split()]
    expected = []
    for path in (mobilenet / "libmobilenet_v2.so", other):
        model = load(path)
        expected += model(np.full(model.inputs[0].shape, 0.5, np.float32)).ravel().tolist()
    assert values == expected


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
