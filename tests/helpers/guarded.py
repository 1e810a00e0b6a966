"""Calls a compiled function in memory whose neighbours cannot be touched unnoticed.

It needs NumPy and tvm-ffi alone. ``python guarded.py RUNTIME LIBRARY ARGUMENTS RESULTS 0|1`` calls
the functions of a library, for machines with nothing else.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi

Array = np.ndarray[Any, Any]

#: Alignment of a function's parameters, in bytes.
ALIGNMENT = 64
_PAGE = mmap.PAGESIZE
_PROT_NONE = 0


def call_all(
    functions: Sequence[Any], arguments: Sequence[Sequence[Array]], guarded: bool
) -> list[Array]:
    """Call functions, whose last argument is the result, and return the results.

    Parameters
    ----------
    functions : sequence of Function
        TVM's.
    arguments : sequence of sequence of ndarray
        For each function.
    guarded : bool
        Whether each is called twice: where its arguments end at a page's end, and where they begin
        at its beginning, and the pages around cannot be touched.
    """
    return [
        _call(function, arrays, guarded, at_end)
        for function, arrays in zip(functions, arguments, strict=True)
        for at_end in ((True, False) if guarded else (True,))
    ]


def _call(function: Any, arrays: Sequence[Array], guarded: bool, at_end: bool) -> Array:
    """Call a function whose last argument is the result, and return that."""
    places = [Place(array, guarded, at_end) for array in arrays]
    function(*(tvm_ffi.from_dlpack(place.array) for place in places))
    for place, array in zip(places, arrays, strict=True):
        assert place.is_intact, "written next to an argument"
        if array is not arrays[-1]:
            np.testing.assert_array_equal(place.array, array)
    return places[-1].array.copy()


class Place:
    """A place in memory for an argument, of its own pages.

    Parameters
    ----------
    array : ndarray
        What is copied there.
    guarded : bool
        Whether its neighbours cannot be read or written.
    at_end : bool
        Whether it ends where its last page does, as far as its alignment allows; else it begins
        where its first page does.
    """

    def __init__(self, array: Array, guarded: bool, at_end: bool) -> None:
        whole = -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        pages = -(-whole // _PAGE) * _PAGE
        # Not memory of NumPy's: what is protected is never handed to others.
        self._memory = mmap.mmap(-1, pages + 2 * _PAGE)
        everything = np.frombuffer(self._memory, np.uint8)
        everything[:] = 0xA5
        self._start = _PAGE + (pages - whole if at_end else 0)
        self._inside = everything[_PAGE : _PAGE + pages]
        self._around = (everything[:_PAGE], everything[_PAGE + pages :])
        self._guarded, self._size = guarded, array.nbytes
        self.array = everything[self._start : self._start + array.nbytes].view(array.dtype)
        self.array[:] = array
        if guarded:
            for start in (0, _PAGE + pages):
                address = ctypes.c_void_p(everything.ctypes.data + start)
                libc = ctypes.CDLL(None, use_errno=True)
                failed = libc.mprotect(address, ctypes.c_size_t(_PAGE), _PROT_NONE)
                assert not failed, "mprotect"

    @property
    def is_intact(self) -> bool:
        """Whether what is around the array is as it was."""
        first = self._start - _PAGE
        parts = [self._inside[:first], self._inside[first + self._size :]]
        parts += [] if self._guarded else self._around
        return all((part == 0xA5).all() for part in parts)


def main(runtime: str, library: str, arguments: str, results: str, guarded: str) -> None:
    """Call a library's functions `layer_0`, ... with a file's arrays `0.0`, `0.1`, ..."""
    ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL)
    module = tvm_ffi.load_module(library)
    arrays: dict[int, list[Array]] = {}
    with np.load(arguments) as file:
        for name in file:
            arrays.setdefault(int(name.partition(".")[0]), []).append(file[name])
    functions = [module[f"layer_{index}"] for index in arrays]
    np.savez(results, *call_all(functions, list(arrays.values()), bool(int(guarded))))


if __name__ == "__main__":
    main(*sys.argv[1:])
