"""Names from files and boards do not control the terminal that they are printed on."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import odd_models as odd
import onnx
import pytest
from command_line import run

from mobilenet_tvm.compile.tuning.measure import Failure
from mobilenet_tvm.compile.tuning.progress import Event, line_printer
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import GlobalPool
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.printable import PrintableFormatter, printable

#: Clears the screen, sets the window's title, goes back over the line, and turns it around.
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\r\nerror\u202e"


def is_tame(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_control_characters_are_escaped() -> None:
    assert printable("größer 猫") == "größer 猫"
    assert printable("a\x1b[2J\n\u202e\x9b") == "a\\x1b[2J\\n\\u202e\\x9b"
    record = logging.LogRecord("name", logging.INFO, "", 0, "rejected %s", (HOSTILE,), None)
    assert PrintableFormatter("%(message)s").format(record).isprintable()


def test_commands_escape_the_names_of_a_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net = odd.Net([1, 3, 8, 8])
    model = net.model(net.conv("input", 3, 8), shapes=[[1, 8, 8, 8]])
    model.graph.node[0].name = HOSTILE
    model.graph.input[0].name = model.graph.node[0].input[0] = HOSTILE
    path, output = tmp_path / "\x1b[2J.onnx", tmp_path / "\x1b[2J.so"
    onnx.save(model, path)
    compiled = run(capfd, "compile", "--target", "native", "--model", path, "-o", output)
    model.graph.node[0].op_type = "Unknown"
    onnx.save(model, path)
    refused = run(capfd, "compile", "--target", "native", "--model", path, "-o", output)
    missing = run(capfd, "bench", tmp_path / HOSTILE)
    assert [result[0] for result in (compiled, refused, missing)] == [0, 1, 1]
    said = "".join(output + error for _, output, error in (compiled, refused, missing))
    assert is_tame(said)
    assert len(re.findall(r"\\x1b\[2J\\x1b\]0;title", said)) > 1


def test_progress_escapes_what_a_board_says() -> None:
    workload = GlobalPool(1, 49, 96)
    decision = registry.default(workload, PRESETS["x86"])
    failure = Failure("crashed", HOSTILE)
    stream = io.StringIO()
    line_printer(stream)(Event(workload, decision, failure, None, 1, 1, 1, 1, 0.0, 0.0, None))
    assert stream.getvalue().count("\n") == 1
    assert is_tame(stream.getvalue())
