"""Prepares the runtimes that peers.py compares, each by a function that returns how to run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[], Array]

OURS = "mobilenet-tvm"
#: Runtimes that cannot run the quantised networks in integers, and why.
FLOAT_ONLY = {
    "MNN": "mnnconvert 3.6 crashes on QuantizeLinear; only its own tool makes int8 networks",
    "ncnn": "pnnx leaves QuantizeLinear, which ncnn lacks, between convolutions in float32",
}


@dataclass(frozen=True)
class Case:
    """A network and how to run it.

    Parameters
    ----------
    folder : Path
        Where the network is.
    model : str
        Its name, without the suffix of its quantised version.
    int8 : bool
        Whether to run the quantised version.
    threads : int
        How many threads each runtime has.
    target : str
        Target of this project.
    amx : bool
        Whether the runtimes may use AMX tiles.
    work : Path
        A folder for artifacts, converted networks and outputs.
    """

    folder: Path
    model: str
    int8: bool
    threads: int
    target: str
    amx: bool
    work: Path

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / f"{self.model}{'_int8' if self.int8 else ''}.onnx"


def ours(case: Case, image: Array) -> Run:
    """Compile with this project and load the artifact."""
    from mobilenet_tvm.compile import compile_model
    from mobilenet_tvm.runtime import load

    artifact = compile_model(case.path, case.target, case.work / f"{case.path.stem}.so")
    model = load(artifact.path, threads=case.threads)
    return lambda: np.asarray(model(image))


def onnxruntime(case: Case, image: Array) -> Run:
    """Microsoft's ONNX Runtime, CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(case.path), options, providers=["CPUExecutionProvider"])
    return lambda: np.asarray(session.run(None, {"input": image})[0])


def openvino(case: Case, image: Array) -> Run:
    """Intel's OpenVINO, CPU plug-in; a float32 network is restricted to float32.

    For a quantised network its own choice stands: quantised layers run in integers, and what is
    between them, as V3's hard-swish, partly in bfloat16 on processors with AVX-512.
    """
    import openvino as ov

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if not case.int8:
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    request = ov.Core().compile_model(str(case.path), "CPU", settings).create_infer_request()
    return lambda: np.asarray(next(iter(request.infer([image]).values())))


def litert(case: Case, image: Array) -> Run:
    """Google's LiteRT, whose CPU path is XNNPACK; reads NHWC.

    Its int8 networks read and return int8. The picture is quantised before the timed part, which
    favours LiteRT: ONNX networks do that themselves. The output is dequantised within it.
    """
    from ai_edge_litert.interpreter import Interpreter

    network = str(case.path.with_suffix(".tflite"))
    interpreter = Interpreter(network, num_threads=case.threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    result = interpreter.get_output_details()[0]
    picture = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    if source["dtype"] == np.int8:
        scale, zero = source["quantization"]
        picture = np.clip(np.rint(picture / scale) + zero, -128, 127).astype(np.int8)

    def run() -> Array:
        interpreter.set_tensor(source["index"], picture)
        interpreter.invoke()
        output = np.asarray(interpreter.get_tensor(result["index"]))
        if output.dtype == np.int8:
            scale, zero = result["quantization"]
            output = (output - np.float32(zero)) * np.float32(scale)
        return output

    return run


def mnn(case: Case, image: Array) -> Run:
    """Alibaba's MNN, converted by its own tool, restricted to float32."""
    import MNN

    converted = case.work / f"{case.path.stem}.mnn"
    if not converted.exists():
        # What its script mnnconvert calls. The script also installs a package with the first pip
        # on PATH, to report each conversion to MNN's authors.
        convert = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"
        files = ["--modelFile", str(case.path), "--MNNModel", str(converted)]
        command = [sys.executable, "-c", convert, "-f", "ONNX", *files, "--bizCode", "bench"]
        subprocess.run(command, check=True, capture_output=True)
    interpreter = MNN.Interpreter(str(converted))
    session = interpreter.createSession(
        {"numThread": case.threads, "precision": "high", "backend": "CPU"}
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


def ncnn(case: Case, image: Array) -> Run:
    """Tencent's ncnn, converted by pnnx, restricted to float32."""
    import ncnn as lib

    converted = case.work / f"{case.path.stem}.ncnn.param"
    if not converted.exists():
        tool = shutil.which("pnnx", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if tool is None:
            raise RuntimeError("its converter is missing: pip install --no-deps pnnx")
        package = Path(tool).parent.parent.glob("lib/python*/site-packages/pnnx/pnnx")
        shutil.copy(case.path, case.work)
        shape = f"inputshape=[{','.join(map(str, image.shape))}]"
        command = [str(next(package, tool)), case.path.name, shape]
        subprocess.run(command, check=True, capture_output=True, cwd=case.work)
    net = lib.Net()
    net.opt.num_threads = case.threads
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


#: The functions above by the runtimes' names, in the order in which they run.
RUNTIMES: dict[str, Callable[[Case, Array], Run]] = {
    "ONNX Runtime": onnxruntime,
    OURS: ours,
    "OpenVINO": openvino,
    "LiteRT": litert,
    "MNN": mnn,
    "ncnn": ncnn,
}
