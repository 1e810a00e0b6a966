"""The window of a convolution: kernel, stride and padding."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """The input window of each output of a convolution.

    Parameters
    ----------
    kernel : tuple of int
        Height and width.
    stride : tuple of int
        Vertical and horizontal.
    padding : tuple of int
        Top, left, bottom, right.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def taps(self) -> int:
        """Number of positions in the kernel."""
        return self.kernel[0] * self.kernel[1]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the output for an input of some size."""
        top, left, bottom, right = self.padding
        return (
            (height + top + bottom - self.kernel[0]) // self.stride[0] + 1,
            (width + left + right - self.kernel[1]) // self.stride[1] + 1,
        )

    def inputs(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the height and width of the input that a tile of outputs reads."""
        return (
            (rows - 1) * self.stride[0] + self.kernel[0],
            (columns - 1) * self.stride[1] + self.kernel[1],
        )

    def __str__(self) -> str:
        """Return the window as logs write it: `k3x3 s1x1 p1,1,1,1`."""
        padding = ",".join(map(str, self.padding))
        kernel, stride = self.kernel, self.stride
        return f"k{kernel[0]}x{kernel[1]} s{stride[0]}x{stride[1]} p{padding}"

    @staticmethod
    def parse(text: str) -> Window:
        """Read a window back from its text.

        Raises
        ------
        ValueError
            If no window has this text.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"unknown window {text!r}")
        height, width, down, across, top, left, bottom, right = map(int, match.groups())
        return Window((height, width), (down, across), (top, left, bottom, right))


_EXTENT = "([1-9][0-9]{0,8})"
_TEXT = re.compile(
    f"k{_EXTENT}x{_EXTENT} s{_EXTENT}x{_EXTENT} p([0-9]+),([0-9]+),([0-9]+),([0-9]+)"
)
