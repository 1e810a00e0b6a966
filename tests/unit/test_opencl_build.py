"""Building the OpenCL plug-in where there is no compiler; no driver is needed to learn that."""

from __future__ import annotations

from pathlib import Path

import pytest
from opencl_processes import LIST, run_python

DEVICES = """
from mobilenet_tvm.compile.cli.main import main
main(["opencl", "devices"])
"""


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "/nowhere", "CXX": ""}, "no C++ compiler (c++, g++, clang++)"),
        ({"CXX": "no-such-compiler -O2"}, "no C++ compiler 'no-such-compiler'"),
        ({"CXX": "false"}, "false cannot build the OpenCL plug-in"),
    ],
)
def test_no_compiler_is_one_clear_line(
    environment: dict[str, str], reason: str, tmp_path: Path
) -> None:
    message = run_python(LIST, XDG_CACHE_HOME=str(tmp_path), **environment)
    assert reason in message
    assert not list(tmp_path.rglob("*.so"))


def test_the_command_says_it_in_one_line_too(tmp_path: Path) -> None:
    said = run_python(DEVICES, XDG_CACHE_HOME=str(tmp_path), CXX="false")
    assert said.startswith("error: ")
    assert "false cannot build the OpenCL plug-in" in said
