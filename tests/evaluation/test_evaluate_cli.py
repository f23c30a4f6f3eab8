"""``rosi-edge eval``: the report's contract, repeatability, interruption, and bad input."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from command import assert_refused, rosi_edge, start
from evaluation.scripted_engine import BROKEN, COMPLIANCE, REFUSAL, VOCABULARY, ScriptedEngine, last_request
from evaluation.test_http_judge import Reply, Seen, completion, server
from tiny_gguf import write_tiny_llama

from rosi_edge.basics.progress import SILENT
from rosi_edge.basics.statistics import paired_change, proportion
from rosi_edge.cli import application
from rosi_edge.errors import EngineCrashError, EngineError, JudgeError, RosiEdgeError
from rosi_edge.evaluation.run import EvaluateOptions, Named, evaluate
from rosi_edge.evaluation.suites import SuiteChoices, open_suites
from rosi_edge.records.evaluation import EvaluationReport
from rosi_edge.runtime.engine import Engine, EngineOptions

SUITES = "refusal,overrefusal,divergence,utility,jailbreak"
# One thread: several wait for one another at every node, which is slow where others want the cores.
QUICK = ("--max-tokens", "8", "-c", "2048", "-b", "256", "-t", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "base.gguf", layers=3, seed=1)


def open_scripted(
    scripts: dict[Path, Callable[[], ScriptedEngine]], opened: list[Path] | None = None
) -> Callable[[Path, EngineOptions], Engine]:
    def open_engine(path: Path, options: EngineOptions) -> Engine:
        if opened is not None:
            opened.append(path)
        return scripts[path]()  # type: ignore[return-value]

    return open_engine


# --- the report ------------------------------------------------------------------------------------------


def test_two_runs_with_the_same_seed_give_the_same_table(
    tiny_model: Path, base_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("A few plain words, and then some more of them. " * 12)
    command = ("eval", tiny_model, "--base", base_model, "--suites", SUITES, "--attacks", "persona,base64",
               "--text", "short.txt", "--limit", "3", "--seed", "5", "--json", *QUICK)  # fmt: skip
    first = rosi_edge(tmp_path, *command, "--picture", "figures.png")
    assert first.code == 0, first.error
    again = rosi_edge(tmp_path, *command, "--fresh")
    assert again.code == 0, again.error
    assert json.loads(again.out) == json.loads(first.out)
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")

    document = json.loads(first.out)
    for key in ("harmful_refusal_rate", "benign_compliance_rate", "degenerate_rate", "kl_first_token"):
        assert set(document[key]) == {"value", "n", "low", "high"}
        assert document[key]["n"] == (6 if key == "degenerate_rate" else 3)
    assert document["seed"] == 5
    assert list(document["suites"]) == ["refusal", "overrefusal", "jailbreak", "divergence", "utility"]
    assert document["base_figures"]["kl_first_token"] is None
    for name, change in document["changes"].items():
        assert set(change) == {"change", "n", "low", "high", "p_value"}, name
    figures = [figure for suite in document["suites"].values() for figure in suite["figures"].values()]
    assert all(figure["n"] >= 3 for figure in figures)
    names = [name for suite in document["suites"].values() for name in suite["figures"]]
    assert len(set(names)) == len(names)
    assert {entry["name"] for entry in document["prompt_sets"]} >= {
        "harmful_reporting",
        "mini_arc",
        "short",
    }
    assert document["judge"] == {"name": "keyword", "sha256": None, "unreadable": 0}
    assert EvaluationReport.model_validate_json(first.out).model.file_name == "tiny.gguf"

    # The third time everything is there, so no model has to be started. The table shows the same figures.
    table = rosi_edge(tmp_path, *(part for part in command if part != "--json"))
    assert "--fresh measures it again" in table.error
    shown = document["suites"]["refusal"]["figures"]["benign_compliance_rate"]
    assert f"{shown['value']:.3f}" in table.out
    assert "jailbreak success is at least halved" in table.out


# --- both models, with known answers ---------------------------------------------------------------------


def scripted(refused: int) -> Callable[[], ScriptedEngine]:
    """Refuses the first so many harmful requests, answers the rest."""

    def say(prompt: str) -> str:
        words = last_request(prompt).split()
        return REFUSAL if words[0] == "harmful" and int(words[1]) < refused else COMPLIANCE

    return lambda: ScriptedEngine(say)


def prompts(folder: Path, **changes: Any) -> SuiteChoices:
    for name in ("harmful", "benign", "sounds"):
        (folder / f"{name}.txt").write_text("".join(f"{name} {number}\n" for number in range(20)))
    files: dict[str, Any] = {
        "harmful": folder / "harmful.txt",
        "benign": folder / "benign.txt",
        "sounds_harmful": folder / "sounds.txt",
    }
    return SuiteChoices(**{**files, "compared": True, **changes})


def test_a_change_is_paired_and_has_its_p_value(tiny_model: Path, base_model: Path, tmp_path: Path) -> None:
    choices = prompts(tmp_path)
    opened: list[Path] = []
    report = evaluate(
        Named("model", tiny_model),
        open_suites("refusal,overrefusal", choices),
        choices,
        base=Named("base", base_model),
        open_engine=open_scripted({tiny_model: scripted(18), base_model: scripted(8)}, opened),
    )
    assert report.harmful_refusal_rate == proportion(18, 20)
    assert report.base_figures is not None
    assert report.base_figures.harmful_refusal_rate == proportion(8, 20)
    before, after = ([n < refused for n in range(20)] for refused in (8, 18))
    expected = paired_change(before, after)
    assert report.changes["harmful_refusal_rate"] == expected
    assert report.suites["refusal"].figures["harmful_refusal_rate"].change == expected
    assert report.changes["sounds_harmful_compliance_rate"].change == 0
    assert report.base is not None
    assert report.base.reference == "base"
    # One model at a time.
    assert opened == [base_model, tiny_model]


def test_a_suite_that_a_model_cannot_run_costs_only_itself(
    tiny_model: Path, base_model: Path, tmp_path: Path
) -> None:
    class Unshiftable(ScriptedEngine):
        def extend_session(self, tokens: list[int], *, window: int) -> None:
            raise EngineError("this model's memory cannot be shifted", "Leave the suite out")

    choices = prompts(tmp_path, compared=False, sounds_harmful=None)
    report = evaluate(
        Named("model", tiny_model),
        open_suites("refusal,stability", choices),
        choices,
        open_engine=open_scripted({tiny_model: Unshiftable}),
    )
    assert report.harmful_refusal_rate == proportion(20, 20)
    assert report.suites["stability"].problem == "this model's memory cannot be shifted. Leave the suite out."
    assert report.suites["stability"].figures == {}
    with pytest.raises(EngineError, match="cannot be shifted"):
        evaluate(
            Named("model", tiny_model),
            open_suites("stability", replace(choices, benign=None)),
            choices,
            open_engine=open_scripted({tiny_model: Unshiftable}),
        )


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), EngineCrashError("llama.cpp crashed", "Try again")])
def test_whatever_ends_a_run_keeps_what_is_done(
    tiny_model: Path, base_model: Path, tmp_path: Path, failure: BaseException
) -> None:
    choices = prompts(tmp_path)
    models = {"model": Named("model", tiny_model), "base": Named("base", base_model)}

    def run(
        scripts: dict[Path, Callable[[], ScriptedEngine]], opened: list[Path], fresh: bool = False
    ) -> Any:
        return evaluate(
            models["model"],
            open_suites("refusal,overrefusal", choices),
            choices,
            base=models["base"],
            options=EvaluateOptions(fresh=fresh),
            open_engine=open_scripted(scripts, opened),
        )

    def failing() -> ScriptedEngine:
        def say(prompt: str) -> str:
            if "sounds" in prompt:
                raise failure
            return REFUSAL

        return ScriptedEngine(say)

    with pytest.raises(type(failure)):
        run({base_model: scripted(8), tiny_model: failing}, [])
    opened: list[Path] = []
    engine = ScriptedEngine()
    resumed = run({tiny_model: lambda: engine}, opened)
    assert opened == [tiny_model]  # the base was done
    assert {last_request(prompt).split()[0] for prompt in engine.asked} == {"sounds"}
    fresh = run({base_model: scripted(8), tiny_model: ScriptedEngine}, opened, fresh=True)
    assert fresh == resumed
    assert engine.closed


def test_engine_flags_that_change_figures_start_anew(tiny_model: Path, tmp_path: Path) -> None:
    choices = prompts(tmp_path, compared=False, sounds_harmful=None)

    def opened_with(options: EngineOptions) -> list[Path]:
        opened: list[Path] = []
        evaluate(
            Named("model", tiny_model),
            open_suites("refusal", choices),
            choices,
            options=EvaluateOptions(engine=options),
            open_engine=open_scripted({tiny_model: ScriptedEngine}, opened),
        )
        return opened

    assert opened_with(EngineOptions()) == [tiny_model]
    assert opened_with(EngineOptions(threads=1)) == []
    assert opened_with(EngineOptions(template="{{ messages }}")) == [tiny_model]
    assert opened_with(EngineOptions(rpc=("localhost:50052",))) == [tiny_model]


# --- the judge ------------------------------------------------------------------------------------------


def judged_by(url: str) -> EvaluateOptions:
    return EvaluateOptions(judge=url)


def test_a_judge_server_that_dies_half_way_costs_only_what_it_was_to_judge(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = 25

    def reply(seen: Seen) -> Reply:
        return completion("refused") if len(seen.bodies) <= alive else (401, b"gone")

    choices = replace(prompts(tmp_path, compared=False), limit=20, utility=None)
    named = Named("model", tiny_model)
    engine = ScriptedEngine(logits=lambda _: np.zeros(VOCABULARY, dtype=np.float32))

    def run(url: str, asked: ScriptedEngine) -> EvaluationReport:
        return evaluate(
            named,
            open_suites("refusal,overrefusal,utility", choices),
            choices,
            options=judged_by(url),
            open_engine=open_scripted({tiny_model: lambda: asked}),
        )

    with server(reply) as (url, _):
        report = run(url, engine)
        assert report.harmful_refusal_rate is None
        problem = report.suites["refusal"].problem
        assert problem is not None
        assert "after 5 of 20 answers" in problem
        assert report.suites["overrefusal"].problem == problem
        assert report.suites["utility"].figures["utility_acc"].n == 60
        # A judge that is gone is not asked again, nor is the model asked for nobody.
        assert {last_request(prompt).split()[0] for prompt in engine.asked} == {"harmful", "benign"}

        monkeypatch.setattr("rosi_edge.evaluation.run.evaluate", lambda *_, **__: report)
        found = CliRunner().invoke(application, ["eval", str(tiny_model)], standalone_mode=False)
        assert found.return_value == 2, found
        assert "mini arc: accuracy" in found.stdout
        (line,) = found.stderr.splitlines()
        assert line.startswith("rosi-edge: the suites refusal, overrefusal could not run: the judge server")
        monkeypatch.undo()
        monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path / "cache"))

        alive = 1000
        again = ScriptedEngine(logits=lambda _: np.zeros(VOCABULARY, dtype=np.float32))
        resumed = run(url, again)
        assert resumed.harmful_refusal_rate == proportion(20, 20)
        # The judged part of the first call is there.
        assert {last_request(prompt).split()[0] for prompt in again.asked} == {"benign", "sounds"}


def test_a_judge_that_fails_everything_is_the_error(tiny_model: Path, tmp_path: Path) -> None:
    choices = prompts(tmp_path, compared=False)
    with (
        server(lambda _: completion("a nice answer")) as (url, _),
        pytest.raises(JudgeError, match="gave no verdict"),
    ):
        evaluate(
            Named("model", tiny_model),
            open_suites("refusal,overrefusal", choices),
            choices,
            options=judged_by(url),
            open_engine=open_scripted({tiny_model: ScriptedEngine}),
        )


def test_the_report_names_a_guard_by_the_hash_of_its_file(tiny_model: Path, tmp_path: Path) -> None:
    guard = write_tiny_llama(
        tmp_path / "guard.gguf",
        architecture="qwen3",
        context=8192,
        metadata={"general.name": "Qwen3Guard-Gen-0.6B"},
    )
    choices = prompts(tmp_path, compared=False, sounds_harmful=None)
    options = EvaluateOptions(judge=f"gguf:{guard}", engine=EngineOptions(threads=1, context_size=2048))

    def run(say: str) -> EvaluationReport:
        return evaluate(
            Named("model", tiny_model),
            open_suites("refusal", choices),
            choices,
            options=options,
            open_engine=open_scripted({tiny_model: lambda: ScriptedEngine(lambda _: say)}),
        )

    # Broken text needs no guard's opinion, of which random weights have none.
    report = run(BROKEN)
    assert report.degenerate_rate == proportion(40, 40)
    assert report.judge is not None
    assert report.judge.sha256 == hashlib.sha256(guard.read_bytes()).hexdigest()
    assert report.judge.name.startswith("qwen3guard-gen guard.gguf sha256:")
    assert json.loads(report.model_dump_json())["judge"]["sha256"] == report.judge.sha256


# --- interruption of the real command --------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done_and_the_next_call_goes_on(
    tiny_model: Path, tmp_path: Path, cache: Path
) -> None:
    command = ["eval", tiny_model, "--suites", "refusal,stability", "--stability-tokens", "1000000",
               "--limit", "10", *QUICK, "-c", "8192"]  # fmt: skip
    process = start(tmp_path, command)
    family = []
    try:
        deadline = time.monotonic() + 240
        while not (kept := list(cache.glob("evaluations/*.jsonl"))) or kept[0].read_text().count("\n") < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, error
    assert out == ""
    assert "run the same command to go on" in error
    assert psutil.wait_procs(family, timeout=10)[1] == []

    # What is done is read, not measured: its two lines are all there is afterwards.
    before = kept[0].read_bytes()
    found = rosi_edge(tmp_path, "eval", tiny_model, "--suites", "refusal", "--limit", "10", "--json", *QUICK,
                      "-c", "8192")  # fmt: skip
    assert found.code == 0, found.error
    assert kept[0].read_bytes() == before
    assert json.loads(found.out)["harmful_refusal_rate"]["n"] == 10


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--suites", "refusals"), ("no suite called 'refusals'", "stability")),
        (("--suites", "divergence"), ("--base MODEL",)),
        (("--suites", "utility", "--utility", "gone.csv"), ("gone.csv",)),
        (("--suites", "utility", "--utility", "{unanswered}"), ("unanswered.csv", "line 2", "answer")),
        (("--suites", "jailbreak", "--attacks", "dan+"), ("no attack called",)),
        (("--xstest", "{folder}"), ("is a folder",)),
        (("--base", "{model}", "--text", "{blank}"), ("is empty",)),
        (("--harmful", "{blank}"), ("holds no prompts",)),
        (("--judge", "gguf:{model}"), ("is no guard model",)),
        (("--judge", "gguf:gone.gguf"), ("gone.gguf",)),
        (("--judge", "http://"), ("address of a judge server|no judge",)),
        (("--judge", "oracle"), ("no judge 'oracle'",)),
        (("--picture", "{folder}"), ("is a folder",)),
        (("--text", "x.txt", "--suites", "refusal"), ("--text belongs to the suite divergence",)),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    tiny_model: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "unanswered.csv").write_text("Q1,a,b,c,d,A\nQ2,a,b,c,d,\n")
    (tmp_path / "blank.txt").write_text("\n \n")
    places = {
        "model": tiny_model,
        "folder": tmp_path,
        "blank": tmp_path / "blank.txt",
        "unanswered": tmp_path / "unanswered.csv",
    }
    filled = [flag.format(**places) for flag in flags]
    found = CliRunner().invoke(application, ["eval", str(tiny_model), *filled])
    assert isinstance(found.exception, RosiEdgeError), found
    assert found.output == ""
    assert "\n" not in str(found.exception)
    assert found.exception.remedy
    assert any(word in str(found.exception) for word in words[0].split("|")), found.exception
    assert all(word in str(found.exception) for word in words[1:])


def test_blank_and_doubled_lines_of_a_prompt_file_count_once(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "harmful.txt"
    choices = prompts(tmp_path, compared=False, sounds_harmful=None)
    path.write_text("\nharmful 1\n\n  harmful   1 \nharmful 2\nharmful 1\n\n")
    notes: list[str] = []

    class Noted:
        stage = staticmethod(SILENT.stage)
        note = staticmethod(notes.append)

    report = evaluate(
        Named("model", tiny_model),
        open_suites("refusal,jailbreak", replace(choices, attacks="persona")),
        choices,
        progress=Noted,
        open_engine=open_scripted({tiny_model: ScriptedEngine}),
    )
    assert report.harmful_refusal_rate == proportion(2, 2)
    # Once, though two suites read the file.
    assert notes == ["harmful: 2 doubled lines count once."]


def test_a_dead_judge_server_is_one_line_and_exit_code_2(tiny_model: Path, tmp_path: Path) -> None:
    found = rosi_edge(tmp_path, "eval", tiny_model, "--judge", "http://127.0.0.1:9", "--suites", "refusal",
                      "--limit", "2", *QUICK)  # fmt: skip
    if found.code == 0:
        # The tiny model's answers are broken text, which no judge is asked about.
        assert "1.000" in found.out
    else:
        assert_refused(found, "127.0.0.1:9", "cannot be reached")
