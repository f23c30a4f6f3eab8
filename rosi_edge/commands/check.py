"""``rosi-edge check``: a file against a policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rosi_edge.commands.arguments import PATH
from rosi_edge.commands.options import engine_options, runtime_flags
from rosi_edge.commands.output import COULD_NOT_RUN, FINDING, progress_bar, refuse_to_overwrite, show
from rosi_edge.errors import FAULT, RosiEdgeError

if TYPE_CHECKING:
    # Not at run time: --help and --init need none of it.
    from rosi_edge.policy.model import Policy
    from rosi_edge.policy.result import CheckReport
    from rosi_edge.policy.run import CheckOptions

STARTER_NAME = "policy.toml"


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1)
@click.option("--policy", "policy_file", type=PATH, help="The policy (TOML)  [default: what --init writes].")
@click.option("--init", "init", is_flag=False, flag_value=STARTER_NAME, default=None, type=PATH,
              metavar="[FILE]", help=f"Write a commented policy ({STARTER_NAME}) and stop.")  # fmt: skip
@click.option("--base", help="The original: for the change, the chat template and the proof of the edit.")
@click.option("--static", is_flag=True, help="Only rules that need no inference.")
@click.option(
    "--budget", metavar="TIME", help="Time for measuring behaviour, such as 5m  [default: the policy's]."
)
@click.option("--manifest", type=PATH, help="The file's manifest  [default: the one beside it, if any].")
@click.option("--write-manifest", type=PATH, help="Write a manifest of the file and stop.")
@click.option("--junit", type=PATH, help="Also write JUnit XML.")
@click.option("--sarif", type=PATH, help="Also write SARIF 2.1.0.")
@click.option("--markdown", type=PATH, help="Also write Markdown, for a job's summary.")
@click.option("--badge", type=PATH, help="Also write a badge (SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even if MODEL fails; the reports still say so.")
@runtime_flags
def check(
    models: tuple[str, ...],
    policy_file: Path | None,
    init: Path | None,
    base: str | None,
    static: bool,
    budget: str | None,
    manifest: Path | None,
    write_manifest: Path | None,
    junit: Path | None,
    sarif: Path | None,
    markdown: Path | None,
    badge: Path | None,
    as_json: bool,
    exit_zero: bool,
    **runtime: Any,
) -> None:
    """Check model files against a policy: for pipelines that publish one, and for files found on the net.

    Exit codes: 0 passed, 1 failed, 2 could not run. A check that did not finish never passes.
    """
    if init is not None:
        if models:
            raise click.UsageError("--init checks nothing: give it without MODEL")
        _write_starter(init)
        return
    if not models:
        raise click.UsageError("Missing argument 'MODEL'")
    if base is not None and not base.strip():
        raise click.UsageError("--base is empty: name the original, or leave it out")
    files = {"junit": junit, "sarif": sarif, "markdown": markdown, "badge": badge}
    if len(models) > 1 and (as_json or manifest or write_manifest or any(files.values())):
        raise click.UsageError("Reports and manifests are of one MODEL; give one at a time")
    if write_manifest is not None:
        if policy_file or static or budget or manifest or as_json or any(files.values()):
            raise click.UsageError("--write-manifest checks nothing: give it with MODEL and --base alone")
        refuse_to_overwrite([write_manifest], [*models, base])
        _write_manifest(models[0], base, write_manifest)
        return
    from rosi_edge.policy.outputs import json_report, terminal_table
    from rosi_edge.policy.run import CheckOptions

    policy = _policy(policy_file, budget)
    if manifest is not None and policy.provenance.severity == "off":
        raise click.UsageError("--manifest is given, and the policy switches [provenance] off")
    if not static:
        _refuse_unknown_suites(policy)
    inputs = [*models, base, policy_file, manifest, runtime.get("template")]
    refuse_to_overwrite([target for target in files.values() if target is not None], inputs)
    codes = set()
    for model in _without_later_parts(models):
        options = CheckOptions(behaviour=not static, manifest=manifest, engine=engine_options(**runtime))
        report = _check(model, base, policy, options)
        _write_reports(report, files)
        if as_json:
            click.echo(json_report.render(report), nl=False)
        else:
            show(terminal_table.render(report))
        codes.add(report.verdict.exit_code)
    if not exit_zero and codes != {0}:
        raise click.exceptions.Exit(FINDING if FINDING in codes else COULD_NOT_RUN)


def _check(model: str, base: str | None, policy: Policy, options: CheckOptions) -> CheckReport:
    from rosi_edge.policy.provenance import manifest_beside
    from rosi_edge.policy.run import Checked, could_not_start
    from rosi_edge.policy.run import check as run
    from rosi_edge.sources.resolve import resolve

    path = Path(model)
    try:
        with progress_bar() as progress:
            path = resolve(model, progress)
            if options.manifest is None:
                options = replace(options, manifest=manifest_beside(path))
            return run(
                Checked(model, path),
                policy,
                base=Checked(base, resolve(base, progress)) if base else None,
                options=options,
                progress=progress,
            )
    except RosiEdgeError as error:
        # A report all the same: an old one that says "passed" must not be left where this one belongs.
        return could_not_start(Checked(model, path), policy, error)
    except Exception as error:
        unexpected = RosiEdgeError(f"unexpected {type(error).__name__}: {error}", FAULT)
        return could_not_start(Checked(model, path), policy, unexpected)


def _without_later_parts(models: tuple[str, ...]) -> list[str]:
    """With the first part of a model in place of each later one: hooks name the files that have changed."""
    from rosi_edge.models.parts import PART_NAME, part_name

    kept: list[str] = []
    for model in models:
        part = PART_NAME.fullmatch(Path(model).name)
        if part is not None and int(part["number"]) > 1:
            first = Path(model).with_name(part_name(part["stem"], 0, int(part["count"])))
            model = str(first) if str(first) in models or first.is_file() else model
        if model not in kept:
            kept.append(model)
    return kept


def _write_reports(report: CheckReport, files: dict[str, Path | None]) -> None:
    from rosi_edge.policy.outputs import badge, junit, markdown, sarif

    renderers = {
        "junit": junit.render,
        "sarif": sarif.render,
        "markdown": markdown.render,
        "badge": badge.render,
    }
    for kind, target in files.items():
        if target is not None:
            _write(target, renderers[kind](report))


def _policy(path: Path | None, budget: str | None) -> Policy:
    from rosi_edge.policy.model import DEFAULT_POLICY, PolicyError, load_policy, seconds

    policy = load_policy(path) if path is not None else DEFAULT_POLICY
    if budget is None:
        return policy
    try:
        given = seconds(budget)
    except ValueError as error:
        raise PolicyError(f"--budget: {error}", "Write it like 90s, 5m or 1h") from None
    return policy.model_copy(update={"behaviour": policy.behaviour.model_copy(update={"budget": given})})


def _refuse_unknown_suites(policy: Policy) -> None:
    """A misspelt suite would leave its figures "could not run", which a warning lets pass."""
    from rosi_edge.evaluation.suites import built_in
    from rosi_edge.policy.model import PolicyError

    known = {*built_in(), "all"}
    if unknown := sorted(set(policy.behaviour.suites) - known):
        raise PolicyError(
            f"there is no suite called {unknown[0]!r} (behaviour.suites)",
            f"The suites are {', '.join(sorted(known))}",
        )


def _write_starter(path: Path) -> None:
    from rosi_edge.policy.starter import STARTER

    if path.exists():
        raise RosiEdgeError(f"{path} is there already", "Name another file: --init FILE")
    _write(path, STARTER)
    click.echo(f"{path} written; rosi-edge check MODEL --policy {path} uses it")


def _write_manifest(model: str, base: str | None, target: Path) -> None:
    from rosi_edge.models.digest import sha256_of_model
    from rosi_edge.models.gguf_file import GgufFile
    from rosi_edge.policy.provenance import make_manifest, write_manifest
    from rosi_edge.sources.resolve import resolve

    with progress_bar() as progress, GgufFile.open(resolve(model, progress)) as file:
        digest = sha256_of_model(file, progress)
        if base is None:
            made = make_manifest(file, sha256=digest, progress=progress)
        else:
            with GgufFile.open(resolve(base, progress)) as original:
                made = make_manifest(
                    file,
                    sha256=digest,
                    base=original,
                    base_sha256=sha256_of_model(original, progress),
                    progress=progress,
                )
    write_manifest(made, target)
    edited = len(made.predicate.build_definition.internal_parameters["editedTensors"])
    click.echo(f"{target} written: {len(made.predicate.run_details.byproducts) - 1} tensors, {edited} edited")


def _write(path: Path, text: str) -> None:
    from rosi_edge.models.atomic import atomic_write

    content = text.encode("utf-8")
    with atomic_write(path, size=len(content)) as stream:
        stream.write(content)
