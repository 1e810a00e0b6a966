"""Tuning with real builds and runs, right and wrong ones."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from tvm import te, tirx

from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.progress import Event
from mobilenet_tvm.compile.tuning.tune import plan, seconds_needed, tune
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import (
    Depthwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
)
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target, native
from mobilenet_tvm.targets.target import Target

BIAS, CLIP = Step("add_channel"), Step("clip", (0.0, 6.0))
NATIVE = native()
POOL = GlobalPool(1, 9, 128)
#: Of six decisions on any machine.
WIDE_POOL = GlobalPool(1, 9, 384)
DENSE = Pointwise(10, 16, 32, (BIAS, Step("add")))
DEPTHWISE = Depthwise(1, 6, 6, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS, CLIP))
LAYERS: dict[Workload, int] = {POOL: 1, DENSE: 3, DEPTHWISE: 2}


class Results:
    """Keeps what tuning hands over."""

    def __init__(self) -> None:
        self.results: list[tuple[Workload, Any, Measurement]] = []
        self.events: list[Event] = []

    def on_result(self, *result: Any) -> None:
        """Keep a result."""
        self.results.append(result)


def run(layers: dict[Workload, int], **options: Any) -> tuple[Any, Results]:
    kept = Results()
    tuned = tune(layers, NATIVE, on_result=kept.on_result, on_event=kept.events.append, **options)
    return tuned, kept


def test_every_layer_gets_a_decision_that_is_no_slower_than_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tuned, kept = run(LAYERS, trials=18)
    assert not list(tmp_path.iterdir())
    # Half a minute of imports.
    assert "tvm.s_tir.tensor_intrin" not in sys.modules
    assert tuned.trials == 18
    assert {task.workload for task in tuned.tasks} == LAYERS.keys()
    for task in tuned.tasks:
        assert not task.failures
        assert next(iter(task.outcomes)) == 0
        assert task.times[task.best].seconds <= task.default.seconds
    measured = [(workload, decision) for workload, decision, _ in kept.results]
    assert len(set(measured)) == 18
    assert len(kept.events) == 18
    assert tuned.build > 0 < tuned.measure
    assert tuned.build + tuned.measure + tuned.search == pytest.approx(tuned.seconds)
    assert tuned.best_total <= tuned.default_total


def unequal(func: tirx.PrimFunc) -> tirx.PrimFunc:
    shapes = {p.name: tuple(int(extent) for extent in p.ty.shape) for p in func.params}
    *inputs, output = shapes
    tensors = [te.placeholder(shapes[name], name=name) for name in inputs]
    constant = te.compute(shapes[output], lambda *_: tirx.const(0.25, "float32"), name=output)
    return te.create_prim_func([*tensors, constant])


def unwritten(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tirx.Evaluate(0))


def unbuilt(_func: tirx.PrimFunc) -> tirx.PrimFunc:
    raise ValueError("no such loop")


def aborting(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tirx.Evaluate(tirx.call_extern("int32", "abort")))


def hanging(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tirx.Evaluate(tirx.call_extern("int32", "sleep", 600)))


def test_broken_candidates_are_counted_and_never_handed_over() -> None:
    decisions = registry.decisions(WIDE_POOL, NATIVE)
    kinds = [unequal, unwritten, unbuilt, aborting, hanging]
    breakages = dict(zip(decisions[1:], kinds, strict=True))

    def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
        func = registry.build(workload, decision, target)
        return breakages[decision](func) if decision in breakages else func

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        tuned, kept = run({WIDE_POOL: 1}, trials=len(decisions), build=build, timeout=2.0)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    (task,) = tuned.tasks
    assert task.failures == {"wrong": 2, "build": 1, "crashed": 1, "hung": 1}
    assert not breakages.keys() & {decision for _, decision, _ in kept.results}
    assert task.decision not in breakages
    reasons = {e.decision: e.outcome.reason for e in kept.events if e.decision in breakages}
    differs, unfinished, unbuildable, *_ = (reasons[decision] for decision in breakages)
    assert differs.startswith("the result differs by")
    assert "not written everywhere" in unfinished
    assert unbuildable == "ValueError: no such loop"


def test_a_layer_whose_default_fails_is_given_up() -> None:
    def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
        raise ValueError(f"{workload} {decision} {target}")

    tuned, _ = run({DENSE: 1}, trials=100, build=build)
    assert tuned.tasks[0].ended == "the default decision failed"
    assert tuned.tasks[0].default is None
    assert tuned.default_total == 0


def test_an_interrupt_ends_the_run_and_keeps_what_was_measured() -> None:
    results = []

    def interrupt(*result: Any) -> None:
        results.append(result)
        if len(results) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tune(LAYERS, NATIVE, trials=18, on_result=interrupt)
    assert len(results) == 3


def test_a_plan_tells_sizes_and_at_most_how_long() -> None:
    plans = plan(LAYERS, NATIVE, {POOL: [(registry.default(POOL, NATIVE), 1e-6)]})
    sizes = {p.workload: (p.count, p.decisions, p.known) for p in plans}
    assert sizes[POOL] == (1, len(registry.decisions(POOL, NATIVE)), 1)
    assert seconds_needed(plans, 10**6) < seconds_needed(plans, 10**6) + 1
    assert seconds_needed(plans, 10) == pytest.approx(2.0)
    assert seconds_needed(plans, 500, time_limit=1.0) == 1.0


def test_another_machines_target_is_refused() -> None:
    other = "cortex-a53" if NATIVE.architecture == "x86_64" else "x86"
    with pytest.raises(UserError, match="cannot run"):
        tune({POOL: 1}, get_target(other), trials=1)
