"""Arithmetic on logits."""

from __future__ import annotations

import numpy as np

from rosi_edge.basics.arrays import Float32


def log_softmax(logits: Float32) -> Float32:
    """Natural-log probabilities of (n, vocabulary) logits."""
    normalised: Float32 = logits - log_sum_exp(logits)[:, None]
    return normalised


def log_sum_exp(logits: Float32) -> Float32:
    highest = logits.max(axis=1)
    total: Float32 = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return total
