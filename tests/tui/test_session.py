"""What the wizard asks of the real library."""

from __future__ import annotations

import subprocess
import sys

_PRELOAD = """
import gc, sys
from rosi_edge_tui.session import Library
assert "optuna" not in sys.modules and "matplotlib" not in sys.modules
Library().preload()
assert "optuna" in sys.modules and "matplotlib" in sys.modules
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_what_has_been_imported_is_not_searched_for_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", _PRELOAD], capture_output=True, text=True, check=True)
    frozen, searched = map(int, done.stdout.split())
    assert frozen > 100_000 and searched < frozen / 20
