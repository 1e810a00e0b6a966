"""The folder for what can be fetched or made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return this project's folder in the user's cache folder; it may not exist yet."""
    # The XDG Base Directory Specification says to ignore a relative path.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mobilenet-tvm"
