"""The whole path on a tiny full-precision model, with a judge that knows the original answers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from fake_engine import prompt_set
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.measure import BakedTensor
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.profile import Setting
from rosi_edge.errors import OutputError, RosiEdgeError, UnsupportedModelError
from rosi_edge.evaluation import behaviour
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.hardening import delivery
from rosi_edge.hardening import session as hardening
from rosi_edge.hardening.events import Events
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.session import HardeningSession, harden
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.plan import PromptPlan, RequestSets
from rosi_edge.quantization.codec import dequantize_rows, quantize
from rosi_edge.records.hardening import HardeningReport
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.search.options import ConditionalOptions, SearchOptions
from rosi_edge.search.result import Tried
from rosi_edge.verification.gguf import verify


class Changed:
    """Whatever a harmful request is answered with that the original did not answer counts as a refusal."""

    name = "changed"

    def __init__(self) -> None:
        self._original: dict[str, str] = {}

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        verdicts = []
        for request, answer in zip(requests, answers, strict=True):
            changed = self._original.setdefault(request, answer) != answer
            refused = changed and request.startswith("harmful")
            verdicts.append(Verdict.REFUSED if refused else Verdict.COMPLIED)
        return verdicts


class Unmoved:
    """Sees no refusal anywhere."""

    name = "unmoved"

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict.COMPLIED] * len(requests)


def plan() -> PromptPlan:
    def sets(part: str) -> RequestSets:
        return RequestSets(
            *(
                prompt_set(f"{kind}_{part}", [f"{kind} {part} {index * index}" for index in range(12)])
                for kind in ("harmful", "harmless", "sounds")
            )
        )

    return PromptPlan(*(sets(part) for part in ("calibration", "choosing", "reporting")))


# Strong enough to change what random weights say, and little enough to stay under the divergence allowed.
OPTIONS = HardenOptions(
    method="rosi",
    rounding="requantize",
    look=False,
    stress=0,
    search=SearchOptions(layers=(1,), strength=15.0),
    max_tokens=8,
    engine=EngineOptions(threads=1, context_size=1024),
    reference="tiny",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return write_tiny_llama(folder / "source.gguf", layers=3)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_report(report: HardeningReport) -> None:
    again = HardeningReport.model_validate_json(report.model_dump_json())
    assert again == report
    assert report.tool.llama_cpp_python == llama_cpp.__version__
    assert report.timing.total >= max(report.timing.stages.values())


def test_hardened(source: Path, tmp_path: Path) -> None:
    before = digest(source)
    target, adapter = tmp_path / "out.gguf", tmp_path / "adapter.gguf"
    report = harden(source, target, plan(), Changed(), replace(OPTIONS, adapter=adapter))
    assert report.verdict.status == "hardened", report.verdict
    check_report(report)
    assert digest(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.gguf", "models", "out.gguf"]

    assert report.output is not None
    assert (report.output.file_name, report.output.sha256) == ("out.gguf", digest(target))
    assert report.output.size == target.stat().st_size
    assert report.model.sha256 == before
    assert report.after is not None
    refusals = report.before.harmful_refusal_rate, report.after.harmful_refusal_rate
    assert refusals[0] is not None
    assert refusals[1] is not None
    assert refusals[1].value > refusals[0].value
    assert report.direction.layer == 1
    assert report.injection.strength == 15.0
    assert report.injection.delivered == pytest.approx(1, abs=1e-3)
    assert [tensor.name for tensor in report.injection.tensors] == [
        f"blk.{block}.{name}.weight" for block in range(3) for name in ("attn_output", "ffn_down")
    ]
    facts = {key: field.contents() for key, field in gguf.GGUFReader(target).fields.items()}
    assert facts["rosi.method"] == "rosi"
    assert facts["rosi.strength"] == pytest.approx(15.0)
    assert facts["rosi.layer"] == 1
    assert facts["rosi.source.sha256"] == before
    assert facts["general.name"] == "Tiny llama"

    # The adapter holds the chosen strength, and for full-precision weights the file is that adapter.
    with LlamaEngine(source, OPTIONS.engine) as engine:
        prompts = engine.encode([ask("harmful reporting 9")])
        original = engine.next_token_logprobs(prompts)
        engine.apply({engine.load_adapter(adapter): 1.0})
        adapted = engine.next_token_logprobs(prompts)
    with LlamaEngine(target, OPTIONS.engine) as engine:
        baked = engine.next_token_logprobs(prompts)
    assert np.abs(adapted - original).max() > 0.05
    np.testing.assert_allclose(baked, adapted, rtol=0, atol=0.02)

    # A hardened file is not hardened twice by accident.
    with pytest.raises(UnsupportedModelError, match="hardened before") as caught:
        harden(target, tmp_path / "twice.gguf", plan(), Changed(), OPTIONS)
    assert "--force" in caught.value.remedy


def test_ineffective_writes_nothing_unless_forced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"an older file")
    report = harden(source, target, plan(), Unmoved(), OPTIONS)
    assert report.verdict.status == "ineffective"
    assert report.output is None
    check_report(report)
    assert target.read_bytes() == b"an older file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out.gguf"]

    report = harden(source, target, plan(), Unmoved(), replace(OPTIONS, force=True))
    assert report.verdict.status == "ineffective"
    assert report.output is not None
    assert digest(target) == report.output.sha256


def test_a_file_that_refuses_harmful_requests_less_is_not_kept_even_if_forced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Weakened(Changed):
        """Sees a refusal where the answer is still the original's."""

        def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
            changed = super().judge(requests, answers)
            return [Verdict.REFUSED if v is Verdict.COMPLIED else Verdict.COMPLIED for v in changed]

    weakened = Weakened()
    monkeypatch.setattr(behaviour, "KeywordJudge", lambda: weakened)
    prompts = plan()
    guarded = prompt_set("guarded", [f"harmful guarded {index * index}" for index in range(12)])
    prompts = replace(prompts, reporting=replace(prompts.reporting, guarded=guarded))
    report = harden(source, tmp_path / "out.gguf", prompts, Changed(), replace(OPTIONS, force=True))
    assert report.verdict.status == "degraded"
    assert "refusal of harmful requests fell by" in report.verdict.reason
    assert report.output is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_the_same_without_an_attribute(source: Path, tmp_path: Path) -> None:
    class LessOnReporting(Changed):
        """On the reporting prompts, sees a refusal where the answer is still the original's."""

        def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
            changed = super().judge(requests, answers)
            turned = {Verdict.REFUSED: Verdict.COMPLIED, Verdict.COMPLIED: Verdict.REFUSED}
            return [
                turned[verdict] if request.startswith("harmful reporting") else verdict
                for request, verdict in zip(requests, changed, strict=True)
            ]

    report = harden(source, tmp_path / "out.gguf", plan(), LessOnReporting(), replace(OPTIONS, force=True))
    assert report.changes is not None and report.changes.harmful_refusal_rate is not None
    assert report.changes.harmful_refusal_rate.change < -0.03
    assert report.verdict.status == "ineffective"
    assert report.output is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_no_strength_allowed(source: Path, tmp_path: Path) -> None:
    class Touchy(Changed):
        def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
            changed = [
                self._original.setdefault(request, answer) != answer
                for request, answer in zip(requests, answers, strict=True)
            ]
            return [Verdict.REFUSED if any(changed) else Verdict.COMPLIED] * len(requests)

    report = harden(source, tmp_path / "out.gguf", plan(), Touchy(), OPTIONS)
    assert report.verdict.status == "ineffective"
    assert report.output is None
    assert report.after is None
    check_report(report)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path) -> None:
    before = digest(source)
    stages: list[str] = []

    class Interrupting:
        def __init__(self, at: str) -> None:
            self._at = at

        @contextmanager
        def stage(self, description: str, total: int | None = None) -> Iterator[object]:
            stages.append(description)
            if description.startswith(self._at):
                raise KeyboardInterrupt
            yield lambda units: None

        def note(self, line: str) -> None: ...

    for at in ("Layer 1", "Rounding", "Hardened file"):
        with pytest.raises(KeyboardInterrupt):
            harden(source, tmp_path / "out.gguf", plan(), Changed(), OPTIONS, Interrupting(at))  # type: ignore[arg-type]
        assert stages[-1].startswith(at)
        assert [path.name for path in tmp_path.iterdir()] == ["models"]
        assert [path.name for path in source.parent.iterdir()] == ["source.gguf"]
    assert digest(source) == before


def test_an_interrupt_at_the_instant_the_draft_is_whole_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = interrupt_after_bake(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        harden(source, tmp_path / "out.gguf", plan(), Changed(), OPTIONS)
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def interrupt_after_bake(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Ctrl-C as soon as a draft has been written; which ones were."""
    written: list[Path] = []

    def interrupted(weights: GgufFile, target: Path, *arguments: Any, **options: Any) -> None:
        bake(weights, target, *arguments, **options)
        assert target.is_file()
        written.append(target)
        raise KeyboardInterrupt

    monkeypatch.setattr("rosi_edge.baking.draft.bake", interrupted)
    return written


def test_no_adapter_is_left_without_its_model(source: Path, tmp_path: Path) -> None:
    """Somebody puts a folder in the place of the output while it is measured."""
    output, adapter = tmp_path / "out.gguf", tmp_path / "adapter.gguf"
    with HardeningSession(source, plan(), Changed(), replace(OPTIONS, adapter=adapter)) as session:
        session.calibrate()
        session.search()
        session.measure_before()
        session.bake(output)
        session.measure_after()
        output.mkdir()
        with pytest.raises(OutputError, match="is a folder"):
            session.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out.gguf"]


def test_what_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    before = digest(source)
    link = tmp_path / "link.gguf"
    link.symlink_to(source)
    target = tmp_path / "out.gguf"
    at_layer = replace(OPTIONS, search=SearchOptions(layers=(3,)))
    cases: list[tuple[Path, HardenOptions, type[RosiEdgeError], str]] = [
        (source, OPTIONS, OutputError, "overwrite the input"),
        (link, OPTIONS, OutputError, "overwrite the input"),
        (target, replace(OPTIONS, adapter=source), OutputError, "overwrite the input"),
        (target, replace(OPTIONS, adapter=link), OutputError, "overwrite the input"),
        (target, replace(OPTIONS, adapter=target), OutputError, "both the model and the adapter"),
        (tmp_path / "missing" / "out.gguf", OPTIONS, OutputError, "does not exist"),
        (target, at_layer, UnsupportedModelError, "no layer 3"),
    ]
    for output, options, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            harden(source, output, plan(), Changed(), options)
        assert caught.value.remedy
    base = write_tiny_llama(tmp_path / "base.gguf", chat_template=None)
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        harden(base, target, plan(), Changed(), OPTIONS)
    assert digest(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.gguf", "link.gguf", "models"]


def test_a_base_model_with_a_template_beside_it(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf", layers=3, chat_template=None)
    options = replace(OPTIONS, engine=replace(OPTIONS.engine, template=CHATML))
    report = harden(base, tmp_path / "out.gguf", plan(), Changed(), options)
    assert report.verdict.status == "hardened"
    assert (tmp_path / "out.gguf").exists()


CONDITIONAL = replace(
    OPTIONS,
    method="conditional",
    rounding="grid",
    conditional=ConditionalOptions(trials=3, answered=2, max_kl=5.0, max_tokens=8, min_compliance=0.0),
)


def test_conditional(source: Path, tmp_path: Path) -> None:
    options = replace(
        CONDITIONAL, stress=2, conditional=replace(CONDITIONAL.conditional, folder=tmp_path / "searches")
    )
    tried: list[Tried] = []
    target = tmp_path / "out.gguf"
    with HardeningSession(
        source, plan(), Changed(), replace(options, force=True), events=Events(tried=tried.append)
    ) as session:
        assert len(session.calibrate().separation) == 3
        found = session.search()
        assert found.chosen is not None
        session.measure_before()
        session.bake(target)
        session.measure_after()
        report = session.finish()
    check_report(report)
    assert target.exists()
    assert [point.answered for point in tried].count(True) == len(found.frontier) == 2
    assert report.injection.rounding == "grid"
    assert report.injection.setting
    assert {tensor.block for tensor in report.injection.tensors} == {2}
    assert report.injection.delivered == pytest.approx(1, abs=1e-2)
    assert report.rounding_check is not None
    assert report.rounding_check.kl_between is not None
    # Full-precision weights hold the edit exactly, so the file is the adapter.
    assert report.rounding_check.kl_between.value < 1e-3
    assert report.stress is not None
    assert report.stress.requests == 2
    assert all(entry.resampled_cosine is not None for entry in report.direction.separation)

    # The trials are in the journal: a second search asks for none of them again and chooses the same.
    again: list[Tried] = []
    with HardeningSession(
        source, plan(), Changed(), replace(options, force=True), events=Events(tried=again.append)
    ) as session:
        session.calibrate()
        repeated = session.search()
    assert repeated.chosen is not None
    assert repeated.chosen.setting == found.chosen.setting
    assert len(again) < len(tried)


def test_a_search_without_time_tries_one_direction_and_one_setting(source: Path) -> None:
    tried: list[Tried] = []
    conditional = replace(CONDITIONAL.conditional, time_limit=1e-9)
    options = replace(CONDITIONAL, conditional=conditional, force=True)
    with HardeningSession(source, plan(), Changed(), options, events=Events(tried=tried.append)) as session:
        session.calibrate()
        found = session.search()
    assert found.chosen is not None
    assert len(found.sweep) == 1
    settings = {point.setting for point in tried if not point.answered}
    # At two strengths each.
    assert 2 <= len(settings) <= 4


def test_an_interrupted_search_goes_on(source: Path, tmp_path: Path) -> None:
    options = replace(CONDITIONAL, conditional=replace(CONDITIONAL.conditional, folder=tmp_path / "searches"))

    def settings(interrupt_after: int | None) -> tuple[list[Setting], Setting | None]:
        tried: list[Setting] = []

        def listen(point: Tried) -> None:
            tried.append(point.setting)
            if len(tried) == interrupt_after:
                raise KeyboardInterrupt

        with HardeningSession(source, plan(), Changed(), options, events=Events(tried=listen)) as session:
            session.calibrate()
            found = session.search()
            return tried, found.chosen.setting if found.chosen else None

    whole, chosen = settings(None)
    for journal in (tmp_path / "searches").iterdir():
        journal.unlink()
    # In the middle of the second trial: directions come first, then two strengths a trial.
    directions = len([setting for setting in whole if setting]) - 2 - 2 * 3
    with pytest.raises(KeyboardInterrupt):
        settings(directions + 3)
    rest, chosen_later = settings(None)
    assert len(rest) < len(whole)
    assert chosen_later == chosen


def test_a_session_is_cancelled_from_another_thread_and_goes_on(source: Path) -> None:
    with HardeningSession(source, plan(), Changed(), CONDITIONAL) as session:
        assert session.engine.facts.layers == 3
        session.cancel()
        session.calibrate()
        done = threading.Event()

        def insist() -> None:
            while not done.wait(0.1):
                session.cancel()

        thread = threading.Thread(target=insist)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                for _ in range(10_000):
                    session.calibrate()
        finally:
            done.set()
            thread.join()
        assert len(session.calibrate().separation) == 3


def test_a_session_is_cancelled_while_no_engine_runs(source: Path, tmp_path: Path) -> None:
    """While weights are rounded there is no process whose end could be noticed."""
    wanted = []

    def cancel(_: BakedTensor) -> None:
        if not wanted:
            wanted.append(True)
            session.cancel()

    options = replace(CONDITIONAL, force=True)
    with HardeningSession(source, plan(), Changed(), options, events=Events(baked=cancel)) as session:
        session.calibrate()
        session.search()
        session.measure_before()
        with pytest.raises(KeyboardInterrupt):
            session.bake(tmp_path / "out.gguf")
        assert session.bake(tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".gguf"] == []


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the measurings that were begun; the first attacks of each title end in Ctrl-C."""
    begun: list[str] = []
    measure_behaviour, measure_stress = delivery.measure_behaviour, hardening.measure_stress

    def behaviour_measured(*arguments: Any, **options: Any) -> Any:
        begun.append(options["title"])
        return measure_behaviour(*arguments, **options)

    def stress_measured(*arguments: Any, **options: Any) -> Any:
        begun.append(options["title"])
        if begun.count(options["title"]) == 1:
            raise KeyboardInterrupt
        return measure_stress(*arguments, **options)

    monkeypatch.setattr(delivery, "measure_behaviour", behaviour_measured)
    monkeypatch.setattr(hardening, "measure_stress", stress_measured)
    return begun


def test_attacks_belong_to_the_options_and_to_the_file(
    source: Path, tmp_path: Path, attacked: list[str]
) -> None:
    """Stopped, asked for in another number, not asked for, and before another file is measured."""
    options = replace(OPTIONS, stress=2, force=True)
    original = ["Original model on the reporting prompts", "Jailbreaks on the original model"]
    prompts = replace(plan(), about="Attribute x: what the words mean")
    with HardeningSession(source, prompts, Changed(), options) as session:
        session.calibrate()
        session.search()
        attacked.clear()
        with pytest.raises(KeyboardInterrupt):
            session.measure_before()
        before = session.before
        assert session.measure_before() is before, "what was whole is kept"
        session.measure_before()
        assert attacked == [*original, original[1]]

        session.bake(tmp_path / "out.gguf")
        with pytest.raises(KeyboardInterrupt):
            session.measure_after()
        session.measure_after()
        assert session.stress_after is not None
        assert session.rounding_check is not None

        # Other attacks are made on both, or are reported of neither.
        attacked[:] = [original[1], "Jailbreaks on the hardened file"]
        session.reconfigure(replace(options, stress=3))
        session.bake(tmp_path / "out.gguf")
        assert (session.stress_after, session.rounding_check) == (None, None), "they were another file's"
        session.measure_before()
        session.measure_after()
        assert session.stress_before is not None
        assert session.stress_before.requests == session.stress_after.requests == 3
        session.reconfigure(replace(options, stress=0))
        assert session.measure_before() is before
        report = session.finish(command="rosi-edge harden", force=False)
        assert report.stress is None
        assert report.findings[0] == prompts.about
        assert report.tool.command == "rosi-edge harden"


def test_attacks_are_made_once_there_is_a_point_to_take(
    source: Path, tmp_path: Path, attacked: list[str]
) -> None:
    with HardeningSession(source, plan(), Changed(), replace(OPTIONS, stress=2)) as session:
        session.calibrate()
        found = session.search()
        attacked[:] = ["Jailbreaks on the original model"]
        session.choose(None)
        session.measure_before()
        assert session.stress_before is None
        session.choose(found.frontier[0])
        session.measure_before()
        assert session.stress_before is not None


def test_a_session_answers_with_and_without_the_edit(source: Path, tmp_path: Path) -> None:
    with HardeningSession(source, plan(), Changed(), replace(CONDITIONAL, force=True)) as session:
        session.calibrate()
        session.search()
        answers = []
        for strength in (None, 400.0, None):
            pieces: list[str] = []
            session.apply(strength)
            session.answer("harmful reporting 4", pieces.append, max_tokens=8)
            answers.append("".join(pieces))
    assert answers[0] == answers[2] != answers[1]


def test_requantized_with_an_importance_matrix(tmp_path: Path) -> None:
    """The file's bytes are ggml's for the declared edit under these importances, and it verifies."""
    source = write_tiny_llama(tmp_path / "source.gguf", layers=3, types=gguf.GGMLQuantizationType.Q4_0)
    names = [f"blk.{block}.{short}.weight" for block in range(3) for short in ("attn_output", "ffn_down")]
    random = np.random.default_rng(0)
    importance: dict[str, np.ndarray] = {}
    writer = gguf.GGUFWriter(tmp_path / "importance.gguf", "none")
    writer.add_type("imatrix")
    for name in names:
        columns = 64 if "attn" in name else 128
        importance[name] = np.exp(2 * random.standard_normal(columns)).astype(np.float32)
        writer.add_tensor(f"{name}.in_sum2", importance[name][None])
        writer.add_tensor(f"{name}.counts", np.ones((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target, adapter = tmp_path / "out.gguf", tmp_path / "adapter.gguf"
    options = replace(OPTIONS, imatrix=tmp_path / "importance.gguf", adapter=adapter, force=True)
    harden(source, target, plan(), Changed(), options)
    with GgufFile.open(source) as base, GgufFile.open(target) as file, GgufFile.open(adapter) as lora:
        edits = read_adapter(lora)
        assert sorted(edit.tensor for edit in edits) == sorted(names)
        plain = 0
        for edit in edits:
            kind, columns = base.tensors[edit.tensor].type, len(edit.input)
            rows = base.read_tensor(edit.tensor).reshape(len(edit.output), -1)
            wanted = dequantize_rows(rows, columns, kind) + edit.delta(1.0)
            new = file.read_tensor(edit.tensor)
            np.testing.assert_array_equal(new, quantize(wanted, kind, importance[edit.tensor]))
            plain += int(np.array_equal(new, quantize(wanted, kind)))
        assert plain == 0
        assert verify(target, base).passed
    with pytest.raises(UnsupportedModelError, match="covers none of this model"):
        other = write_tiny_llama(tmp_path / "other.gguf", architecture="mamba")
        HardeningSession(other, plan(), Changed(), options)


def test_what_a_killed_run_left_is_cleared_away(source: Path, tmp_path: Path) -> None:
    """A draft that was whole but not yet judged, and half of one."""
    draft = ".out.gguf.0123456789abcdef.draft.gguf"
    (tmp_path / draft).write_bytes(b"whole")
    (tmp_path / f".{draft}.99999999-0badcafe.partial").write_bytes(b"ha")
    report = harden(source, tmp_path / "out.gguf", plan(), Changed(), OPTIONS)
    assert report.output is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out.gguf"]
