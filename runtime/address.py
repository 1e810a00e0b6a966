"""Addresses of where a model runs: this machine or a board."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mobilenet_tvm.targets.errors import WrongUseError

_FORMS = "local, rpc://HOST:PORT, tracker://HOST:PORT/KEY, ssh://[USER@]HOST[:PORT]"

# TVM appends options to a key after a space, and a random number after a colon.
_KEY = re.compile(r"[\w.-]+", re.ASCII)
# ssh would read a name that begins with a dash as an option.
_NAME = re.compile(r"[\w.:%][\w.:%-]*", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where a model runs.

    Parameters
    ----------
    scheme : str
        ``local`` for this machine, ``rpc`` for the board that serves at a port, ``tracker`` for
        any free board with a key at a tracker, ``ssh`` for a board reached through an SSH tunnel.
    host : str
        Name or IP address of the board or tracker; empty for this machine.
    port : int
        TCP port of the board, tracker or SSH server; 0 for ssh's default.
    key : str
        The tracker's key for the kind of board.
    user : str
        User that ssh logs in as; empty for ssh's default.
    """

    scheme: str
    host: str = ""
    port: int = 0
    key: str = ""
    user: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Parameters
        ----------
        text : str
            One of the forms ``local``, ``rpc://HOST:PORT``, ``tracker://HOST:PORT/KEY`` and
            ``ssh://[USER@]HOST[:PORT]``. IPv6 addresses are in brackets.

        Returns
        -------
        Address
            The parsed address.

        Raises
        ------
        WrongUseError
            If the text has another form.
        """
        if text == "local":
            return cls("local")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise _unreadable(text) from None
        host, user, key = parts.hostname or "", parts.username or "", parts.path[1:]
        if (
            parts.scheme not in ("rpc", "tracker", "ssh")
            or not _NAME.fullmatch(host)
            or port == 0
            or (port is None and parts.scheme != "ssh")
            or bool(key) != (parts.scheme == "tracker")
            or (key and not _KEY.fullmatch(key))
            or (user and not (parts.scheme == "ssh" and _NAME.fullmatch(user)))
            or parts.password is not None
            or parts.query
            or parts.fragment
        ):
            raise _unreadable(text)
        return cls(parts.scheme, host, port or 0, key, user)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.scheme == "local":
            return "local"
        user = f"{self.user}@" if self.user else ""
        host = join_host_port(self.host, self.port) if self.port else _bracketed(self.host)
        key = f"/{self.key}" if self.key else ""
        return f"{self.scheme}://{user}{host}{key}"


def split_host_port(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``; IPv6 addresses are in brackets.

    Raises
    ------
    WrongUseError
        If the text has another form.
    """
    try:
        address = Address.parse(f"rpc://{text}")
    except WrongUseError:
        raise WrongUseError(f"'{text}' is not of the form HOST:PORT") from None
    return address.host, address.port


def join_host_port(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with IPv6 addresses in brackets."""
    return f"{_bracketed(host)}:{port}"


def check_key(key: str) -> str:
    """Return a key if trackers accept it.

    Raises
    ------
    WrongUseError
        If it has characters other than letters, digits, dots, dashes and underscores.
    """
    if not _KEY.fullmatch(key):
        raise WrongUseError(
            f"invalid key '{key}'; use letters, digits, dots, dashes and underscores"
        )
    return key


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _unreadable(text: str) -> WrongUseError:
    return WrongUseError(f"unknown address '{text}'; give one of {_FORMS}")
