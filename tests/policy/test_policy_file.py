"""The policy file: what it may say, and that nothing misspelt goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosi_edge.policy.model import DEFAULT_POLICY, PolicyError, load_policy, parse_policy, seconds
from rosi_edge.policy.starter import STARTER


def test_what_init_writes_is_the_default() -> None:
    assert parse_policy(STARTER) == DEFAULT_POLICY


def test_the_example_is_a_policy() -> None:
    example = Path(__file__).parents[2] / "examples" / "release-gate" / "policy.toml"
    policy = load_policy(example)
    assert policy.hardening.required
    assert policy.figures["harmful_refusal_rate"].min == 0.65


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nmae = 'x'", "nmae"),
        ("[files]\nlargest_gap = 1", "files"),
        ("[file]\nlargest_hole = 1", "file.largest_hole"),
        ("[figures.harmful_refusal_rate]\nminimum = 0.5", "minimum"),
        ("[figures.harmful_refusal_rate]\nseverity = 'error'", "min"),
        ("[figures.x]\nmin = 0.9\nmax = 0.1", "above"),
        ("[figures.x]\nmin = nan", "figures.x.min"),
        ("[abliteration]\nleast_confidence = 1.5", "least_confidence"),
        ("[types]\nallowed = ['Q4']", "'Q4'"),
        ("[architecture]\nallowed = ['qwen-2']", "'qwen-2'"),
        ("time_limit = '5 parsecs'", "duration"),
        ("time_limit = true", "time_limit"),
        ("time_limit = 0", "time_limit"),
        ("version = 2", "version"),
        ("[hardening]\nrequired = 'no'", "hardening.required"),
        ("[hardening]\nrequired = 0", "hardening.required"),
        ("[file]\nlargest_gap = '4096'", "file.largest_gap"),
        ("[file]\nlargest_gap = true", "file.largest_gap"),
        ("[figures.x]\nmin = true", "figures.x.min"),
        ("[figures.x]\nmin = '0.5'", "figures.x.min"),
        ("[figures.degenerate_rate]\nmax = 10", "degenerate_rate is a share"),
        ("[file]\nsha256 = 'abc'", "sha256"),
        ("[metadata]\nseverity = 'fatal'", "severity"),
        ("this is not TOML", "not TOML"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(text: str, named: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "policy.toml")
    assert named in caught.value.message
    assert caught.value.remedy


def test_a_missing_or_huge_policy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "none.toml")
    huge = tmp_path / "huge.toml"
    huge.write_text("#" * (1 << 21))
    with pytest.raises(PolicyError, match="too large"):
        load_policy(huge)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", None), ("90s", 90), ("5m", 300), ("2m30s", 150), ("1h", 3600), ("0.5h", 1800)],
)
def test_durations(text: str, expected: float | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="duration"):
            seconds(text)
    else:
        assert seconds(text) == expected
    assert seconds(12) == 12


def test_figures_without_suites_and_endless_numbers() -> None:
    with pytest.raises(PolicyError, match=r"behaviour.suites is empty"):
        parse_policy("[behaviour]\nsuites = []\n[figures.degenerate_rate]\nmax = 0.1")
    parse_policy("[behaviour]\nsuites = []\n[figures.degenerate_rate]\nmax = 0.1\nseverity = 'off'")
    with pytest.raises(PolicyError, match="is not TOML"):
        parse_policy("time_limit = " + "9" * 5000)
