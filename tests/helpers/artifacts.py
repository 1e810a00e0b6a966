"""Small artifacts made without the compiler, for tests of what loads and runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, te

from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.compile.codegen.metadata_object import write_metadata_object
from mobilenet_tvm.runtime.checksum import seal
from mobilenet_tvm.runtime.metadata import SECTION, Metadata, TensorInfo
from mobilenet_tvm.targets.host import architecture

Array = np.ndarray[Any, np.dtype[Any]]

#: Oldest CPU of each architecture, so that every machine that runs the tests can run the code.
CPUS = {"x86_64": "x86-64-v2", "aarch64": "generic"}

ADD = Metadata(
    model="scale_and_add",
    inputs=(
        TensorInfo("image", (1, 4, 16, 16), "float32"),
        TensorInfo("offset.1", (1, 4, 1, 1), "float32"),
    ),
    outputs=(
        TensorInfo("sum", (1, 4, 16, 16), "float32"),
        TensorInfo("positive.1", (1, 4, 16, 16), "int32"),
    ),
    target={"name": "test", "triple": "", "cpu": ""},
    required_features=(),
    versions={"mobilenet-tvm": "0.1.0", "apache-tvm": "0.27.0.post1"},
    weights="random (seed 0)",
    layers=1,
    tuned_layers=0,
)

THREAD_IDS = replace(
    ADD,
    model="thread_ids",
    inputs=(TensorInfo("start", (64,), "int32"),),
    outputs=(TensorInfo("ids", (64,), "int32"),),
)


def scale_and_add(image: Array, offset: Array) -> dict[str, Array]:
    """Return what the artifact of `write_add` computes."""
    return {"sum": image * _weights() + offset, "positive.1": (image > 0).astype(np.int32)}


def some_inputs(seed: int) -> tuple[Array, Array]:
    """Return random inputs of the artifact of `write_add`."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((1, 4, 16, 16)).astype(np.float32)
    return image, rng.standard_normal((1, 4, 1, 1)).astype(np.float32)


def check(result: dict[str, Array], image: Array, offset: Array) -> None:
    """Compare its outputs with NumPy's."""
    expected = scale_and_add(image, offset)
    assert list(result) == list(expected)
    for name, array in result.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6)


def write_add(
    path: Path,
    machine: str | None = None,
    padding: int = 0,
    kind: str = "llvm",
    **changes: Any,
) -> Path:
    """Write an artifact with two inputs and two outputs.

    Its code is vectorised and parallel on a CPU, and has a thread for each element on a GPU.

    Parameters
    ----------
    path
        The `.so` to write.
    machine
        Its architecture; this machine's by default.
    padding
        Bytes of weights that make it larger.
    kind
        What its code is: `llvm` or `opencl`.
    **changes
        Fields of the metadata `ADD` that are to be others.
    """

    def add(image: te.Tensor, offset: te.Tensor, weights: te.Tensor) -> te.Tensor:
        return te.compute(
            image.shape,
            lambda n, c, y, x: image[n, c, y, x] * weights[c, y, x] + offset[n, c, 0, 0],
        )

    def positive(image: te.Tensor, padding: te.Tensor) -> te.Tensor:
        del padding
        return te.compute(image.shape, lambda *i: (image[i] > 0).astype("int32"))

    builder = relax.BlockBuilder()
    image, offset = (_variable(info) for info in ADD.inputs)
    with builder.function("main", [image, offset]):
        with builder.dataflow():
            weights = relax.const(_weights())
            zeros = relax.const(np.zeros(padding or 1, np.uint8))
            results = builder.emit_output(
                relax.Tuple(
                    [
                        builder.emit_te(add, image, offset, weights, primfunc_name_hint="add"),
                        builder.emit_te(positive, image, zeros, primfunc_name_hint="positive"),
                    ]
                )
            )
        builder.emit_func_output(results)

    def parallel(sch: tvm.s_tir.Schedule, loops: list[Any]) -> None:
        sch.parallel(loops[1])
        sch.vectorize(loops[3])

    def bind(sch: tvm.s_tir.Schedule, loops: list[Any]) -> None:
        sch.bind(sch.fuse(*loops[:3]), "blockIdx.x")
        sch.bind(loops[3], "threadIdx.x")

    mod = builder.get()
    if kind == "llvm":
        mod = _scheduled(mod, "add", parallel)
    else:
        mod = _scheduled(_scheduled(mod, "add", bind), "positive", bind)
    return _write(path, mod, replace(ADD, **changes), machine or architecture(), kind)


def write_thread_ids(path: Path) -> Path:
    """Write an artifact whose output tells which operating-system threads computed it."""

    def ids(start: te.Tensor) -> te.Tensor:
        gettid = tvm.tirx.call_extern("int32", "gettid")
        return te.compute(start.shape, lambda i: start[i] + gettid)

    builder = relax.BlockBuilder()
    start = _variable(THREAD_IDS.inputs[0])
    with builder.function("main", [start]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit_te(ids, start, primfunc_name_hint="ids"))
        builder.emit_func_output(result)
    mod = _scheduled(builder.get(), "ids", lambda sch, loops: sch.parallel(loops[0]))
    return _write(path, mod, THREAD_IDS, architecture())


def _weights() -> Array:
    return np.random.default_rng(0).standard_normal((4, 16, 16)).astype(np.float32)


def _variable(info: TensorInfo) -> relax.Var:
    return relax.Var(info.name, relax.TensorType(info.shape, info.dtype))


def _scheduled(
    mod: tvm.IRModule, name: str, schedule: Callable[[tvm.s_tir.Schedule, list[Any]], None]
) -> tvm.IRModule:
    sch = tvm.s_tir.Schedule(mod)
    sch.work_on(name)
    (block,) = sch.get_child_blocks(sch.get_sblock("root"))
    schedule(sch, sch.get_loops(block))
    return sch.mod


def _write(
    path: Path, mod: tvm.IRModule, metadata: Metadata, machine: str, kind: str = "llvm"
) -> Path:
    triple = f"{machine}-linux-gnu"
    host = {"kind": "llvm", "mtriple": triple, "mcpu": CPUS[machine]}
    target = host if kind == "llvm" else {"kind": kind, "host": host}
    section = path.with_suffix(".metadata.o")
    of_target = {"name": "test", "triple": triple, "cpu": CPUS[machine], "kind": kind}
    write_metadata_object(replace(metadata, target=of_target), triple, section)
    relax.build(mod, tvm.target.Target(target)).export_library(
        str(path),
        fcompile=lambda output, objects, **_: link_shared(output, objects),
        addons=[str(section)],
    )
    section.unlink()
    seal(path, SECTION)
    return path
