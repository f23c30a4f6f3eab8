"""Each static rule on a file that keeps it and on one that breaks it."""

from __future__ import annotations

from pathlib import Path

import baking
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.policy.model import Policy, parse_policy
from rosi_edge.policy.result import CheckReport, Decision, Status
from rosi_edge.policy.rule import Finding, Subject
from rosi_edge.policy.rules.chat_template_base import ChatTemplateBase
from rosi_edge.policy.rules.file_sanity import FileSanity
from rosi_edge.policy.rules.metadata import MetadataComplete
from rosi_edge.policy.run import Checked, CheckOptions, check


def run(
    path: Path, policy: str | Policy = "", base: Path | None = None, manifest: Path | None = None
) -> CheckReport:
    return check(
        Checked(str(path), path),
        parse_policy(policy) if isinstance(policy, str) else policy,
        base=Checked(str(base), base) if base else None,
        options=CheckOptions(behaviour=False, manifest=manifest),
    )


def status(report: CheckReport, rule: str) -> Status:
    return next(result.status for result in report.results if result.id == rule)


def message(report: CheckReport, rule: str) -> str:
    return next(result.message for result in report.results if result.id == rule)


def test_an_ordinary_file_passes(tiny_model: Path) -> None:
    report = run(tiny_model)
    assert report.verdict is Decision.PASSED
    assert [result.id for result in report.results] == [f"RE{number}" for number in range(101, 111)]
    assert not [result for result in report.results if result.status is Status.FAILED]


def test_bytes_that_belong_to_nothing(tiny_model: Path, tmp_path: Path) -> None:
    stuffed = tmp_path / "stuffed.gguf"
    stuffed.write_bytes(tiny_model.read_bytes() + b"x" * 5000)
    report = run(stuffed)
    assert status(report, "RE101") is Status.FAILED
    assert "5000" in message(report, "RE101")
    # However much may lie unused: padding is zero.
    assert "not zero" in message(run(stuffed, "[file]\nlargest_gap = 5000"), "RE101")
    stuffed.write_bytes(tiny_model.read_bytes() + bytes(5000))
    assert status(run(stuffed), "RE101") is Status.FAILED
    assert run(stuffed, "[file]\nlargest_gap = 5000").verdict is Decision.PASSED
    assert run(stuffed, "[file]\nseverity = 'warning'").verdict is Decision.PASSED


def test_the_hash(tiny_model: Path) -> None:
    with GgufFile.open(tiny_model) as file:
        digest = sha256_of_model(file)
    right = run(tiny_model, f"[file]\nsha256 = '{digest}'")
    assert status(right, "RE102") is Status.PASSED
    assert right.file.sha256 == digest
    assert status(run(tiny_model, f"[file]\nsha256 = '{'0' * 64}'"), "RE102") is Status.FAILED


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ("RE103", "[architecture]\nallowed = ['llama', 'qwen2']", "[architecture]\nallowed = ['qwen2']"),
        ("RE104", "[types]\nallowed = ['F32']", "[types]\nallowed = ['Q4_K']"),
        ("RE105", "[metadata]\nrequired = ['general.name']", "[metadata]\nrequired = ['general.license']"),
        (
            "RE105",
            "[metadata]\nequals = { 'general.name' = 'Tiny llama' }",
            "[metadata]\nequals = { 'general.name' = 'Other' }",
        ),
        ("RE106", "[chat_template]\nlargest = 400", "[chat_template]\nlargest = 10"),
        ("RE108", "[hardening]\nrequired = false", "[hardening]\nrequired = true"),
        ("RE110", "[provenance]\nrequired = false", "[provenance]\nrequired = true"),
    ],
)
def test_what_the_policy_asks_for(tiny_model: Path, rule: str, right: str, wrong: str) -> None:
    assert status(run(tiny_model, right), rule) in (Status.PASSED, Status.NOT_APPLICABLE)
    report = run(tiny_model, wrong)
    assert status(report, rule) is Status.FAILED
    assert report.verdict is Decision.FAILED
    section, _, rest = wrong.partition("\n")
    assert run(tiny_model, f"{section}\nseverity = 'warning'\n{rest}").verdict is Decision.PASSED
    switched_off = run(tiny_model, f"{section}\nseverity = 'off'\n{rest}")
    assert rule not in {result.id for result in switched_off.results}


def test_an_unsafe_template_and_a_missing_one(tmp_path: Path) -> None:
    unsafe = write_tiny_llama(tmp_path / "unsafe.gguf", chat_template="{{ x.__class__ }}")
    assert "__class__" in message(run(unsafe), "RE106")
    hidden = write_tiny_llama(
        tmp_path / "hidden.gguf", metadata={"tokenizer.chat_template.tool_use": "{% include 'x' %}"}
    )
    assert "tool_use" in message(run(hidden), "RE106")
    none = write_tiny_llama(tmp_path / "none.gguf", chat_template=None)
    assert status(run(none), "RE106") is Status.FAILED
    assert status(run(none, "[chat_template]\nrequired = false"), "RE106") is Status.NOT_APPLICABLE


def test_a_template_that_is_not_the_bases(tiny_model: Path, tmp_path: Path) -> None:
    changed = write_tiny_llama(tmp_path / "changed.gguf", layers=3, chat_template=CHATML + "{{ 'Obey.' }}")
    assert status(run(changed, base=tiny_model), "RE107") is Status.FAILED
    assert status(run(tiny_model, base=tiny_model), "RE107") is Status.PASSED
    assert status(run(changed), "RE107") is Status.NOT_APPLICABLE


def test_a_false_claim_of_hardening(tmp_path: Path) -> None:
    claims = write_tiny_llama(tmp_path / "claims.gguf", metadata={"rosi.version": "0.1.0"})
    assert status(run(claims), "RE108") is Status.FAILED


def test_a_hardened_file_without_its_base(tmp_path: Path) -> None:
    source, target = baking.model(tmp_path / "base.gguf", GGMLQuantizationType.Q4_K), tmp_path / "out.gguf"
    with GgufFile.open(source) as file:
        edits = baking.edits(file)
        baking.baked(file, target, edits)
    assert status(run(target), "RE108") is Status.PASSED
    assert "not compared" in message(run(target), "RE108")
    proven = "[hardening]\nproven = true"
    assert status(run(target, proven), "RE108") is Status.COULD_NOT_RUN
    assert status(run(target, proven, base=source), "RE108") is Status.PASSED
    # Its own hashes tell damage: in an edited tensor, and in what it declares.
    content = bytearray(target.read_bytes())
    with GgufFile.open(target) as file:
        places = [file.tensors[edits[0].tensor].offset + 7, file.fields["rosi.edit.inputs"].end - 3]
    for place in places:
        content[place] ^= 1
        target.write_bytes(content)
        assert status(run(target), "RE108") is Status.FAILED
        content[place] ^= 1


def test_an_architecture_without_known_write_matrices_is_said(tmp_path: Path) -> None:
    experts = write_tiny_llama(tmp_path / "experts.gguf", experts=4)
    assert status(run(experts), "RE109") in (Status.PASSED, Status.NOT_APPLICABLE)


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    broken = write_tiny_llama(
        tmp_path / "nan.gguf", change=lambda name, w: w * float("nan") if "ffn_down" in name else w
    )
    report = run(broken)
    assert status(report, "RE109") is Status.FAILED
    assert "finite" in message(report, "RE109")


def test_weights_too_large_to_compute_with_are_no_pass(tmp_path: Path) -> None:
    huge = write_tiny_llama(
        tmp_path / "huge.gguf", change=lambda name, w: w + 1e30 * (np.arange(w.size).reshape(w.shape) == 0)
    )
    assert status(run(huge), "RE109") is Status.FAILED
    assert "too large" in message(run(huge), "RE109")


def test_zero_weights_are_no_pass(tmp_path: Path) -> None:
    zero = write_tiny_llama(
        tmp_path / "zero.gguf", change=lambda name, w: w * 0, types=GGMLQuantizationType.Q8_0
    )
    assert status(run(zero), "RE109") is Status.COULD_NOT_RUN


def test_a_float_of_32_bits_is_what_the_policy_writes(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf", metadata={"x.share": 0.1})
    assert status(run(path, "[metadata]\nequals = {'x.share' = 0.1}"), "RE105") is Status.PASSED
    assert status(run(path, "[metadata]\nequals = {'x.share' = 0.1001}"), "RE105") is Status.FAILED
    assert status(run(path, "[metadata]\nequals = {'x.share' = 1e300}"), "RE105") is Status.FAILED


def test_bytes_between_the_header_and_the_tensors(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf")
    with GgufFile.open(path) as file:
        start, end = file.tensor_table[1], file.data_offset
    assert end > start
    content = bytearray(path.read_bytes())
    content[start:end] = b"#" * (end - start)
    path.write_bytes(bytes(content))
    assert "not zero" in message(run(path), "RE101")


def test_a_rule_that_trips_over_a_file_is_no_pass_and_keeps_none_from_running(tiny_model: Path) -> None:
    class Tripping(ChatTemplateBase):
        def check(self, subject: Subject) -> Finding:
            raise TypeError("object of type 'int' has no len()")

    report = check(
        Checked("tiny", tiny_model),
        Policy(),
        options=CheckOptions(behaviour=False),
        rules=(FileSanity(), Tripping(), MetadataComplete()),
    )
    assert [result.status for result in report.results] == [
        Status.PASSED,
        Status.COULD_NOT_RUN,
        Status.PASSED,
    ]
    assert report.verdict is Decision.COULD_NOT_RUN
