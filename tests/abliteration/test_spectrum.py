"""The bottom of a spectrum, against LAPACK's whole one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh

from rosi_edge.abliteration.spectrum import bottom, smallest_eigenpairs


def gram(size: int, columns: int, seed: int = 0, hole: float | None = None, heavy: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    weights = random.standard_normal((size, columns))
    if hole is not None:
        unit = random.standard_normal(size)
        unit /= np.linalg.norm(unit)
        weights -= (1 - hole) * np.outer(unit, unit @ weights)
    if heavy:
        weights += heavy * np.outer(random.standard_normal(size), random.standard_normal(columns))
    made = weights @ weights.T
    return (made * size / np.trace(made)).astype(np.float32)


@pytest.mark.parametrize("size", [64, 400])
@pytest.mark.parametrize(("hole", "heavy"), [(None, 0.0), (0.1, 0.0), (0.1, 3.0)])
def test_the_smallest_eigenpairs_are_lapacks(size: int, hole: float | None, heavy: float) -> None:
    made = gram(size, 4 * size, hole=hole, heavy=heavy)
    values, vectors, log_mean = smallest_eigenpairs(made, 4)
    expected, expected_vectors = eigh(made.astype(np.float64))
    np.testing.assert_allclose(values[0], expected[0], rtol=2e-3, atol=2e-6)
    # Inner ones come out of a Krylov space of 72 directions: close, never below.
    np.testing.assert_allclose(values[1], expected[1], rtol=0.05)
    assert values[1] >= expected[1] * 0.999
    assert log_mean == pytest.approx(np.log(expected).mean(), abs=1e-2)
    if hole is not None:
        assert abs(vectors[:, 0] @ expected_vectors[:, 0]) > 0.999


def test_a_matrix_without_full_rank_is_no_crash() -> None:
    values, _, _ = smallest_eigenpairs(gram(400, 300))
    assert 0 < values[0] < 1e-4


@pytest.mark.parametrize("broken", [np.zeros((400, 400)), np.full((400, 400), np.nan), -np.eye(400)])
def test_what_is_no_gram_matrix(broken: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Gram"):
        smallest_eigenpairs(broken.astype(np.float32))


def test_a_single_dead_channel_is_passed_over() -> None:
    made = gram(400, 1600)
    made[7] *= 1e-2
    made[:, 7] *= 1e-2
    found = bottom(made)
    assert found is not None
    assert found.gap < 0.2
    assert abs(found.direction[7]) < 0.5
