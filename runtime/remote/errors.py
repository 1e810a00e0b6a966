"""What can go wrong with a board; the messages are for the user."""

from __future__ import annotations

from mobilenet_tvm.targets.errors import UserError


class BoardError(UserError):
    """A board reports an error of what it was asked to do; its session goes on."""


class BoardCrashed(UserError):  # noqa: N818
    """The code that a board ran ended its session; the board takes others."""


class BoardTimeout(UserError):  # noqa: N818
    """A board did not answer in time, or ended a session at its limit; the session is over."""


class BoardLost(UserError):  # noqa: N818
    """The connection to a board broke; the session is over."""


class NoBoard(UserError):  # noqa: N818
    """There is no free board at an address."""
