"""Where a model runs: on this machine, or on a board that is somewhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mobilenet_tvm.targets.errors import WrongUseError

FORMS = "local, rpc://HOST:PORT, tracker://HOST:PORT/KEY, ssh://[USER@]HOST[:PORT]"

# TVM puts options behind a key, after a space, and a random number, after a colon.
_KEY = re.compile(r"[\w.-]+", re.ASCII)
# ssh would take a name that begins with a dash for an option.
_NAME = re.compile(r"[\w.:%][\w.:%-]*", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where a model runs.

    Parameters
    ----------
    scheme : str
        ``local`` for this machine, ``rpc`` for the board that serves at a port, ``tracker`` for
        any free board of a key that a tracker knows, ``ssh`` for a board behind ssh's tunnel.
    host : str
        Name or IP address of the board or tracker; empty where it is this machine.
    port : int
        TCP port of the board, tracker or ssh daemon; 0 where ssh is to choose.
    key : str
        What kind of board, as the tracker knows it.
    user : str
        Whom ssh logs in as; empty where ssh is to choose.
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
            ``ssh://[USER@]HOST[:PORT]``. An IPv6 address stands in brackets.

        Returns
        -------
        Address
            Its parts.

        Raises
        ------
        WrongUseError
            If it has none of the forms.
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
        """Return the text from which it was read."""
        if self.scheme == "local":
            return "local"
        user = f"{self.user}@" if self.user else ""
        host = join_host_port(self.host, self.port) if self.port else _bracketed(self.host)
        key = f"/{self.key}" if self.key else ""
        return f"{self.scheme}://{user}{host}{key}"


def split_host_port(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises
    ------
    WrongUseError
        If it has another form.
    """
    try:
        address = Address.parse(f"rpc://{text}")
    except WrongUseError:
        raise WrongUseError(f"'{text}' is not of the form HOST:PORT") from None
    return address.host, address.port


def join_host_port(host: str, port: int) -> str:
    """Write ``HOST:PORT``; an IPv6 address gets brackets."""
    return f"{_bracketed(host)}:{port}"


def check_key(key: str) -> str:
    """Return a key that a tracker takes.

    Raises
    ------
    WrongUseError
        If it has other characters than letters, digits, dots, dashes and underscores.
    """
    if not _KEY.fullmatch(key):
        raise WrongUseError(f"key '{key}'; it takes letters, digits, dots, dashes and underscores")
    return key


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _unreadable(text: str) -> WrongUseError:
    return WrongUseError(f"unknown address '{text}'; it takes {FORMS}")
