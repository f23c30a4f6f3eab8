"""Finding directions that the write matrices of many layers avoid.

For every write matrix W (hidden × inputs) the Gram matrix W Wᵀ / tr(W Wᵀ) says how much energy it writes
along each direction. Where a direction u was ablated, ``uᵀ W Wᵀ u`` is nothing but rounding noise in all of
them, so the smallest eigenvalue of their sum falls out of the bulk, and its eigenvector is u. Windows of
layers find what was ablated in some layers only, or differently from layer to layer. Feed-forward and other
outputs are summed apart: what one of them still writes would hide what the other lost, and an attention
output, about as wide as the stream, has a low end of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np
from threadpoolctl import threadpool_limits

from rosi_edge.abliteration.columns import sample_columns
from rosi_edge.abliteration.confidence import confidence
from rosi_edge.abliteration.grams import gram_of, post_norm_gain, scaled_rows, sum_group
from rosi_edge.abliteration.hole import Family, Hole, Holes, Space, distinct, joined
from rosi_edge.abliteration.spectrum import Bottom, bottom
from rosi_edge.abliteration.windows import SlidingWindows, Window
from rosi_edge.basics.ahead import Ahead
from rosi_edge.basics.arrays import Float64
from rosi_edge.basics.progress import SILENT, Advance, Progress
from rosi_edge.models.architectures import WriteMatrix
from rosi_edge.models.weights import Weights

LEAST_CONFIDENCE = 0.99

_SMALL_HIDDEN = 2048
"""Streams up to this width are searched in every way; of wider ones only the matrices with the most columns
are, as time and memory grow with its cube and square."""
_WORK = 1.5e12
"""Multiplications spent on Gram matrices at most; beyond it columns are sampled."""

_WORKERS = 1
"""Threads that make Gram matrices, beside the sums and spectra. On a 7B shape a second one took 140 MB more
and saved 4 s of 40."""
_COLUMNS_A_CHANNEL = 2.0
"""Columns that a Gram matrix needs for each channel, or its own smallest eigenvalues are near zero."""


def find_holes(
    file: Weights,
    matrices: Sequence[WriteMatrix],
    *,
    least_confidence: float = LEAST_CONFIDENCE,
    progress: Progress = SILENT,
) -> Holes:
    """Look for ablated directions.

    Memory: about ten hidden × hidden matrices of float32 and one matrix's sampled columns. Time: two passes
    over the sampled columns.

    Args:
        matrices: ``write_matrices(file)``.

    Raises:
        ModelFileError: weights that are not finite, or the file became shorter.
        UnsupportedModelError: a type that cannot be read.
        ValueError: no matrices.
    """
    if not matrices:
        raise ValueError("no write matrices")
    hidden = matrices[0].shape[-2]
    families = _families(matrices, hidden)
    looked_at = sum(len(family) for family in families.values())
    most = _most_columns(hidden, looked_at)
    candidates: list[Hole] = []
    smallest = 1.0
    with (
        progress.stage("Looking for holes in the weights", 2 * looked_at) as advance,
        # On a busy machine a library's threads spend ten times the work on waiting for each other.
        threadpool_limits(1, "blas"),
    ):
        for name, family in families.items():
            candidates += [
                replace(hole, matrices=(name,)) for hole in _lowest_of_windows(file, family, most, advance)
            ]
        widest = max(
            (hole for hole in candidates if not hole.by_noise),
            key=lambda hole: len(hole.layers),
            default=None,
        )
        if widest is not None:
            smallest = widest.energy_ratio
        rated = [
            replace(
                hole,
                confidence=confidence(
                    hole.gap,
                    len(hole.layers),
                    hidden=hidden,
                    tests=len(candidates),
                    noise_ratio=hole.noise_ratio,
                    by_noise=hole.by_noise,
                    feed_forward=hole.matrices == ("mlp",),
                ),
            )
            for hole in candidates
        ]
        rated.sort(key=lambda hole: (-round(hole.confidence, 6), -len(hole.layers), hole.energy_ratio))
        found = distinct([hole for hole in rated if hole.confidence >= least_confidence])
        exact = {
            name: _exact_layers(
                file, family, [hole for hole in found if hole.matrices == (name,)], most, advance
            )
            for name, family in families.items()
        }
        found = joined([exact[hole.matrices[0]].pop(0) for hole in found])
    return Holes(tuple(found), tuple(rated), smallest, most)


def _families(matrices: Sequence[WriteMatrix], hidden: int) -> dict[Family, list[WriteMatrix]]:
    families: dict[Family, list[WriteMatrix]] = {
        "mlp": [matrix for matrix in matrices if matrix.kind == "mlp"],
        "other": [matrix for matrix in matrices if matrix.kind != "mlp"],
    }
    by_columns = sorted(
        ((name, family) for name, family in families.items() if family),
        key=lambda entry: -sum(matrix.shape[-1] * max(matrix.experts, 1) for matrix in entry[1]),
    )
    return dict(by_columns if hidden <= _SMALL_HIDDEN else by_columns[:1])


def _lowest_of_windows(
    file: Weights, matrices: Sequence[WriteMatrix], most: int, advance: Advance
) -> list[Hole]:
    """The lowest direction of every window, not rated yet."""
    hidden = matrices[0].shape[-2]
    blocks = [list(group) for _, group in groupby(matrices, key=lambda matrix: matrix.block)]
    groups = _groups(blocks, hidden, most)
    spaces: tuple[Space, ...] = ("stream", "output") if any(m.post_norm for m in matrices) else ("stream",)
    by_energy = {space: SlidingWindows() for space in spaces}
    by_noise = {space: SlidingWindows(_widest_by_noise(hidden)) for space in spaces}
    found: list[Hole] = []
    with Ahead(
        "gram", _WORKERS, [partial(gram_of, file, matrix, most) for group in groups for matrix in group]
    ) as grams:
        for group in groups:
            for space, (energy, noise) in sum_group(file, group, grams, spaces, advance).items():
                found += _lowest(by_energy[space].add(energy), space)
                if noise is not None:
                    found += _lowest_by_noise(by_noise[space].add(noise), space)
    for space in spaces:
        found += _lowest(by_energy[space].close(), space)
        found += _lowest_by_noise(by_noise[space].close(), space)
    return found


def _most_columns(hidden: int, matrices: int) -> int:
    return max(256, int(_WORK / hidden**2 / matrices) // 256 * 256)


def _groups(blocks: list[list[WriteMatrix]], hidden: int, most: int) -> list[list[WriteMatrix]]:
    """Consecutive blocks joined until a group has enough columns for its Gram matrix."""

    def columns(matrices: Iterable[WriteMatrix]) -> int:
        return sum(min(matrix.shape[-1] * max(matrix.experts, 1), most) for matrix in matrices)

    groups: list[list[WriteMatrix]] = []
    current: list[WriteMatrix] = []
    for block in blocks:
        current = current + block
        if columns(current) >= _COLUMNS_A_CHANNEL * hidden:
            groups.append(current)
            current = []
    if current and groups:
        groups[-1] = groups[-1] + current
    # Fewer columns than that write next to nothing along some directions by nature, and no hole can be told
    # from these.
    return groups


def _widest_by_noise(hidden: int) -> int | None:
    # Where a matrix is large, fewer of them are kept; wide windows are left to the sums by energy.
    return None if hidden <= _SMALL_HIDDEN else 4


def _lowest(windows: Iterable[Window], space: Space) -> list[Hole]:
    found = []
    for window in windows:
        lowest = _bottom(window)
        if lowest is None:
            continue
        noise_ratio = None
        if window.noise is not None:
            noise = float(np.square(lowest.direction, dtype=np.float64) @ window.noise)
            noise_ratio = lowest.smallest / noise if noise > 0 else None
        found.append(
            Hole(
                direction=lowest.direction / np.float32(np.linalg.norm(lowest.direction)),
                layers=tuple(range(*window.layers)),
                energy_ratio=lowest.smallest / lowest.typical,
                gap=lowest.gap,
                noise_ratio=noise_ratio,
                confidence=0.0,
                space=space,
            )
        )
    return found


def _lowest_by_noise(windows: Iterable[Window], space: Space) -> list[Hole]:
    """The direction with the least energy in units of rounding noise: about 1 where nothing else is left."""
    found = []
    for window in windows:
        if window.noise is None or not (window.noise > 0).all():
            continue
        scale = 1.0 / np.sqrt(window.noise)
        lowest = _bottom(replace(window, gram=scaled_rows(window.gram, scale)))
        if lowest is None:
            continue
        direction = (lowest.direction * scale).astype(np.float32)
        found.append(
            Hole(
                direction=direction / np.float32(np.linalg.norm(direction)),
                layers=tuple(range(*window.layers)),
                energy_ratio=lowest.smallest / lowest.typical,
                gap=lowest.gap,
                noise_ratio=lowest.smallest,
                confidence=0.0,
                space=space,
                by_noise=True,
            )
        )
    return found


def _bottom(window: Window) -> Bottom | None:
    try:
        return bottom(window.gram)
    except ValueError:
        # All zeros, or so degenerate that nothing can be said of it.
        return None


def _exact_layers(
    file: Weights, matrices: Sequence[WriteMatrix], holes: list[Hole], most: int, advance: Advance
) -> list[Hole]:
    """For each hole the layers whose own energy along it is low, by a second look at the columns."""
    if not holes:
        advance(len(matrices))
        return holes
    energy: dict[int, list[Float64]] = {}
    for matrix in matrices:
        sample = sample_columns(file, matrix, most)
        mean = float(np.square(sample.weights, dtype=np.float64).sum()) / len(sample.weights)
        gain = post_norm_gain(file, matrix)
        row = np.empty(len(holes))
        for index, hole in enumerate(holes):
            weights_along = hole.direction
            if gain is not None and hole.space == "stream":
                weights_along = (hole.direction * gain).astype(np.float32)
                weights_along /= np.float32(max(float(np.linalg.norm(weights_along)), 1e-30))
            written = weights_along @ sample.weights
            row[index] = float(np.square(written, dtype=np.float64).sum()) / max(mean, 1e-300)
        energy.setdefault(matrix.block, []).append(row)
        advance(1)
    layers = sorted(energy)
    table = np.stack([np.mean(energy[layer], axis=0) for layer in layers])
    refined = []
    for index, hole in enumerate(holes):
        own = [table[layers.index(layer), index] for layer in hole.layers if layer in energy]
        # Half-way, on a logarithmic scale, between the hole's energy and the next direction's.
        bound = float(np.median(own)) * float(np.exp(hole.gap / 2))
        within = tuple(layer for row, layer in enumerate(layers) if table[row, index] <= bound)
        refined.append(replace(hole, layers=within or hole.layers))
    return refined
