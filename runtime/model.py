"""Loads an artifact and runs it: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.base_model import Array, BaseModel, empty_aligned
from mobilenet_tvm.runtime.c_library import PREFIX, CModel
from mobilenet_tvm.runtime.checksum import check_whole
from mobilenet_tvm.runtime.device import CUDA, Device, check_process, copy, open_device
from mobilenet_tvm.runtime.elf import read_elf
from mobilenet_tvm.runtime.library import check_version, load_artifact
from mobilenet_tvm.runtime.metadata import SECTION, Metadata, metadata_of
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture, cpu_features, default_threads

#: The function of an artifact for CUDA that runs `main` as a CUDA graph, for inputs that stay at
#: the same addresses. The first call runs the kernels once to load them, then records the graph;
#: later calls launch it. TVM records on a stream of its own, and launches on the default one.
GRAPH = "main_graph"


class Model(BaseModel):
    """A compiled model in this process.

    Any Python thread may call it, also several at once. A forked process lacks its parent's
    threads, so it has to load a model of its own.

    Attributes
    ----------
    device : Device
        The device that computes it.
    """

    def __init__(
        self, executable: Any, metadata: Metadata, threads: int, device: Device | None = None
    ) -> None:
        self.device = device or Device()
        self._threads = Threads(threads if self.device.is_cpu else 1)
        super().__init__(metadata, self._threads.count)
        self._executable = executable
        shared = metadata.extra.get("shared_outputs", ()) if self.device.is_cpu else ()
        self._shared = [index for index in shared if index < len(metadata.outputs)]
        # A virtual machine runs one call at a time. On a CPU they share the weights, so there are
        # as many as there have been concurrent calls. On a GPU each would have a copy of the
        # weights, and there is one queue, so there is one machine, for which calls wait.
        self._lock = self.device.lock()
        with self._lock:
            self._idle = [self._new_machine()]

    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        import tvm_ffi

        result = self._threads.call(self._run, [tvm_ffi.from_dlpack(array) for array in inputs])
        results = [result] if isinstance(result, tvm_ffi.Tensor) else result
        arrays = [np.from_dlpack(tensor) for tensor in results]
        # Outputs that are inputs or constants; a GPU's are copies already.
        for index in self._shared:
            arrays[index] = arrays[index].copy()
        return arrays

    def _place(self) -> str:
        return f"threads: {self.threads}" if self.device.is_cpu else f"on {self.device.name}"

    def _run(self, tensors: Sequence[Any]) -> Any:
        with self._lock:
            try:
                main = self._idle.pop()
            except IndexError:
                main = self._new_machine()
            try:
                return main(*tensors)
            finally:
                self._idle.append(main)

    @contextmanager
    def instrumented(self, callback: Callable[..., Any]) -> Iterator[None]:
        """Report each step of the calls that are made inside the context.

        Parameters
        ----------
        callback : callable
            Takes the function, its name, and whether it is about to run; returns 0. It runs
            inside the call, and adds to its time.
        """
        import tvm_ffi

        with self._lock:
            idle, self._idle = self._idle, [self._new_machine(tvm_ffi.convert(callback))]
        try:
            yield
        finally:
            self._idle = idle

    def _new_machine(self, instrument: Any = None) -> Any:
        machine = self._executable["vm_load_executable"]()
        machine["vm_initialization"](*self.device.places)
        name = GRAPH if self.device.kind == CUDA else "main"
        if instrument is not None:
            machine["set_instrument"](instrument)
            # A CUDA graph has no steps to report.
            name = "main"
        main = machine[name]
        return main if self.device.is_cpu else _with_copies(main, self.device, self.metadata)


def load(
    path: str | Path,
    threads: int | None = None,
    device: int | str | None = None,
    check: bool = True,
) -> Model | CModel:
    """Load an artifact.

    Parameters
    ----------
    path : str or Path
        The ``.so`` that ``compile`` wrote.
    threads : int, optional
        How many threads work on one call, at most the CPUs that this process may use. Default:
        the number of fast physical cores, at most 8.
    device : int or str, optional
        Which GPU runs an artifact for GPUs: its number, or part of its name such as ``"mali"``.
        Default: the first one.
    check : bool
        Whether to compare the file with its checksum before any of its code runs, which takes
        0.5 ms for each MB. False is for a file that is known to be whole, such as one in a
        read-only image: damaged code ends the process.

    Returns
    -------
    Model or CModel
        Call it with NumPy arrays. CModel is for a library that was compiled for C.

    Raises
    ------
    UserError
        If the file is not an artifact, is damaged, or was compiled for another architecture or for
        CPU features that this CPU lacks; none of its code has run then. For an artifact for GPUs,
        also if there is no GPU or driver, or the driver refuses the kernels.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads={threads}; give 1 or more")
    path = Path(path)
    library = read_elf(path)
    if library.architecture != architecture():
        raise UserError(
            f"{path}: compiled for {library.architecture}, this machine is {architecture()}; "
            f"compile it with a target for {architecture()}"
        )
    metadata = metadata_of(library)
    features = cpu_features()
    missing = sorted(set(metadata.required_features) - features)
    if missing:
        x86 = "x86" if features >= {"avx2", "fma"} else "x86-sse4"
        other = x86 if architecture() == "x86_64" else "arm64"
        half = metadata.extra.get("dtype") == "float16" and "asimdhp" in missing
        raise UserError(
            f"{path}: needs {', '.join(missing)}, which this CPU lacks; "
            f"compile with --target {other}{' --dtype float32' if half else ''}"
        )
    for_c = PREFIX in metadata.extra
    try:
        if not for_c:
            check_version(metadata.versions.get("apache-tvm", ""))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if check:
        check_whole(library, SECTION)
    if for_c:
        return CModel(path, metadata, threads or default_threads())
    opened = _open(path, metadata, device)
    try:
        executable = load_artifact(path, own_copy=not opened.is_cpu)
        opened.prepare(executable)
        return Model(executable, metadata, threads or default_threads(), opened)
    except (AttributeError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if not opened.is_cpu:
            raise UserError(f"{path}: cannot run on {opened.name} ({reason})") from error
        raise UserError(
            f"{path}: compiled with TVM {metadata.versions.get('apache-tvm')}, cannot be loaded "
            f"({reason}); compile it again with this version"
        ) from error


def _with_copies(main: Any, device: Device, metadata: Metadata) -> Callable[..., Any]:
    """Wrap a function on the device's memory into one on this machine's."""
    import tvm_ffi

    inputs = [device.empty(info.shape, info.dtype) for info in metadata.inputs]

    def call(*tensors: Any) -> Any:
        check_process(device.kind)
        for source, destination in zip(tensors, inputs, strict=True):
            copy(source, destination)
        result = main(*inputs)
        results = [result] if isinstance(result, tvm_ffi.Tensor) else result
        outputs = [tvm_ffi.from_dlpack(empty_aligned(info)) for info in metadata.outputs]
        for source, destination in zip(results, outputs, strict=True):
            copy(source, destination)
        device.synchronize()
        return outputs

    return call


def _open(path: Path, metadata: Metadata, wanted: int | str | None) -> Device:
    kind = metadata.target.get("kind", Device.kind)
    try:
        return open_device(kind, wanted)
    except UserError as error:
        # A missing runtime has nothing to do with the artifact.
        if kind == Device.kind:
            raise
        raise UserError(f"{path}: {error}") from None
