"""Tests of runtime/elf.py: what it reads of an artifact, and which files it refuses."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from artifacts import ADD, write_add

from mobilenet_tvm.compile.codegen.metadata_object import write_metadata_object
from mobilenet_tvm.runtime.elf import read_elf
from mobilenet_tvm.runtime.library import find_runtime_library
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_add(tmp_path_factory.mktemp("elf") / "add.so")


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_elf(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_architecture_is_that_of_the_code(tmp_path: Path, machine: str) -> None:
    assert read_elf(write_add(tmp_path / "add.so", machine)).architecture == machine


def test_a_library_that_the_system_linker_made_is_read() -> None:
    library = read_elf(find_runtime_library())
    assert library.architecture == architecture()
    assert library.section(".text")
    assert library.section(".comment")


def test_section_has_the_bytes_that_lie_in_the_file(artifact: Path) -> None:
    names = read_elf(artifact).section(".shstrtab")
    assert names is not None
    assert b"\0.mobilenet_tvm\0" in names
    assert names in artifact.read_bytes()


def test_a_section_that_is_not_there_is_none(artifact: Path) -> None:
    assert read_elf(artifact).section(".missing") is None


def test_a_file_cut_anywhere_is_refused(artifact: Path, tmp_path: Path) -> None:
    data = artifact.read_bytes()
    cut = tmp_path / "cut.so"
    lengths = [*range(4, 70), *range(70, len(data), 97), len(data) - 1]
    for length in lengths:
        cut.write_bytes(data[:length])
        assert ": truncated; copy" in refusal(cut), length


@pytest.mark.parametrize("content", [b"", b"\x7fEL", b"\x08\x07\x12\x07pytorch", b"#!/bin/sh\n"])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.so"
    path.write_bytes(content)
    assert "not an ELF file" in refusal(path)


@pytest.mark.parametrize("offset", [4, 5])
def test_32_bit_and_big_endian_files_are_refused(
    artifact: Path, tmp_path: Path, offset: int
) -> None:
    data = bytearray(artifact.read_bytes())
    data[offset] = 3 - data[offset]
    path = tmp_path / "other.so"
    path.write_bytes(data)
    assert "64-bit little-endian" in refusal(path)


def test_an_object_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.o"
    write_metadata_object(ADD, "x86_64-linux-gnu", path)
    assert "not a shared library" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.so")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("field", [54, 58, 62])
def test_table_sizes_that_make_no_sense_are_refused(
    artifact: Path, tmp_path: Path, field: int
) -> None:
    data = bytearray(artifact.read_bytes())
    struct.pack_into("<H", data, field, 0xFFF0)
    path = tmp_path / "damaged.so"
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_random_damage_is_refused_or_harmless(artifact: Path, tmp_path: Path) -> None:
    data = artifact.read_bytes()
    sections_at = struct.unpack_from("<Q", data, 40)[0]
    places = [*range(4, 64 + 7 * 56), *range(sections_at, len(data))]
    generator = random.Random(0)  # noqa: S311 (not for cryptography)
    path = tmp_path / "damaged.so"
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        for place in generator.sample(places, 3):
            damaged[place] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            library = read_elf(path)
            for name in library.sections:
                library.section(name)
        except UserError:
            refused += 1
    assert refused > 100
