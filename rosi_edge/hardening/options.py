"""What a hardening is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rosi_edge.errors import RosiEdgeError
from rosi_edge.models.atomic import checked_target
from rosi_edge.quantization.promotion import AUTO, NEVER, Promotion
from rosi_edge.records.hardening import Method
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.search.journal import check_storage
from rosi_edge.search.options import ConditionalOptions, SearchOptions


@dataclass(frozen=True)
class HardenOptions:
    """Everything the user can set.

    Attributes:
        elicitation: a system prompt under which the direction is taken.
        look: without ``elicitation``, see whether the model hardly refuses on its own and does under the
            default safety prompt, and take that then.
        max_tokens: answer length in the evaluation before and after.
        min_delivered: share of its edit that every tensor of the file must hold (grid rounding).
        promotion: which larger types a tensor may get that cannot hold it.
        imatrix: an importance matrix for requantization.
        evaluate: measure files that only get the edit before and after, and keep only what was hardened.
        stress: harmful requests put under attack before and after; 0 for none.
        paper: look for the paper's method at the same constraints, to show beside the conditional one.
        force: write the file whatever the verdict, unless it refuses harmful requests less (if nothing keeps
            the constraints, the point of best balance), and harden hardened files again.
        adapter: where to write the exact edit as a LoRA adapter as well.
    """

    rounding: Literal["requantize", "grid"] = "grid"
    method: Method = "conditional"
    elicitation: str | None = None
    look: bool = True
    search: SearchOptions = field(default_factory=SearchOptions)
    conditional: ConditionalOptions = field(default_factory=ConditionalOptions)
    max_tokens: int = 24
    min_delivered: float = 0.95
    promotion: Promotion = AUTO
    imatrix: Path | None = None
    evaluate: bool = True
    stress: int = 8
    paper: bool = True
    engine: EngineOptions = field(default_factory=EngineOptions)
    force: bool = False
    adapter: Path | None = None
    reference: str = ""
    command: str = ""
    seed: int = 0

    @property
    def max_kl(self) -> float | None:
        """The limit that holds while choosing, nats; None where there is none."""
        return self.conditional.max_kl if self.method == "conditional" else None

    @property
    def choosing_tokens(self) -> int:
        """Answer length of the search."""
        return self.conditional.max_tokens if self.method == "conditional" else self.search.max_tokens

    def check(self) -> None:
        """Refuse what does not go together, or cannot be opened or written, before anything long begins.

        Raises:
            RosiEdgeError: what is wrong, in the words of the flags.
        """
        if self.imatrix is not None and self.rounding == "grid":
            raise RosiEdgeError(
                "--imatrix is for --rounding requantize only",
                "Add --rounding requantize, or leave --imatrix out",
            )
        if self.rounding == "requantize" and self.promotion not in (AUTO, NEVER):
            raise RosiEdgeError(
                "--promote works with --rounding grid only",
                "Leave one of them out",
            )
        if self.conditional.storage is not None:
            check_storage(self.conditional.storage)
        if self.adapter is not None:
            checked_target(self.adapter)
