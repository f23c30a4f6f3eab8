"""Which folders become which packages; everything else stands in pyproject.toml.

``tui/`` and ``fixtures/`` lie beside ``rosi_edge/`` and are installed under names that say whose they are. A
prefix for a whole folder is the one thing that pyproject.toml cannot say without listing every subpackage.
"""

from __future__ import annotations

from setuptools import find_namespace_packages, setup

FOLDERS = {"rosi_edge": "rosi_edge", "rosi_edge_tui": "tui", "rosi_edge_fixtures": "fixtures"}

setup(
    package_dir=FOLDERS,
    packages=[
        f"{package}.{below}".rstrip(".")
        for package, folder in FOLDERS.items()
        for below in ("", *find_namespace_packages(folder, exclude=["*__pycache__*"]))
    ],
)
