"""Damaged inputs, at random: see the helper `fuzz`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "helpers" / "fuzz.py"


@pytest.mark.full
def test_no_damaged_input_does_more_than_raise_a_user_error() -> None:
    command = [sys.executable, str(FUZZ), "500", "0"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "tried 500: " in finished.stdout
