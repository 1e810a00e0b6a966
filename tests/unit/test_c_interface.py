"""Names, headers and CPU checks of libraries for C."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from artifacts import ADD

from mobilenet_tvm.compile.codegen.c_interface.cpu_check import cpu_check
from mobilenet_tvm.compile.codegen.c_interface.header import header
from mobilenet_tvm.compile.codegen.c_interface.kernels import _working_memory
from mobilenet_tvm.compile.codegen.c_interface.names import Names
from mobilenet_tvm.compile.codegen.c_interface.toolchain import compile_c
from mobilenet_tvm.compile.codegen.linker import zig
from mobilenet_tvm.runtime.metadata import TensorInfo
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import PRESETS


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        ("mobilenet_v2", "mobilenet_v2"),
        ("mobilenet_v2_0.35_96", "mobilenet_v2_0_35_96"),
        ("MobileNet-V2 (best)", "mobilenet_v2_best"),
        ("2022.export", "model_2022_export"),
        ("детектор", "model"),
        ("__init__", "init"),
        ("int", "int"),
        ("main", "main"),
        ("c", "model_c"),
        ("M", "model_m"),
        ("stdio", "model_stdio"),
        ("features", "model_features"),
        ("pthread-mutex", "model_pthread_mutex"),
    ],
)
def test_names_are_identifiers(model: str, prefix: str) -> None:
    names = Names.of(model)
    assert names.prefix == prefix
    assert names.constants == prefix.upper()
    assert names.library == f"lib{prefix}.so"


def test_no_header_hides_one_of_the_system() -> None:
    headers = zig().parent / "lib" / "libc" / "include"
    names = [
        path.stem
        for library in ("generic-glibc", "generic-musl")
        for path in (headers / library).glob("*.h")
        if re.fullmatch("[a-z][a-z0-9_]*", path.stem)
    ]
    assert len(names) > 100
    assert [name for name in names if Names.of(name).prefix == name] == []


def test_a_name_that_is_too_long_is_refused() -> None:
    assert len(Names.of("n" * 240).library) < 256
    with pytest.raises(UserError, match="has 241 characters, of which one in C may have 240"):
        Names.of("n" * 241)


def test_the_compiler_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "part.c").write_text("int x = y;\n")
    (tmp_path / "model.c").write_text('#include "part.c"\n')
    with pytest.raises(UserError, match=r"zig cc failed: .*part\.c:1:9: error: .*'y'"):
        compile_c(tmp_path / "model.c", "x86_64-linux-gnu", tmp_path / "model.o")


def test_names_of_tensors_stay_in_their_comments() -> None:
    hostile = TensorInfo("*/ int x; /* ü\n#define y", (1, 2), "float16")
    metadata = replace(ADD, inputs=(hostile, TensorInfo("b", (), "bool")), outputs=(hostile,))
    text = header(Names("m"), metadata)
    words = "const uint16_t *input_0,\n    const uint8_t *input_1,\n    uint16_t *output_0);"
    assert words in text
    assert "#define M_INPUT_0_BYTES 4\n" in text
    assert "#define M_INPUT_1_ELEMENTS 1\n" in text
    assert "M_INPUT_1_SHAPE" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("/* input_0")]
    assert line.count("/*") == line.count("*/") == 1
    assert line.isascii()


@pytest.mark.parametrize("name", [name for name, target in PRESETS.items() if target.gpu is None])
def test_all_features_of_a_target_are_checked(name: str) -> None:
    target = PRESETS[name]
    bits = sum(int(word.strip("),"), 16).bit_count() for word in _masks(cpu_check(target)))
    # On x86 one more says that the system reports which registers it saves.
    saved = target.architecture == "x86_64" and "avx" in target.required_features
    assert bits == len(target.required_features) + saved


def _masks(check: str) -> list[str]:
    """Return the last arguments of the calls of `has`."""
    return [call.split()[-1] for call in check.split(" && ") if call.startswith("has(")]


def test_working_memory_is_that_of_a_kernel_and_a_parallel_loop_in_it() -> None:
    loop = "define private i32 @__tvm_parallel_lambda.1(i32 %task) {"
    kernel = "define internal fastcc i32 @block_compute_(ptr %data) {"
    allocation = "  %5 = call ptr %4(i32 1, i32 %dev_id, i64 {}, i32 2, i32 32)"
    functions = [
        "\n".join([kernel, allocation.format(100)]),
        "\n".join([loop, allocation.format(64), allocation.format(1)]),
        "\n".join([loop, allocation.format(70)]),
        "define i32 @other() {",
    ]
    assert _working_memory(functions) == 128 + 128
