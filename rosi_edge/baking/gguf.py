"""Edits and a file in, a new file out: same types and tensors, the untouched copied byte for byte.

Each edited tensor is rounded on its own and measured on real inputs at once, a few tensors side by side. The
file declares what was done to it (``rosi_edge.edits.declaration``), so that it can be checked later on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.side_by_side import edits_by_tensor, ignore_rounded, in_order, rounding_ahead
from rosi_edge.baking.tensor import RoundedTensor
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.edits.declaration import declare, declare_results
from rosi_edge.edits.rank_one import RankOneEdit, by_matrix
from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import NewValue, Retyped, rewrite
from rosi_edge.models.seal import OWN_PREFIX, SOURCE_KEY


def bake(
    file: GgufFile,
    target: Path,
    edits: Sequence[RankOneEdit],
    settings: BakeSettings,
    *,
    progress: Progress = SILENT,
    rounded: Callable[[BakedTensor], None] = ignore_rounded,
) -> list[BakedTensor]:
    """Write ``file`` with every edit (at its full strength) rounded into its tensor.

    The new file also holds the declaration of its edits and a seal. Whatever ``progress`` raises cancels the
    bake, and nothing is left behind.

    Args:
        target: the new file, or the name that its parts get if the model is split.
        edits: their strength folded in (``RankOneEdit.scaled``); several of one matrix are added up.
        rounded: called with what became of each matrix, in the order of the file, while the rest is still
            being rounded; raising from it ends the bake as raising from ``progress`` does.

    Returns:
        what became of each matrix, in the order of their first edits.

    Raises:
        OutputError: the target cannot be written; nothing is left behind.
        UnsupportedModelError: a tensor's type cannot be read or written.
        UndeliveredError: a tensor cannot hold its edit, and may not be promoted to a type that can.
        ValueError: more than ``MOST_DIRECTIONS`` edits of one matrix, or one that does not fit its tensor.
    """
    by_tensor = edits_by_tensor(file, edits)
    done: dict[str, RoundedTensor] = {}
    names = list(by_tensor)
    asked = in_order(by_tensor)
    exact = asked if settings.declared is None else in_order(edits_by_tensor(file, settings.declared))
    declaration = declare(settings.rounding.name, names, exact, asked)
    metadata = dict(settings.metadata)
    if SOURCE_KEY not in metadata:
        metadata[SOURCE_KEY] = sha256_of_model(file, progress)

    def results() -> dict[str, NewValue]:
        if not names:
            return {}
        works = [done[name] for name in names]
        baked = {result.name: result for work in works for result in work.baked}
        return declare_results(
            (work.base_sha256 for work in works),
            (work.sha256 for work in works),
            (baked[edit.matrix].aim for edit in asked),
            (baked[edit.matrix].rescaled for edit in asked),
        )

    with rounding_ahead(file, by_tensor, settings, progress=progress, rounded=rounded) as following:

        def make(name: str) -> Callable[[], Retyped]:
            def wait() -> Retyped:
                work = following()
                done[name] = replace(work, data=np.empty(0, dtype=np.uint8))
                return Retyped(work.type, work.data)

            return wait

        rewrite(
            file,
            target,
            tensors={name: make(name) for name in names},
            metadata={**metadata, **declaration},
            later=results,
            # What an earlier hardening said of itself is no longer so.
            dropped=[key for key in file.fields if key.startswith(OWN_PREFIX)],
            sealed=True,
            progress=progress,
        )
    baked = {result.name: result for work in done.values() for result in work.baked}
    return [baked[name] for name in by_matrix(edits)]
