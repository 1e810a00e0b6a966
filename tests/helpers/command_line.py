"""Calls the command line inside the process of a test."""

from __future__ import annotations

import pytest

from mobilenet_tvm.compile.cli.main import main


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit status, standard output and error."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    output, error = capfd.readouterr()
    return int(exit_.value.code or 0), output, error
