"""The safety direction: what separates harmful from harmless requests in the residual stream.

Difference of means (ROSI, arXiv 2508.20766, section 3; Arditi et al., arXiv 2406.11717):
``s[l] = mean_harmful(x[l]) − mean_harmless(x[l])`` at the last prompt token, after block l.
Nothing here knows what the two sets are about; they are the attribute's positive and negative examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.errors import PromptSetError, UnsupportedModelError
from rosi_edge.models.small_gguf import write_small_gguf
from rosi_edge.runtime.engine import Engine, ask
from rosi_edge.runtime.taps import Positions, TapRequest

EACH_LAYERS_OWN = "each layer's own"
"""The name of the choice to edit every layer along the direction that was taken after it."""


@dataclass(frozen=True)
class LayerSeparation:
    """How well one layer's direction tells the two sets apart.

    Attributes:
        norm: length of the difference of means.
        cosine_of_means: cosine between the two means; 1 means they point the same way.
        d_prime: difference of the projections' means over their pooled standard deviation, measured on
            prompts left out of the direction (two folds), so that it is not flattered by the fit.
        auc: probability that a positive prompt projects higher than a negative one, left-out likewise.
        resampled_cosine: mean cosine between directions of bootstrap resamples; None when not measured.
    """

    layer: int
    norm: float
    cosine_of_means: float
    d_prime: float
    auc: float
    resampled_cosine: float | None = None


@dataclass(frozen=True)
class Directions:
    """One unit direction a layer.

    Attributes:
        vectors: (layers, hidden), unit length.
        separation: one entry a layer.
        positive, negative: numbers of prompts behind the means.
        elicitation: the system prompt they were taken under, if any.
    """

    vectors: Float32
    separation: tuple[LayerSeparation, ...]
    positive: int
    negative: int
    elicitation: str | None


def extract_directions(
    engine: Engine,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    elicitation: str | None = None,
    progress: Progress = SILENT,
) -> Directions:
    """Difference of means for every layer at the last prompt token.

    Args:
        positive, negative: requests, for example harmful and harmless ones.
        elicitation: a system prompt for all of them.

    Raises:
        PromptSetError: fewer than two of either; the separation is measured on halves.
    """
    if min(len(positive), len(negative)) < 2:
        raise PromptSetError(
            f"a direction cannot be taken from {len(positive)} and {len(negative)} prompts",
            "Give at least 2 of each kind, better 50",
        )
    prompts = engine.encode([ask(text, elicitation) for text in (*positive, *negative)])
    layers = engine.facts.layers
    request = TapRequest(blocks=tuple(range(layers)), positions=Positions.LAST)
    with progress.stage("Reading activations", len(prompts)) as advance:
        capture = engine.capture(prompts, request, advance=advance)
    vectors = np.empty((layers, engine.facts.hidden_size), dtype=np.float32)
    separation = []
    for layer in range(layers):
        rows = capture.stream_rows(layer)
        vectors[layer], entry = separation_of(layer, rows[: len(positive)], rows[len(positive) :])
        separation.append(entry)
    return Directions(vectors, tuple(separation), len(positive), len(negative), elicitation)


def separation_of(layer: int, positive: Float32, negative: Float32) -> tuple[Float32, LayerSeparation]:
    """The unit difference of means of one layer, (hidden,), and how well it separates.

    Args:
        positive, negative: the stream at the last prompt token, (n, hidden) each.
    """
    high, low = positive.astype(np.float64), negative.astype(np.float64)
    difference = high.mean(axis=0) - low.mean(axis=0)
    if not np.isfinite(difference).all():
        raise UnsupportedModelError(
            f"layer {layer} writes values that are not finite numbers",
            "The weights may be damaged; download the model again",
        )
    norm = float(np.linalg.norm(difference))
    return (difference / max(norm, 1e-12)).astype(np.float32), _separation(layer, high, low, norm)


def _separation(
    layer: int, high: npt.NDArray[np.float64], low: npt.NDArray[np.float64], norm: float
) -> LayerSeparation:
    projected_high, projected_low = [], []
    for fold in (0, 1):
        # Direction from one half, projections of the other.
        direction = high[fold::2].mean(axis=0) - low[fold::2].mean(axis=0)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
        projected_high.append(high[1 - fold :: 2] @ direction)
        projected_low.append(low[1 - fold :: 2] @ direction)
    p, q = np.concatenate(projected_high), np.concatenate(projected_low)
    pooled = np.sqrt((p.var() + q.var()) / 2)
    mean_high, mean_low = high.mean(axis=0), low.mean(axis=0)
    cosine = mean_high @ mean_low / max(float(np.linalg.norm(mean_high) * np.linalg.norm(mean_low)), 1e-12)
    return LayerSeparation(
        layer=layer,
        norm=norm,
        cosine_of_means=float(cosine),
        d_prime=float((p.mean() - q.mean()) / max(float(pooled), 1e-12)),
        auc=float(np.mean(p[:, None] > q[None, :])),
    )


def write_control_vector(
    path: Path, directions: Directions, *, architecture: str, source_sha256: str | None = None
) -> None:
    """Write ``direction.N`` tensors as llama.cpp and repeng read them.

    llama.cpp adds vector N to the output of block N and has no vector 0, so block 0's direction, which it
    could not apply anyway, is left out. Atomic.
    """
    metadata: dict[str, str | int | float] = {
        "controlvector.model_hint": architecture,
        "controlvector.layer_count": len(directions.vectors) - 1,
        "rosi.direction.positive_prompts": directions.positive,
        "rosi.direction.negative_prompts": directions.negative,
    }
    if source_sha256:
        metadata["rosi.source.sha256"] = source_sha256
    if directions.elicitation:
        metadata["rosi.direction.elicitation"] = directions.elicitation
    write_small_gguf(
        path,
        architecture="controlvector",
        metadata=metadata,
        tensors={f"direction.{layer}": v for layer, v in enumerate(directions.vectors) if layer > 0},
    )
