"""The one predicate, and that exit code and every report come from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rosi_edge.policy.result import Decision, RuleResult, Status, decide

RESULTS = st.lists(
    st.builds(
        RuleResult,
        id=st.just("RE101"),
        title=st.just("t"),
        severity=st.sampled_from(["error", "warning"]),
        status=st.sampled_from(list(Status)),
        message=st.just("m"),
    ),
    max_size=6,
)


@given(RESULTS, st.booleans())
def test_a_pass_needs_everything_that_counts_to_have_run_and_held(
    results: list[RuleResult], finished: bool
) -> None:
    verdict = decide(results, finished=finished)
    errors = [result for result in results if result.severity == "error"]
    if verdict is Decision.PASSED:
        assert finished
        assert all(result.status in (Status.PASSED, Status.NOT_APPLICABLE) for result in errors)
        assert any(result.status is Status.PASSED for result in results)
    if any(result.status is Status.FAILED for result in errors):
        assert verdict is Decision.FAILED
    elif not finished or any(result.status is Status.COULD_NOT_RUN for result in errors):
        assert verdict is Decision.COULD_NOT_RUN


def test_exit_codes() -> None:
    assert [verdict.exit_code for verdict in Decision] == [0, 1, 2]
    assert decide([], finished=True) is Decision.COULD_NOT_RUN
