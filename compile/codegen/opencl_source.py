"""Shortens TVM's OpenCL C, and corrects what the language forbids."""

from __future__ import annotations

import re

#: TVM's expressions for a thread's indices, and variables for them.
_INDICES = {
    "(convert_int(get_group_id(0)))": "block",
    "(convert_int(get_local_id(0)))": "thread",
}
_DECLARATION = re.compile(r"^__kernel void \w+\([^;{]*\);\n", re.MULTILINE)
_BEGINNING = re.compile(r"^__kernel void \w+\([^;{]*\) \{\n", re.MULTILINE)
#: A common subexpression, which TVM may have inlined again after it named it.
_COMMON = re.compile(r"^ *int (cse_v\d+) = .*;\n", re.MULTILINE)


def shorten(source: str) -> str:
    """Return a kernel with about a third of the text.

    The artifact holds the text, and drivers compile it on the device.

    Parameters
    ----------
    source : str
        The source of one kernel, with declarations of all.
    """
    for expression, name in _INDICES.items():
        source = source.replace(expression, name)
    # OpenCL forbids pointers to bool as parameters; a truth value is a byte in memory.
    source = source.replace("bool*", "uchar*")
    indices = "  const int block = get_group_id(0), thread = get_local_id(0);\n"
    source = _BEGINNING.sub(lambda match: match[0] + indices, _DECLARATION.sub("", source))
    return _COMMON.sub(lambda match: match[0] if source.count(match[1]) > 1 else "", source)
