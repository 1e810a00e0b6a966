"""Errors of boards, with messages for the user."""

from __future__ import annotations

from mobilenet_tvm.targets.errors import UserError


class BoardError(UserError):
    """What a board was asked to do failed there; the session goes on."""


class BoardCrashed(UserError):  # noqa: N818
    """The code that a board ran ended its session; the board accepts new ones."""


class BoardTimeout(UserError):  # noqa: N818
    """A board did not answer in time, or ended a session at its limit; the session is over."""


class BoardLost(UserError):  # noqa: N818
    """The connection to a board broke; the session is over."""


class NoBoard(UserError):  # noqa: N818
    """No board is free at an address, or none answers there."""
