"""The evaluation on a real model: broken text is seen as such, and an interruption changes no figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from rosi_edge.basics.progress import SILENT, Advance, Progress
from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.run import EvaluateOptions, Named, evaluate
from rosi_edge.evaluation.suites import SuiteChoices, open_suites
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.records.evaluation import EvaluationReport
from rosi_edge.runtime.engine import ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import TapRequest

pytestmark = pytest.mark.model

FITTED = 12
ASKED = 6


def test_answers_under_a_far_too_strong_edit_are_degenerate(
    demo_engine: LlamaEngine, demo_model: Path
) -> None:
    harmful, harmless = (bundled(kind, Part.CALIBRATION).texts for kind in (Kind.HARMFUL, Kind.HARMLESS))
    prompts = demo_engine.encode([ask(text) for text in harmful[:FITTED] + harmless[:FITTED]])
    with GgufFile.open(demo_model) as file:
        matrices = write_matrices(file)
        request = TapRequest(blocks=(14,), inputs=tuple(matrix.name for matrix in matrices))
        capture = demo_engine.capture(prompts, request)
        stream = capture.stream_rows(14)
        difference = stream[:FITTED].mean(axis=0) - stream[FITTED:].mean(axis=0)
        direction = (difference / np.linalg.norm(difference)).astype(np.float32)
        paper = rosi_edits(file, matrices, row_means(file, matrices), direction)
    conditional = []
    for matrix in matrices:
        rows = capture.inputs[matrix.name].rows
        assert rows is not None
        # Ridge regression: 1 on harmful inputs, 0 on harmless ones.
        gram = (rows @ rows.T).astype(np.float64)
        wanted = (np.arange(len(rows)) < FITTED).astype(np.float64)
        weights = np.linalg.solve(gram + 0.1 * np.trace(gram) / len(rows) * np.eye(len(rows)), wanted)
        conditional.append(RankOneEdit(matrix.name, direction, (rows.T @ weights).astype(np.float32)))

    requests = [
        text for kind in (Kind.HARMLESS, Kind.HARMFUL) for text in bundled(kind, Part.REPORTING).texts[:ASKED]
    ]
    asked = demo_engine.encode([ask(text) for text in requests])

    def verdicts() -> list[Verdict]:
        answers = demo_engine.generate(asked, max_tokens=24)
        return KeywordJudge().judge(requests, [answer.text for answer in answers])

    assert Verdict.DEGENERATE not in verdicts()
    # About a hundred times the strength that the paper's method and ten times that the conditional one needs:
    # loops, then letters, pieces of words and other scripts.
    for edits, strengths in ((paper, (800.0, 3000.0)), (conditional, (1.5, 3.0))):
        handle = demo_engine.load_edits(edits)
        try:
            for strength in strengths:
                demo_engine.apply({handle: strength})
                broken = verdicts().count(Verdict.DEGENERATE)
                assert broken >= 0.8 * len(asked), f"{broken} of {len(asked)} at {strength}"
        finally:
            demo_engine.unload(handle)


@dataclass
class InterruptedAfter:
    """A progress that presses Ctrl-C once so many prompts have been answered."""

    left: int = 10**9
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        with SILENT.stage(description, total):

            def advance(units: int) -> None:
                if "refusal" in description:
                    self.left -= units
                if self.left < 0:
                    raise KeyboardInterrupt

            yield advance

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_the_same_seed_gives_the_same_table_even_after_an_interruption(
    demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path))
    choices = SuiteChoices(limit=5, max_tokens=12, seed=3)

    def run(progress: Progress, *, fresh: bool = False) -> EvaluationReport:
        return evaluate(
            Named("demo", demo_model),
            open_suites("refusal,overrefusal,utility", choices),
            choices,
            options=EvaluateOptions(fresh=fresh),
            progress=progress,
        )

    with pytest.raises(KeyboardInterrupt):
        # In the second of three groups: the first is done.
        run(InterruptedAfter(7))
    resumed_progress = InterruptedAfter()
    resumed = run(resumed_progress)
    # What was kept is not asked again.
    assert 10**9 - resumed_progress.left == 10
    assert any("earlier run" in note for note in resumed_progress.notes)
    assert run(InterruptedAfter(), fresh=True) == resumed
    assert resumed.harmful_refusal_rate is not None
    assert resumed.harmful_refusal_rate.n == 5
    # A model that knows something: four choices would give a quarter by chance.
    assert resumed.suites["utility"].figures["utility_acc"].value > 0.3
