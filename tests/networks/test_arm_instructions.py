"""Counts of what small networks execute on emulated ARM cores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import odd_models as odd
import pytest
from arm_emulator import Emulator, EmulatorError
from arm_instructions import execute, layers
from peer_runtimes import OURS

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.tuning.emulated import counts
from mobilenet_tvm.runtime.bundle import bundle


def test_counts_are_equal_each_time_and_grow_with_the_inferences(
    counting_board: Emulator, tmp_path: Path
) -> None:
    core = "cortex-a53"
    artifact = compile_model(odd.tiny_v2(), core, tmp_path / "network.so")
    bundle(artifact.path, tmp_path / "bundle")
    image = np.zeros(artifact.metadata.inputs[0].shape, np.float32)
    totals, rows = [], []
    for inferences in (1, 3):
        found = execute(
            counting_board, core, OURS, tmp_path / "bundle", image, inferences, by_call=True
        )
        inside = counts.within(found.sections[1], found.maps, "network.so")
        totals.append(counts.count(inside, core).classes)
        rows.append(layers(found, core, "network.so", artifact.metadata))
    assert totals[1] == {name: 3 * number for name, number in totals[0].items()}
    exact = ("function", "layer", "macs", "total", "vector arithmetic", "cycles")
    first, second = ([[row[name] for name in exact] for row in each] for each in rows)
    assert first == second
    # A multiply-add has at most four numbers.
    pointwise = [row for row in rows[0] if row["layer"].startswith("pointwise")]
    assert pointwise
    for row in pointwise:
        assert row["vector arithmetic"] >= row["macs"] / 4


def test_a_program_that_fails_is_a_line_that_says_why(
    counting_board: Emulator, tmp_path: Path
) -> None:
    with pytest.raises(EmulatorError, match="emulated cortex-a72: ValueError: torn"):
        counting_board.count("cortex-a72", ["-c", "raise ValueError('torn')"], tmp_path)
