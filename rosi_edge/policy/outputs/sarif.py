"""SARIF 2.1.0 (OASIS), for code scanning: what failed or could not run, with rules that keep their ids."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from rosi_edge.policy.result import CheckReport, Decision, RuleResult, Status
from rosi_edge.policy.rules.registry import RULE_TEXTS

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_KINDS = {
    Status.PASSED: "pass",
    Status.FAILED: "fail",
    Status.COULD_NOT_RUN: "open",
    Status.NOT_APPLICABLE: "notApplicable",
}


def render(report: CheckReport) -> str:
    rules = list(RULE_TEXTS)
    finished = report.verdict is not Decision.COULD_NOT_RUN
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "rosi-edge",
                        "semanticVersion": report.tool_version,
                        "rules": [_rule(rule_id) for rule_id in rules],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": finished,
                        "exitCode": report.verdict.exit_code,
                        "exitCodeDescription": str(report.verdict),
                        "toolExecutionNotifications": [
                            {"level": "note" if finished else "error", "message": {"text": note}}
                            for note in report.notes
                        ],
                    }
                ],
                "artifacts": [_artifact(report)],
                "columnKind": "unicodeCodePoints",
                "results": [_result(result, rules, report) for result in report.results],
            }
        ],
    }
    return json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rule(rule_id: str) -> dict[str, Any]:
    title, text = RULE_TEXTS[rule_id]
    return {
        "id": rule_id,
        "name": "".join(word.capitalize() for word in title.replace("'s", "").split() if word.isalnum()),
        "shortDescription": {"text": title},
        "fullDescription": {"text": text},
        "help": {"text": text},
        "defaultConfiguration": {"level": "error"},
    }


def _artifact(report: CheckReport) -> dict[str, Any]:
    artifact: dict[str, Any] = {"location": {"uri": _uri(report)}, "roles": ["analysisTarget"]}
    if report.file.size is not None:
        artifact["length"] = report.file.size
    if report.file.sha256 is not None:
        artifact["hashes"] = {"sha-256": report.file.sha256}
    return artifact


def _result(result: RuleResult, rules: list[str], report: CheckReport) -> dict[str, Any]:
    rule_id, _, figure = result.id.partition("/")
    kind = _KINDS[result.status]
    # Only a failure has a level; code scanning hides what could not run unless it is told as a failure.
    level = result.severity if result.status is Status.FAILED else "none"
    if result.status is Status.COULD_NOT_RUN:
        kind, level = "fail", result.severity
    words = f"{result.message}. {result.remedy}".strip(". ") + "."
    if result.status is Status.COULD_NOT_RUN:
        words = f"Could not run: {words}"
    return {
        "ruleId": result.id,
        "rule": {"id": result.id, "index": rules.index(rule_id)},
        "kind": kind,
        "level": level,
        "message": {"text": words},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(report), "index": 0}}}],
        # The same finding on the next version of the file is the same alert.
        "partialFingerprints": {
            "rosiEdgeRule/v1": hashlib.sha256(f"{result.id}\n{report.file.file_name}".encode()).hexdigest()
        },
        "properties": {"status": str(result.status), "evidence": result.evidence}
        | ({"figure": figure} if figure else {}),
    }


def _uri(report: CheckReport) -> str:
    """Relative and percent-encoded: the name alone, as the folder is the owner's."""
    return quote(report.file.file_name, safe="") or "model.gguf"
