"""Compile MobileNetV2 for this machine, run it, and print the results."""

import time

import numpy as np

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.bench import measure_latency

artifact = compile_model("v2", target="native")
about = artifact.metadata
print(f"compiled  {about.model} for {about.target['cpu']} in {artifact.seconds:.1f} s")
print(f"wrote     {artifact.path}, {artifact.size_bytes / 1e6:.1f} MB, weights {about.weights}")

start = time.perf_counter()
model = load(artifact.path)
print(f"loaded    in {1e3 * (time.perf_counter() - start):.0f} ms, {model.threads} threads")

image = np.random.default_rng(0).standard_normal(model.inputs[0].shape).astype(np.float32)
logits = model(image)
print(f"ran       {model.inputs[0].shape} -> {logits.shape}, top class {logits.argmax()}")

latency = measure_latency(model, rounds=50)
print(f"latency   {1e3 * latency.minimum:.2f} ms minimum, {1e3 * latency.median:.2f} ms median")
