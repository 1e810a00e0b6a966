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
    dilation : tuple of int
        Vertical and horizontal step between the positions of the kernel.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        """Number of positions in the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def dilated(self) -> bool:
        """Whether positions of the kernel have steps between them."""
        return self.dilation != (1, 1)

    @property
    def reach(self) -> tuple[int, int]:
        """Height and width of the input that an output reads."""
        kernel, dilation = self.kernel, self.dilation
        return (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the output for an input of some size."""
        top, left, bottom, right = self.padding
        return (
            (height + top + bottom - self.reach[0]) // self.stride[0] + 1,
            (width + left + right - self.reach[1]) // self.stride[1] + 1,
        )

    def inputs(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the height and width of the input that a tile of outputs reads."""
        return (
            (rows - 1) * self.stride[0] + self.reach[0],
            (columns - 1) * self.stride[1] + self.reach[1],
        )

    def __str__(self) -> str:
        """Return the window as logs write it: `k3x3 s1x1 p1,1,1,1`, and ` d2x2` if dilated."""
        padding = ",".join(map(str, self.padding))
        kernel, stride, dilation = self.kernel, self.stride, self.dilation
        dilated = f" d{dilation[0]}x{dilation[1]}" if self.dilated else ""
        return f"k{kernel[0]}x{kernel[1]} s{stride[0]}x{stride[1]} p{padding}{dilated}"

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
        *numbers, below, beside = match.groups(default="1")
        height, width, down, across, top, left, bottom, right = map(int, numbers)
        dilation = int(below), int(beside)
        return Window((height, width), (down, across), (top, left, bottom, right), dilation)


#: Regular expression of a window's text, one group.
WINDOW = "(k[^ ]+ s[^ ]+ p[^ ]+(?: d[^ ]+)?)"
_EXTENT = "([1-9][0-9]{0,8})"
_TEXT = re.compile(
    f"k{_EXTENT}x{_EXTENT} s{_EXTENT}x{_EXTENT} p([0-9]+),([0-9]+),([0-9]+),([0-9]+)"
    f"(?: d{_EXTENT}x{_EXTENT})?"
)
