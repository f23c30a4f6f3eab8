"""Directions of categories, against scipy and a made-up stream whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import qr

from rosi_edge.study.categories import category_directions


def stream() -> tuple[np.ndarray, list[str | None], np.ndarray]:
    """Harm along the first axis; one category far along the second, one a little along the third."""
    random = np.random.default_rng(0)
    positive = 0.01 * random.standard_normal((60, 12))
    positive[:, 0] += 4
    positive[:20, 1] += 3
    positive[20:40, 2] += 1
    names = ["far"] * 20 + ["near"] * 20 + ["plain"] * 15 + [None] * 2 + ["rare"] * 3
    positive[57:, 3] += 50
    return positive.astype(np.float32), names, (0.01 * random.standard_normal((30, 12))).astype(np.float32)


def test_the_categories_that_stand_out_come_first() -> None:
    positive, names, negative = stream()
    found = category_directions(positive, names, negative, 5)
    common = positive.mean(axis=0) - negative.mean(axis=0)
    common /= np.linalg.norm(common)
    assert found[0].category == "far"
    assert "rare" not in {each.category for each in found}, "three prompts are no mean"
    vectors = np.stack([common, *(each.vector for each in found)])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-5)
    assert [each.rest for each in found] == sorted((each.rest for each in found), reverse=True)
    assert category_directions(positive, names, negative, 1)[0].vector.tolist() == found[0].vector.tolist()
    assert category_directions(positive, names, negative, 0) == []


def test_it_is_the_orthogonal_factor_of_the_differences() -> None:
    positive, names, negative = stream()
    found = category_directions(positive, names, negative, 2)
    members = {each.category: [name == each.category for name in names] for each in found}
    origin = negative.mean(axis=0, dtype=np.float64)
    differences = [positive.mean(axis=0, dtype=np.float64) - origin]
    differences += [
        positive[members[each.category]].mean(axis=0, dtype=np.float64) - origin for each in found
    ]
    factor, _ = qr(np.stack(differences, axis=1), mode="economic")
    assert len(found) == 2
    for each, expected in zip(found, factor.T[1:], strict=True):
        assert abs(float(each.vector @ expected)) == pytest.approx(1, abs=1e-5)
        # Pushing along it must not push the category the other way.
        assert float(positive[members[each.category]].mean(axis=0) @ each.vector) > 0


def test_prompts_without_categories_have_no_further_direction() -> None:
    positive, _, negative = stream()
    assert category_directions(positive, [None] * 60, negative, 3) == []
    # A category that is all of them has nothing of its own.
    assert category_directions(positive, ["all"] * 60, negative, 3) == []


def test_without_a_difference_there_is_no_direction() -> None:
    same = np.ones((4, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="one mean"):
        category_directions(same, ["a"] * 4, same, 1)
