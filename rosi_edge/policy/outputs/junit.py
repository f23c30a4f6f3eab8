"""JUnit XML as Jenkins and GitLab read it: a test case a rule."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from rosi_edge.policy.result import CheckReport, Decision, RuleResult, Status


def render(report: CheckReport) -> str:
    """``failure`` for what decides, ``error`` for what could not run, ``skipped`` for what did not apply.

    A warning passes: its text goes to ``system-out``, because JUnit knows no warnings.
    """
    cases = [_case(result, report.file.file_name) for result in report.results]
    if report.verdict is Decision.COULD_NOT_RUN and not any(case.find("error") is not None for case in cases):
        # Whatever the reason, a run that did not finish must be red here too.
        case = ET.Element("testcase", name="the whole check", classname="rosi-edge", time="0")
        ET.SubElement(case, "error", message=_clean("; ".join(report.notes) or report.summary))
        cases.append(case)
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
        "time": f"{report.seconds:.3f}",
    }
    root = ET.Element("testsuites", {"name": "rosi-edge check"} | counts)
    name = _clean(f"{report.file.file_name}: {report.policy}")
    suite = ET.SubElement(root, "testsuite", {"name": name} | counts)
    suite.extend(cases)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(result: RuleResult, file_name: str) -> ET.Element:
    case = ET.Element(
        "testcase",
        name=_clean(f"{result.id} {result.title}"),
        classname=_clean(f"rosi-edge.{file_name}"),
        time=f"{result.seconds:.3f}",
    )
    text = _clean(f"{result.message}. {result.remedy}".strip(". ") + ".")
    if result.status is Status.NOT_APPLICABLE:
        ET.SubElement(case, "skipped", message=_clean(result.message))
    elif result.status is Status.PASSED or not result.counts:
        ET.SubElement(case, "system-out").text = text if result.counts else f"warning: {text}"
    elif result.status is Status.FAILED:
        ET.SubElement(case, "failure", message=_clean(result.message), type=result.id).text = text
    else:
        ET.SubElement(case, "error", message=_clean(result.message), type=result.id).text = text
    return case


def _clean(text: str) -> str:
    """XML 1.0 has no way to write control characters, not even escaped."""
    return "".join(
        sign
        if sign in "\t\n"
        or "\x20" <= sign <= "\ud7ff"
        or "\ue000" <= sign <= "\ufffd"
        or "\U00010000" <= sign <= "\U0010ffff"
        else "\ufffd"
        for sign in text
    )
