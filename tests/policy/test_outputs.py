"""Every output of one report: well-formed whatever the file says of itself, and all of one mind."""

from __future__ import annotations

import io
import json
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif
from rich.console import Console

from rosi_edge.policy.outputs import badge, json_report, junit, markdown, sarif, terminal_table
from rosi_edge.policy.result import CheckReport, Decision, Status
from rosi_edge.policy.rules.registry import FIGURE_ID, RULE_TEXTS, STATIC_RULES

sys.path.insert(0, str(Path(__file__).parent))
from reports import HOSTILE, result, sample


def test_json_reads_back() -> None:
    report = sample()
    assert CheckReport.model_validate_json(json_report.render(report)) == report


def test_junit_has_a_case_for_every_rule(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(junit.render(sample()), "utf-8")
    suites = JUnitXml.fromfile(str(path))
    (suite,) = suites
    cases = list(suite)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (6, 2, 1, 1)
    kinds = [[type(outcome) for outcome in case.result] for case in cases]
    assert kinds == [[], [], [Failure], [Error], [Skipped], [Failure]]
    assert cases[1].system_out.startswith("warning: ")
    assert cases[2].name == "RE106 A title"
    assert "🦊" in cases[2].result[0].message
    assert "\x00" not in path.read_text("utf-8")


def test_a_run_without_results_is_red_in_junit() -> None:
    report = sample(result("RE101", Status.PASSED), finished=False, notes=("the time limit was reached",))
    assert report.verdict is Decision.COULD_NOT_RUN
    root = ET.fromstring(junit.render(report))
    assert root.get("errors") == "1"
    assert root.find(".//error") is not None


def test_sarif_is_of_the_published_schema() -> None:
    """``pydantic_sarif`` is generated from the schema of SARIF 2.1.0 and forbids what it does not name."""
    for report in (sample(), sample(result("RE101", Status.PASSED)), sample(notes=(), finished=False)):
        log = json.loads(sarif.render(report))
        Sarif.model_validate(log)
        if schema := os.environ.get("SARIF_SCHEMA"):  # the schema file itself, for whoever has it
            jsonschema.validate(log, json.loads(Path(schema).read_text("utf-8")))


def test_sarif_says_what_the_report_says() -> None:
    report = sample()
    (run,) = json.loads(sarif.render(report))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [*(rule.id for rule in STATIC_RULES), FIGURE_ID]
    found = {entry["ruleId"]: entry for entry in run["results"]}
    assert len(found) == len(report.results)
    assert {key: (entry["kind"], entry["level"]) for key, entry in found.items()} == {
        "RE101": ("pass", "none"),
        "RE105": ("fail", "warning"),
        "RE106": ("fail", "error"),
        "RE109": ("fail", "error"),
        "RE107": ("notApplicable", "none"),
        "RE201/harmful_refusal_rate": ("fail", "error"),
    }
    for entry in found.values():
        assert rules[entry["rule"]["index"]]["id"] == entry["ruleId"].partition("/")[0]
    assert run["invocations"][0]["exitCode"] == report.verdict.exit_code == 1
    uri = run["artifacts"][0]["location"]["uri"]
    assert uri == "odd%20name%20%26%20%3C%C3%A9%3E.gguf"
    again = json.loads(sarif.render(report))["runs"][0]["results"]
    assert [entry["partialFingerprints"] for entry in again] == [
        entry["partialFingerprints"] for entry in run["results"]
    ]


def test_markdown_cannot_be_broken_out_of() -> None:
    text = markdown.render(sample())
    assert "<script>" not in text
    assert "[x](http" not in text  # a backslash stands before the brackets
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 6
    assert text.startswith("## ❌")


@pytest.mark.parametrize("finished", [True, False])
def test_the_badge_is_an_svg_with_the_verdict(finished: bool) -> None:
    report = sample(result("RE101", Status.PASSED), finished=finished)
    root = ET.fromstring(badge.render(report))
    assert root.tag.endswith("svg")
    assert str(report.verdict) in "".join(root.itertext())
    assert HOSTILE not in badge.render(report)


def test_the_table_shows_every_rule_and_no_escapes() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table.render(sample()))
    text = console.export_text()
    for rule in ("RE101", "RE105", "RE201/harmful_refusal_rate"):
        assert rule in text
    assert "\x1b" not in text
    assert "warning" in text


def test_rule_ids_are_unique_and_explained() -> None:
    ids = [rule.id for rule in STATIC_RULES]
    assert len(set(ids)) == len(ids)
    assert all(title and text for title, text in RULE_TEXTS.values())
