"""A compiler pass that adds a version of `main` whose kernels are launched as one CUDA graph."""

from __future__ import annotations

import tvm
from tvm import relax

from mobilenet_tvm.runtime.model import GRAPH

# An attribute of TVM: parameters from this index on have the same address in every call.
_NUM_INPUT = "num_input"


def add_cuda_graph(mod: tvm.IRModule) -> tvm.IRModule:
    """Add a copy of `main` whose kernels are captured by the first call and replayed by later ones.

    The graph holds addresses, so the copy keeps its memory from call to call, and its caller must
    keep the inputs in place: the runtime copies new ones to the same addresses. The kernels that
    write outputs, which get new memory in every call, are not part of the graph.

    Parameters
    ----------
    mod : IRModule
        With planned memory, before it is lowered to calls of the virtual machine.

    Returns
    -------
    IRModule
        `main` is unchanged, to run and profile kernel by kernel.
    """
    main = mod["main"]
    captured = relax.utils.copy_with_new_vars(main).with_attr(_NUM_INPUT, 0)
    functions = {name: func for name, func in mod.functions.items() if name.name_hint != "main"}
    graph = tvm.IRModule({**functions, GRAPH: captured.with_attr("global_symbol", GRAPH)})
    with tvm.transform.PassContext(config={"relax.backend.use_cuda_graph": True}):
        graph = relax.transform.RewriteCUDAGraph()(graph)
    graph["main"] = main
    return graph
