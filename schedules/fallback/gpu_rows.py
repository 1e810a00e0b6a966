"""The rule for GPUs for operators that are defined by a parallel loop, as TopK and CumSum are."""

from __future__ import annotations

from tvm import tirx

from mobilenet_tvm.schedules.gpu.threads import GROUP_SIZES
from mobilenet_tvm.schedules.loops import with_body


def apply(func: tirx.PrimFunc) -> tirx.PrimFunc | None:
    """Compute each iteration of the outermost loop in a thread of its own.

    Parameters
    ----------
    func : PrimFunc
        One block, whose loops are part of its definition.

    Returns
    -------
    PrimFunc or None
        None if the outermost loop is not parallel.
    """
    loop = func.body.block.body
    if not isinstance(loop, tirx.For) or loop.kind != tirx.ForKind.PARALLEL:
        return None
    row, count, group = loop.loop_var, int(loop.extent), GROUP_SIZES[0]
    block, thread = (tirx.Var(name, row.ty) for name in ("block", "thread"))
    guarded = tirx.IfThenElse(row < count, loop.body, None)
    body = tirx.SeqStmt([tirx.Bind(row, block * group + thread), guarded])
    body = _bound(thread, "threadIdx.x", group, body)
    return with_body(func, _bound(block, "blockIdx.x", -(-count // group), body))


def _bound(var: tirx.Var, tag: str, extent: int, body: tirx.Stmt) -> tirx.For:
    """Return a loop whose iterations are threads, or work-groups of them."""
    thread = tirx.IterVar(None, var, tirx.IterVar.ThreadIndex, tag)
    return tirx.For(var, 0, extent, tirx.ForKind.THREAD_BINDING, body, thread)
