"""Compares this project with five other runtimes: same networks, in turns.

    pip install '.[bench]' && pip install --no-deps pnnx
    python benchmarks/peers.py --threads 1 --threads 2

Each runtime has its own process, which is bound to as many cores as threads and stopped while the
others run, so that its idle workers do not take a core from them. Its output is first compared with
ONNX Runtime's. Then, in each round, every runtime runs the network once untimed and a few times
timed, so that all see the same machine load. ncnn needs pnnx to convert its models; pnnx lists
PyTorch as a dependency but does not need it, hence --no-deps.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[], Array]

MODELS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
PEERS = Path(__file__).resolve().parents[2] / "shared" / "peers"
OURS = "mobilenet-tvm"
RUNTIMES = ("ONNX Runtime", OURS, "OpenVINO", "LiteRT", "MNN", "ncnn")
#: All runtimes compute in float32, but round at different points.
TOLERANCE = 5e-3


def ours(path: Path, image: Array, threads: int, target: str, work: Path) -> Run:
    """Compile with this project and load the artifact."""
    from mobilenet_tvm.compile import compile_model
    from mobilenet_tvm.runtime import load

    artifact = compile_model(path, target, work / f"{path.stem}.so")
    model = load(artifact.path, threads=threads)
    return lambda: np.asarray(model(image))


def onnxruntime(path: Path, image: Array, threads: int) -> Run:
    """Microsoft's ONNX Runtime, CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: np.asarray(session.run(None, {"input": image})[0])


def openvino(path: Path, image: Array, threads: int) -> Run:
    """Intel's OpenVINO, CPU plug-in, restricted to float32."""
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: np.asarray(next(iter(request.infer([image]).values())))


def litert(path: Path, image: Array, threads: int) -> Run:
    """Google's LiteRT, whose CPU path is XNNPACK; reads NHWC."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path.with_suffix(".tflite")), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]
    picture = np.ascontiguousarray(image.transpose(0, 2, 3, 1))

    def run() -> Array:
        interpreter.set_tensor(source, picture)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(result))

    return run


def mnn(path: Path, image: Array, threads: int, work: Path) -> Run:
    """Alibaba's MNN, converted by its own tool, restricted to float32."""
    import MNN

    converted = work / f"{path.stem}.mnn"
    if not converted.exists():
        tool = shutil.which("mnnconvert", path=Path(sys.executable).parent)
        files = ["--modelFile", str(path), "--MNNModel", str(converted)]
        command = [str(tool), "-f", "ONNX", *files, "--bizCode", "bench"]
        subprocess.run(command, check=True, capture_output=True)
    interpreter = MNN.Interpreter(str(converted))
    session = interpreter.createSession(
        {"numThread": threads, "precision": "high", "backend": "CPU"}
    )
    source = interpreter.getSessionInput(session)
    given = MNN.Tensor(image.shape, MNN.Halide_Type_Float, image, MNN.Tensor_DimensionType_Caffe)
    shape = (image.shape[0], 1000)

    def run() -> Array:
        source.copyFrom(given)
        interpreter.runSession(session)
        result = interpreter.getSessionOutput(session)
        host = MNN.Tensor(
            shape,
            MNN.Halide_Type_Float,
            np.zeros(shape, np.float32),
            MNN.Tensor_DimensionType_Caffe,
        )
        result.copyToHostTensor(host)
        return np.array(host.getData(), np.float32).reshape(shape)

    return run


def ncnn(path: Path, image: Array, threads: int, work: Path) -> Run:
    """Tencent's ncnn, converted by pnnx, restricted to float32."""
    import ncnn as lib

    converted = work / f"{path.stem}.ncnn.param"
    if not converted.exists():
        tool = shutil.which("pnnx", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if tool is None:
            raise RuntimeError("its converter is missing: pip install --no-deps pnnx")
        package = Path(tool).parent.parent.glob("lib/python*/site-packages/pnnx/pnnx")
        shutil.copy(path, work)
        shape = f"inputshape=[{','.join(map(str, image.shape))}]"
        command = [str(next(package, tool)), f"{path.name}", shape]
        subprocess.run(command, check=True, capture_output=True, cwd=work)
    net = lib.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(str(converted))
    net.load_model(str(converted.with_suffix(".bin")))
    picture = lib.Mat(image[0])

    def run() -> Array:
        extractor = net.create_extractor()
        extractor.input("in0", picture)
        _, result = extractor.extract("out0")
        return np.array(result).reshape(1, -1)

    return run


def make(name: str, path: Path, image: Array, threads: int, target: str, work: Path) -> Run:
    """Prepare a runtime to run a network."""
    match name:
        case "ONNX Runtime":
            return onnxruntime(path, image, threads)
        case "OpenVINO":
            return openvino(path, image, threads)
        case "LiteRT":
            return litert(path, image, threads)
        case "MNN":
            return mnn(path, image, threads, work)
        case "ncnn":
            return ncnn(path, image, threads, work)
        case _:
            return ours(path, image, threads, target, work)


def serve(name: str, path: Path, threads: int, target: str, work: Path) -> None:
    """Run one runtime in this process: each line on standard input is a number of timed runs.

    The first answer is the file with the output, the others are times in milliseconds.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    # Some runtimes print to standard output, which is reserved for the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    run = make(name, path, image, threads, target, work)
    result = work / f"{name}.npy"
    np.save(result, run())
    print(result, file=answers, flush=True)
    for line in sys.stdin:
        run()
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(times), file=answers, flush=True)


class Peer:
    """A runtime in a process that is stopped while it is not timed."""

    def __init__(self, name: str, path: Path, threads: int, target: str, work: Path) -> None:
        command = [sys.executable, __file__, "--child", name, "--threads", str(threads)]
        command += ["--target", target, "--work", str(work), "--folder", str(path.parent)]
        self.log = (work / f"{name}.log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--model", path.stem],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        answer = self._read()
        self.output: Array | None = np.load(answer) if answer else None
        self._signal(signal.SIGSTOP)

    def time(self, repeats: int) -> list[float]:
        """Return the times of some runs in milliseconds."""
        self._signal(signal.SIGCONT)
        print(repeats, file=self.process.stdin, flush=True)
        times: list[float] = json.loads(self._read())
        self._signal(signal.SIGSTOP)
        return times

    def reason(self) -> str:
        """Return the last line that the process wrote before it died."""
        self.log.seek(0)
        return (self.log.read().strip().splitlines() or ["no reason given"])[-1]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _read(self) -> str:
        return str(self.process.stdout.readline()).strip() if self.process.stdout else ""

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


def measure(
    path: Path, threads: int, target: str, rounds: int, repeats: int, work: Path
) -> dict[str, Any]:
    """Return the runtimes' minimum and median latencies in milliseconds, and those missing."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    expected: Array | None = None
    try:
        for name in RUNTIMES:
            peer = Peer(name, path, threads, target, work)
            output = peer.output
            if output is None:
                missing[name] = peer.reason()
                peer.close()
                continue
            expected = output if expected is None else expected
            difference = float(np.abs(output - expected).max() / np.ptp(expected))
            if difference > TOLERANCE:
                missing[name] = f"its output differs by {difference:.1e} of the range"
                peer.close()
                continue
            peers[name] = peer
        times: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in peers.items():
                times[name] += peer.time(repeats)
    finally:
        for peer in peers.values():
            peer.close()
    return {
        "model": path.stem,
        "threads": threads,
        "milliseconds": {
            name: {"least": min(values), "median": statistics.median(values)}
            for name, values in times.items()
        },
        "missing": missing,
    }


def table(rows: list[dict[str, Any]], gflops: dict[int, float], flops: dict[str, int]) -> str:
    """Return the results as a Markdown table: minimum / median milliseconds, and ratios."""
    names = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    names.sort(key=lambda name: name != OURS)
    head = ["model", "threads", *names, "ratio least", "ratio median", "of FMA peak"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        times = row["milliseconds"]
        cells = [row["model"].removeprefix("mobilenet_"), str(row["threads"])]
        for name in names:
            value = times.get(name)
            cells.append(f"{value['least']:.2f} / {value['median']:.2f}" if value else "-")
        for kind in ("least", "median"):
            others = [value[kind] for name, value in times.items() if name != OURS]
            cells.append(f"{times[OURS][kind] / min(others):.2f}" if others else "-")
        speed = 1e-6 * flops[row["model"]] / times[OURS]["least"]
        cells.append(f"{speed / gflops[row['threads']]:.0%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--target", default="x86", show_default=True, help="Target of this project.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Timed runs per round.")
@click.option("--folder", type=click.Path(path_type=Path), default=PEERS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--child", hidden=True)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
def main(
    threads: tuple[int, ...],
    models: tuple[str, ...],
    target: str,
    rounds: int,
    repeats: int,
    folder: Path,
    as_json: bool,
    child: str | None,
    work: Path,
) -> None:
    """Compare latencies on the networks in a folder (.onnx, and .tflite for LiteRT)."""
    paths = [folder / f"{model}.onnx" for model in models]
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise click.ClickException(f"{absent[0]}: no such file; name the folder with --folder")
    if child:
        serve(child, paths[0], threads[0], target, work)
        return
    from mobilenet_tvm.compile.analysis.peak import measure_peak
    from mobilenet_tvm.compile.frontend.read import fix_shapes, read_onnx
    from mobilenet_tvm.compile.models.counts import macs
    from mobilenet_tvm.targets.presets import native

    flops = {path.stem: 2 * macs(fix_shapes(read_onnx(path))) for path in paths}
    peak = {count: measure_peak(native(), count).gflops for count in threads}
    with tempfile.TemporaryDirectory() as folder_of_work:
        rows = [
            measure(path, count, target, rounds, repeats, Path(folder_of_work))
            for count in threads
            for path in paths
        ]
    if as_json:
        click.echo(json.dumps({"peak_gflops": peak, "rows": rows}, indent=2))
        return
    click.echo(table(rows, peak, flops))
    for row in rows:
        for name, reason in row["missing"].items():
            click.echo(f"{row['model']}: {name} is missing: {reason}")
    for count, gflops in peak.items():
        click.echo(f"FMA peak with {count} threads: {gflops:.1f} GFLOP/s")


if __name__ == "__main__":
    main()
