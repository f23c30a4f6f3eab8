"""The installed tool, in an empty folder: light, as for whoever only checks files, and whole."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from baking import hardened
from command import write_requests
from installed import Environment, commands, only_line
from tiny_gguf import write_tiny_llama
from tmux import Terminal, needs_tmux

from rosi_edge.quantization.rounding import Requantize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    empty = tmp_path / "empty"
    empty.mkdir()
    return empty


def test_nothing_of_the_checkout_is_found(light: Environment, whole: Environment, folder: Path) -> None:
    look = "import rosi_edge, rosi_edge_tui, sys; print(rosi_edge.__file__, rosi_edge_tui.__file__, sys.path)"
    for environment in (light, whole):
        done = environment.run(folder, "python", "-c", look)
        assert str(Path(__file__).parents[1] / "rosi_edge") not in done.stdout
        assert done.stdout.count(str(environment.folder)) >= 2
    for name, there in ((light, False), (whole, True)):
        look = "from importlib.util import find_spec; print(find_spec('llama_cpp') is not None)"
        assert name.run(folder, "python", "-c", look).stdout == f"{there}\n"


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(["rosi-edge", *command]))
def test_help(light: Environment, folder: Path, command: list[str]) -> None:
    done = light.run(folder, "rosi-edge", *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["Usage: rosi-edge", *command]))


# The larger edit does not fit the types: some matrices get larger ones, or other scales.
@pytest.mark.parametrize("share", [0.1, 1.5])
def test_files_are_checked_without_llama_cpp(
    light: Environment, whole: Environment, folder: Path, share: float
) -> None:
    source, target = hardened(folder, share)
    done = light.run(folder, "rosi-edge", "inspect", target, "--json")
    assert done.returncode == 0, done
    warnings = ["this file has been hardened before", "whether llama.cpp loads it was not tried"]
    assert [text.partition(":")[0] for text in json.loads(done.stdout)["warnings"]] == warnings[::-1]
    assert "was not tried" in light.run(folder, "rosi-edge", "inspect", target).stdout
    done = light.run(folder, "rosi-edge", "check", target, "--static", "--base", source, "--json")
    assert done.returncode == 0, done
    (sane,) = [result for result in json.loads(done.stdout)["results"] if result["id"] == "RE101"]
    assert "was not tried" in sane["message"] and sane["evidence"]["llama_cpp_tried"] is False
    found = []
    for environment in (light, whole):
        done = environment.run(folder, "rosi-edge", "verify", target, "--base", source, "--json")
        assert done.returncode == 0, done
        found.append(json.loads(done.stdout))
    assert found[0] == found[1], "what is installed decides nothing"
    assert ({"promoted", "rescaled"} & {tensor["scales"] for tensor in found[0]["tensors"]} != set()) == (
        share > 1
    )
    content = bytearray(target.read_bytes())
    content[-1] ^= 1
    target.write_bytes(content)
    assert light.run(folder, "rosi-edge", "verify", target, "--base", source).returncode == 1


def test_what_was_requantized_asks_for_its_quantizer(light: Environment, folder: Path) -> None:
    source, target = hardened(folder, 0.1, Requantize())
    done = light.run(folder, "rosi-edge", "verify", target, "--base", source)
    only_line(done, ["quantizing to Q3_K needs packages", "pip install 'rosi-edge[run]'"])


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["harden", "tiny.gguf"], "run"),
        (["extract", "tiny.gguf", "-o", "out.gguf"], "run"),
        (["eval", "tiny.gguf"], "run"),
        (["study", "calibration", "tiny.gguf"], "run"),
        (["study", "directions", "tiny.gguf"], "run"),
        (["tui"], "tui"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_what_needs_more_says_what_to_install(
    light: Environment, folder: Path, command: list[str], extra: str
) -> None:
    write_tiny_llama(folder / "tiny.gguf")
    # A browser's driver stands for a terminal.
    done = light.run(folder, "rosi-edge", *command, TEXTUAL_DRIVER="none")
    only_line(done, ["needs packages that are not installed (llama_cpp", f"pip install 'rosi-edge[{extra}]'"])
    assert [path.name for path in folder.iterdir()] == ["tiny.gguf"]


def test_a_check_that_cannot_measure_is_no_pass(light: Environment, folder: Path) -> None:
    model = write_tiny_llama(folder / "tiny.gguf")
    (folder / "policy.toml").write_text("version = 1\n[figures.harmful_refusal_rate]\nmin = 0.5\n")
    done = light.run(folder, "rosi-edge", "check", model, "--policy", "policy.toml")
    assert done.returncode == 2, done
    assert "measuring behaviour needs packages" in " ".join(done.stdout.split())


def test_a_tiny_file_is_hardened_and_then_verified(
    light: Environment, whole: Environment, folder: Path
) -> None:
    model = write_tiny_llama(folder / "tiny.gguf", layers=3)
    few = ["--trials", "1", "--layer", "1", "--stress", "0", "--no-paper", "--max-kl", "99"]
    free = ["--alpha", "0.5", "--min-compliance", "0", "--min-delivered", "0", "--force"]
    done = whole.run(folder, "rosi-edge", "harden", model, *few, *free, *write_requests(folder, 20))
    assert done.returncode in (0, 1), done
    done = light.run(folder, "rosi-edge", "verify", folder / "tiny-hardened.gguf", "--base", model)
    assert done.returncode == 0, done


@needs_tmux
def test_the_wizards_first_screen(whole: Environment, folder: Path, tmp_path: Path) -> None:
    write_tiny_llama(folder / "tiny.gguf", layers=3)
    terminal = Terminal(tmp_path, (100, 30), **whole.variables(XDG_STATE_HOME=str(tmp_path / "state")))
    try:
        terminal.type(
            f"cd {shlex.quote(str(folder))}; {whole.tools / 'rosi-edge'} tui tiny.gguf; echo code=$?\n"
        )
        terminal.until("can be hardened", "✓ yes", "Continue")
        terminal.keys("C-q")
        terminal.until("code=0")
    finally:
        terminal.close()
