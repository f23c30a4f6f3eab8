"""Tensors rounded by several workers, written in the file's order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from threadpoolctl import threadpool_limits

from rosi_edge.baking.measure import BakedTensor
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.baking.tensor import RoundedTensor, bake_tensor
from rosi_edge.basics.ahead import Ahead
from rosi_edge.basics.cores import usable_cores
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.edits.rank_one import MOST_DIRECTIONS, RankOneEdit, by_matrix
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile

_MOST_WORKERS = 4
"""Tensors rounded side by side, at most, one a core: each takes memory."""


def ignore_rounded(result: BakedTensor) -> None:
    """For whoever does not want to hear of single matrices."""


@contextmanager
def rounding_ahead(
    file: GgufFile | Checkpoint,
    by_tensor: Mapping[str, Sequence[RankOneEdit]],
    settings: BakeSettings,
    *,
    progress: Progress = SILENT,
    rounded: Callable[[BakedTensor], None] = ignore_rounded,
) -> Iterator[Callable[[], RoundedTensor]]:
    """Round tensors side by side, a few ahead of the asking.

    Args:
        by_tensor: what ``edits_by_tensor`` gives.
        rounded: called with what became of each matrix, as its tensor is handed out.

    Yields:
        a function that waits for the next tensor, in the order of ``by_tensor``.
    """
    settings = replace(settings, stop=threading.Event())
    with (
        progress.stage("Rounding tensors", len(by_tensor)) as advance,
        # Each thread multiplies on its own: a library's threads would wait for each other.
        threadpool_limits(1, "blas"),
        Ahead(
            "rounding",
            min(usable_cores(), _MOST_WORKERS),
            [partial(bake_tensor, file, edits, settings) for edits in by_tensor.values()],
        ) as ahead,
    ):

        def following() -> RoundedTensor:
            work = ahead.next(advance)
            advance(1)
            for result in work.baked:
                rounded(result)
            return work

        try:
            yield following
        except BaseException:
            settings.stop.set()
            raise


def edits_by_tensor(
    file: GgufFile | Checkpoint, edits: Sequence[RankOneEdit]
) -> dict[str, list[RankOneEdit]]:
    """The edits of each tensor, tensors in the order they are written in.

    Raises:
        ValueError: more than ``MOST_DIRECTIONS`` edits of one matrix, or one that does not fit its tensor.
    """
    grouped: dict[str, list[RankOneEdit]] = {}
    for edit in edits:
        tensor = file.tensors.get(edit.tensor)
        experts = 0 if edit.expert is None else edit.expert + 1
        if tensor is None:
            raise ValueError(f"no such tensor: {edit.tensor}")
        if (
            len(tensor.shape) != (2 if edit.expert is None else 3)
            or tensor.shape[-2:] != (len(edit.output), len(edit.input))
            or experts > tensor.shape[0]
        ):
            raise ValueError(f"the edit of {edit.matrix} does not fit its shape, {tensor.shape}")
        grouped.setdefault(edit.tensor, []).append(edit)
    for name, its in by_matrix(edits).items():
        if len(its) > MOST_DIRECTIONS:
            raise ValueError(f"{len(its)} edits of {name}")
    ordered = sorted(grouped, key=lambda name: (file.tensors[name].part, file.tensors[name].offset))
    return {name: sorted(grouped[name], key=lambda edit: edit.expert or 0) for name in ordered}


def in_order(by_tensor: Mapping[str, list[RankOneEdit]]) -> list[RankOneEdit]:
    return [edit for edits in by_tensor.values() for edit in edits]
