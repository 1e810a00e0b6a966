"""Adds a form of a network that launches its kernels at once, as a CUDA graph."""

from __future__ import annotations

import tvm
from tvm import relax

from mobilenet_tvm.runtime.model import GRAPH

# Of TVM: parameters from this number on are at the same address in every call.
_NUM_INPUT = "num_input"


def add_cuda_graph(mod: tvm.IRModule) -> tvm.IRModule:
    """Add a copy of `main` whose kernels are captured by the first call and replayed by others.

    The graph holds addresses. The copy's memory is kept from call to call for it, and so has its
    caller to keep the inputs: the runtime does, and copies new ones to the same place. The kernels
    that write outputs, which get new memory in every call, stay outside.

    Parameters
    ----------
    mod : IRModule
        With planned memory, before it is lowered to the virtual machine's calls.

    Returns
    -------
    IRModule
        `main` is as before, to run and profile kernel by kernel.
    """
    main = mod["main"]
    captured = relax.utils.copy_with_new_vars(main).with_attr(_NUM_INPUT, 0)
    functions = {name: func for name, func in mod.functions.items() if name.name_hint != "main"}
    graph = tvm.IRModule({**functions, GRAPH: captured.with_attr("global_symbol", GRAPH)})
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": True}):
        graph = relax.transform.RewriteCUDAGraph()(graph)
    graph["main"] = main
    return graph
