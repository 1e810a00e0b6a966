"""Fine-tune a pruned network in PyTorch: one step, on random pictures, to be replaced by yours.

Needs `pip install torch torchvision`, besides mobilenet-tvm.

mobilenet-tvm prune --model v2 --weights v2.safetensors --sparsity 0.5 -o pruned.onnx
python examples/finetune_pruned.py pruned.onnx mobilenet_v2 -o tuned.safetensors
mobilenet-tvm compile --target native --model v2 --weights tuned.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

try:
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from torchvision.models import get_model
except ImportError as error:
    sys.exit(f"error: this needs PyTorch and torchvision ({error}); pip install torch torchvision")

BATCH = 8
LEARNING_RATE = 1e-3


def state_of(path: Path) -> dict[str, Any]:
    """Return the state dict that is in a pruned file: constants with the names of parameters."""
    tensors = onnx.load(path).graph.initializer
    arrays = {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in tensors}
    return {name: torch.from_numpy(array) for name, array in arrays.items() if "." in name}


def shrink(network: Any, state: dict[str, Any]) -> None:
    """Give the layers of a network the widths that a state dict has, and its values."""
    for name, layer in network.named_modules():
        if f"{name}.weight" not in state:
            continue
        for part in ("weight", "bias"):
            if f"{name}.{part}" in state:
                setattr(layer, part, nn.Parameter(state[f"{name}.{part}"].clone()))
        width = len(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_features = width
            layer.running_mean = state[f"{name}.running_mean"].clone()
            layer.running_var = state[f"{name}.running_var"].clone()
        elif isinstance(layer, nn.Conv2d):
            layer.groups = width if layer.groups > 1 else 1
            layer.in_channels, layer.out_channels = layer.weight.shape[1] * layer.groups, width


def main() -> None:
    """Load the pruned network into PyTorch, train it for a step, and save its state dict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pruned", type=Path, help="an ONNX file that 'prune' made of a named model")
    parser.add_argument("network", help="torchvision's name of it, such as mobilenet_v2")
    parser.add_argument("-o", "--output", type=Path, default=Path("tuned.safetensors"))
    arguments = parser.parse_args()
    state = state_of(arguments.pruned)
    classes = next(reversed(state.values())).shape[0]
    network = get_model(arguments.network, num_classes=classes)
    shrink(network, state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"error: {arguments.pruned} is no {arguments.network}: {[*missing, *unexpected]}")

    network.train()
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(classes, (BATCH,))
    loss = nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    save_file(network.state_dict(), arguments.output)
    print(f"loss {loss.item():.3f}; wrote {arguments.output}")


if __name__ == "__main__":
    main()
