"""Makes text from files, boards and clients fit for a terminal, which it must not control."""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    """Return a text with its control characters in escaped form, line ends too.

    Parameters
    ----------
    text : str
        It may hold names from files, boards and clients.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


class PrintableFormatter(logging.Formatter):
    """Formats the messages of a log as single lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text."""
        return printable(super().format(record))
