"""The action, the hook and the GitLab snippet: their steps, as plain shell where the wheel is installed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from installed import ROOT, Environment, action, action_step, action_variables
from tiny_gguf import write_tiny_llama

EXAMPLE = ROOT / "examples" / "release-gate"


@pytest.fixture
def unsafe(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "unsafe.gguf", chat_template="{% include 'x' %}")


def run_action(
    light: Environment, folder: Path, model: str, **inputs: str
) -> tuple[int, dict[str, str], str]:
    """The action's check step: exit code, outputs, job summary."""
    step = action_step("Check")
    output, summary = folder / "output", folder / "summary"
    output.write_text("")
    summary.write_text("")
    variables = action_variables(step, {"model": model, "static": "true"} | inputs)
    done = light.shell(
        step["run"], folder, GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(summary), **variables
    )
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    return done.returncode, outputs, summary.read_text()


def test_the_action_passes_fails_and_cannot_run(
    light: Environment, tiny_model: Path, unsafe: Path, tmp_path: Path
) -> None:
    code, outputs, summary = run_action(light, tmp_path, str(tiny_model))
    assert (code, outputs["verdict"]) == (0, "passed")
    assert (tmp_path / outputs["sarif"]).is_file()
    assert "passed" in summary
    code, outputs, summary = run_action(light, tmp_path, str(unsafe), reports="other reports")
    assert (code, outputs["verdict"]) == (1, "failed")
    assert (tmp_path / "other reports" / "junit.xml").is_file()
    assert "RE106" in summary
    code, outputs, summary = run_action(light, tmp_path, "none.gguf", reports="third")
    assert (code, outputs["verdict"]) == (2, "could not run")
    assert "could not run" in summary
    # In the folder of the run that passed, and without a report of its own.
    code, outputs, summary = run_action(light, tmp_path, str(unsafe), policy="none.toml")
    assert (code, outputs["verdict"]) == (2, "could not run")
    assert "sarif" not in outputs and "passed" not in summary


def test_the_actions_inputs_are_never_run(light: Environment, tmp_path: Path) -> None:
    """An input that is a command must arrive as a name."""
    for model in ("$(touch broken)", "`touch broken`", "x'; touch broken; '", "--exit-zero"):
        code, outputs, _ = run_action(light, tmp_path, model)
        assert (code, outputs["verdict"]) == (2, "could not run")
    assert not (tmp_path / "broken").exists()
    for step in action()["runs"]["steps"]:
        assert "${{" not in step["run"]


def test_the_hook(light: Environment, tiny_model: Path, unsafe: Path, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert re.search(hook["files"], "models/a.gguf")
    assert not re.search(hook["files"], "a.gguf.md")

    def run(*files: Path) -> int:
        return light.shell(f"{hook['entry']} {shlex.join(map(str, files))}", tmp_path).returncode

    assert run(tiny_model) == 0
    assert run(tiny_model, unsafe) == 1


def test_the_gitlab_snippet(light: Environment, tiny_model: Path, tmp_path: Path) -> None:
    snippet = yaml.safe_load((EXAMPLE / ".gitlab-ci.yml").read_text("utf-8"))["gguf-gate"]
    (tmp_path / "policy.toml").write_text("version = 1\n")
    for line in snippet["script"]:
        files = {"MODEL": str(tiny_model), "BASE": str(tiny_model)}
        done = light.shell(line, tmp_path, **files, POLICY=snippet["variables"]["POLICY"])
        assert done.returncode == 0, done
    for path in (*snippet["artifacts"]["paths"], snippet["artifacts"]["reports"]["junit"]):
        assert (tmp_path / path).is_file()


def test_the_example_workflow_uses_inputs_that_there_are(light: Environment) -> None:
    workflow = yaml.safe_load((EXAMPLE / ".github" / "workflows" / "release.yml").read_text("utf-8"))
    steps = workflow["jobs"]["gate"]["steps"]
    (gate,) = [step for step in steps if step.get("id") == "gate"]
    assert set(gate["with"]) <= set(action()["inputs"])
    commands = [step["run"] for step in steps if step.get("run", "").startswith("rosi-edge ")]
    for command in commands:
        name = shlex.split(command)[1]
        flags = [word for word in shlex.split(command) if word.startswith("--")]
        text = light.shell(f"rosi-edge {name} --help", Path.cwd()).stdout
        assert all(flag in text for flag in flags), (name, flags)
