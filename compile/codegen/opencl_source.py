"""Shortens TVM's OpenCL C: it declares all kernels in each, and spells a thread's number out."""

from __future__ import annotations

import re

#: TVM's spelling of a thread's place, and a variable for it.
_PLACES = {
    "(convert_int(get_group_id(0)))": "block",
    "(convert_int(get_local_id(0)))": "thread",
}
_DECLARATION = re.compile(r"^__kernel void \w+\([^;{]*\);\n", re.MULTILINE)
_BEGINNING = re.compile(r"^__kernel void \w+\([^;{]*\) \{\n", re.MULTILINE)
#: What TVM has found twice, and then written out again.
_COMMON = re.compile(r"^ *int (cse_v\d+) = .*;\n", re.MULTILINE)


def shorten(source: str) -> str:
    """Return a kernel in about a third of the text.

    Drivers compile the text of a network's kernels on the device, and the artifact holds it.

    Parameters
    ----------
    source : str
        One kernel, with declarations of all.
    """
    for spelled, name in _PLACES.items():
        source = source.replace(spelled, name)
    places = "  const int block = get_group_id(0), thread = get_local_id(0);\n"
    source = _BEGINNING.sub(lambda match: match[0] + places, _DECLARATION.sub("", source))
    return _COMMON.sub(lambda match: match[0] if source.count(match[1]) > 1 else "", source)
