"""The folder for what is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "ROSI_EDGE_CACHE"


def cache_folder() -> Path:
    """Where fetched models are kept; the environment variable ROSI_EDGE_CACHE moves it."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("rosi-edge")
