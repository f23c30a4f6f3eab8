"""The command line as its users meet it: the real executable, its exit codes and its two streams."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import gguf
import psutil
import pytest
from command import assert_refused, rosi_edge, start, write_requests

from rosi_edge import __version__

QUICK = ("-t", "1", "-c", "1024")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # A search is kept there, to be gone on with: neither the user's folder nor an earlier test's.
    monkeypatch.setenv("ROSI_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"temporary"}


def test_help_and_version(tmp_path: Path) -> None:
    shown = rosi_edge(tmp_path, "--help")
    assert (shown.code, shown.error) == (0, "")
    for command in ("inspect", "extract", "harden", "eval"):
        assert f"\n  {command} " in shown.out
    harden = rosi_edge(tmp_path, "harden", "-h")
    assert (harden.code, harden.error) == (0, "")
    flags = (
        "--output --method --layer --alpha --min-compliance --max-kl --trials --time-limit --storage "
        "--no-paper --elicit --rounding --min-delivered --promote --stress --adapter "
        "--report -ngl -c -t -b"
    )
    for flag in flags.split():
        assert flag in harden.out
    version = rosi_edge(tmp_path, "--version")
    assert version.code == 0
    assert __version__ in version.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), ""),
        (("frobnicate",), "frobnicate"),
        (("inspect",), "MODEL"),
        (("harden", "x.gguf", "-o", "y.gguf", "--alpha", "strong"), "strong"),
        (("harden", "x.gguf", "-o", "y.gguf", "--alpha", "-3"), "-3"),
        (("harden", "x.gguf", "-o", "y.gguf", "--alpha", "nan"), "nan"),
        (("harden", "x.gguf", "-o", "y.gguf", "--layer", "1.5"), "1.5"),
        (("harden", "x.gguf", "-o", "y.gguf", "--min-compliance", "90"), "90"),
        (("harden", "x.gguf", "-o", "y.gguf", "--method", "magic"), "magic"),
        (("eval", "x.gguf", "--benign", "y.txt"), "--benign is called --harmless"),
        (("harden", "x.gguf", "-o", "y.gguf", "--time-limit", "soon"), "soon"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    if not arguments:
        # No command at all: the help, as every such tool shows it, and not a success.
        result = rosi_edge(tmp_path)
        assert result.code == 2
        assert "Usage" in result.out + result.error
        return
    assert_refused(rosi_edge(tmp_path, *arguments), word, "--help")
    assert names(tmp_path) == set()


def test_inspect(tiny_model: Path, tmp_path: Path) -> None:
    text = rosi_edge(tmp_path, "inspect", tiny_model)
    assert (text.code, text.error) == (0, "")
    for shown in (
        "llama",
        "F32",
        digest(tiny_model),
        "3 × attention, F32, 64×64",
        "3 × mlp, F32, 64×128",
        "can be hardened",
    ):
        assert shown in text.out
    found = rosi_edge(tmp_path, "inspect", tiny_model, "--json")
    assert (found.code, found.error) == (0, "")
    facts = json.loads(found.out)
    assert facts["architecture"] == "llama"
    assert facts["sha256"] == digest(tiny_model)
    assert facts["size"] == tiny_model.stat().st_size
    assert facts["can_harden"] is True
    assert facts["chat_template"] is True
    assert len(facts["write_matrices"]) == 6
    assert facts["quantization"]["F32"]["tensors"] == len(gguf.GGUFReader(tiny_model).tensors)


def test_extract(tiny_model: Path, tmp_path: Path) -> None:
    before = digest(tiny_model)
    for kind in ("harmful", "harmless"):
        (tmp_path / f"{kind}.txt").write_text("".join(f"{kind} {index}\n" for index in range(6)))
    found = rosi_edge(
        tmp_path, "extract", tiny_model, "-o", "direction.gguf", "--harmful", "harmful.txt",
        "--harmless", "harmless.txt", "--elicit", "--json", *QUICK,
    )  # fmt: skip
    assert (found.code, found.error) == (0, "")
    facts = json.loads(found.out)
    assert (facts["harmful_prompts"], facts["harmless_prompts"]) == (6, 6)
    assert "refuse" in facts["elicitation"]
    assert [entry["layer"] for entry in facts["separation"]] == [0, 1, 2]
    reader = gguf.GGUFReader(tmp_path / "direction.gguf")
    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2"]
    assert reader.fields["rosi.source.sha256"].contents() == before
    assert digest(tiny_model) == before
    assert names(tmp_path) == {"harmful.txt", "harmless.txt", "direction.gguf"}


def test_harden_reports_a_finding(tiny_model: Path, tmp_path: Path) -> None:
    """Random weights never refuse: the honest result is 'ineffective', exit code 1 and no file."""
    before = digest(tiny_model)
    command = [
        "harden", tiny_model, "-o", "out.gguf", "--layer", "1", "--alpha", "0.01", "--report", "report",
        "--trials", "2", "--stress", "2", *write_requests(tmp_path), *QUICK,
    ]  # fmt: skip
    found = rosi_edge(tmp_path, *command, "--json")
    assert found.code == 1, found.error
    report = json.loads(found.out)
    assert report["verdict"]["status"] == "ineffective"
    assert (report["injection"]["method"], report["injection"]["rounding"]) == ("conditional", "grid")
    assert report["stress"]["requests"] == 2
    assert report["model"]["sha256"] == before
    assert not (tmp_path / "out.gguf").exists()
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    assert "report.md" in names(tmp_path / "report")

    forced = rosi_edge(tmp_path, *command, "--force")
    assert forced.code == 1
    for shown in ("ineffective", "chosen ", "delivered ", "rounding ", "attacks "):
        assert shown in forced.out
    assert (tmp_path / "out.gguf").exists()
    assert digest(tmp_path / "out.gguf") in forced.out
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    assert digest(tiny_model) == before


def test_eval(tiny_model: Path, tmp_path: Path) -> None:
    write_requests(tmp_path, 8)
    found = rosi_edge(
        tmp_path, "eval", tiny_model, "--base", tiny_model, "--harmful", "harmful.txt",
        "--harmless", "harmless.txt", "--sounds-harmful", "sounds-harmful.txt", "--json", *QUICK,
    )  # fmt: skip
    assert found.code == 0, found.error
    facts = json.loads(found.out)
    for key in ("harmful_refusal_rate", "benign_compliance_rate", "degenerate_rate", "kl_first_token"):
        assert {"value", "n", "low", "high"} <= set(facts[key]), key
    assert facts["kl_first_token"]["value"] == pytest.approx(0, abs=1e-6)
    assert facts["harmful_refusal_rate"]["n"] == 8


def test_a_closed_pipe_is_no_traceback(tiny_model: Path, tmp_path: Path) -> None:
    process = start(tmp_path, ["inspect", tiny_model, "--json"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 2


# --- interrupts ------------------------------------------------------------------------------------------


def engine_of(process: psutil.Process) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            if "rosi_edge.runtime.serve" in child.cmdline():
                return child
    return None


@pytest.mark.parametrize(
    ("number", "delay"), [(signal.SIGINT, 0.0), (signal.SIGINT, 2.5), (signal.SIGTERM, 2.5)]
)
def test_an_interrupt_leaves_nothing(
    tiny_model: Path, tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    """Ctrl-C goes to the whole group, SIGTERM to the one process; both while the engine works (or starts)."""
    before = digest(tiny_model)
    folder = tmp_path / "w"  # a socket's whole path may have 107 characters
    folder.mkdir()
    # The bundled prompts, which take the tiny model far longer than this test waits.
    process = start(folder, ["harden", tiny_model, "-o", "out.gguf", "--adapter", "adapter.gguf", "-t", "1"])
    parent = psutil.Process(process.pid)
    child = None
    while child is None and process.poll() is None:
        child = engine_of(parent)
        time.sleep(0.01)
    assert child is not None, process.communicate()
    family = parent.children(recursive=True)
    time.sleep(delay)
    assert process.poll() is None, process.communicate()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    asked = time.monotonic()
    out, error = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert process.returncode == 130
    assert error.splitlines()[-1] == "rosi-edge: interrupted; nothing is left half-written"
    assert "Traceback" not in error
    assert out == ""
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert names(folder) == set()
    assert list((folder / "temporary").iterdir()) == []
    assert digest(tiny_model) == before
