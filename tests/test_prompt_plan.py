"""The plan: parts that never share a prompt, of the sizes asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosi_edge.errors import PromptSetError
from rosi_edge.prompts.plan import SIZES, PromptPlan, plan_prompts
from rosi_edge.prompts.sets import Kind, Part


def texts(plan: PromptPlan) -> dict[tuple[Part, Kind], list[str]]:
    found = {}
    for part, sets in zip(Part, (plan.calibration, plan.choosing, plan.reporting), strict=True):
        assert sets.sounds_harmful is not None
        for kind, prompts in zip(Kind, (sets.harmful, sets.harmless, sets.sounds_harmful), strict=True):
            found[part, kind] = prompts.texts
    return found


def test_bundled_parts_share_nothing() -> None:
    found = texts(plan_prompts({}))
    every = [text.strip().lower() for group in found.values() for text in group]
    assert len(every) == len(set(every))
    for (part, kind), group in found.items():
        assert 0 < len(group) <= SIZES[part][kind]
        # Enough for the figures the report is asked to hold.
        assert len(group) >= 20


def test_the_seed_draws_the_sample() -> None:
    sizes = {part: dict.fromkeys(Kind, 8) for part in Part}
    plans = [texts(plan_prompts({}, sizes=sizes, seed=seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert all(len(group) == 8 for group in plans[0].values())
    whole = texts(plan_prompts({}))
    # A smaller sample never draws from another part.
    for (part, kind), group in plans[2].items():
        others = {text for (p, k), g in whole.items() for text in g if (p, k) != (part, kind)}
        assert not others & set(group)


def test_user_files_replace_a_kind(tmp_path: Path) -> None:
    own = [f"Tell me about number {index}" for index in range(60)]
    path = tmp_path / "own.txt"
    path.write_text("\n".join(own))
    found = texts(plan_prompts({Kind.HARMLESS: path, Kind.HARMFUL: None}))
    parts = [found[part, Kind.HARMLESS] for part in Part]
    assert sorted(text for part in parts for text in part) == sorted(own)
    bundled = texts(plan_prompts({}))
    for part in Part:
        assert found[part, Kind.HARMFUL] == bundled[part, Kind.HARMFUL]


def test_a_request_of_two_kinds_is_refused(tmp_path: Path) -> None:
    harmful, harmless = tmp_path / "harmful.txt", tmp_path / "harmless.txt"
    harmful.write_text("\n".join([*(f"bad {index}" for index in range(50)), "The same"]))
    harmless.write_text("\n".join([*(f"good {index}" for index in range(50)), "  the SAME "]))
    with pytest.raises(PromptSetError, match="in both the harmful and the harmless prompts") as caught:
        plan_prompts({Kind.HARMFUL: harmful, Kind.HARMLESS: harmless})
    assert caught.value.remedy


def test_a_bundled_request_in_the_users_file_is_refused(tmp_path: Path) -> None:
    bundled = texts(plan_prompts({}))[Part.REPORTING, Kind.HARMLESS]
    path = tmp_path / "harmful.txt"
    path.write_text("\n".join([*(f"bad {index}" for index in range(50)), bundled[0]]))
    with pytest.raises(PromptSetError, match="in both"):
        plan_prompts({Kind.HARMFUL: path})


@pytest.mark.parametrize("content", ["", "\n\n", "one\ntwo\n", '{"prompt": 3}\n'])
def test_files_that_cannot_serve(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(content)
    with pytest.raises(PromptSetError) as caught:
        plan_prompts({Kind.HARMFUL: path})
    assert caught.value.remedy
