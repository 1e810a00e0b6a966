"""Compiling onto a full disk: one clear line, and nothing is changed or left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from networks import ODD

#: Compiles a model larger than the disk; the old file of that name is 3 bytes long.
COMPILE = """
import os, sys
from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.targets.errors import UserError
output, interface = sys.argv[2:]
os.makedirs("out")
open(f"out/{output}", "w").write("old")
path = "out" if interface == "c" else f"out/{output}"
try:
    compile_model(sys.argv[1], "x86", path, tuning_log="none", interface=interface)
except UserError as error:
    print(error)
print(os.listdir("out"), open(f"out/{output}").read())
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("interface", "kilobytes"),
    # Full before linking, and then; which it is depends on the size of the code as well.
    [("python", 16), ("python", 64), ("c", 64), ("c", 304)],
)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(
    interface: str, kilobytes: int, tmp_path: Path
) -> None:
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs {tmp_path} && cd {tmp_path}"
    if subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("no disk of a given size: mounting in a namespace of its own is not permitted")
    model = tmp_path.parent / "network.onnx"
    onnx.save(ODD["batch_2"](), model)
    words = f"{model} libnetwork.so {interface}"
    command = f"{mount} && TMPDIR=. exec {sys.executable} -c '{COMPILE}' {words}"
    finished = subprocess.run([*inside, command], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    said, left = finished.stdout.splitlines()
    assert "No space left on device" in said or "linking failed" in said
    assert left == "['libnetwork.so'] old"
