"""The way of a model from ONNX to scheduled loops, as one list to read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import tvm
from tvm import relax

from mobilenet_tvm.compile.onnx_import import to_relax
from mobilenet_tvm.compile.passes.fold_constants import FoldConstants
from mobilenet_tvm.compile.passes.fold_pad import FoldPad
from mobilenet_tvm.compile.passes.fold_scale import FoldScale
from mobilenet_tvm.compile.passes.lower_layers import Layer, LowerLayers
from mobilenet_tvm.compile.passes.recognize_hard import RecognizeHard
from mobilenet_tvm.compile.passes.recover_clip import RecoverClip
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.to_nhwc import ToNHWC
from mobilenet_tvm.schedules import operators, schedule_module
from mobilenet_tvm.targets.target import Target

Pass = Callable[[tvm.IRModule], tvm.IRModule]


def graph_passes() -> list[Pass]:
    """Return the rewrites of the imported graph: fewer operators, NHWC, folded constants."""
    rewriters: list[type[GraphRewriter]] = [
        FoldConstants,
        RecoverClip,
        RecognizeHard,
        FoldPad,
        FoldScale,
        ToNHWC,
        FoldConstants,
    ]
    return [
        *(lambda mod, rewriter=rewriter: rewriter(mod).run() for rewriter in rewriters),
        # What FoldConstants does not know, TVM evaluates, slowly.
        relax.transform.FoldConstant(),
    ]


def fusion_passes() -> list[Pass]:
    """Return the passes that turn operators into fused TensorIR functions."""
    return [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(["main"]),
    ]


def memory_passes() -> list[Pass]:
    """Return the passes that plan memory and lower the graph to the virtual machine's calls."""
    return [
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
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
        `main` in the virtual machine's form, and one scheduled function per layer.
    calls : list of Layer
        The layers with schedules of their own, in the order in which `main` calls them.
    """

    mod: tvm.IRModule
    calls: list[Layer]


def lower(model: onnx.ModelProto, target: Target) -> Lowered:
    """Lower an ONNX model to scheduled TensorIR functions and one Relax function that calls them.

    Parameters
    ----------
    model : onnx.ModelProto
        A checked model with static inputs.
    target : Target
        The machine that the code is for.

    Returns
    -------
    Lowered
        The scheduled network.

    Raises
    ------
    UserError
        If a node cannot be compiled.
    """
    mod = to_relax(model)
    with llvm_target(target), tvm.transform.PassContext(opt_level=3):
        for step in graph_passes():
            mod = step(mod)
        lowering = LowerLayers(mod, target, operators.default)
        mod = lowering.run()
        # What is no layer of its own is fused by TVM and scheduled by rule.
        for step in fusion_passes():
            mod = step(mod)
        mod = schedule_module(mod, target)
        for layer in lowering.layers:
            mod[layer.name] = layer.func
        for step in memory_passes():
            mod = step(mod)
    return Lowered(mod, lowering.calls)


def llvm_target(target: Target) -> tvm.target.Target:
    """Return TVM's form of a target."""
    spec: dict[str, object] = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu}
    if target.features:
        spec["mattr"] = list(target.features)
    return tvm.target.Target(spec)
