"""Libraries for C: equal to the others to the bit, clean to include, and safe against bad calls."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import odd_models as odd
import pytest
from c_programs import (
    FOLDER,
    WARNINGS,
    build,
    execute,
    model_macros,
    parts_of_program,
    run_model,
)
from onnx import helper
from onnx_graphs import graph

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.bench import bench_artifact
from mobilenet_tvm.compile.analysis.profile import profile_artifact
from mobilenet_tvm.compile.codegen.c_interface.library import write_c_library
from mobilenet_tvm.runtime import CModel, load
from mobilenet_tvm.runtime.bench import random_inputs
from mobilenet_tvm.targets.errors import UserError, WrongUseError

#: What the C library and the system's loader have; anything else would be a library's.
OF_LIBC = {
    *("__tls_get_addr", "free", "getpid", "memcpy", "memset", "posix_memalign", "sched_yield"),
    *("pthread_attr_destroy", "pthread_attr_init", "pthread_attr_setstacksize"),
    *("pthread_create", "pthread_join", "pthread_sigmask", "sigdelset", "sigfillset"),
    *("sem_destroy", "sem_init", "sem_post", "sem_wait"),
}


@dataclass(frozen=True)
class Compiled:
    """A network in both forms."""

    python: Path
    library: Path

    @property
    def folder(self) -> Path:
        """Where the library and its header are."""
        return self.library.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("tiny")
    network = odd.tiny_v2(widths=(8,), resolution=33)
    python = compile_model(network, "x86", folder / "python.so").path
    # The C compiler runs in another folder than the one to which this path is relative.
    relative = os.path.relpath(folder / "c")
    library = compile_model(network, "x86", relative, interface="c", static=True).path
    return Compiled(python, library.resolve())


@pytest.fixture(scope="module")
def program(tiny: Compiled, gcc: None) -> Path:  # noqa: ARG001
    sources = [FOLDER / "run_model.c", f"-I{tiny.folder}", f"-L{tiny.folder}", "-lmodel"]
    options = [*WARNINGS, "-std=c99", "-D_DEFAULT_SOURCE", *model_macros("model")]
    system = [f"-Wl,-rpath,{tiny.folder}", "-pthread", "-lm"]
    return build(["gcc", *options, *sources, *system], tiny.folder / "run_model")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_program_gets_the_same_outputs(
    tiny: Compiled, program: Path, threads: int, tmp_path: Path
) -> None:
    model = load(tiny.python, threads=1)
    for seed in range(3):
        (array,) = random_inputs(model, seed).values()
        assert run_model(program, threads, array, tmp_path) == model(array).tobytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_python_loads_it_with_the_same_outputs(tiny: Compiled, threads: int) -> None:
    model, in_c = load(tiny.python, threads=threads), load(tiny.library, threads=threads)
    assert isinstance(in_c, CModel)
    assert in_c.metadata.inputs == model.metadata.inputs
    for seed in range(3):
        (array,) = random_inputs(model, seed).values()
        assert in_c(array).tobytes() == model(array).tobytes()


def test_a_damaged_library_is_one_line(tiny: Compiled, tmp_path: Path) -> None:
    contents = tiny.library.read_bytes()
    bad = tmp_path / "bad.so"
    other = contents.replace(b'"c_prefix": "model"', b'"c_prefix": "other"')
    for damaged, message, check in (
        (contents[: len(contents) // 2], "truncated", True),
        (contents[:-1], "truncated", True),
        (other, "damaged", True),
        (other, "has no function other_create; copy the file", False),
    ):
        bad.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            load(bad, check=check)


def test_a_process_ends_while_daemon_threads_are_in_calls(tiny: Compiled) -> None:
    code = f"""
import threading, time
import numpy as np
from mobilenet_tvm.runtime import load
model = load("{tiny.library}", threads=2)
image = np.zeros(model.inputs[0].shape, np.float32)
called = threading.Event()
def call():
    while True:
        model(image)
        called.set()
for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
called.wait()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_forked_process_loads_its_own_model(tiny: Compiled) -> None:
    code = f"""
import os, signal
import numpy as np
from mobilenet_tvm.runtime import load
model = load("{tiny.library}", threads=2)
image = np.ones(model.inputs[0].shape, np.float32)
expected = model(image).tobytes()
child = os.fork()
if child == 0:
    signal.alarm(60)
    try:
        model(image)
    except Exception as error:
        print(error, flush=True)
    del model
    os._exit(load("{tiny.library}", threads=2)(image).tobytes() != expected)
assert os.waitpid(child, 0)[1] == 0
assert model(image).tobytes() == expected
"""
    assert "was forked; load it in the forked process" in execute([sys.executable, "-c", code])


def test_bench_takes_it(tiny: Compiled) -> None:
    result = bench_artifact(tiny.library, threads=1, rounds=3)
    assert (result.threads, result.latency.rounds) == (1, 3)


@pytest.mark.usefixtures("gcc")
def test_it_needs_the_c_library_alone(tiny: Compiled) -> None:
    def lines(*command: str) -> list[str]:
        return execute([*command, tiny.library]).splitlines()

    assert {line.split()[-1] for line in lines("nm", "-Du")} <= OF_LIBC
    assert [line.split()[-1] for line in lines("nm", "-D", "--defined-only")] == [
        f"model_{name}" for name in ("create", "destroy", "run", "status_text", "workspace_size")
    ]
    dynamic = "\n".join(lines("readelf", "-dW"))
    assert "NEEDED" not in dynamic
    assert "TEXTREL" not in dynamic
    assert "BIND_NOW" in dynamic
    segments = lines("readelf", "-lW")
    assert any("GNU_RELRO" in line for line in segments)
    assert not any("RWE" in line or ("GNU_STACK" in line and " E" in line) for line in segments)


@pytest.mark.usefixtures("gcc")
@pytest.mark.parametrize(
    "compiler", ["gcc -std=c99", "gcc -std=c11", "g++ -std=c++98", "g++ -std=c++17"]
)
def test_the_header_is_clean(tiny: Compiled, compiler: str) -> None:
    language = "c++" if "g++" in compiler else "c"
    command = [*compiler.split(), *WARNINGS, "-fsyntax-only", "-x", language, "-"]
    text = f'#include "{tiny.folder}/model.h"\n#include "{tiny.folder}/model.h"\nint unused;\n'
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.usefixtures("gcc")
def test_bad_calls_get_status_codes(tiny: Compiled, tmp_path: Path) -> None:
    execute([build(["gcc", *parts_of_program("bad_calls", tiny.folder)], tmp_path / "bad_calls")])


@pytest.mark.usefixtures("gcc")
def test_a_system_that_fails_forks_and_sends_signals(tiny: Compiled, tmp_path: Path) -> None:
    parts = parts_of_program("hostile_system", tiny.folder)
    execute([build(["gcc", *parts], tmp_path / "hostile_system")])


def test_outputs_that_no_kernel_writes(tmp_path: Path) -> None:
    names = ("relu", "flat", "same", "constant", "twice", "positive", "again")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Reshape", ["relu", "s"], ["flat"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["k"], ["constant"]),
        helper.make_node("Add", ["relu", "relu"], ["twice"]),
        helper.make_node("Greater", ["relu", "zero"], ["positive"]),
        helper.make_node("Identity", ["relu"], ["again"]),
    ]
    rng = np.random.default_rng(0)
    network = graph(
        nodes,
        (1, 4, 5, 7),
        names,
        w=rng.standard_normal((8, 4, 1, 1)).astype(np.float32),
        s=np.array([1, -1]),
        k=np.arange(5),
        zero=np.float32(0).reshape(()),
    )
    array = rng.standard_normal((1, 4, 5, 7)).astype(np.float32)
    expected = load(compile_model(network, "x86", tmp_path / "python.so").path)(array)
    library = compile_model(network, "x86", tmp_path / "c", interface="c").path
    found = load(library)(array)
    assert list(found) == list(expected) == list(names)
    for name in names:
        assert found[name].dtype == expected[name].dtype
        assert found[name].tobytes() == expected[name].tobytes()
    assert "int64_t *output_3" in (tmp_path / "c/model.h").read_text()


def test_inputs_of_several_types(tmp_path: Path) -> None:
    inputs = {
        "x": np.ones((1, 2, 5, 7), np.float32),
        "half": np.linspace(-2, 2, 6, dtype=np.float16),
        "number": np.array([-(1 << 40), 3], np.int64),
        "flags": np.array([True, False]),
        "factor": np.array(0.1, np.float64),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Add", ["half", "half"], ["doubled"]),
        helper.make_node("Add", ["number", "number"], ["sum"]),
        helper.make_node("Where", ["flags", "number", "sum"], ["chosen"]),
        helper.make_node("Mul", ["factor", "factor"], ["square"]),
    ]
    network = graph(nodes, (1, 2, 5, 7), ("pooled", "doubled", "chosen", "square"))
    del network.graph.input[:]
    for name, array in inputs.items():
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        network.graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
    library = compile_model(network, "x86", tmp_path, interface="c").path
    found = load(library)(**inputs)
    np.testing.assert_array_equal(found["pooled"], np.ones((1, 2, 1, 1), np.float32))
    np.testing.assert_array_equal(found["doubled"], 2 * inputs["half"])
    np.testing.assert_array_equal(found["chosen"], [-(1 << 40), 6])
    assert found["square"] == 0.1 * 0.1
    header = (tmp_path / "model.h").read_text()
    for index, name in enumerate(("float", "uint16_t", "int64_t", "uint8_t", "double")):
        assert f"const {name} *input_{index}" in header


def test_what_c_does_not_have_is_refused(tiny: Compiled, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compile the model without --interface c"):
        profile_artifact(tiny.library)
    with pytest.raises(WrongUseError, match="mali is a GPU"):
        compile_model("v1", "mali", tmp_path, interface="c")
    with pytest.raises(WrongUseError, match="add --interface c"):
        compile_model("v1", "x86", tmp_path, static=True)
    with pytest.raises(WrongUseError, match="unknown interface 'rust'; known: python, c"):
        compile_model("v1", "x86", tmp_path, interface="rust")


def test_only_a_folder_is_an_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").mkdir()
    (tmp_path / "link/model.h").symlink_to("elsewhere")
    (tmp_path / "folder/libmodel.so").mkdir(parents=True)
    for output, message in {
        "file": "cannot be used as a folder .File exists.",
        "no/\0": "cannot be used as a folder .embedded null byte.",
        "v2.so": "is the name of a file",
        "link": "link/model.h: cannot be written; it is a link",
        "folder": "folder/libmodel.so: cannot be written; it is a folder",
    }.items():
        with pytest.raises(UserError, match=message):
            compile_model(odd.tiny_v2(), "x86", tmp_path / output, interface="c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]


def test_files_of_an_earlier_compilation_are_replaced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = odd.tiny_v2(widths=(4,), resolution=17, expand=1)
    old = dict.fromkeys(("model.h", "libmodel.so", "libmodel.a"), "old")
    for name, text in old.items():
        (tmp_path / name).write_text(text)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"{write_c_library.__module__}.link_relocatable", full)
        with pytest.raises(UserError, match="No space left on device"):
            compile_model(network, "x86", tmp_path, interface="c", static=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == old
    compile_model(network, "x86", tmp_path, interface="c")
    # The old archive would not fit the header.
    assert {path.name for path in tmp_path.iterdir()} == {"model.h", "libmodel.so"}
