"""Spaces, features and measuring, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tvm

from mobilenet_tvm.compile.tuning.boards.files import compute_reference
from mobilenet_tvm.compile.tuning.features import features, features_of
from mobilenet_tvm.compile.tuning.local.builder import Builder, compile_candidate
from mobilenet_tvm.compile.tuning.measure import (
    check,
    parameters_of,
    random_arguments,
    time_until_stable,
    tolerance,
)
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Step,
    Types,
    Window,
    Workload,
    parse,
)
from mobilenet_tvm.targets.host import cpu_features
from mobilenet_tvm.targets.presets import PRESETS, native
from mobilenet_tvm.targets.target import Target

BIAS, ADD = Step("add_channel"), Step("add")
WINDOW = ((3, 3), (1, 1), (1, 1, 1, 1))
NATIVE = native()
WORKLOADS: list[Workload] = [
    Pointwise(49, 24, 40, (BIAS, ADD)),
    Pointwise(1, 64, 1000, (BIAS,)),
    Depthwise(1, 7, 7, 24, Window(*WINDOW), (BIAS,)),
    DepthwisePointwise(Depthwise(1, 8, 8, 16, Window(*WINDOW), (BIAS,)), 24, (BIAS, ADD)),
    Convolution(1, 16, 16, 3, 16, Window((3, 3), (2, 2), (0, 0, 1, 1)), True, (BIAS,)),
    GlobalPool(1, 49, 96),
]
each_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=str)
each_target = pytest.mark.parametrize("target", PRESETS.values(), ids=list(PRESETS))


@each_workload
@each_target
def test_decisions_are_unique_and_begin_with_the_default(
    workload: Workload, target: Target
) -> None:
    if registry.find(workload, target) is None:
        pytest.skip(f"{target.name} does not fuse these")
    decisions = registry.decisions(workload, target)
    assert decisions[0] == registry.default(workload, target)
    assert len(set(decisions)) == len(decisions)


@each_workload
def test_every_decision_makes_a_function(workload: Workload) -> None:
    for decision in registry.decisions(workload, PRESETS["x86"])[::7]:
        func = registry.build(workload, decision, PRESETS["x86"])
        assert func.params


def test_a_ragged_pixel_tile_is_not_unrolled_and_blocks_are_whole() -> None:
    for decision in registry.decisions(Pointwise(49, 24, 40), PRESETS["x86"]):
        assert 49 % decision.tile_m == 0 or decision.unroll_k == 1
        assert -(-49 // decision.tile_m) % decision.block_m == 0


def test_a_candidate_tells_its_decision_and_its_layer(tmp_path: Path) -> None:
    task = Task(Space(WORKLOADS[0], PRESETS["x86"]), 1)
    numbers = (0, 5, len(task.space.decisions) - 1)
    builder = Builder(registry.build, tmp_path, lambda *_: None)
    try:
        candidates = builder.build(task, numbers)
    finally:
        builder.close()
    for number, candidate in zip(numbers, candidates, strict=True):
        assert candidate.number == number
        assert candidate.task is task
        assert builder.built[task.space.key, number] is candidate
        func = registry.build(task.workload, task.space.decisions[number], PRESETS["x86"])
        assert candidate.compiled.parameters == parameters_of(func)


def test_the_key_of_a_space_is_its_layers_and_its_targets() -> None:
    spaces = [Space(w, PRESETS[t]) for w in WORKLOADS[:2] for t in ("x86", "x86-avx512")]
    assert len({space.key for space in spaces}) == len(spaces)
    assert spaces[0].key == Space(WORKLOADS[0], PRESETS["x86"]).key


def test_decisions_from_elsewhere_join_the_space() -> None:
    default = registry.default(WORKLOADS[0], PRESETS["x86"])
    other = registry.default(WORKLOADS[0], PRESETS["arm64"])
    space = Space(WORKLOADS[0], PRESETS["x86"], [other, default])
    assert space.decisions[-1] == other
    assert space.decisions.count(default) == 1


@each_workload
def test_features_tell_decisions_apart(workload: Workload) -> None:
    for target in (PRESETS["x86"], PRESETS["mali"], PRESETS["cuda"]):
        if registry.find(workload, target) is not None:
            table = features_of(Space(workload, target)).values
            assert len(np.unique(np.nan_to_num(table, nan=-1), axis=0)) == len(table)


def test_features_tell_decisions_for_tensor_cores_apart() -> None:
    layer = Pointwise(196, 48, 144, types=Types.of("float16"))
    table = features_of(Space(layer, PRESETS["cuda-sm_90"])).values
    assert len(np.unique(np.nan_to_num(table, nan=-1), axis=0)) == len(table)


def test_features_are_numbers_without_what_does_not_apply() -> None:
    found = features(
        GlobalPool(1, 49, 96), registry.default(WORKLOADS[-1], PRESETS["x86"]), PRESETS["x86"]
    )
    assert "tile_m" not in found
    assert all(np.isfinite(value) for value in found.values())


@each_workload
def test_arguments_fit_the_function_and_only_weights_stay(workload: Workload) -> None:
    target = PRESETS["x86"]
    decision = registry.default(workload, target)
    parameters = parameters_of(registry.build(workload, decision, target))
    arrays, weights = random_arguments(workload, decision, parameters)
    assert [array.shape for array in arrays] == [shape for _, shape, _ in parameters]
    assert np.isnan(arrays[-1]).all()
    names = [parameters[index][0] for index in weights]
    assert not {"data", parameters[-1][0]} & set(names)
    assert not any(name.startswith("add_") and "channel" not in name for name in names)
    assert all(name in ("weight", "taps") or "channel" in name for name in names)


def test_arguments_are_the_same_for_all_decisions() -> None:
    workload, target = WORKLOADS[0], PRESETS["x86"]
    inputs = []
    for decision in registry.decisions(workload, target)[:2]:
        parameters = parameters_of(registry.build(workload, decision, target))
        inputs.append(random_arguments(workload, decision, parameters)[0])
    np.testing.assert_array_equal(inputs[0][0], inputs[1][0])
    np.testing.assert_array_equal(inputs[0][3], inputs[1][3])


def test_the_reference_of_a_layer_with_gates_is_its_own(tmp_path: Path) -> None:
    workload, target = Pointwise(50, 16, 24, (BIAS, ADD), gates=2), PRESETS["mali-x86"]
    decision = registry.default(workload, target)
    parameters = parameters_of(registry.build(workload, decision, target))
    arrays, weights = random_arguments(workload, decision, parameters)
    assert [parameters[index][0] for index in weights] == ["weight", "add_channel_0"]
    data, packed, gates, bias, residual, _ = arrays
    weight = packed.transpose(1, 2, 0, 3).reshape(16, 24)
    compute_reference(workload, tmp_path / "reference.npy", parameters)
    expected = (data * gates.repeat(25, axis=0)) @ weight + bias + residual
    np.testing.assert_allclose(np.load(tmp_path / "reference.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "pointwise 50x21x36 uint8*int8+int32 add_channel requantize",
        "pointwise 6x8x72 uint8*int8+int32 add_channel requantize add_quantized lookup",
        "pointwise 6x8x72 uint8*int16+int32 add_channel requantize add_quantized_second",
        "pointwise 1x40x11 uint8*int8+int32->float32 add_channel dequantize",
        "depthwise 2x7x9x17 k3x5 s2x1 p0,0,1,1 uint8*int8+int32 add_channel requantize lookup",
        "conv2d 2x9x11x3->24 k3x3 s2x2 p1,1,1,1 nchw float32*int8+int32->uint8 requantize",
        "conv2d 1x8x8x3->5 k3x3 s1x1 p0,0,0,0 nhwc uint8*int8+int32 add_channel requantize",
    ],
)
def test_the_reference_of_an_integer_layer_is_its_result_to_the_bit(
    text: str, tmp_path: Path
) -> None:
    workload, target, library = parse(text), PRESETS["x86"], tmp_path / "layer.so"
    if missing := {*target.required_features} - cpu_features():
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    decision = registry.default(workload, target)
    compiled = compile_candidate(registry.build, workload, decision, target, str(library))
    arrays, _ = random_arguments(workload, decision, compiled.parameters)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    tvm.runtime.load_module(str(library))["main"](*tensors)
    compute_reference(workload, tmp_path / "reference.npy", compiled.parameters)
    expected = np.load(tmp_path / "reference.npy")
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(tensors[-1].numpy(), expected.reshape(-1))


def test_arguments_of_float16_are_the_same_numbers_in_the_float32_reference() -> None:
    stem = Convolution(
        1,
        16,
        16,
        3,
        16,
        Window((3, 3), (2, 2), (0, 0, 1, 1)),
        True,
        (BIAS,),
        Convolution.usual("float16"),
    )
    dense = Pointwise(1, 64, 40, (BIAS,), Types("float16", "float16", "float32", "float32"))
    fused = DepthwisePointwise(Depthwise(1, 8, 8, 16, Window(*WINDOW), (BIAS,)), 24, (BIAS, ADD))
    fused = fused.in_type("float16")
    types = {stem: ("float32", "float16"), dense: ("float16", "float32")}
    for workload in (stem, dense, fused):
        found = []
        for layer, target in (
            (workload, PRESETS["mali-x86"]),
            (workload.in_type("float32"), NATIVE),
        ):
            decision = registry.default(layer, target)
            parameters = parameters_of(registry.build(layer, decision, target))
            arrays, _ = random_arguments(workload, decision, parameters)
            assert [array.dtype for array in arrays] == [dtype for *_, dtype in parameters]
            found.append(arrays)
        half, single = found
        assert {array.dtype for array in single} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(half[0], single[0])
        assert len(half) == len(single)
        first, last = types.get(workload, ("float16", "float16"))
        assert (half[0].dtype, half[-1].dtype) == (np.dtype(first), np.dtype(last))
        # As they lie in memory they differ: weights are packed.
        for a, b in zip(half[1:-1], single[1:-1], strict=True):
            assert a.dtype == np.float16
            assert set(np.unique(a)) - {0} == set(np.unique(b)) - {0}


def test_a_result_is_compared_with_the_first(tmp_path: Path) -> None:
    reference = tmp_path / "reference.npy"
    right = np.array([1.0, -8.0], np.float32)
    assert check(right, reference, 1e-5) is None
    assert check(right + np.float32(7e-5), reference, 1e-5) is None
    failure = check(right + np.float32(9e-5), reference, 1e-5)
    assert failure is not None
    assert failure.kind == "wrong"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_result_that_is_not_finite_is_wrong_even_if_it_is_the_first(
    value: float, tmp_path: Path
) -> None:
    reference = tmp_path / "reference.npy"
    assert check(np.array([1.0, value], np.float32), reference, 1.0) is not None
    assert not reference.exists()


def test_sums_in_another_order_are_within_the_tolerance_and_a_lost_term_is_not() -> None:
    layer = Pointwise(4, 960, 8)
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 960), np.float32)
    weight = rng.standard_normal((960, 8), np.float32) * np.float32(960**-0.5)
    exact = data.astype(np.float64) @ weight.astype(np.float64)
    total = np.zeros((4, 8), np.float32)
    for k in range(960):
        total += data[:, k, None] * weight[k]
    allowed = tolerance(layer, exact.size) * max(1.0, np.abs(exact).max())
    assert np.abs(total - exact).max() < allowed
    lost = data[:, 1:].astype(np.float64) @ weight[1:].astype(np.float64)
    assert np.abs(lost - exact).max() > 10 * allowed


def series(*rounds: Sequence[float]) -> Callable[[int], list[float]]:
    """Return a function that returns given times, then the last of them again and again."""
    left = list(rounds)

    def run(repeats: int) -> list[float]:
        times = left.pop(0) if len(left) > 1 else left[0]
        return [times[i % len(times)] for i in range(repeats)]

    return run


def test_a_steady_candidate_takes_few_rounds() -> None:
    measured = time_until_stable(series([1e-3]))
    assert measured.seconds == measured.minimum == 1e-3
    assert measured.spread == 0
    assert measured.repeats == 20


def test_outliers_are_seen_but_do_not_count() -> None:
    measured = time_until_stable(series([1e-3, 3e-3, 3e-3]))
    assert measured.seconds == 1e-3
    assert measured.spread == pytest.approx(2.0)


def test_a_candidate_that_gets_faster_is_timed_on() -> None:
    falling = [[1e-3 * 0.9**i] for i in range(8)]
    measured = time_until_stable(series(*falling))
    assert measured.seconds < 1e-3 * 0.9**6
    assert measured.repeats > 20


def test_a_slow_candidate_is_timed_a_few_times_only() -> None:
    assert time_until_stable(series([0.3])).repeats == 12


def test_a_very_slow_candidate_gets_one_round() -> None:
    def run(repeats: int) -> list[float]:
        time.sleep(0.2 * repeats)
        return [0.2] * repeats

    assert time_until_stable(run).repeats == 3


def test_operands_of_integer_layers_are_the_same_in_every_order() -> None:
    workload = parse("pointwise 9x8x64 uint8*int8+int32 add_channel requantize")
    target = PRESETS["x86"]
    orders, operands = set(), set()
    for decision in registry.decisions(workload, target):
        parameters = parameters_of(registry.build(workload, decision, target))
        arrays, _ = random_arguments(workload, decision, parameters)
        order = registry.arrange(decision, np.arange(64))
        (bias,) = (a for a, p in zip(arrays, parameters, strict=True) if p[0] == "add_channel_0")
        orders.add(tuple(order))
        operands.add(tuple(bias[np.argsort(order)]))
    assert len(orders) > 1
    assert len(operands) == 1
