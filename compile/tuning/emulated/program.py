"""Compiles a candidate to a program of its own, which `guest.c` turns into one call."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import tvm
import tvm_ffi

from mobilenet_tvm.compile.codegen.linker import linker_command
from mobilenet_tvm.compile.codegen.object_files import ObjectFiles
from mobilenet_tvm.compile.codegen.pass_context import lowering
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.compile.tuning.emulated.counts import Block
from mobilenet_tvm.compile.tuning.emulated.decode import Kind, kind
from mobilenet_tvm.compile.tuning.emulated.emulator import Emulator
from mobilenet_tvm.compile.tuning.local.builder import Build, Compiled
from mobilenet_tvm.compile.tuning.measure import Parameters, parameters_of
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import TENSOR_STEPS, Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: An operation on a vector of floats, and what takes its place.
_FLOAT, _NOP = Kind("float", 16), 0xD503201F

#: Where an ELF file has the place and the number of its segments, and what describes one (gABI).
_TABLE_AT, _SEGMENTS_AT, _SEGMENT, _EXECUTABLE = 32, 56, struct.Struct("<IIQQQQ16x"), 1


def compile_program(
    build: Build, workload: Workload, decision: Decision, target: Target, path: str
) -> Compiled:
    """Compile one candidate, as the network would be, to a program that calls it."""
    func = build(workload, decision, target).with_attr("global_symbol", "main")
    with lowering(tvm.IRModule({"main": func}), target) as mod:
        compiled = tvm.compile(mod, target=tvm_target(target))
    guest = Emulator().guest(target.architecture)
    with tempfile.TemporaryDirectory() as folder, ObjectFiles(Path(folder)):
        compiled.export_library(
            path,
            fcompile=lambda output, objects, **_: _link(output, [guest, *objects]),
            workspace_dir=folder,
        )
    if target.architecture == "aarch64":
        _quicken(Path(path))
    return Compiled(parameters_of(func))


def arguments(parameters: Parameters) -> list[str]:
    """Return the arguments of a candidate's program.

    Data and output, and tensors that earlier layers wrote, are in the caches; weights are not.
    """
    last = len(parameters) - 1
    return [
        "+" * (index in (0, last) or name.rpartition("_")[0] in TENSOR_STEPS)
        + ",".join(map(str, (*_code_and_bits(dtype), *shape)))
        for index, (name, shape, dtype) in enumerate(parameters)
    ]


def _code_and_bits(dtype: str) -> tuple[int, int]:
    """Return DLPack's code of a type, and its bits."""
    found = tvm_ffi.dtype(dtype)
    return int(found.type_code), int(found.bits)


def _link(output: str | Path, objects: Sequence[str | Path]) -> None:
    command = [*linker_command(), "-static", "--no-pie", "-o", str(output), *map(str, objects)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = next(iter(result.stderr.splitlines()), f"exit status {result.returncode}")
        raise UserError(f"linking failed: {reason}")


def _quicken(path: Path) -> None:
    """Leave operations on vectors of floats out of a program, and keep what was there beside it.

    What floats are computed does not steer a layer, but most of an emulation's time goes into it.
    """
    code = path.read_bytes()
    _original(path).write_bytes(code)
    quick = bytearray(code)
    for offset, _, words in _code(code):
        for index, word in enumerate(words):
            if kind(word) == _FLOAT:
                struct.pack_into("<I", quick, offset + 4 * index, _NOP)
    path.write_bytes(quick)


def restored(blocks: Sequence[Block], path: Path) -> list[Block]:
    """Return what a program executed as it was before some of it was left out."""
    words = {
        address + 4 * index: word
        for _, address, segment in _code(_original(path).read_bytes())
        for index, word in enumerate(segment)
    }
    return [
        replace(block, words=tuple(words[block.address + 4 * i] for i in range(len(block.words))))
        for block in blocks
    ]


def _original(path: Path) -> Path:
    return path.with_name(f"{path.name}.original")


def _code(program: bytes) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield the place in the file, the address and the words of each segment that is executed."""
    (table,) = struct.unpack_from("<Q", program, _TABLE_AT)
    (segments,) = struct.unpack_from("<H", program, _SEGMENTS_AT)
    for index in range(segments):
        _, flags, offset, address, _, size = _SEGMENT.unpack_from(
            program, table + index * _SEGMENT.size
        )
        if flags & _EXECUTABLE:
            yield offset, address, struct.unpack_from(f"<{size // 4}I", program, offset)
