"""Tests that outputs have memory of their own, also those that are inputs or constants."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_graphs import graph

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.base_model import empty_aligned

ROW = np.array([1, -1], np.int64)
NODES = {
    "relu": helper.make_node("Relu", ["x"], ["relu"]),
    "again": helper.make_node("Identity", ["relu"], ["again"]),
    "flat": helper.make_node("Reshape", ["x", "row"], ["flat"]),
    "flat_relu": helper.make_node("Reshape", ["relu", "row"], ["flat_relu"]),
    "itself": helper.make_node("Identity", ["x"], ["itself"]),
    "fixed": helper.make_node(
        "Constant", [], ["fixed"], value=helper.make_tensor("value", 1, [3], [1.0, 2.0, 3.0])
    ),
}


@pytest.mark.parametrize(
    ("outputs", "shared"),
    [
        (["relu"], []),
        (["relu", "again"], [1]),
        (["relu", "flat_relu"], [1]),
        (["flat_relu", "flat", "itself", "fixed"], [1, 2, 3]),
        (["fixed", "relu", "flat"], [0, 2]),
    ],
)
def test_outputs_have_memory_of_their_own(
    outputs: list[str], shared: list[int], tmp_path: Path
) -> None:
    model = graph(list(NODES.values()), [1, 4, 4, 4], outputs, row=ROW)
    artifact = compile_model(model, "native", tmp_path / "m.so")
    assert artifact.metadata.extra["shared_outputs"] == shared

    compiled = load(artifact.path)
    image = empty_aligned(compiled.inputs[0])
    image[...] = np.arange(-32, 32, dtype=np.float32).reshape(image.shape)
    expected = {
        "relu": image.clip(0),
        "again": image.clip(0),
        "flat": image.reshape(1, -1).copy(),
        "flat_relu": image.clip(0).reshape(1, -1),
        "itself": image.copy(),
        "fixed": np.float32([1, 2, 3]),
    }
    for _ in range(2):
        results = compiled(image)
        found = results if isinstance(results, dict) else {outputs[0]: results}
        for name in outputs:
            np.testing.assert_array_equal(found[name], expected[name])
        for one, other in itertools.combinations([image, *found.values()], 2):
            assert not np.shares_memory(one, other)
        # The next call must not find what its caller makes of an output.
        for array in found.values():
            if array.flags.writeable:
                array[...] = -1
