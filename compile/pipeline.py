"""The compiler pipeline, from ONNX to scheduled loops, to be read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import tvm
from tvm import relax

from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.compile.frontend.importer import to_relax
from mobilenet_tvm.compile.passes.cuda_graph import add_cuda_graph
from mobilenet_tvm.compile.passes.definitions import DEFINITIONS
from mobilenet_tvm.compile.passes.exact_constants import exact_constants
from mobilenet_tvm.compile.passes.find_layers import FindLayers
from mobilenet_tvm.compile.passes.fold_constants import FoldConstants
from mobilenet_tvm.compile.passes.fold_pad import FoldPad
from mobilenet_tvm.compile.passes.fold_scale import FoldScale
from mobilenet_tvm.compile.passes.hoist_layout import HoistLayout
from mobilenet_tvm.compile.passes.integer_layers import IntegerLayers
from mobilenet_tvm.compile.passes.lower_layers import Decide, Layer, LowerLayers
from mobilenet_tvm.compile.passes.name_nodes import NameNodes
from mobilenet_tvm.compile.passes.names import NODE_NAMES
from mobilenet_tvm.compile.passes.network_calls import NetworkCall, network_calls
from mobilenet_tvm.compile.passes.origins import origins_of_calls
from mobilenet_tvm.compile.passes.recognize_hard import RecognizeHard
from mobilenet_tvm.compile.passes.recognize_smooth import RecognizeSmooth
from mobilenet_tvm.compile.passes.recover_clip import RecoverClip
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.set_dtype import SetDtype
from mobilenet_tvm.compile.passes.shared_outputs import shared_outputs
from mobilenet_tvm.compile.passes.short_names import short_names
from mobilenet_tvm.compile.passes.to_nhwc import ToNHWC
from mobilenet_tvm.compile.passes.values import op_name
from mobilenet_tvm.schedules import registry, schedule_module
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

Pass = Callable[[tvm.IRModule], tvm.IRModule]

#: TVM and LLVM walk the expressions of fused operators recursively, on a stack of 8 MB.
_CONFIG = {"relax.FuseOps.max_depth": 32}


def graph_passes(dtype: str, target: Target) -> list[Pass]:
    """Return the rewrites of the imported graph: folding, NHWC, and the type of values."""
    rewriters: list[Callable[[tvm.IRModule], GraphRewriter]] = [
        NameNodes,
        *([lambda mod: IntegerLayers(mod, target.bytes_type)] if target.dot else []),
        FoldConstants,
        RecoverClip,
        RecognizeHard,
        RecognizeSmooth,
        FoldPad,
        FoldScale,
        ToNHWC,
        HoistLayout,
        FoldConstants,
    ]
    return [
        *(lambda mod, rewriter=rewriter: rewriter(mod).run() for rewriter in rewriters),
        # TVM evaluates the constants that FoldConstants does not know, but slowly.
        relax.transform.FoldConstant(),
        lambda mod: SetDtype(mod, dtype, smooth=target.gpu is None).run(),
    ]


def operator_passes() -> list[Pass]:
    """Return the passes that turn operators into TensorIR functions."""
    return [relax.transform.LegalizeOps(DEFINITIONS), relax.transform.AnnotateTIROpPattern()]


def fusion_passes() -> list[Pass]:
    """Return the passes that merge the functions that TVM has grouped."""
    return [relax.transform.FuseTIR(), relax.transform.DeadCodeElimination(["main"]), short_names]


def memory_passes(target: Target) -> list[Pass]:
    """Return the passes that plan memory and lower the graph to calls of the virtual machine."""
    return [
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        *([add_cuda_graph] if target.kind == "cuda" else []),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]


@dataclass(frozen=True)
class Lowered:
    """A network that is ready for code generation.

    Parameters
    ----------
    mod : IRModule
        `main` in the form of the virtual machine, and one scheduled function per layer.
    calls : list of NetworkCall
        The calls of `main`, in order.
    """

    mod: tvm.IRModule
    calls: list[NetworkCall]

    @property
    def layers(self) -> list[Layer]:
        """The calls with schedules of their own."""
        return [call.layer for call in self.calls if call.layer]

    @property
    def shared_outputs(self) -> list[int]:
        """The outputs whose memory is not theirs alone, which a caller has to copy."""
        return shared_outputs(self.mod)

    @property
    def activation_bytes(self) -> int:
        """Bytes that one run needs for activations, according to the static memory plan."""
        bindings = [b for block in self.mod["main"].body.blocks for b in block.bindings]
        allocations = [
            binding.value
            for binding in bindings
            if isinstance(binding.value, relax.Call)
            and op_name(binding.value) == "vm.alloc_storage"
        ]
        return sum(int(allocation.args[0].values[0]) for allocation in allocations)


def lower(
    model: onnx.ModelProto,
    target: Target,
    decide: Decide = registry.default,
    dump: Path | None = None,
    dtype: str = "float32",
) -> Lowered:
    """Lower an ONNX model to scheduled TensorIR functions and a Relax function that calls them.

    Parameters
    ----------
    model : onnx.ModelProto
        A checked model with static inputs.
    target : Target
        The machine that the code is for.
    decide : callable
        Maps a layer's workload and the target to a decision.
    dump : Path, optional
        A folder for the module after each phase, as TVMScript.
    dtype : str
        Type of the values in layers: `float32`, or `float16` where the target multiplies it.

    Returns
    -------
    Lowered
        The scheduled network.

    Raises
    ------
    UserError
        If a node cannot be compiled, a constant does not fit the type, or the folder cannot be
        written.
    """
    write = _Dump(dump)
    with tvm_target(target), tvm.transform.PassContext(opt_level=3, config=_CONFIG):
        lowering = LowerLayers(_graph(model, dtype, target, write), target, decide)
        mod = write.after("3-layers", lowering.run())
        # Other operators are grouped and fused by TVM, and scheduled by fallback rules.
        names = mod.attrs[NODE_NAMES]
        operators = _run(operator_passes(), mod.without_attr(NODE_NAMES))
        groups = relax.transform.FuseOps()(operators)
        mod = write.after("4-fused", _run(fusion_passes(), groups))
        calls = network_calls(mod, lowering, origins_of_calls(operators, groups), names)
        mod = schedule_module(mod, target)
        for layer in lowering.layers:
            mod[layer.name] = layer.func
        if target.gpu is not None:
            mod = exact_constants(mod, target.gpu)
        if not any(isinstance(func, tvm.tirx.PrimFunc) for func in mod.functions.values()):
            raise UserError(
                "the network computes nothing: its outputs are inputs, constants or shapes; "
                "give a network with operators"
            )
        write.after("5-scheduled", mod)
        mod = write.after("6-planned", _run(memory_passes(target), mod))
    return Lowered(mod, calls)


def layers(model: onnx.ModelProto, target: Target, dtype: str = "float32") -> list[Workload]:
    """Return the layers with schedules of their own, in call order.

    Nothing is packed, scheduled or built.

    Parameters
    ----------
    model : onnx.ModelProto
        A checked model with static inputs.
    target : Target
        The machine that the code is for, which determines the layers that are fused.
    dtype : str
        As for `lower`.
    """
    with tvm_target(target), tvm.transform.PassContext(opt_level=3):
        return FindLayers(_graph(model, dtype, target, _Dump(None)), target).calls()


def _graph(model: onnx.ModelProto, dtype: str, target: Target, write: _Dump) -> tvm.IRModule:
    """Return a model after the graph passes."""
    mod = write.after("1-imported", to_relax(model))
    return write.after("2-graph", _run(graph_passes(dtype, target), mod))


def _run(passes: list[Pass], mod: tvm.IRModule) -> tvm.IRModule:
    for step in passes:
        mod = step(mod)
    return mod


class _Dump:
    """Writes the module after each phase as TVMScript, if a folder is given."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def after(self, phase: str, mod: tvm.IRModule) -> tvm.IRModule:
        """Write and return the module."""
        if self._folder is not None:
            _write(self._folder / f"{phase}.py", mod.script(show_meta=False))
        return mod


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another with --dump"
        ) from None
