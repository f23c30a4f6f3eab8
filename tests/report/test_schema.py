from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError
from report.sample_report import digest, figures, frontier, make_report, model_facts, separations

from rosi_edge.direction.difference import Directions
from rosi_edge.inspection import Inspection, TypeShare
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.records.evaluation import EvaluationReport
from rosi_edge.records.facts import ModelFacts, PromptSetFacts
from rosi_edge.records.figures import Figures
from rosi_edge.records.hardening import DirectionFacts, EditedTensor, HardeningReport
from rosi_edge.report.write import to_json


def test_json_comes_back_as_the_same_report(report: HardeningReport) -> None:
    assert HardeningReport.model_validate_json(to_json(report)) == report


@pytest.mark.parametrize("further", [[], ["fraud", "weapons"]])
def test_an_older_report_is_read(report: HardeningReport, further: list[str]) -> None:
    """They list categories with directions of their own, which are injected no longer."""
    document = json.loads(to_json(report))
    document["injection"]["further"] = further
    assert HardeningReport.model_validate_json(json.dumps(document)) == report


@pytest.mark.parametrize(
    ("begins", "direction"),
    [
        ("layer 14, ridge", "layer 14"),
        ("layer 14 + fraud + weapons, ridge", "layer 14"),
        ("hole 2 +, ridge", "hole 2 +"),
        ("hole 1 − + fraud, ridge", "hole 1 −"),
        ("hole 1 + + fraud, ridge", "hole 1 +"),
        ("each layer's own, null-space", "each layer's own"),
        ("", ""),
    ],
)
def test_the_direction_of_an_older_report_is_read_from_its_setting(
    report: HardeningReport, begins: str, direction: str
) -> None:
    document = json.loads(to_json(report))
    del document["injection"]["direction"]
    document["injection"]["setting"] = begins and f"{begins}, attention 12–19 × 1.00, strength 0.475"
    assert HardeningReport.model_validate_json(json.dumps(document)).injection.direction == direction


def test_evaluation_comes_back_as_the_same_report(evaluation: EvaluationReport) -> None:
    assert EvaluationReport.model_validate_json(to_json(evaluation)) == evaluation


@pytest.mark.parametrize("kind", [HardeningReport, EvaluationReport])
def test_json_fits_its_schema(
    kind: type[HardeningReport | EvaluationReport], report: HardeningReport, evaluation: EvaluationReport
) -> None:
    schema = kind.model_json_schema(mode="serialization")
    jsonschema.Draft202012Validator.check_schema(schema)
    document = json.loads(to_json(report if kind is HardeningReport else evaluation))
    jsonschema.validate(document, schema)
    for spoiled in (
        {**document, "extra": 1},
        {key: value for key, value in document.items() if key != "model"},
        {**document, "changes": {"harmful_refusal_rate": 0.2}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(spoiled, schema)


def test_contract_of_report_json(report: HardeningReport) -> None:
    document = json.loads(to_json(report))
    assert {"model", "direction", "injection", "before", "after", "timing", "verdict"} <= set(document)
    assert document["verdict"]["status"] == "hardened"
    assert len(document["injection"]["tensors"]) == 48
    for tensor in document["injection"]["tensors"]:
        assert {"name", "type", "delivered", "noise"} <= set(tensor)
    for side in ("before", "after"):
        assert set(document[side]["harmful_refusal_rate"]) == {"value", "n", "low", "high"}
    assert document["before"]["kl_first_token"] is None
    assert set(document["direction"]["separation"][0]) == {
        "layer",
        "norm",
        "cosine_of_means",
        "d_prime",
        "auc",
        "resampled_cosine",
    }


def test_contract_of_eval_json(evaluation: EvaluationReport) -> None:
    document = json.loads(to_json(evaluation))
    for key in ("harmful_refusal_rate", "benign_compliance_rate", "degenerate_rate", "kl_first_token"):
        assert set(document[key]) == {"value", "n", "low", "high"}
    assert document["harmful_refusal_rate"]["value"] == 45 / 61
    assert document["base_figures"]["harmful_refusal_rate"]["value"] == 33 / 61
    assert set(document["changes"]["harmful_refusal_rate"]) == {"change", "n", "low", "high", "p_value"}
    assert document["suites"]["refusal"]["figures"]["harmful_refusal_rate"]["value"] == 45 / 61
    assert document["judge"]["name"] == "keyword"
    assert document["seed"] == 0


def test_keys_stand_in_declared_order(report: HardeningReport) -> None:
    text = to_json(report)
    assert list(json.loads(text)) == list(HardeningReport.model_fields)
    assert text == to_json(report.model_copy(deep=True))
    assert text.endswith("}\n")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_no_report_holds_what_json_cannot(bad: float, report: HardeningReport) -> None:
    good = report.injection.tensors[0]
    with pytest.raises(ValidationError):
        EditedTensor(**{**dict(good), "delivered": bad})
    separation = [{"layer": 14, "norm": bad, "cosine_of_means": 1, "d_prime": 1, "auc": 1}]
    with pytest.raises(ValidationError):
        DirectionFacts.model_validate({**report.direction.model_dump(), "separation": separation})


def test_reports_cannot_be_changed(report: HardeningReport) -> None:
    with pytest.raises(ValidationError):
        report.injection.strength = 3.0


def test_unknown_fields_are_refused_at_every_depth(report: HardeningReport) -> None:
    document = json.loads(to_json(report))
    document["direction"]["separation"][0]["surprise"] = 1
    with pytest.raises(ValidationError, match="surprise"):
        HardeningReport.model_validate(document)


def test_refusal_is_never_alone() -> None:
    with pytest.raises(ValidationError, match="benign compliance"):
        Figures(harmful_refusal_rate=figures(1, 1, 1, 0, None).harmful_refusal_rate)


def test_contradictions_are_refused(build: Callable[..., HardeningReport], report: HardeningReport) -> None:
    with pytest.raises(ValidationError, match="chosen"):
        build(frontier=(*frontier(), *frontier()))
    with pytest.raises(ValidationError, match="original"):
        build(before=figures(1, 1, 1, 0, 0.5))
    with pytest.raises(ValidationError, match="layer 99"):
        DirectionFacts.model_validate({**report.direction.model_dump(), "layer": 99})


def test_model_facts_come_from_an_inspection(tmp_path: Path) -> None:
    inspection = Inspection(
        path=tmp_path / "m.gguf",
        size=5,
        sha256=digest("m"),
        name="M",
        architecture="llama",
        parameters=1,
        block_count=2,
        hidden_size=8,
        context_length=None,
        vocabulary=None,
        file_type="Q4_0",
        quantization={"Q4_0": TypeShare(tensors=1, bytes=5)},
        chat_template=True,
        write_matrices=[],
        can_harden=True,
        reasons=[],
        hardened=None,
        warnings=[],
    )
    facts = ModelFacts.of(inspection, "models/m.gguf")
    assert (facts.file_name, facts.layers, facts.hidden_size) == ("m.gguf", 2, 8)
    assert str(tmp_path) not in facts.model_dump_json()
    with pytest.raises(ValueError, match="hash"):
        ModelFacts.of(inspection.model_copy(update={"sha256": None}), "m")


def test_prompt_set_facts_name_the_set() -> None:
    prompts = bundled(Kind.HARMFUL, Part.REPORTING)
    facts = PromptSetFacts.of(prompts)
    assert (facts.name, facts.n, facts.sha256) == (prompts.name, len(prompts), prompts.sha256)


def test_direction_facts_come_from_directions() -> None:
    directions = Directions(np.zeros((24, 4), np.float32), separations(), 64, 65, "Be safe.")
    facts = DirectionFacts.of(directions, 14, prompt_sets=())
    assert (facts.harmful_prompts, facts.harmless_prompts, facts.elicitation) == (64, 65, "Be safe.")
    assert facts.separation == separations()


def test_a_file_name_that_is_not_utf8_can_be_reported() -> None:
    facts = model_facts().model_dump()
    odd = ModelFacts(**{**facts, "file_name": b"m\xff.gguf".decode("utf-8", "surrogateescape")})
    assert json.loads(to_json(make_report(model=odd)))["model"]["file_name"] == "m?.gguf"
