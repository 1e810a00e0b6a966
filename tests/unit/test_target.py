"""Tests of targets/target.py and the presets."""

from __future__ import annotations

import pytest

from mobilenet_tvm.targets.presets import PRESETS, get_target


@pytest.mark.parametrize(
    ("name", "dtype", "lanes"),
    [
        ("x86-avx512", "float32", 16),
        ("x86", "float32", 8),
        ("x86", "uint8", 32),
        ("cortex-a76", "float16", 8),
        ("arm64", "int8", 16),
        ("arm64", "int32", 4),
        ("arm64", "float64", 2),
    ],
)
def test_lanes_are_what_a_vector_register_holds(name: str, dtype: str, lanes: int) -> None:
    assert get_target(name).lanes_of(dtype) == lanes


def test_presets_are_named_once_and_are_their_own_presets() -> None:
    assert list(PRESETS) == [
        *("x86", "x86-avx512", "x86-vnni", "x86-amx", "x86-avx-vnni", "x86-sse4"),
        *("arm64", "arm64-fp16", "cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76"),
        *("mali", "mali-x86", "cuda", "cuda-sm_80", "cuda-sm_90"),
    ]
    for name, target in PRESETS.items():
        assert target.name == target.preset == name
