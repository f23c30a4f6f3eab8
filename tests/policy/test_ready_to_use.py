"""The action, the hook and the GitLab snippet: their steps run here as plain shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_gguf import write_tiny_llama

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "release-gate"


def shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """As the runner does: bash that stops at the first error, with the tool on the path."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"} | variables
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def unsafe(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "unsafe.gguf", chat_template="{% include 'x' %}")


def action() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    return loaded


def run_action(folder: Path, model: str, **inputs: str) -> tuple[int, dict[str, str], str]:
    """The action's check step: exit code, outputs, job summary."""
    loaded = action()
    (step,) = [step for step in loaded["runs"]["steps"] if step.get("id") == "check"]
    given = {name: str(entry.get("default", "")) for name, entry in loaded["inputs"].items()}
    given |= {"model": model, "static": "true"} | inputs
    variables = {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    output, summary = folder / "output", folder / "summary"
    output.write_text("")
    summary.write_text("")
    done = shell(
        step["run"], folder, GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(summary), **variables
    )
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return done.returncode, outputs, summary.read_text()


def test_the_action_passes_fails_and_cannot_run(tiny_model: Path, unsafe: Path, tmp_path: Path) -> None:
    code, outputs, summary = run_action(tmp_path, str(tiny_model))
    assert (code, outputs["verdict"]) == (0, "passed")
    assert (tmp_path / outputs["sarif"]).is_file()
    assert "passed" in summary
    code, outputs, summary = run_action(tmp_path, str(unsafe), reports="other reports")
    assert (code, outputs["verdict"]) == (1, "failed")
    assert (tmp_path / "other reports" / "junit.xml").is_file()
    assert "RE106" in summary
    code, outputs, summary = run_action(tmp_path, "none.gguf", reports="third")
    assert (code, outputs["verdict"]) == (2, "could not run")
    assert "could not run" in summary
    # In the folder of the run that passed, and without a report of its own.
    code, outputs, summary = run_action(tmp_path, str(unsafe), policy="none.toml")
    assert (code, outputs["verdict"]) == (2, "could not run")
    assert "sarif" not in outputs and "passed" not in summary


def test_the_actions_inputs_are_never_run(tmp_path: Path) -> None:
    """An input that is a command must arrive as a name."""
    for model in ("$(touch broken)", "`touch broken`", "x'; touch broken; '", "--exit-zero"):
        code, outputs, _ = run_action(tmp_path, model)
        assert (code, outputs["verdict"]) == (2, "could not run")
    assert not (tmp_path / "broken").exists()
    for step in action()["runs"]["steps"]:
        assert "${{" not in step["run"]


def test_the_hook(tiny_model: Path, unsafe: Path, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert re.search(hook["files"], "models/a.gguf")
    assert not re.search(hook["files"], "a.gguf.md")

    def run(*files: Path) -> int:
        return shell(f"{hook['entry']} {shlex.join(map(str, files))}", tmp_path).returncode

    assert run(tiny_model) == 0
    assert run(tiny_model, unsafe) == 1


def test_the_gitlab_snippet(tiny_model: Path, tmp_path: Path) -> None:
    snippet = yaml.safe_load((EXAMPLE / ".gitlab-ci.yml").read_text("utf-8"))["gguf-gate"]
    (tmp_path / "policy.toml").write_text("version = 1\n")
    for line in snippet["script"]:
        files = {"MODEL": str(tiny_model), "BASE": str(tiny_model)}
        done = shell(line, tmp_path, **files, POLICY=snippet["variables"]["POLICY"])
        assert done.returncode == 0, done
    for path in (*snippet["artifacts"]["paths"], snippet["artifacts"]["reports"]["junit"]):
        assert (tmp_path / path).is_file()


def test_the_example_workflow_uses_inputs_that_there_are() -> None:
    workflow = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "release.yml").read_text("utf-8"))
    steps = workflow["jobs"]["gate"]["steps"]
    (gate,) = [step for step in steps if step.get("id") == "gate"]
    assert set(gate["with"]) <= set(action()["inputs"])
    commands = [step["run"] for step in steps if step.get("run", "").startswith("rosi-edge ")]
    for command in commands:
        name = shlex.split(command)[1]
        flags = [word for word in shlex.split(command) if word.startswith("--")]
        text = shell(f"rosi-edge {name} --help", Path.cwd()).stdout
        assert all(flag in text for flag in flags), (name, flags)
