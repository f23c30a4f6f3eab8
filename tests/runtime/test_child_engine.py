"""The engine in a child process: same results, and a crash or a hostile template is only an error."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tiny_gguf import CHATML, write_tiny_llama

from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineCrashError, EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.runtime import child_engine
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Keep, Positions, Tapped, TapRequest

SMALL = EngineOptions(threads=1, context_size=1024, sequences=4)
CONVERSATIONS = [ask(f"What is {index} in words?", "Be brief.") for index in range(9)]
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}" + CHATML
)


@pytest.fixture(scope="module")
def child(tiny_model: Path) -> Iterator[ChildEngine]:
    with ChildEngine(tiny_model, SMALL) as engine:
        yield engine


@pytest.fixture
def own_child(tiny_model: Path) -> Iterator[ChildEngine]:
    """One to be killed."""
    with ChildEngine(tiny_model, SMALL) as engine:
        yield engine


def process_of(engine: ChildEngine) -> psutil.Process:
    return psutil.Process(engine._process.pid)


def test_same_results_as_in_process(tiny_model: Path, child: ChildEngine) -> None:
    edit = RankOneEdit("blk.1.ffn_down.weight", np.ones(64, "f"), np.full(128, 0.1, "f"))
    request = TapRequest(
        blocks=(0, 2), inputs=(edit.tensor,), positions=Positions.ALL, keep=Keep.SECOND_MOMENT
    )
    with LlamaEngine(tiny_model, SMALL) as inside:
        assert child.facts == inside.facts
        prompts = child.encode(CONVERSATIONS)
        assert prompts == inside.encode(CONVERSATIONS)
        assert child.encode_text(["ab c"]) == inside.encode_text(["ab c"])
        for strength in (0.0, 2.0):
            for engine in (child, inside):
                engine.apply({engine.load_edits([edit]): strength})
            np.testing.assert_array_equal(
                child.next_token_logprobs(prompts), inside.next_token_logprobs(prompts)
            )
            assert child.generate(prompts, max_tokens=4) == inside.generate(prompts, max_tokens=4)
            ours, theirs = (engine.capture(prompts, request) for engine in (child, inside))
            each: dict[int | str, Tapped] = {}
            child.capture_each(prompts, request, each.__setitem__)
            assert set(each) == {0, 2, edit.tensor}
            for a, b, c in zip(
                (*ours.streams.values(), *ours.inputs.values()),
                (*theirs.streams.values(), *theirs.inputs.values()),
                (each[0], each[2], each[edit.tensor]),
                strict=True,
            ):
                assert a.count == b.count == c.count
                assert c.mean is not None
                np.testing.assert_array_equal(a.mean, c.mean)
                assert a.mean is not None
                assert b.mean is not None
                assert a.second_moment is not None
                np.testing.assert_array_equal(a.mean, b.mean)
                np.testing.assert_array_equal(a.second_moment, b.second_moment)
        child.apply({})


def test_progress_crosses_the_pipe(child: ChildEngine) -> None:
    prompts = child.encode(CONVERSATIONS)
    counted: list[int] = []
    child.next_token_logprobs(prompts, advance=counted.append)
    assert sum(counted) == len(prompts)
    assert len(counted) > 1


def test_errors_keep_their_class_and_remedy(child: ChildEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        child.next_token_logprobs([[3] * 5000])
    assert not isinstance(caught.value, EngineCrashError)
    assert "-c" in caught.value.remedy
    vector = np.ones(64, "f")
    write_adapter(
        tmp_path / "other.gguf",
        [RankOneEdit("blk.0.attn_output.weight", vector, vector)],
        architecture="gemma",
    )
    with pytest.raises(EngineError, match="cannot load the adapter"):
        child.load_adapter(tmp_path / "other.gguf")
    # And the child goes on.
    assert child.encode_text(["a"])

    with pytest.raises(ModelFileError, match="does not exist"):
        ChildEngine(tmp_path / "missing.gguf")
    no_template = write_tiny_llama(tmp_path / "base.gguf", chat_template=None)
    with (
        ChildEngine(no_template, SMALL) as engine,
        pytest.raises(UnsupportedModelError, match="no chat template"),
    ):
        engine.encode(CONVERSATIONS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_child_that_dies_in_a_call(own_child: ChildEngine, number: signal.Signals) -> None:
    prompts = own_child.encode(CONVERSATIONS)
    process = process_of(own_child)

    def kill(units: int) -> None:
        process.send_signal(number)

    with pytest.raises(EngineCrashError, match=number.name) as caught:
        own_child.generate(prompts, max_tokens=40, advance=kill)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    # Later calls say the same instead of hanging.
    with pytest.raises(EngineCrashError, match=number.name):
        own_child.encode(CONVERSATIONS)


def test_a_child_that_is_stopped_from_outside_while_it_computes(own_child: ChildEngine) -> None:
    process = process_of(own_child)
    timer = threading.Timer(0.3, process.kill)
    timer.start()
    with pytest.raises(EngineCrashError, match="SIGKILL"):
        while True:
            own_child.generate(own_child.encode(CONVERSATIONS), max_tokens=30)
    timer.join()


def crashing_model(folder: Path) -> Path:
    """A sound file to our reader; llama.cpp asserts while it builds the graph."""
    return write_tiny_llama(
        folder / "crash.gguf", architecture="qwen2", metadata={"qwen2.rope.dimension_count": 200}
    )


def test_a_ggml_abort_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineCrashError) as caught:
        ChildEngine(crashing_model(tmp_path), SMALL)
    assert "SIGABRT" in str(caught.value)
    assert "GGML_ASSERT" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(process.status() != psutil.STATUS_ZOMBIE for process in psutil.Process().children())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("template", [ENDLESS, "{{ 9 ** (9 ** 9) }}"], ids=["loop", "constant"])
def test_an_endless_template_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    """Constants too: they are worked out while the template is compiled."""
    path = write_tiny_llama(tmp_path / "endless.gguf", chat_template=template)
    monkeypatch.setattr(child_engine, "_TEMPLATE_SECONDS", 1.0)
    with ChildEngine(path, SMALL) as engine:
        process = process_of(engine)
        start = time.monotonic()
        with pytest.raises(EngineCrashError, match="chat template") as caught:
            engine.encode(CONVERSATIONS)
        assert time.monotonic() - start < 10
        assert "--template" in caught.value.remedy
        process.wait(5)


def test_closing_ends_the_child_even_while_it_works(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "endless.gguf", chat_template=ENDLESS)
    engine = ChildEngine(path, SMALL)
    process = process_of(engine)

    def encode() -> None:
        with contextlib.suppress(EngineCrashError, OSError, EOFError):
            engine.encode(CONVERSATIONS)

    worker = threading.Thread(target=encode)
    worker.start()
    time.sleep(0.3)
    assert process.is_running()
    start = time.monotonic()
    process.kill()
    worker.join(10)
    engine.close()
    assert time.monotonic() - start < 5
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_closing_ends_the_child(tiny_model: Path) -> None:
    with ChildEngine(tiny_model, SMALL) as engine:
        process = process_of(engine)
        assert process.is_running()
    assert not process.is_running()


def test_an_interrupt_in_the_parent_leaves_a_child_that_can_be_closed(own_child: ChildEngine) -> None:
    process = process_of(own_child)

    def interrupt(units: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own_child.generate(own_child.encode(CONVERSATIONS), max_tokens=20, advance=interrupt)
    own_child.close()
    assert not process.is_running()


_PARENT = """
import sys
from pathlib import Path
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions, ask

engine = ChildEngine(Path(sys.argv[1]), EngineOptions(threads=1))
print(engine._process.pid, flush=True)
engine.generate(engine.encode([ask("Hello")]), max_tokens=3)
print("done", flush=True)
sys.stdin.read()
"""


def test_nothing_of_llama_cpps_log_is_seen_and_the_child_follows_its_parent(
    tiny_model: Path, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert parent.stdout.readline() == "done\n"
    parent.send_signal(signal.SIGKILL)
    child.wait(10)
    rest, errors = parent.communicate(timeout=10)
    assert rest == ""
    assert errors == ""


_STARTING = """
import sys
from pathlib import Path
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions

with ChildEngine(Path(sys.argv[1]), EngineOptions(threads=1)):
    print("ready", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_ctrl_c_while_the_child_starts_is_the_parents_business(tiny_model: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group; a child that is still importing must not die of it aloud."""
    script = tmp_path / "parent.py"
    script.write_text(_STARTING)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child = None
    while child is None and parent.poll() is None:
        for process in psutil.Process(parent.pid).children():
            with contextlib.suppress(psutil.Error):
                if any("rosi_edge.runtime.serve" in argument for argument in process.cmdline()):
                    child = process
    assert child is not None
    for _ in range(20):
        child.send_signal(signal.SIGINT)
        time.sleep(0.01)
    out, errors = parent.communicate(timeout=60)
    assert (out, errors, parent.returncode) == ("ready\n", "", 0)


_PLAIN = """
import sys
from pathlib import Path
from rosi_edge.runtime.engine import ask
from rosi_edge.runtime.open_engine import open_engine

print("once")
engine = open_engine(Path(sys.argv[1]))
print(len(engine.generate(engine.encode([ask("Hello")]), max_tokens=3)[0].tokens))
"""


def plain_script(folder: Path, model: Path, **keywords: Any) -> subprocess.CompletedProcess[str]:
    script = folder / "plain.py"
    script.write_text(_PLAIN)
    return subprocess.run(
        [sys.executable, str(script), str(model)], capture_output=True, text=True, timeout=120, **keywords
    )


def test_a_plain_script_works_and_runs_once(tiny_model: Path, tmp_path: Path) -> None:
    """No ``if __name__ == "__main__":``, and the engine is not closed either."""
    done = plain_script(tmp_path, tiny_model)
    assert (done.stdout, done.stderr, done.returncode) == ("once\n3\n", "", 0)


def test_what_lies_in_the_current_folder_is_not_imported(tiny_model: Path, tmp_path: Path) -> None:
    here = tmp_path / "downloads"
    here.mkdir()
    for name in ("numpy", "llama_cpp", "rosi_edge", "struct"):
        (here / f"{name}.py").write_text("raise SystemExit('imported')")
    done = plain_script(tmp_path, tiny_model, cwd=here)
    assert (done.stdout, done.stderr, done.returncode) == ("once\n3\n", "", 0)


def test_modules_are_found_where_the_parent_finds_them(tiny_model: Path, tmp_path: Path) -> None:
    """As in an application that puts the package on its path by itself."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rosi_edge").symlink_to(Path(child_engine.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {str(elsewhere)!r}); sys.argv[1] = {str(tiny_model)!r}\n{_PLAIN}"
    code += (
        "\nimport psutil; print(psutil.Process(engine._process.pid).environ()['PYTHONPATH'].split(':')[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, ""], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == (f"once\n3\n{elsewhere}\n", "")


@pytest.mark.parametrize("policy", [None, "active"])
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, policy: str | None
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    with ChildEngine(tiny_model, SMALL) as engine:
        assert process_of(engine).environ()["OMP_WAIT_POLICY"] == (policy or "passive")
    assert os.environ.get("OMP_WAIT_POLICY") == policy


def test_an_engine_that_nobody_holds_is_ended(tiny_model: Path) -> None:
    engine = ChildEngine(tiny_model, SMALL)
    process = process_of(engine)
    del engine
    gc.collect()
    assert not process.is_running()


def test_a_python_that_cannot_run_the_child(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever embeds Python may have a ``sys.executable`` that is another program, or none."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="none cannot be started: No such file"):
        ChildEngine(tiny_model)
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho No module named rosi_edge\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(other))
    with pytest.raises(EngineCrashError, match="failed: No module named rosi_edge") as caught:
        ChildEngine(tiny_model)
    assert str(other) in caught.value.remedy
