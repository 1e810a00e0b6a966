"""Compares this project with PyTorch on an NVIDIA GPU: same networks and weights, in turns.

    pip install '.[cuda]' torch
    python benchmarks/gpu.py --model v2 --batch 1 --dtype float16

PyTorch runs in the usual ways: eager, eager in a CUDA graph, and compiled, without and with CUDA
graphs; with channels last, cuDNN's choice of algorithms, and float32 without TF32, as in this
project. Each output is first compared with that of eager PyTorch in float32. Times are from inputs
to outputs on the device, and from and to host memory (`whole`). The roofline is the sum of each
layer's minimum time, for its multiply-adds or its bytes, at the speeds that PyTorch's matrix
product and copy reach on this GPU; data that stay in a cache may be faster.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnx import numpy_helper

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.models.layers import ConvolutionSpec, LinearSpec
from mobilenet_tvm.compile.models.named import ModelSpec, build
from mobilenet_tvm.compile.models.networks import Architecture
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.device import copy, open_device
from mobilenet_tvm.runtime.library import load_artifact
from mobilenet_tvm.runtime.model import GRAPH
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import PRESETS

try:
    import torch
    import torch.nn.functional as nn
except ImportError:
    raise SystemExit("Error: PyTorch is not installed; run: pip install torch") from None

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]

OURS = "mobilenet-tvm"
NAMES = ("v1", "v2", "v3-large", "v3-small")
#: Share of the range of the logits: sums are rounded at different points.
TOLERANCE = {"float32": 5e-3, "float16": 5e-2}
#: Timed runs of each way per turn.
AT_A_TIME = 10


class Network(torch.nn.Module):
    """A MobileNet in PyTorch; its parameters are those of this project's ONNX model."""

    def __init__(self, architecture: Architecture, parameters: dict[str, Array]) -> None:
        super().__init__()
        self.architecture = architecture
        for name, value in parameters.items():
            # A copy: ONNX's arrays are read-only.
            self.register_buffer(name.replace(".", "_"), torch.tensor(value))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.architecture.evaluate(self, picture)["logits"]

    def convolution(self, layer: ConvolutionSpec, value: torch.Tensor) -> torch.Tensor:
        """Convolution, batch norm or bias, activation."""
        bias = None if layer.norm else self._parameter(f"{layer.name}.bias")
        window = (layer.stride, layer.padding, layer.dilation, layer.groups)
        value = nn.conv2d(value, self._parameter(f"{layer.name}.weight"), bias, *window)
        if layer.norm:
            parts = ("running_mean", "running_var", "weight", "bias")
            norm = [self._parameter(f"{layer.norm}.{part}") for part in parts]
            value = nn.batch_norm(value, *norm, eps=layer.epsilon)
        return _activate(value, layer.activation)

    def linear(self, layer: LinearSpec, value: torch.Tensor) -> torch.Tensor:
        """Matrix product, bias, activation."""
        names = (f"{layer.name}.weight", f"{layer.name}.bias")
        return _activate(nn.linear(value, *map(self._parameter, names)), layer.activation)

    def pool(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of each channel, height and width kept as 1."""
        return value.mean((2, 3), keepdim=True)

    def flatten(self, value: torch.Tensor) -> torch.Tensor:
        """Drop height and width."""
        return value.flatten(1)

    def add(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Sum."""
        return left + right

    def multiply(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Product."""
        return left * right

    def _parameter(self, name: str) -> torch.Tensor:
        return self.get_buffer(name.replace(".", "_"))


def _activate(value: torch.Tensor, activation: str | None) -> torch.Tensor:
    match activation:
        case None:
            return value
        case "relu6":
            return nn.relu6(value)
        case "hard_swish":
            return nn.hardswish(value)
        case "hard_sigmoid":
            return nn.hardsigmoid(value)
        case _:
            return nn.relu(value)


def network(name: str, batch: int) -> Network:
    """Return a named network with the weights that `compile` gives it by default."""
    spec = ModelSpec(name, batch=batch)
    tensors = build(spec).graph.initializer
    every = {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
    shapes = spec.architecture.parameter_shapes
    return Network(spec.architecture, {name: every[name] for name in shapes}).eval()


def in_graph(model: Callable[[torch.Tensor], torch.Tensor], data: torch.Tensor) -> Run:
    """Record a model's kernels as a CUDA graph; return its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(data)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = model(data)

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


def by_pytorch(model: Network, image: Array, dtype: str) -> dict[str, tuple[Run, Run]]:
    """Return the ways to run PyTorch: on the device, and from and to host memory."""
    number = getattr(torch, dtype)
    half = model.cuda().to(number, memory_format=torch.channels_last)
    data = torch.from_numpy(image).cuda().to(number, memory_format=torch.channels_last)
    ways: dict[str, Run] = {
        "eager": lambda: half(data),
        "eager, CUDA graph": in_graph(half, data),
    }
    for name, mode in (("compiled", "default"), ("compiled, CUDA graphs", "reduce-overhead")):
        torch.compiler.reset()
        compiled = torch.compile(half, mode=mode)
        ways[name] = lambda compiled=compiled: compiled(data)

    def whole(run: Run) -> Run:
        def call() -> Array:
            data.copy_(torch.from_numpy(image))
            return np.asarray(run().float().cpu())

        return call

    return {name: (run, whole(run)) for name, run in ways.items()}


def by_ours(path: Path, image: Array) -> tuple[Run, Run]:
    """Return the way to run this project: on the device, and from and to host memory."""
    import tvm_ffi

    model = load(path)
    device = open_device("cuda")
    machine = load_artifact(path, own_copy=True)["vm_load_executable"]()
    machine["vm_initialization"](*device.places)
    data = device.empty(image.shape, "float32")
    copy(tvm_ffi.from_dlpack(image), data)
    graph = machine[GRAPH]
    return lambda: graph(data), lambda: np.asarray(model(image))


def milliseconds(run: Run) -> float:
    """Return the mean latency of several runs, synchronised after each."""
    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(AT_A_TIME):
        run()
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / AT_A_TIME


def peak(dtype: str) -> tuple[float, float]:
    """Measure the operations per second of a matrix product and the bytes per second of a copy."""
    side = 8192
    matrix = torch.randn(side, side, device="cuda", dtype=getattr(torch, dtype))
    buffer = torch.empty(2**29, device="cuda", dtype=torch.float16)
    target = torch.empty_like(buffer)
    product = min(milliseconds(lambda: matrix @ matrix) for _ in range(5))
    copied = min(milliseconds(lambda: target.copy_(buffer)) for _ in range(5))
    return 2 * side**3 / product * 1e3, 2 * 2 * buffer.numel() / copied * 1e3


def measure(
    name: str, batch: int, dtype: str, rounds: int, peaks: tuple[float, float], work: Path
) -> dict[str, Any]:
    """Return the minimum and median time of each way, and the roofline."""
    image = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    path = work / f"{name}-{batch}-{dtype}.so"
    artifact = compile_model(name, _target(), path, dtype=dtype, batch=batch)
    model = network(name, batch)
    expected = np.asarray(model.cuda()(torch.from_numpy(image).cuda()).cpu())
    ways = {OURS: by_ours(path, image), **by_pytorch(model, image, dtype)}
    wrong = {}
    for way, (_, whole) in list(ways.items()):
        difference = float(np.abs(whole() - expected).max() / np.ptp(expected))
        if not difference <= TOLERANCE[dtype]:
            wrong[way] = f"its output differs by {difference:.1e} of the range"
            del ways[way]
    times: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
    for _ in range(rounds):
        for way, runs in ways.items():
            for run, values in zip(runs, times[way], strict=True):
                values.append(milliseconds(run))
    calls = artifact.metadata.extra["calls"]
    floor = sum(max(call["flops"] / peaks[0], call["bytes"] / peaks[1]) for call in calls)
    summary = {
        way: {
            kind: {"least": min(values), "median": statistics.median(values)}
            for kind, values in zip(("device", "whole"), both, strict=True)
        }
        for way, both in times.items()
    }
    size = {"model": name, "batch": batch, "dtype": dtype}
    return {**size, "milliseconds": summary, "roofline": 1e3 * floor, "wrong": wrong}


def _target() -> str:
    major, minor = torch.cuda.get_device_capability()
    name = f"cuda-sm_{major}{minor}"
    return name if name in PRESETS else "cuda"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table, in milliseconds: least / median."""
    names = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    head = ["model", "batch", "dtype", "", *names, "ratio least", "ratio median", "of roofline"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        for kind in ("device", "whole"):
            times = {name: both[kind] for name, both in row["milliseconds"].items()}
            cells = [row["model"], str(row["batch"]), row["dtype"], kind]
            for name in names:
                value = times.get(name)
                cells.append(f"{value['least']:.3f} / {value['median']:.3f}" if value else "-")
            ours = times.pop(OURS, None)
            for part in ("least", "median"):
                best = min((value[part] for value in times.values()), default=0.0)
                cells.append(f"{ours[part] / best:.2f}" if ours and best else "-")
            share = ours is not None and kind == "device"
            cells.append(f"{row['roofline'] / ours['least']:.0%}" if share else "-")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--model", "models", multiple=True, default=NAMES, show_default=True)
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8, 64), show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=tuple(TOLERANCE), show_default=True)
@click.option("--rounds", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    models: tuple[str, ...],
    batches: tuple[int, ...],
    dtypes: tuple[str, ...],
    rounds: int,
    as_json: bool,
) -> None:
    """Compare latencies with PyTorch's on this machine's first NVIDIA GPU."""
    if not torch.cuda.is_available():
        raise click.ClickException("PyTorch finds no NVIDIA GPU; check that nvidia-smi lists one")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        peaks = {dtype: peak(dtype) for dtype in dtypes}
        try:
            rows = [
                measure(model, batch, dtype, rounds, peaks[dtype], Path(folder))
                for model in models
                for dtype in dtypes
                for batch in batches
            ]
        except UserError as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps({"peaks": peaks, "rows": rows}, indent=2))
        return
    click.echo(table(rows))
    for row in rows:
        for name, reason in row["wrong"].items():
            click.echo(f"{row['model']}, batch {row['batch']}, {row['dtype']}: {name}: {reason}")
    device = torch.cuda.get_device_name()
    for dtype, (flops, speed) in peaks.items():
        click.echo(f"{device}, {dtype}: {flops / 1e12:.1f} TFLOP/s, {speed / 1e9:.0f} GB/s")


if __name__ == "__main__":
    main()
