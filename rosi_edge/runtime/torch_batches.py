"""Prompts side by side for a torch model, padded on the left to one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rosi_edge.errors import EngineError
from rosi_edge.runtime.batching import LARGER_CONTEXT, does_not_fit
from rosi_edge.runtime.engine import Tokens

try:
    import torch
except ImportError:
    torch = None


@dataclass
class PaddedBatch:
    """``prompts``: their places among the caller's. ``tokens`` and ``mask``: (prompts, longest)."""

    prompts: list[int]
    tokens: Any
    mask: Any

    @property
    def positions(self) -> Any:
        return (self.mask.cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class Limits:
    """What fits side by side.

    Attributes:
        width: prompts in a batch.
        cells: tokens in a batch, padding and answers included (``-c``).
        model: tokens that the model is made for, if it says so.
    """

    width: int
    cells: int
    model: int | None

    @property
    def context(self) -> int:
        """Tokens of one prompt and its answer."""
        return min(self.cells, self.model or self.cells)

    @property
    def remedy(self) -> str:
        """What to do where ``context`` is too small."""
        if self.model is not None and self.model <= self.cells:
            return f"The model is made for {self.model} tokens: use shorter prompts"
        return LARGER_CONTEXT


def padded_batches(
    prompts: Sequence[Tokens], reserve: int, limits: Limits, device: Any
) -> Iterator[PaddedBatch]:
    """Prompts longest first, as many in a batch as the limits allow.

    Args:
        reserve: tokens that each may write.

    Raises:
        EngineError: a prompt is empty or too long.
    """
    if any(not prompt for prompt in prompts):
        raise EngineError("an empty prompt cannot be decoded")
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    while order:
        width = len(prompts[order[0]])
        if width + reserve > limits.context:
            raise does_not_fit(prompts[order[0]], reserve, limits.context, limits.remedy)
        count = max(1, min(limits.width, limits.cells // (width + reserve)))
        members, order = order[:count], order[count:]
        tokens = torch.zeros((len(members), width), dtype=torch.long)
        mask = torch.zeros((len(members), width), dtype=torch.long)
        for row, index in enumerate(members):
            tokens[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        yield PaddedBatch(members, tokens.to(device), mask.to(device))
