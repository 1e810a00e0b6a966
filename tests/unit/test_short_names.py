"""Long names of fused functions are cut, and stay different."""

from __future__ import annotations

from relax_helpers import emit, module, normal, run
from tvm import relax, tirx

from mobilenet_tvm.compile.passes.short_names import MAX_LENGTH, short_names


def test_long_names_are_cut_and_called():
    def body(x):
        for _ in range(30):
            x = emit(relax.op.exp(emit(relax.op.negative(emit(relax.op.abs(x))))))
        return relax.op.add(x, emit(relax.op.sqrt(x)))

    mod = relax.transform.LegalizeOps()(module(body, (2, 3)))
    mod = relax.transform.AnnotateTIROpPattern()(mod)
    mod = relax.transform.FuseTIR()(relax.transform.FuseOps()(mod))
    long = [v.name_hint for v in mod.functions if isinstance(mod[v], tirx.PrimFunc)]
    assert max(map(len, long)) > MAX_LENGTH
    short = short_names(mod)
    names = [v.name_hint for v in short.functions if isinstance(short[v], tirx.PrimFunc)]
    assert len(set(names)) == len(long)
    assert max(map(len, names)) <= MAX_LENGTH
    data = normal(2, 3)
    assert (run(short, data) == run(mod, data)).all()


def test_short_names_stay():
    mod = relax.transform.LegalizeOps()(module(lambda x: relax.op.exp(x), (2, 3)))
    assert short_names(mod).same_as(mod)
