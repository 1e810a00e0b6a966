"""Tests of loading and running artifacts: metadata, checks, arrays, threads, memory."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import ADD, Array, check, some_inputs, write_add, write_thread_ids

from mobilenet_tvm.compile.codegen.linker import linker_command
from mobilenet_tvm.compile.codegen.metadata_object import write_metadata_object
from mobilenet_tvm.runtime import Metadata, Model, load, read_metadata
from mobilenet_tvm.runtime.bench import measure_latency, random_inputs
from mobilenet_tvm.runtime.checksum import seal
from mobilenet_tvm.runtime.library import find_runtime_library
from mobilenet_tvm.runtime.metadata import SECTION
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture, core_count, default_threads

two_cores = pytest.mark.skipif(core_count() < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_add(tmp_path_factory.mktemp("runtime") / "add.so")


@pytest.fixture(scope="module")
def thread_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_thread_ids(tmp_path_factory.mktemp("runtime") / "ids.so")


@pytest.fixture
def model(artifact: Path) -> Model:
    return load(artifact, threads=1)


@pytest.fixture
def inputs() -> tuple[Array, Array]:
    return some_inputs(0)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


def python(code: str, **env: str) -> str:
    """Run code in a process of its own, in which nothing is loaded yet."""
    finished = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def os_threads() -> int:
    return len([*Path("/proc/self/task").iterdir()])


# Metadata


def test_metadata_is_the_same_after_json() -> None:
    assert Metadata.from_json(ADD.to_json()) == ADD


def test_metadata_keeps_keys_and_characters_that_it_does_not_know() -> None:
    metadata = replace(ADD, model='Mo"del\\ ü \0', extra={"memory": {"bytes": 5}, "ключ": None})
    assert Metadata.from_json(metadata.to_json().encode()) == metadata


def test_metadata_without_a_field_added_later_is_read() -> None:
    values = json.loads(ADD.to_json())
    assert (values["format"], values["crc32"]) == (2, "00000000")
    assert values["inputs"][0] == {"name": "image", "shape": [1, 4, 16, 16], "dtype": "float32"}


def test_metadata_of_a_newer_format_is_refused() -> None:
    values = json.loads(ADD.to_json()) | {"format": 3, "inputs": "something new"}
    assert "upgrade" in refusal(lambda: Metadata.from_json(json.dumps(values)))


def test_metadata_of_an_older_format_is_refused() -> None:
    values = json.loads(ADD.to_json()) | {"format": 1}
    message = refusal(lambda: Metadata.from_json(json.dumps(values)))
    assert message.endswith("reads format 2; compile the model again with this version")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"text"',
        b"\xff\xfe",
        json.dumps({"format": "1"}).encode(),
        ADD.to_json().replace('"layers": 1', '"layers": "one"').encode(),
        ADD.to_json().replace('"model"', '"modell"').encode(),
        ADD.to_json().replace('"shape": [1', '"shape": ["a"').encode(),
        ADD.to_json().replace('"shape": [1', '"shape": [Infinity').encode(),
        ADD.to_json().replace('"shape": [1', '"shape": [-1').encode(),
        ADD.to_json().replace('"layers": 1', '"layers": ' + 9999 * "[" + 9999 * "]").encode(),
        ADD.to_json().replace('"layers": 1', '"layers": true').encode(),
        ADD.to_json().replace('"name": "test"', '"name": ["test"]').encode(),
        ADD.to_json().replace("float32", "complex64").encode(),
        ADD.to_json().replace("[1, 4, 16, 16]", "[4096, 4096, 4096]").encode(),
        ADD.to_json().replace("[1, 4, 16, 16]", str([1] * 33)).encode(),
        ADD.to_json().replace("offset.1", "image").encode(),
        ADD.to_json().replace('"layers": 1', '"layers": -1').encode(),
        ADD.to_json().replace('"triple"', '"triples"').encode(),
        *(
            replace(ADD, extra=extra).to_json().encode()
            for extra in (
                {"dtype": ["float32"]},
                {"dtype": "float8"},
                {"functions": -1},
                {"activation_bytes": 1 << 70},
                {"calls": {}},
                {"calls": [[]]},
                {"calls": [{"function": "f"}]},
                {"recipe": []},
                {"recipe": {"model": 3}},
                {"recipe": {"alpha": True}},
                {"recipe": {"weights": "/etc/passwd"}},
                {"recipe": {"weights": 1}},
                {"recipe": {"until": "softmax"}},
                {"recipe": {"unknown": 1}},
                {"c_prefix": 3},
            )
        ),
    ],
)
def test_damaged_metadata_is_refused(text: bytes) -> None:
    assert "damaged" in refusal(lambda: Metadata.from_json(text))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_metadata_is_read_on_any_machine(tmp_path: Path, machine: str) -> None:
    path = write_add(tmp_path / "add.so", machine, model="größer", extra={"size": 3})
    metadata = read_metadata(path)
    assert (metadata.model, metadata.extra) == ("größer", {"size": 3})
    assert metadata.target["triple"] == f"{machine}-linux-gnu"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("options", [["--gc-sections"], ["-s"], ["--gc-sections", "-s", "-O2"]])
def test_metadata_survives_the_linker(tmp_path: Path, machine: str, options: list[str]) -> None:
    compiled, linked = tmp_path / "metadata.o", tmp_path / "metadata.so"
    write_metadata_object(ADD, f"{machine}-linux-gnu", compiled)
    command = [*linker_command(), "-shared", *options, "-o", str(linked), str(compiled)]
    subprocess.run(command, check=True)
    assert read_metadata(linked) == ADD


def test_a_library_of_another_project_is_refused() -> None:
    assert "not made by mobilenet-tvm" in refusal(lambda: read_metadata(find_runtime_library()))


# What is checked before anything of the file runs


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(lambda: load(tmp_path / "none.so"))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[architecture()]
    path = write_add(tmp_path / "add.so", other)
    assert f"compiled for {other}, this machine is {architecture()}" in refusal(lambda: load(path))


def test_features_that_the_cpu_lacks_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = write_add(tmp_path / "add.so", required_features=("zzz", "avx1024"))
    message = refusal(lambda: load(path))
    assert "needs avx1024, zzz, which this CPU lacks; compile with --target" in message
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_truncated_artifact_is_refused(artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.so"
    path.write_bytes(artifact.read_bytes()[:-1])
    assert ": truncated; copy" in refusal(lambda: load(path))


def test_a_library_with_metadata_but_without_a_model_is_refused(tmp_path: Path) -> None:
    compiled, linked = tmp_path / "metadata.o", tmp_path / "metadata.so"
    write_metadata_object(ADD, f"{architecture()}-linux-gnu", compiled)
    subprocess.run([*linker_command(), "-shared", "-o", linked, compiled], check=True)
    seal(linked, SECTION)
    assert "cannot be loaded" in refusal(lambda: load(linked))


def test_a_flipped_bit_anywhere_is_noticed_before_anything_runs(
    artifact: Path, tmp_path: Path
) -> None:
    path, data = tmp_path / "flipped.so", bytearray(artifact.read_bytes())
    for place in range(7, len(data), len(data) // 300):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        refusal(lambda: load(path))
        data[place] ^= 1 << place % 8
    path.write_bytes(data)
    assert load(path).metadata == load(path, check=False).metadata
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_an_artifact_of_another_version_of_tvm_is_refused(tmp_path: Path) -> None:
    path = write_add(tmp_path / "add.so", versions={"apache-tvm": "0.28.1"})
    assert "compiled with TVM 0.28.1, and this mobilenet-tvm loads what TVM 0.27" in refusal(
        lambda: load(path)
    )


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(artifact: Path, threads: int) -> None:
    assert f"threads={threads}" in refusal(lambda: load(artifact, threads=threads))


def test_a_dtype_that_numpy_does_not_know_is_refused(tmp_path: Path) -> None:
    inputs = (replace(ADD.inputs[0], dtype="float7"), ADD.inputs[1])
    path = write_add(tmp_path / "add.so", inputs=inputs)
    assert "damaged metadata" in refusal(lambda: load(path))


def test_a_bare_file_name_is_that_of_the_current_folder(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, inputs: tuple[Array, Array]
) -> None:
    monkeypatch.chdir(artifact.parent)
    check(load(artifact.name)(*inputs), *inputs)


def test_a_path_may_hold_any_character(
    artifact: Path, tmp_path: Path, inputs: tuple[Array, Array]
) -> None:
    path = tmp_path / "a folder: 'ü'" / "mo del.v2"
    path.parent.mkdir()
    path.write_bytes(artifact.read_bytes())
    check(load(str(path))(*inputs), *inputs)


def test_a_file_that_replaces_a_loaded_one_is_what_loads(
    artifact: Path, thread_ids: Path, tmp_path: Path, inputs: tuple[Array, Array]
) -> None:
    path, new = tmp_path / "model.so", tmp_path / "new.so"
    path.write_bytes(artifact.read_bytes())
    old = load(path)
    new.write_bytes(thread_ids.read_bytes())
    new.replace(path)
    assert (
        load(path, threads=1)(np.zeros(64, np.int32)).tolist() == [threading.get_native_id()] * 64
    )
    check(old(*inputs), *inputs)


# Inputs and outputs


def test_inputs_by_position_by_name_and_mixed(model: Model, inputs: tuple[Array, Array]) -> None:
    image, offset = inputs
    check(model(image, offset), *inputs)
    check(model(**{"offset.1": offset, "image": image}), *inputs)
    check(model(image, **{"offset.1": offset}), *inputs)


def test_outputs_are_by_name_and_a_single_one_is_an_array(
    model: Model, thread_ids: Path, inputs: tuple[Array, Array]
) -> None:
    assert list(model(*inputs)) == ["sum", "positive.1"]
    assert isinstance(load(thread_ids)(np.zeros(64, np.int32)), np.ndarray)


def layouts(array: Array) -> Iterator[tuple[str, Array]]:
    yield "Fortran order", np.asfortranarray(array)
    yield "reversed", array[:, ::-1, :, ::-1][:, ::-1, :, ::-1]
    yield "negative strides", np.flip(np.ascontiguousarray(np.flip(array)))
    yield "every other element", np.repeat(array, 2, axis=3)[..., ::2]
    yield "contiguous, odd stride of an axis of one", np.concatenate([array, array])[::2]
    yield "broadcast", np.broadcast_to(array, array.shape)
    yield "other byte order", array.astype(array.dtype.newbyteorder())
    frozen = array.copy()
    frozen.flags.writeable = False
    yield "not writeable", frozen
    yield "in a bytes object", np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
    for offset in (1, 2, 4, 8, 16, 32):
        memory = np.empty(array.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        moved = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        moved[...] = array
        yield f"{offset} bytes past alignment", moved


@pytest.mark.parametrize("name", [name for name, _ in layouts(np.zeros((1, 4, 16, 16), "f4"))])
def test_any_memory_layout_gives_the_same_result(
    model: Model, inputs: tuple[Array, Array], name: str
) -> None:
    image, offset = inputs
    given = dict(layouts(image))[name]
    before = given.copy()
    check(model(given, offset), *inputs)
    np.testing.assert_array_equal(given, before)


def test_nested_lists_of_numpy_scalars_are_arrays(model: Model) -> None:
    image, offset = some_inputs(1)
    check(model([list(channels) for channels in image], offset), image, offset)


def test_only_an_unaligned_array_is_copied(model: Model) -> None:
    image, offset = random_inputs(model).values()
    unaligned = dict(layouts(image))["16 bytes past alignment"]

    def allocated(given: Array) -> int:
        model(given, offset)
        tracemalloc.start()
        model(given, offset)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert allocated(image) < image.nbytes < allocated(unaligned)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((1, 16, 16, 4), "f4"),
            "takes image float32[1,4,16,16], but was given float32[1,16,16,4]",
        ),
        (np.zeros((4, 16, 16), "f4"), "given float32[4,16,16]"),
        (np.zeros((1, 4, 16, 16)), "given float64[1,4,16,16]"),
        (np.zeros((1, 4, 16, 16), np.uint8), "given uint8"),
        (np.zeros((1, 4, 16, 16), "c8"), "given complex64"),
        (np.zeros((1, 4, 16, 16), object), "given object"),
        ([[1.0], [1.0, 2.0]], "given no array"),
        (None, "given object[]"),
        ("photo.png", "given <U9[]"),
    ],
)
def test_another_shape_or_dtype_is_refused(model: Model, image: Any, message: str) -> None:
    assert message in refusal(lambda: model(image, np.zeros((1, 4, 1, 1), "f4")))


@pytest.mark.parametrize(
    ("arrays", "named", "message"),
    [
        (0, {}, "missing input: image float32[1,4,16,16], offset.1"),
        (1, {}, "missing input: offset.1"),
        (3, {}, "3 inputs given, but the model takes image"),
        (1, {"picture"}, "no input named 'picture'; the model takes image"),
        (2, {"image"}, "'image' given both by position and by name"),
        (0, {"self"}, "no input named 'self'"),
    ],
)
def test_missing_and_unknown_inputs_are_refused(
    model: Model, arrays: int, named: set[str], message: str
) -> None:
    given = [*some_inputs(0), np.zeros(1)][:arrays]
    assert message in refusal(lambda: model(*given, **dict.fromkeys(named, 0.0)))


def test_a_model_describes_itself_in_one_line(artifact: Path, thread_ids: Path) -> None:
    assert repr(load(artifact, threads=1)) == (
        "<Model scale_and_add for test: image float32[1,4,16,16], offset.1 float32[1,4,1,1] -> "
        "sum float32[1,4,16,16], positive.1 int32[1,4,16,16], threads: 1>"
    )
    model = load(thread_ids)
    assert repr(model) == (
        f"<Model thread_ids for test: start int32[64] -> ids int32[64], threads: {model.threads}>"
    )


def test_a_refused_call_leaves_the_model_usable(model: Model, inputs: tuple[Array, Array]) -> None:
    refusal(lambda: model())
    check(model(*inputs), *inputs)


def test_results_stay_when_the_model_runs_again_and_is_gone(artifact: Path) -> None:
    model = load(artifact)
    results = [(some_inputs(seed), model(*some_inputs(seed))) for seed in range(100)]
    del model
    gc.collect()
    load(artifact)(*some_inputs(100))
    for inputs, result in results:
        check(result, *inputs)


def test_results_are_views_of_tvms_memory(model: Model, inputs: tuple[Array, Array]) -> None:
    result = model(*inputs)["sum"]
    assert not result.flags.owndata
    assert result.ctypes.data % 64 == 0


def grown(action: Callable[[], object], times: int) -> int:
    """Return by how many kilobytes this process grows when it repeats something."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    for _ in range(20):
        action()
    before = resident()
    for _ in range(times):
        action()
    return resident() - before


def test_memory_does_not_grow_with_calls(model: Model, inputs: tuple[Array, Array]) -> None:
    assert grown(lambda: model(*inputs), 2000) < 1000


def test_memory_does_not_grow_with_loads(tmp_path: Path, inputs: tuple[Array, Array]) -> None:
    path = write_add(tmp_path / "add.so", padding=8 << 20)
    kept = load(path)
    assert grown(lambda: load(path)(*inputs), 40) < 40_000
    check(kept(*inputs), *inputs)


def test_a_model_that_is_gone_is_unloaded(tmp_path: Path, inputs: tuple[Array, Array]) -> None:
    path = write_add(tmp_path / "add.so")
    model = load(path)
    result = model(*inputs)
    assert str(path) in Path("/proc/self/maps").read_text()
    del model
    assert str(path) not in Path("/proc/self/maps").read_text()
    check(result, *inputs)


# Threads


def used_threads(model: Model) -> int:
    return len(np.unique(model(np.zeros(64, np.int32))))


def test_default_threads_are_the_machines(artifact: Path) -> None:
    assert load(artifact).threads == default_threads()


def test_there_are_never_more_threads_than_cores(thread_ids: Path) -> None:
    model = load(thread_ids, threads=1000)
    assert model.threads == core_count() == used_threads(model)


def test_one_thread_is_the_calling_one(thread_ids: Path) -> None:
    model = load(thread_ids, threads=1)

    def run() -> bool:
        return set(model(np.zeros(64, np.int32)).tolist()) == {threading.get_native_id()}

    assert run()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: run(), range(8)))


@two_cores
@pytest.mark.parametrize("order", [[1, 2], [2, 1], [1, 2, 1, 2, 2, 1]])
def test_each_model_has_its_threads_whatever_ran_before(thread_ids: Path, order: list[int]) -> None:
    def run() -> list[int]:
        models = [load(thread_ids, threads=count) for count in order]
        return [used_threads(model) for model in models * 3]

    assert run() == order * 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == order * 3


@two_cores
def test_threads_hold_in_threads_that_loaded_nothing(thread_ids: Path) -> None:
    models = [load(thread_ids, threads=count) for count in (1, 2)]
    counts: list[list[int]] = []
    for _ in range(10):
        caller = threading.Thread(
            target=lambda: counts.append([used_threads(model) for model in models])
        )
        caller.start()
        caller.join()
    assert counts == [[1, 2]] * 10


@two_cores
def test_threads_hold_where_tvm_ran_with_fewer_before(thread_ids: Path) -> None:
    code = f"""
import tvm, numpy as np, os
os.environ["TVM_NUM_THREADS"] = "1"
print(tvm.get_global_func("runtime.NumThreads")())
from mobilenet_tvm.runtime import load
model = load({str(thread_ids)!r}, threads=2)
print(len(np.unique(model(np.zeros(64, np.int32)))))
"""
    assert python(code).split() == ["1", "2"]


@two_cores
def test_short_lived_threads_leave_no_threads_behind(thread_ids: Path) -> None:
    model = load(thread_ids, threads=2)
    used_threads(model)
    before, most = os_threads(), 0
    for _ in range(100):
        caller = threading.Thread(target=used_threads, args=(model,))
        caller.start()
        caller.join()
        most = max(most, os_threads())
    # The thread kept for such calls and its worker, and callers that are just ending.
    assert most <= before + 10
    del model
    gc.collect()
    deadline = time.monotonic() + 10
    while os_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os_threads() <= before


@two_cores
def test_idle_workers_soon_stop_spinning(thread_ids: Path) -> None:
    code = f"""
import numpy as np, time
from mobilenet_tvm.runtime import load
model = load({str(thread_ids)!r}, threads=2)
for _ in range(100):
    model(np.zeros(64, np.int32))
    time.sleep(0.005)
start = time.process_time()
for _ in range(20):
    model(np.zeros(64, np.int32))
    time.sleep(0.05)
print(time.process_time() - start)
"""
    # TVM's own default would spend 1 s.
    assert float(python(code)) < 0.3


@two_cores
@pytest.mark.parametrize("threads", [1, 2])
def test_affinity_of_the_calling_thread_stays(thread_ids: Path, threads: int) -> None:
    code = f"""
import os, numpy as np
from mobilenet_tvm.runtime import load
before = os.sched_getaffinity(0)
model = load({str(thread_ids)!r}, threads={threads})
model(np.zeros(64, np.int32))
tasks = os.listdir("/proc/self/task")
print(all(os.sched_getaffinity(int(task)) == before for task in tasks))
"""
    assert python(code) == "True"


@two_cores
def test_a_forked_process_loads_its_own_model(thread_ids: Path) -> None:
    code = f"""
import os, numpy as np
from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.errors import UserError
one, two = (load({str(thread_ids)!r}, threads=count) for count in (1, 2))
run = lambda model: len(np.unique(model(np.zeros(64, np.int32))))
assert (run(one), run(two)) == (1, 2)
if os.fork():
    os.wait()
    print(run(one), run(two))
else:
    try:
        run(two)
    except UserError as error:
        print(error)
    print(run(one), run(load({str(thread_ids)!r}, threads=2)), flush=True)
    os._exit(0)
"""
    in_child, counts, after = python(code).splitlines()
    assert "loaded before this process was forked" in in_child
    assert counts == after == "1 2"


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_at_once_get_their_own_results(artifact: Path, threads: int) -> None:
    models = [load(artifact, threads=threads) for _ in range(2)]

    def run(seed: int) -> None:
        inputs = some_inputs(seed)
        for model in models * 25:
            check(model(*inputs), *inputs)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(16)))


def test_models_load_in_many_threads_at_once(artifact: Path) -> None:
    inputs = some_inputs(0)
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from concurrent.futures import ThreadPoolExecutor
from mobilenet_tvm.runtime import load
from artifacts import check, some_inputs
with ThreadPoolExecutor(8) as pool:
    for model in pool.map(lambda _: load({str(artifact)!r}, threads=2), range(32)):
        check(model(*some_inputs(0)), *some_inputs(0))
print("loaded")
"""
    assert python(code) == "loaded"
    check(load(artifact)(*inputs), *inputs)


# Measuring


def test_measure_times_every_round(model: Model) -> None:
    latency = measure_latency(model, rounds=30)
    assert latency.rounds == 30
    assert latency.seconds.shape == (30,)
    assert 0 < latency.minimum <= latency.median <= latency.p90 <= latency.p99 < 1
    assert latency.to_dict()["median_ms"] == pytest.approx(1e3 * latency.median)


def test_measure_takes_inputs_by_name(model: Model, inputs: tuple[Array, Array]) -> None:
    given = {"offset.1": inputs[1], "image": inputs[0]}
    assert measure_latency(model, given, rounds=3, warmup=0).rounds == 3


def test_random_inputs_fit_and_are_repeatable(model: Model) -> None:
    first, second, other = (random_inputs(model, seed) for seed in (1, 1, 2))
    model(**first)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
        assert not np.array_equal(array, other[name])


# What an app pays


def test_an_app_needs_neither_tvm_nor_the_compilers_packages(artifact: Path) -> None:
    code = f"""
import sys, time
start = time.perf_counter()
from mobilenet_tvm.runtime import load
imported = time.perf_counter()
model = load({str(artifact)!r}, threads=2)
loaded = time.perf_counter()
from mobilenet_tvm.runtime.bench import random_inputs
model(**random_inputs(model))
unwanted = {{"tvm", "onnx", "onnxruntime", "click", "mobilenet_tvm.compile"}}
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * 4096, unwanted & set(sys.modules) or "none", imported - start, loaded - imported)
"""
    resident, unwanted, imported, loaded = python(code).split()
    assert unwanted == "none"
    assert int(resident) < 60e6
    sys.stdout.write(f"import {imported} s, load {loaded} s, {int(resident) / 1e6:.0f} MB")


@pytest.mark.parametrize("first", ["tvm", "mobilenet_tvm.runtime"])
def test_tvm_may_be_imported_before_and_after(artifact: Path, first: str) -> None:
    run = f"""
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.bench import random_inputs
model = load({str(artifact)!r}, threads=2)
print(*model(**random_inputs(model)))
"""
    use = "import tvm\nprint(tvm.runtime.tensor([1.0]).numpy())\n"
    code = use + run if first == "tvm" else run + use + run
    assert "sum positive.1" in python(code)
    libraries = (
        "print({l.split()[-1] for l in open('/proc/self/maps') if 'libtvm_runtime.so' in l})"
    )
    assert python(code + libraries).count("libtvm_runtime.so") == 1
