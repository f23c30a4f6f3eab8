"""How far an edit moves the model's predictions where it should not: KL divergence in nats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rosi_edge.basics.arrays import Float32


def kl_divergence(reference: Float32, edited: Float32) -> npt.NDArray[np.float64]:
    """KL(reference ‖ edited) a row, from natural-log probabilities of shape (n, vocabulary); shape (n,)."""
    if reference.shape != edited.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {edited.shape}")
    divergences = np.empty(len(reference))
    for row, (p, q) in enumerate(zip(reference, edited, strict=True)):
        divergences[row] = float(np.sum(np.exp(p, dtype=np.float64) * (p.astype(np.float64) - q)))
    # Rounding may leave a tiny negative number where the two are equal.
    return np.maximum(divergences, 0.0)
