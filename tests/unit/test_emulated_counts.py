"""Counts of ARM instructions: classes, ports, caches and sums, on made-up code."""

from __future__ import annotations

import ctypes
from pathlib import Path

import arm_instructions
import pytest
from arm_instructions import Row
from click.testing import CliRunner
from peer_runtimes import OURS

from mobilenet_tvm.compile.tuning.emulated import counts, emulator, ports
from mobilenet_tvm.compile.tuning.emulated.counts import Block
from mobilenet_tvm.compile.tuning.emulated.decode import CLASSES, Kind, kind

#: Instructions as LLVM assembles them.
FMLA, SDOT, SMLAL, SSHR = 0x4FA21020, 0x4E829420, 0x0E228020, 0x4F3D0420
LDR_Q, LDP_Q, STR_Q, LDR_X, ADD, B_NE = (
    0x3DC00420,
    0xACC10440,
    0x3D800020,
    0xF9400020,
    0x91000420,
    0x54000041,
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (FMLA, Kind("float", 16)),  # fmla v0.4s, v1.4s, v2.s[1]
        (0x0E22CC20, Kind("float", 8)),  # fmla v0.2s, v1.2s, v2.2s
        (0x4F321020, Kind("float", 16)),  # fmla v0.8h, v1.8h, v2.h[3]
        (0x4E421420, Kind("float", 16)),  # fadd v0.8h, v1.8h, v2.8h
        (0x1F020C20, Kind("float", 8)),  # fmadd s0, s1, s2, s3
        (0x1E212000, Kind("float", 8)),  # fcmp s0, s1
        (0x6E22FC20, Kind("float divide", 16)),  # fdiv v0.4s, v1.4s, v2.4s
        (0x1E21C020, Kind("float divide", 8)),  # fsqrt s0, s1
        (0x4E21D820, Kind("convert", 16)),  # scvtf v0.4s, v1.4s
        (0x4E21A820, Kind("convert", 16)),  # fcvtns v0.4s, v1.4s
        (0x1E22C020, Kind("convert", 8)),  # fcvt d0, s1
        (0x4FA2E020, Kind("dot", 16)),  # sdot v0.4s, v1.16b, v2.4b[1]
        (SDOT, Kind("dot", 16)),  # sdot v0.4s, v1.16b, v2.16b
        (0x4E82A420, Kind("dot", 16)),  # smmla v0.4s, v1.16b, v2.16b
        (0x4E629C20, Kind("multiply", 16)),  # mul v0.8h, v1.8h, v2.8h
        (0x6EA2B420, Kind("multiply", 16)),  # sqrdmulh v0.4s, v1.4s, v2.4s
        (SMLAL, Kind("multiply long", 16)),  # smlal v0.8h, v1.8b, v2.8b
        (0x4F52A020, Kind("multiply long", 16)),  # smull2 v0.4s, v1.8h, v2.h[1]
        (0x4E606820, Kind("accumulate", 16)),  # sadalp v0.4s, v1.8h
        (0x4EB1B820, Kind("accumulate", 16)),  # addv s0, v1.4s
        (SSHR, Kind("shift", 16)),  # sshr v0.4s, v1.4s, #3
        (0x0F08A420, Kind("shift", 16)),  # sshll v0.8h, v1.8b, #0
        (0x0E214820, Kind("shift", 8)),  # sqxtn v0.8b, v1.8h
        (0x4EA24420, Kind("shift", 16)),  # sshl v0.4s, v1.4s, v2.4s
        (0x4E023820, Kind("zip", 16)),  # zip1 v0.16b, v1.16b, v2.16b
        (0x4E020020, Kind("table", 16)),  # tbl v0.16b, {v1.16b}, v2.16b
        (0x4E057020, Kind("table", 16, 4)),  # tbx v0.16b, {v1.16b - v4.16b}, v5.16b
        (0x4E040C20, Kind("from integer", 16)),  # dup v0.4s, w1
        (0x1E270020, Kind("from integer", 8)),  # fmov s0, w1
        (0x0E0C3C20, Kind("to integer", 8)),  # umov w0, v1.s[1]
        (0x1E260020, Kind("to integer", 8)),  # fmov w0, s1
        (0x4EA28420, Kind("vector other", 16)),  # add v0.4s, v1.4s, v2.4s
        (0x4F000420, Kind("vector other", 16)),  # movi v0.4s, #1
        (0x4E822820, Kind("vector other", 16)),  # trn1 v0.4s, v1.4s, v2.4s
        (LDR_Q, Kind("vector load", 16)),  # ldr q0, [x1, #16]
        (LDP_Q, Kind("vector load", 32, 2)),  # ldp q0, q1, [x2], #32
        (0x2D400440, Kind("vector load", 8, 2)),  # ldp s0, s1, [x2]
        (0xFC626820, Kind("vector load", 8)),  # ldr d0, [x1, x2]
        (0x9C000080, Kind("vector load", 16)),  # ldr q0, #16
        (0x4C40A800, Kind("vector load", 32, 2)),  # ld1 {v0.4s, v1.4s}, [x0]
        (0x4D40C800, Kind("vector load lane", 4)),  # ld1r {v0.4s}, [x0]
        (0x0D409000, Kind("vector load lane", 4)),  # ld1 {v0.s}[1], [x0]
        (STR_Q, Kind("vector store", 16)),  # str q0, [x1]
        (0x4C9F2800, Kind("vector store", 64, 4)),  # st1 {v0.4s - v3.4s}, [x0], #64
        (LDR_X, Kind("load", 8)),  # ldr x0, [x1]
        (0x39400020, Kind("load", 1)),  # ldrb w0, [x1]
        (0xB9800020, Kind("load", 4)),  # ldrsw x0, [x1]
        (0xA9400440, Kind("load", 16, 2)),  # ldp x0, x1, [x2]
        (0xC85F7C20, Kind("load", 8)),  # ldxr x0, [x1]
        (0x58000080, Kind("load", 8)),  # ldr x0, #16
        (0xB9000020, Kind("store", 4)),  # str w0, [x1]
        (0xA9BF07E0, Kind("store", 16, 2)),  # stp x0, x1, [sp, #-16]!
        (ADD, Kind("integer")),  # add x0, x1, #1
        (0xD503201F, Kind("integer")),  # nop
        (0x9B020C20, Kind("integer multiply")),  # madd x0, x1, x2, x3
        (0x1AC20820, Kind("integer divide")),  # udiv w0, w1, w2
        (B_NE, Kind("branch")),  # b.ne #8
        (0xB4000040, Kind("branch")),  # cbz x0, #8
        (0xD65F03C0, Kind("branch")),  # ret
    ],
)
def test_the_kind_of_an_instruction(word: int, expected: Kind) -> None:
    assert kind(word) == expected


@pytest.mark.parametrize("core", ports.CORES)
def test_every_kind_occupies_ports_of_every_core(core: str) -> None:
    # The A72 has no dot products.
    for name in CLASSES.keys() - ({"dot"} if core == "cortex-a72" else set()):
        used = ports.occupied(core, Kind(name, 16))
        assert used
        assert used.keys() <= ports.CORES[core].ports.keys()
        assert all(cycles > 0 for cycles in used.values())


@pytest.mark.parametrize(
    ("core", "instructions", "expected"),
    [
        # 8 multiply-adds: two vector units of 128 bits, or what is as wide as one.
        ("cortex-a76", {FMLA: 8}, 4),
        ("cortex-a72", {FMLA: 8}, 8),
        ("cortex-a55", {FMLA: 8}, 8),
        ("cortex-a53", {FMLA: 8}, 8),
        # Loads are beside them on the big cores; a load of 128 bits keeps the others from them.
        ("cortex-a76", {FMLA: 8, LDR_Q: 4}, 4),
        ("cortex-a72", {FMLA: 8, LDP_Q: 4}, 8),
        ("cortex-a55", {FMLA: 8, LDR_Q: 2}, 12),
        ("cortex-a53", {FMLA: 8, LDR_Q: 2}, 12),
        # One of 64 bits does so on the A53 alone.
        ("cortex-a55", {FMLA: 8, 0xFC626820: 2}, 8),
        ("cortex-a53", {FMLA: 8, 0xFC626820: 2}, 10),
        # The long products have one unit, the shifts the other.
        ("cortex-a76", {SMLAL: 4, SSHR: 4}, 4),
        ("cortex-a76", {SMLAL: 8}, 8),
        ("cortex-a76", {SDOT: 8}, 4),
        ("cortex-a72", {SMLAL: 8}, 8),
        # Loads, stores of half a vector each, and the width of the core.
        ("cortex-a76", {LDP_Q: 4}, 4),
        ("cortex-a72", {LDP_Q: 4}, 8),
        ("cortex-a76", {STR_Q: 4}, 4),
        ("cortex-a72", {STR_Q: 4}, 8),
        ("cortex-a76", {ADD: 2, LDR_X: 1, FMLA: 1}, 1),
        ("cortex-a72", {ADD: 2, LDR_X: 1, FMLA: 1}, 4 / 3),
        ("cortex-a53", {ADD: 2, B_NE: 1}, 1.5),
    ],
)
def test_cycles_by_ports(core: str, instructions: dict[int, int], expected: float) -> None:
    kinds = [(kind(word), number) for word, number in instructions.items()]
    assert max(ports.busy(core, kinds).values()) == pytest.approx(expected)


def test_sections_of_the_same_number_are_one() -> None:
    text = "section 1\n400 3 2 1 4fa21020 54000041\nsection 2\nsection 1\n5000 a 0 0 91000420\n"
    assert counts.parse(text) == {
        1: [Block(0x400, 3, 2, 1, (FMLA, B_NE)), Block(0x5000, 10, 0, 0, (ADD,))],
        2: [],
    }


def test_blocks_are_summed_per_inference() -> None:
    blocks = [Block(0, 100, 6, 2, (FMLA, FMLA, LDR_Q, B_NE)), Block(64, 2, 0, 0, (LDR_X, ADD))]
    assert counts.count(blocks, "cortex-a76").per(2) == {
        "total": 202,
        "vector arithmetic": 100,
        "vector loads": 50,
        "vector stores": 0,
        "scalar loads": 1,
        "scalar stores": 0,
        "integer": 1,
        "branches": 50,
        "cycles": 50 + 0.5,
        "l2_bytes": 192,
        "memory_bytes": 64,
    }


def test_the_blocks_of_a_library() -> None:
    maps = (
        "1000-2000 r--p 00000000 08:01 1    /tmp/x/network.so\n"
        "2000-3000 r-xp 00001000 08:01 1    /tmp/x/network.so\n"
        "3000-4000 r-xp 00000000 08:01 2    /tmp/x/other-network.so\n"
        "5000-6000 rw-p 00000000 00:00 0\n"
    )
    blocks = [Block(address, 1, 0, 0, ()) for address in (0xFFF, 0x1000, 0x2FFC, 0x3000, 0x5000)]
    inside = counts.within(blocks, maps, "network.so")
    assert [block.address for block in inside] == [0x1000, 0x2FFC]


class Level(ctypes.Structure):
    """A `CacheLevel` of caches.h."""

    _fields_ = (("sets", ctypes.c_uint64), ("ways", ctypes.c_uint64), ("lines", ctypes.c_void_p))


class Caches(ctypes.Structure):
    """The `Caches` of caches.h."""

    _fields_ = (("l1", Level), ("l2", Level))


def test_the_caches_replace_the_line_that_was_used_least_recently(tmp_path: Path) -> None:
    library = tmp_path / "caches.so"
    source = Path(emulator.__file__).with_name("caches.c")
    emulator.compile_c(["-shared", "-fPIC", "-o", library, source])
    functions, caches = ctypes.CDLL(str(library)), Caches()
    # Two lines in each set: one set in the first level, two in the second.
    sizes = (ctypes.c_uint64(size) for size in (128, 2, 256, 2))
    functions.caches_make(ctypes.byref(caches), *sizes)

    def touch(address: int, size: int = 16) -> tuple[int, int]:
        l2, memory = ctypes.c_uint64(), ctypes.c_uint64()
        functions.caches_touch(
            ctypes.byref(caches),
            ctypes.c_uint64(address),
            ctypes.c_uint64(size),
            ctypes.byref(l2),
            ctypes.byref(memory),
        )
        return l2.value, memory.value

    assert touch(0) == (1, 1)
    assert touch(48) == (0, 0)  # the same line
    assert touch(56) == (1, 1)  # the end of it, and the next
    assert touch(0) == (0, 0)
    assert touch(128) == (1, 1)  # instead of the second line, which is the older one
    assert touch(0) == (0, 0)
    assert touch(64) == (1, 0)  # still in the second level
    assert touch(256) == (1, 1)  # the third line of a set of the second level, instead of line 0
    assert touch(128) == (1, 0)
    assert touch(0) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--models", "v2,v9"], "unknown 'v9'; known: v1, v2, v3-large, v3-small"),
        (["--cores", "cortex-a7"], "unknown 'cortex-a7'"),
        (["--models", "v2", "--dtype", "int8", "--folder", "nowhere"], "nowhere/mobilenet_v2_int8"),
    ],
)
def test_what_cannot_be_counted_is_a_line_that_says_why(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(arm_instructions.main, arguments)
    assert result.exit_code != 0
    assert complaint in result.output.splitlines()[-1]


def test_the_tables_give_millions_and_ratios_to_ours() -> None:
    ours = counts.count([Block(0, 10**6, 5 * 10**5, 0, (FMLA, LDR_Q, ADD))], "cortex-a72")
    other = counts.count([Block(0, 10**6, 0, 0, (FMLA,) * 5)], "cortex-a72")
    layer = {"function": "f", "layer": "pointwise 1x2x3", "macs": 4 * 10**6}
    rows = [
        Row("cortex-a72", "v2", OURS, ours.per(1), [{**layer, **ours.per(2)}]),
        Row("cortex-a72", "v2", "LiteRT", other.per(1), []),
    ]
    first, second = (line.split(" | ") for line in arm_instructions.table(rows).splitlines()[2:])
    assert first[2:11] == [OURS, "3.0", "1.0", "1.0", "0.0", "1.0", "0.0", "1.0", "32.0"]
    assert second[2:5] == ["LiteRT", "5.0", "5.0"]
    assert second[-2:] == ["0.60", "0.20 |"]
    first, second = (
        line.split(" | ") for line in arm_instructions.layer_table(rows[0]).splitlines()[2:]
    )
    assert first[:3] == ["| pointwise 1x2x3", "1.500", "0.500"]
    assert first[-1] == "8.0 |"  # 4 million in half a million cycles
    assert second[:3] == ["| other code", "1.500", "0.500"]
