"""Tests of the OpenCL plug-in on PoCL: kernels, memory, threads, times, cache, errors."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tvm_ffi
from artifacts import Array, check, some_inputs, write_add
from opencl_modules import (
    ONE_AXIS,
    SCALE,
    SCALE_ARGUMENTS,
    load_module,
    module_bytes,
    text,
)
from opencl_processes import LIST, run_python
from pocl import Pocl

from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.device import Device, copy
from mobilenet_tvm.runtime.opencl import devices, find_device, load_opencl
from mobilenet_tvm.runtime.opencl.build import plugin_path
from mobilenet_tvm.runtime.opencl.plugin import function
from mobilenet_tvm.runtime.profile import profile
from mobilenet_tvm.targets.errors import UserError

GPU = Device("opencl")

# DLPack's kDLOpenCL.
OPENCL = 4


@pytest.fixture(scope="module", autouse=True)
def plugin(pocl: Pocl) -> None:
    del pocl
    load_opencl()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Keep compiled programs in a folder of the test's own."""
    keep = function("keep_programs_in")
    keep(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def artifact(plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    del plugin
    return write_add(tmp_path_factory.mktemp("opencl") / "add.so", kind="opencl")


def on_device(array: Array) -> Any:
    tensor = GPU.empty(array.shape, str(array.dtype))
    copy(tvm_ffi.from_dlpack(array), tensor)
    return tensor


def on_host(tensor: Any) -> Array:
    array = np.empty(tuple(tensor.shape), str(tensor.dtype))
    copy(tensor, tvm_ffi.from_dlpack(array))
    return array


def pointer(tensor: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def run_scale(module: Any, x: Array, factor: float = 2.0, offset: int = 1, group: int = 8) -> Array:
    source, result = on_device(x), on_device(np.zeros_like(x))
    launch = module["scale"]
    launch(pointer(result), pointer(source), factor, offset, x.size // group, group)
    return on_host(result)


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises((RuntimeError, ValueError, MemoryError, UserError)) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def program_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bin"))


def test_an_artifact_for_opencl_computes_what_numpy_does(artifact: Path) -> None:
    model = load(artifact)
    assert (model.device.kind, model.threads) == ("opencl", 1)
    assert repr(model).endswith(f", on {model.device.name}>")
    for seed in range(3):
        check(model(*some_inputs(seed)), *some_inputs(seed))


def test_results_stay_when_the_model_runs_again_and_is_gone(artifact: Path) -> None:
    model = load(artifact)
    first = model(*some_inputs(1))
    model(*some_inputs(2))
    del model
    gc.collect()
    check(first, *some_inputs(1))
    first["sum"] += 1


def test_a_model_outlives_another_one_of_the_same_file(artifact: Path) -> None:
    first = load(artifact)
    check(first(*some_inputs(1)), *some_inputs(1))
    second = load(artifact)
    gone = weakref.ref(first)
    del first
    # No cycle holds it until the garbage collector comes, with all its memory on the device.
    assert gone() is None
    # Where its kernels were, there is something else.
    others = [load_module(module_bytes()) for _ in range(100)]
    for seed in range(3):
        check(second(*some_inputs(seed)), *some_inputs(seed))
    assert others


def test_threads_that_share_a_model_get_their_own_results(artifact: Path) -> None:
    models = [load(artifact), load(artifact)]

    def call(seed: int) -> None:
        check(models[seed % 2](*some_inputs(seed)), *some_inputs(seed))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(200)))


def test_threads_that_launch_one_kernel_do_not_mix_its_arguments() -> None:
    module = load_module(module_bytes())
    x = np.arange(64, dtype=np.float32)
    barrier = threading.Barrier(8)

    def call(number: int) -> None:
        barrier.wait()
        for step in range(50):
            factor, offset = float(number), 100 * step
            np.testing.assert_array_equal(run_scale(module, x, factor, offset), x * factor + offset)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))


def test_a_tensor_comes_back_as_it_went_and_copies_within_the_device() -> None:
    for dtype in ("float32", "float16", "int8", "int64"):
        array = np.random.default_rng(0).integers(-9, 9, (3, 5, 7)).astype(dtype)
        there = on_device(array)
        again = GPU.empty(array.shape, dtype)
        copy(there, again)
        np.testing.assert_array_equal(on_host(again), array)


def test_a_tensor_without_elements_is_no_error() -> None:
    assert on_host(on_device(np.zeros((0, 4), np.float32))).shape == (0, 4)


def test_every_axis_of_a_launch_reaches_the_kernel() -> None:
    source = """
    __kernel void place(__global int* y) {
      int i = get_global_id(0) + get_global_size(0)
          * (get_global_id(1) + get_global_size(1) * get_global_id(2));
      y[i] = get_group_id(0) + 10 * get_group_id(1) + 100 * get_group_id(2)
          + 1000 * get_local_id(0) + 10000 * get_local_id(1) + 100000 * get_local_id(2);
    }"""
    tags = [f"{kind}.{axis}" for axis in "zyx" for kind in ("blockIdx", "threadIdx")]
    module = load_module(module_bytes(source, "place", SCALE_ARGUMENTS[:1], tags))
    result = on_device(np.full((4, 6, 6), -1, np.int32))
    module["place"](pointer(result), 2, 2, 3, 2, 2, 3)
    z, y, x = np.indices((4, 6, 6))
    groups = x // 3 + 10 * (y // 2) + 100 * (z // 2)
    threads = 1000 * (x % 3) + 10000 * (y % 2) + 100000 * (z % 2)
    np.testing.assert_array_equal(on_host(result), groups + threads)


def test_workspaces_are_used_again_and_two_at_once_are_two() -> None:
    library = ctypes.CDLL(None)
    allocate, free = library.TVMBackendAllocWorkspace, library.TVMBackendFreeWorkspace
    allocate.restype = ctypes.c_void_p
    allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    free.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    first, second = (allocate(OPENCL, 0, size, 2, 32) for size in (100, 200))
    assert first != second
    free(OPENCL, 0, first)
    assert allocate(OPENCL, 0, 300, 2, 32) == first
    free(OPENCL, 0, first)
    free(OPENCL, 0, second)


def test_time_of_a_kernel_grows_with_its_work(artifact: Path) -> None:
    source = """
    __kernel void work(__global float* y, int rounds) {
      float value = 1.0f;
      for (int i = 0; i < rounds; ++i) value = value * 1.0001f + 0.5f;
      y[get_global_id(0)] = value;
    }"""
    import tvm

    module = load_module(module_bytes(source, "work", (SCALE_ARGUMENTS[0], SCALE_ARGUMENTS[3])))
    result = on_device(np.zeros(8, np.float32))
    evaluator = tvm.get_global_func("runtime.RPCTimeEvaluator")
    seconds = []
    for rounds in (10**5, 10**6):
        timed = evaluator(module, "work", OPENCL, 0, 3, 3, 0, 0, 0, 0, 0, "")
        blob = timed(pointer(result), rounds, 1, 8)
        seconds.append(min(np.frombuffer(blob, np.float64)))
    assert 3 < seconds[1] / seconds[0] < 30
    # What follows runs in the ordinary queue again.
    model = load(artifact)
    check(model(*some_inputs(5)), *some_inputs(5))


def test_profile_times_each_function(artifact: Path) -> None:
    times = profile(load(artifact), rounds=3, warmup=1)
    assert {call.function for call in times} == {"add", "positive"}
    assert all(call.minimum > 0 for call in times)


def test_devices_tell_what_pocl_is() -> None:
    (device,) = devices()
    assert device.number == 0
    assert device.platform == "Portable Computing Language"
    assert device.type == "CPU"
    assert device.compute_units == os.cpu_count()
    assert device.memory_bytes > 2**28
    assert find_device() == find_device(0) == find_device("0") == find_device("PORTABLE") == device


@pytest.mark.parametrize("wanted", [1, "1", "mali", "-1"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted: int | str) -> None:
    message = refusal(lambda: find_device(wanted))
    assert f"'{wanted}'" in message
    assert devices()[0].name in message


def run_built(data: bytes, x: Array) -> Array:
    """Run a module that has been made ready, as `load` does."""
    module = load_module(data)
    module["opencl.build"](0)
    return run_scale(module, x)


def test_compiled_programs_are_kept_and_used_again(programs: Path) -> None:
    x = np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(run_built(module_bytes(), x), x * 2 + 1)
    (file,) = program_files(programs)
    # Another kernel's binary in its place, so that a result tells which one ran.
    run_built(module_bytes(SCALE.replace("+ offset", "- offset")), x)
    (changed,) = set(program_files(programs)) - {file}
    file.write_bytes(with_binary_of(file.read_bytes(), changed.read_bytes()))
    np.testing.assert_array_equal(run_built(module_bytes(), x), x * 2 - 1)


def test_a_kernel_that_is_only_tried_leaves_no_file(programs: Path) -> None:
    run_scale(load_module(module_bytes()), np.arange(16, dtype=np.float32))
    assert not program_files(programs)


def with_binary_of(entry: bytes, other: bytes) -> bytes:
    """Return a cache file with its own key and another's binaries."""

    def end_of_key(data: bytes) -> int:
        return 24 + int.from_bytes(data[16:24], "little")

    body = entry[16 : end_of_key(entry)] + other[end_of_key(other) :]
    checksum = 0xCBF29CE484222325
    for byte in body:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    return entry[:8] + checksum.to_bytes(8, "little") + body


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda _: b"",
        lambda data: data + b"x",
        lambda data: data[: len(data) // 2] + b"\0\0\0\0" + data[len(data) // 2 + 4 :],
        lambda data: b"another1" + data[8:],
        lambda data: with_binary_of(data, data.replace(b"poclbin", b"another")),
    ],
    ids=["torn", "head", "empty", "longer", "middle", "magic", "binary"],
)
def test_a_damaged_program_is_compiled_again(
    damage: Callable[[bytes], bytes], programs: Path
) -> None:
    x = np.arange(16, dtype=np.float32)
    run_built(module_bytes(), x)
    (file,) = program_files(programs)
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    np.testing.assert_array_equal(run_built(module_bytes(), x), x * 2 + 1)
    assert program_files(programs) == [file]
    assert file.read_bytes() != damaged


def test_a_cache_folder_that_is_gone_is_no_error(programs: Path) -> None:
    programs.rmdir()
    x = np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(run_built(module_bytes(), x), x * 2 + 1)


def test_a_kernel_that_does_not_compile_is_named_with_the_compilers_reason() -> None:
    module = load_module(module_bytes(SCALE.replace("x[i]", "nothing[i]")))
    message = refusal(lambda: module["opencl.build"](0))
    assert "scale" in message
    assert "CL_BUILD_PROGRAM_FAILURE" in message
    assert "nothing" in message


def test_a_work_group_that_is_too_large_is_named_with_its_size() -> None:
    limit = tvm_ffi.get_global_func("runtime.GetDeviceAttr")(OPENCL, 0, 1)
    x = np.zeros(2 * limit, np.float32)
    message = refusal(lambda: run_scale(load_module(module_bytes()), x, group=2 * limit))
    assert "kernel scale" in message
    assert f"{2 * limit} x 1 x 1" in message
    assert "CL_INVALID_WORK_GROUP_SIZE" in message


def test_float16_is_refused_where_the_device_lacks_it() -> None:
    if devices()[0].float16:
        pytest.skip("this device has float16")
    source = "#ifdef cl_khr_fp16\n#endif\n" + SCALE
    message = refusal(lambda: load_module(module_bytes(source))["opencl.build"](0))
    assert "float16" in message
    assert "--dtype float32" in message


def test_memory_that_the_device_lacks_is_an_error_with_opencls_name() -> None:
    message = refusal(lambda: GPU.empty((2**42,), "float32"))
    assert "CL_" in message
    assert str(2**44) in message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (module_bytes()[:-1], "damaged"),
        (module_bytes()[:30], "damaged"),
        (text("cl") + b"\xff" * 8, "damaged"),
        (module_bytes(form="aocx"), "aocx"),
        (module_bytes(tags=(*ONE_AXIS, "tirx.use_dyn_shared_memory")), "use_dyn_shared_memory"),
        (module_bytes(tags=("blockIdx.w",)), "blockIdx.w"),
        (module_bytes().replace(b"// Function", b"// Funktion"), "lacks the source"),
    ],
    ids=["empty", "torn", "head", "count", "format", "tag", "axis", "source"],
)
def test_a_module_that_cannot_run_is_refused_when_it_is_loaded(data: bytes, reason: str) -> None:
    assert reason in refusal(lambda: load_module(data))


def test_a_wrong_number_of_arguments_is_refused() -> None:
    launch = load_module(module_bytes())["scale"]
    assert "kernel scale is called with 2 arguments" in refusal(lambda: launch(1, 2))


def test_a_device_number_that_does_not_exist_is_refused() -> None:
    assert "no OpenCL device 7" in refusal(lambda: Device("opencl", 7).empty((4,), "float32"))


def test_loading_many_times_leaves_no_memory_behind(artifact: Path) -> None:
    process = psutil.Process()

    def load_and_run(times: int) -> int:
        for _ in range(times):
            load(artifact)(*some_inputs(0))
        gc.collect()
        return int(process.memory_info().rss)

    load_and_run(20)
    before = load_and_run(20)
    assert load_and_run(40) - before < 8 * 2**20


def test_a_forked_process_is_refused_and_its_parent_goes_on(artifact: Path, pocl: Pocl) -> None:
    code = f"""
        import os
        from mobilenet_tvm.runtime import load
        from mobilenet_tvm.runtime.bench import random_inputs
        from mobilenet_tvm.targets.errors import UserError
        model = load({str(artifact)!r})
        inputs = random_inputs(model)
        model(**inputs)
        if os.fork() == 0:
            for attempt in (lambda: model(**inputs), lambda: load({str(artifact)!r})):
                try:
                    attempt()
                except UserError as error:
                    print(error, flush=True)
            os._exit(0)
        os.wait()
        print(list(model(**inputs)))
    """
    lines = run_python(code, pocl).splitlines()
    assert ["'spawn'" in line for line in lines] == [True, True, False]
    assert lines[2] == "['sum', 'positive.1']"


def test_no_driver_is_one_clear_line() -> None:
    assert "OpenCL has no driver on this machine" in run_python(LIST)


def test_no_opencl_library_is_one_clear_line() -> None:
    message = run_python(LIST, MOBILENET_TVM_OPENCL_LIBRARY="/nowhere/libOpenCL.so")
    assert "MOBILENET_TVM_OPENCL_LIBRARY names: /nowhere/libOpenCL.so" in message


def test_an_artifact_without_a_driver_is_refused_by_name(artifact: Path) -> None:
    message = run_python(f"from mobilenet_tvm.runtime import load; load({str(artifact)!r})")
    assert f"{artifact}: OpenCL has no driver" in message


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ("0", "1"),
        ("Portable", "1"),
        ("pthread", "1"),
        ("3", "matches '3'"),
        ("mali", "matches 'mali'"),
    ],
)
def test_a_variable_says_which_devices_are_there(wanted: str, answer: str, pocl: Pocl) -> None:
    assert answer in run_python(LIST, pocl, MOBILENET_TVM_OPENCL_DEVICE=wanted)


def test_a_plug_in_that_is_built_needs_no_compiler(pocl: Pocl) -> None:
    assert run_python(LIST, pocl, PATH="/nowhere") == "1"


def test_two_processes_may_build_at_once_and_replace_what_is_there(
    pocl: Pocl, tmp_path: Path
) -> None:
    folder = tmp_path / "mobilenet-tvm" / "opencl"
    folder.mkdir(parents=True)
    (folder / plugin_path().name).write_bytes(b"no library")
    code = "from mobilenet_tvm.runtime.opencl.build import build; build(); " + LIST
    with ThreadPoolExecutor(2) as pool:
        answers = [
            pool.submit(run_python, code, pocl, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)
        ]
        assert [answer.result() for answer in answers] == ["1", "1"]
    assert {path.name for path in folder.iterdir()} == {plugin_path().name, "programs"}


def test_importing_tvm_loads_a_built_plug_in_and_never_builds_one(
    pocl: Pocl, tmp_path: Path
) -> None:
    code = """
        import tvm
        from mobilenet_tvm.runtime.opencl.plugin import autoload
        autoload()
        print(tvm.get_global_func("device_api.opencl", allow_missing=True) is not None)
    """
    assert run_python(code, pocl) == "True"
    assert run_python(code, pocl, XDG_CACHE_HOME=str(tmp_path)) == "False"


def test_a_damaged_plug_in_is_refused_with_the_mend(tmp_path: Path) -> None:
    folder = tmp_path / "mobilenet-tvm" / "opencl"
    folder.mkdir(parents=True)
    (folder / plugin_path().name).write_bytes(b"no library")
    message = run_python(LIST, XDG_CACHE_HOME=str(tmp_path))
    assert "cannot be loaded" in message
    assert "mobilenet-tvm opencl build" in message


def test_the_command_lists_devices_and_an_error_is_one_line(pocl: Pocl) -> None:
    code = """
        from mobilenet_tvm.compile.cli.main import main
        main(["opencl", "devices"])
    """
    listed = run_python(code, pocl)
    assert listed.startswith(f"0  {devices()[0].name} (CPU), Portable Computing Language\n")
    assert "compute units" in listed
    assert run_python(code).startswith("error: OpenCL has no driver")
