"""The example that fine-tunes a pruned network in PyTorch, where PyTorch is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from mobilenet_tvm.compile import PruneOptions, prune_model
from mobilenet_tvm.compile.models.counts import macs
from mobilenet_tvm.compile.models.named import ModelSpec, build

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune_pruned.py"


@pytest.mark.full
def test_a_pruned_network_is_tuned_in_pytorch_and_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    pruned, tuned = tmp_path / "pruned.onnx", tmp_path / "tuned.safetensors"
    prune_model("v2", pruned, PruneOptions(0.5), target="x86", classes=10)
    command = [sys.executable, EXAMPLE, pruned, "mobilenet_v2", "-o", tuned]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("loss ")
    assert macs(build(ModelSpec("v2", classes=10), tuned)) == macs(onnx.load(pruned))


def test_the_example_says_what_it_needs(tmp_path: Path) -> None:
    # A module of this name without content stands for PyTorch being absent.
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "pruned.onnx", "mobilenet_v2"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install torch torchvision" in done.stderr
