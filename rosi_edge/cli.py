"""The command line: the one place that prints, asks and exits.

Exit codes: 0 done, 1 finding (the injection was ineffective or harmful), 2 could not run, 130 interrupted.
Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click
from rich.console import Console
from rich.table import Table

from rosi_edge import __version__
from rosi_edge.errors import RosiEdgeError
from rosi_edge.terminal import TerminalProgress

if TYPE_CHECKING:
    # Not at run time: scipy alone would double the time of `inspect`.
    from rosi_edge.evaluation.statistics import Estimate, PairedChange

Command = TypeVar("Command", bound=Callable[..., Any])

FINDING = 1
COULD_NOT_RUN = 2
INTERRUPTED = 130

_PATH = click.Path(path_type=Path)


@contextmanager
def _progress() -> Iterator[TerminalProgress]:
    with TerminalProgress(Console(stderr=True)) as progress:
        yield progress


class _Auto(click.ParamType[float | None]):
    """``auto`` (as None) or a number."""

    def __init__(self, number: Callable[[str], float], smallest: float) -> None:
        self.name = "auto|number"
        self._number = number
        self._smallest = smallest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value is None or value == "auto":
            return None
        try:
            number = self._number(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither 'auto' nor a number", param, ctx)
        if not number >= self._smallest or number == float("inf"):
            self.fail(f"{value} is out of range", param, ctx)
        return number


class _Strength(_Auto):
    def __init__(self) -> None:
        # Only ever safer: a negative strength would remove refusals.
        super().__init__(float, smallest=1e-9)


def _runtime_flags(command: Command) -> Command:
    for option in (
        click.option("-t", "threads", type=click.IntRange(1), help="Threads (default: all cores)."),
        click.option("-b", "batch_size", type=click.IntRange(32), default=512, show_default=True,
                     help="Tokens in one batch."),
        click.option("-c", "context_size", type=click.IntRange(256), default=4096, show_default=True,
                     help="Context size that all prompts of a batch share."),
        click.option("-ngl", "gpu_layers", type=int, default=0, show_default=True,
                     help="Layers to offload to the GPU (CUDA builds of llama-cpp-python)."),
        click.option("--template", type=_PATH, help="A chat template (Jinja) instead of the file's own."),
    ):  # fmt: skip
        command = option(command)
    return command


def _engine_options(
    threads: int | None, batch_size: int, context_size: int, gpu_layers: int, template: Path | None
) -> Any:
    from rosi_edge.runtime.engine import EngineOptions

    return EngineOptions(
        gpu_layers=gpu_layers,
        context_size=context_size,
        batch_size=batch_size,
        threads=threads,
        template=_read_text(template) if template else None,
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RosiEdgeError(f"{path} cannot be read: {error}", "Give a UTF-8 text file") from error


def _elicit_option(command: Command) -> Command:
    return click.option(
        "--elicit",
        is_flag=False,
        flag_value="",
        default=None,
        metavar="[TEXT]",
        help="Take the direction under a safety system prompt (a default one, or TEXT).",
    )(command)


def _elicitation(elicit: str | None) -> str | None:
    from rosi_edge.direction import DEFAULT_ELICITATION

    return None if elicit is None else (elicit or DEFAULT_ELICITATION)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rosi-edge")
def application() -> None:
    """Make a chat model inside a GGUF file refuse harmful requests, without training.

    MODEL is a path, hf:org/repo[:QUANT] or demo.
    """


@application.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str, as_json: bool) -> None:
    """Show what a model file is and whether it can be hardened."""
    from rosi_edge.models import inspect as inspection_module
    from rosi_edge.models.sources import resolve

    with _progress() as progress:
        found = inspection_module.inspect(resolve(model, progress), with_sha256=True, progress=progress)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    types = ", ".join(f"{name} × {share.tensors}" for name, share in found.quantization.items())
    matrices: dict[tuple[str, str, str], int] = {}
    for matrix in found.write_matrices:
        key = (matrix.kind, matrix.type, "×".join(map(str, matrix.shape)))
        matrices[key] = matrices.get(key, 0) + 1
    for label, value in (
        ("file", f"{found.path} ({found.size / 1e6:.1f} MB)"),
        ("sha256", found.sha256 or ""),
        ("name", found.name or "not given"),
        ("architecture", found.architecture or "not given"),
        ("parameters", f"{found.parameters / 1e6:.1f} million"),
        ("blocks, hidden size", f"{found.block_count or '?'}, {found.hidden_size or '?'}"),
        ("quantization", f"{found.file_type or 'not named'}: {types}"),
        ("chat template", "yes" if found.chat_template else "no"),
        *(
            ("write matrices", f"{count} × {kind}, {kind_type}, {shape}")
            for (kind, kind_type, shape), count in matrices.items()
        ),
        *(("warning", warning) for warning in found.warnings),
        ("can be hardened", "yes" if found.can_harden else "no: " + "; ".join(found.reasons)),
    ):
        table.add_row(label, click.unstyle(str(value)).replace("[", "\\["))
    _print(table)


@application.command()
@click.argument("model")
@click.option("-o", "--output", type=_PATH, required=True, help="The control vector to write (GGUF).")
@click.option("--harmful", type=_PATH, help="Harmful requests instead of the bundled ones.")
@click.option("--harmless", type=_PATH, help="Harmless requests instead of the bundled ones.")
@_elicit_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_runtime_flags
def extract(
    model: str,
    output: Path,
    harmful: Path | None,
    harmless: Path | None,
    elicit: str | None,
    as_json: bool,
    **runtime: Any,
) -> None:
    """Measure the safety direction of every layer and write it as a control vector."""
    import json
    from dataclasses import asdict

    from rosi_edge.direction import extract_directions, write_control_vector
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.models.rewrite import refuse_same_file
    from rosi_edge.models.sources import resolve, sha256_of
    from rosi_edge.prompts import Kind, Part, bundled, load_prompts
    from rosi_edge.runtime.child_engine import ChildEngine

    positive = load_prompts(harmful) if harmful else bundled(Kind.HARMFUL, Part.CALIBRATION)
    negative = load_prompts(harmless) if harmless else bundled(Kind.HARMLESS, Part.CALIBRATION)
    with _progress() as progress:
        path = resolve(model, progress)
        refuse_same_file(path, checked_target(output))
        with ChildEngine(path, _engine_options(**runtime)) as engine:
            directions = extract_directions(
                engine, positive.texts, negative.texts, elicitation=_elicitation(elicit), progress=progress
            )
            architecture = engine.facts.architecture
        write_control_vector(
            output, directions, architecture=architecture, source_sha256=sha256_of(path, progress)
        )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "output": str(output),
                    "harmful_prompts": directions.positive,
                    "harmless_prompts": directions.negative,
                    "elicitation": directions.elicitation,
                    "separation": [asdict(entry) for entry in directions.separation],
                },
                indent=2,
            )
        )
        return
    table = Table("layer", "norm", "cosine of means", "d′", "AUC", title="Separation by layer")
    for entry in directions.separation:
        table.add_row(
            str(entry.layer),
            f"{entry.norm:.3f}",
            f"{entry.cosine_of_means:.4f}",
            f"{entry.d_prime:.2f}",
            f"{entry.auc:.3f}",
        )
    _print(table)
    click.echo(
        f"{output}: directions of {directions.positive} harmful and {directions.negative} harmless prompts"
    )


@application.command()
@click.argument("model")
@click.option("-o", "--output", type=_PATH, required=True, help="The hardened GGUF to write.")
@click.option("--method", type=click.Choice(["rosi", "conditional"]), default="rosi", show_default=True,
              help="How the input side of the edit is chosen.")  # fmt: skip
@click.option("--layer", type=_Auto(int, 0), default="auto", show_default=True,
              help="Layer of the direction.")  # fmt: skip
@click.option("--alpha", type=_Strength(), default="auto", show_default=True, help="Strength.")
@click.option("--min-compliance", type=click.FloatRange(0, 1), default=None,
              help="Lowest benign compliance allowed  [default: 2 points under the original's; "
                   "1 with conditional]")  # fmt: skip
@click.option("--max-kl", type=click.FloatRange(0, min_open=True), default=0.10, show_default=True,
              help="Highest KL divergence allowed on harmless prompts, nats (conditional).")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=16, show_default=True,
              help="Settings tried by the search (conditional).")  # fmt: skip
@click.option("--rounding", type=click.Choice(["requantize", "grid"]), default="requantize",
              show_default=True, help="How the edit is put into quantized blocks.")  # fmt: skip
@click.option("--harmful", type=_PATH, help="Harmful requests, split into parts by the tool.")
@click.option("--harmless", type=_PATH, help="Harmless requests, likewise.")
@click.option("--sounds-harmful", type=_PATH, help="Benign requests that sound harmful, likewise.")
@_elicit_option
@click.option("--adapter", type=_PATH, help="Also write the exact edit as a LoRA adapter (GGUF).")
@click.option("--report", "report_folder", type=_PATH, help="Folder for the report and its pictures.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the prompt sample.")
@click.option(
    "--force",
    is_flag=True,
    help="Write the file whatever the verdict; if nothing keeps the constraints, the best balance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@_runtime_flags
def harden(
    model: str,
    output: Path,
    method: Literal["rosi", "conditional"],
    layer: float | None,
    alpha: float | None,
    min_compliance: float | None,
    max_kl: float,
    trials: int,
    rounding: Literal["requantize", "grid"],
    harmful: Path | None,
    harmless: Path | None,
    sounds_harmful: Path | None,
    elicit: str | None,
    adapter: Path | None,
    report_folder: Path | None,
    seed: int,
    force: bool,
    as_json: bool,
    **runtime: Any,
) -> None:
    """Harden MODEL into a new file of the same types and size, and prove what it did."""
    from rosi_edge.conditional_search import ConditionalOptions
    from rosi_edge.evaluation.judges.keyword import KeywordJudge
    from rosi_edge.hardening import HardenOptions
    from rosi_edge.hardening import harden as run
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.models.sources import resolve
    from rosi_edge.prompt_plan import plan_prompts
    from rosi_edge.prompts import Kind
    from rosi_edge.report.write import check_folder, write_report
    from rosi_edge.search import SearchOptions

    # Everything that can be refused is refused before the first long step.
    prompts = plan_prompts(
        {Kind.HARMFUL: harmful, Kind.HARMLESS: harmless, Kind.SOUNDS_HARMFUL: sounds_harmful}, seed=seed
    )
    checked_target(output)
    if adapter is not None:
        checked_target(adapter)
    if report_folder is not None:
        check_folder(report_folder)
    options = HardenOptions(
        rounding=rounding,
        method=method,
        elicitation=_elicitation(elicit),
        search=SearchOptions(
            min_compliance=min_compliance,
            layers=None if layer is None else (int(layer),),
            strength=alpha,
        ),
        conditional=ConditionalOptions(
            min_compliance=min_compliance,
            max_kl=max_kl,
            trials=trials,
            layer=None if layer is None else int(layer),
            strength=alpha,
            seed=seed,
        ),
        engine=_engine_options(**runtime),
        force=force,
        adapter=adapter,
        reference=model,
        command=shlex.join(["rosi-edge", *sys.argv[1:]]),
        seed=seed,
    )
    with _progress() as progress:
        report = run(resolve(model, progress), output, prompts, KeywordJudge(), options, progress)
        if report_folder is not None:
            write_report(report, report_folder)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _print_hardening(report, output, report_folder)
    if report.verdict.status != "hardened":
        raise click.exceptions.Exit(FINDING)


@application.command(name="eval")
@click.argument("model")
@click.option("--base", help="The original model, to measure the change and the divergence from it.")
@click.option(
    "--suites",
    metavar="LIST",
    help="refusal, overrefusal, jailbreak, divergence, utility, stability, or all"
    "  [default: refusal,overrefusal, and with --base divergence]",
)
@click.option("--harmful", type=_PATH, help="Harmful requests instead of the bundled ones.")
@click.option("--benign", type=_PATH, help="Harmless requests instead of the bundled ones.")
@click.option(
    "--sounds-harmful", type=_PATH, help="Benign requests that sound harmful, instead of the bundled ones."
)
@click.option("--xstest", type=_PATH, help="A CSV file of XSTest, for the suite overrefusal.")
@click.option(
    "--attacks",
    metavar="LIST",
    help="Attacks of the suite jailbreak: names, OUTER+INNER, garak, or all  [default: all]",
)
@click.option("--utility", multiple=True, metavar="PATH|hf:ORG/DATASET",
              help="Questions for the suite utility (MMLU, HellaSwag, ARC); may be given again"
              "  [default: a bundled mini set]")  # fmt: skip
@click.option("--text", type=_PATH, help="Plain text for perplexity and for the long session.")
@click.option(
    "--stability-tokens",
    type=click.IntRange(1000),
    help="Length of the session of the suite stability  [default: 100000]",
)
@click.option("--judge", default="keyword", show_default=True, metavar="keyword|gguf:PATH|http:URL",
              help="Who tells refused from complied: keywords, a guard model, or a server.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="At most this many prompts or questions of each set.")
@click.option("--max-tokens", type=click.IntRange(8, 1024), default=24, show_default=True,
              help="Tokens of each answer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the prompt sample.")
@click.option("--fresh", is_flag=True, help="Measure again what an earlier call has measured.")
@click.option("--picture", type=_PATH, help="Also draw the figures with their error bars (PNG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_runtime_flags
def evaluate(
    model: str,
    base: str | None,
    suites: str | None,
    judge: str,
    fresh: bool,
    picture: Path | None,
    as_json: bool,
    utility: tuple[str, ...],
    harmful: Path | None,
    benign: Path | None,
    sounds_harmful: Path | None,
    xstest: Path | None,
    attacks: str | None,
    text: Path | None,
    stability_tokens: int | None,
    limit: int | None,
    max_tokens: int,
    seed: int,
    **runtime: Any,
) -> None:
    """Measure refusal, compliance, jailbreaks, divergence and utility, with intervals.

    What has been measured is kept: after Ctrl-C, the same command goes on where it stopped.
    """
    from rosi_edge.evaluation.run import EvaluateOptions, Named
    from rosi_edge.evaluation.run import evaluate as run
    from rosi_edge.evaluation.suites import Choices, open_suites
    from rosi_edge.models.atomic import checked_target
    from rosi_edge.models.sources import resolve

    choices = Choices(
        harmful=harmful,
        benign=benign,
        sounds_harmful=sounds_harmful,
        xstest=xstest,
        attacks=attacks,
        utility=utility or None,
        text=text,
        stability_tokens=stability_tokens,
        limit=limit,
        max_tokens=max_tokens,
        seed=seed,
        compared=base is not None,
    )
    if picture is not None:
        checked_target(picture)
    opened = open_suites(suites, choices)
    options = EvaluateOptions(judge=judge, engine=_engine_options(**runtime), fresh=fresh)
    try:
        with _progress() as progress:
            report = run(
                Named(model, resolve(model, progress)),
                opened,
                choices,
                base=Named(base, resolve(base, progress)) if base else None,
                options=options,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo(
            "rosi-edge: interrupted; what was measured is kept: run the same command to go on", err=True
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    if picture is not None:
        from rosi_edge.report.pictures import draw_evaluation

        draw_evaluation(report, picture)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _print_evaluation(report)
    problems = {name: suite.problem for name, suite in report.suites.items() if suite.problem}
    for name, problem in problems.items():
        click.echo(f"rosi-edge: the suite {name} could not run: {' '.join(problem.split())}", err=True)
    if problems:
        raise click.exceptions.Exit(COULD_NOT_RUN)


# --- what the user sees --------------------------------------------------------------------------------


def _print(renderable: Any) -> None:
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        # A pipe has no width; tables must not be folded at 80 columns there.
        console = Console(file=sys.stdout, width=160)
    console.print(renderable)


def _estimate(figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    return f"{figure.value:.3f}  ({figure.low:.3f} to {figure.high:.3f}, n={figure.n})"


def _change(change: PairedChange | None) -> str:
    return "–" if change is None else f"{change.change * 100:+.1f} points, p={change.p_value:.2g}"


def _print_figures(before: Any, after: Any, changes: Any, *, names: tuple[str, str]) -> None:
    table = Table("", names[0], names[1], "change", caption="95 % intervals")
    for label, field in (
        ("harmful refusal", "harmful_refusal_rate"),
        ("benign compliance", "benign_compliance_rate"),
        ("… of requests that sound harmful", "sounds_harmful_compliance_rate"),
        ("broken answers", "degenerate_rate"),
        ("KL of the first token (nats)", "kl_first_token"),
    ):
        table.add_row(
            label,
            _estimate(getattr(before, field, None)),
            _estimate(getattr(after, field, None)),
            _change(getattr(changes, field, None)),
        )
    _print(table)


def _print_evaluation(report: Any) -> None:
    from rich.text import Text

    from rosi_edge.models.gguf_file import printable

    compared = report.base is not None
    judge = printable(f"judge {report.judge.name}", 90) if report.judge else "no judge"
    table = Table(
        "",
        *(["base"] if compared else []),
        "model",
        *(["change"] if compared else []),
        caption=f"95 % intervals; {judge}; seed {report.seed}",
    )
    for suite in report.suites.values():
        for figure in suite.figures.values():
            row = [_estimate(figure)]
            if compared:
                row = [_estimate(figure.base), *row, _interval_change(figure.change)]
            # As text: a label may hold the name of a file, with brackets in it.
            table.add_row(*(Text(printable(cell, 120)) for cell in (figure.label, *row)))
        table.add_section()
    _print(table)
    for suite in report.suites.values():
        for finding in suite.findings:
            click.echo(f"{finding.claim}: {finding.words}")


def _interval_change(change: PairedChange | None) -> str:
    if change is None:
        return "–"
    low, high = change.low * 100, change.high * 100
    return (
        f"{change.change * 100:+.1f} points ({low:+.1f} to {high:+.1f}), p={change.p_value:.2g}, n={change.n}"
    )


def _print_hardening(report: Any, output: Path, report_folder: Path | None) -> None:
    _print_figures(report.before, report.after, report.changes, names=("before", "after"))
    click.echo(f"verdict   {report.verdict.status}: {report.verdict.reason}")
    if report.verdict.advice:
        click.echo(f"advice    {report.verdict.advice}")
    click.echo(f"layer     {report.direction.layer}")
    click.echo(f"strength  {report.injection.strength:.4g}")
    if report.injection.delivered is not None:
        click.echo(f"delivered {report.injection.delivered:.2f} of the edit, on average over the tensors")
    click.echo(f"time      {report.timing.total:.0f} s")
    if report.output is None:
        click.echo("file      not written; --force writes it all the same")
    else:
        click.echo(f"file      {output} ({report.output.size / 1e6:.1f} MB, sha256 {report.output.sha256})")
    if report_folder is not None:
        click.echo(f"report    {report_folder / 'report.md'}")


def main() -> NoReturn:
    """Run the command line and exit: the one error boundary."""

    def terminate(number: int, frame: object) -> NoReturn:
        # So that a polite kill cleans up as Ctrl-C does; a second one must not interrupt the cleaning up.
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        code = application(standalone_mode=False)
    except SystemExit:
        # click's own way out when the reader of stdout went away, with the code that means a finding here.
        sys.exit(COULD_NOT_RUN)
    except click.exceptions.Exit as request:
        sys.exit(request.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; nothing was written", INTERRUPTED)
    except click.ClickException as error:
        _fail(f"{error.format_message().rstrip('.')}. See --help.", COULD_NOT_RUN)
    except RosiEdgeError as error:
        _fail(str(error), COULD_NOT_RUN)
    except BrokenPipeError:
        # The reader of stdout went away; Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(COULD_NOT_RUN)
    except MemoryError:
        _fail("there is not enough memory. Try a smaller -c or -b.", COULD_NOT_RUN)
    except Exception as error:
        if os.environ.get("ROSI_EDGE_DEBUG"):
            traceback.print_exc()
        _fail(
            f"unexpected {type(error).__name__}: {error}. "
            "This is a fault of rosi-edge; set ROSI_EDGE_DEBUG=1 for the details and report it.",
            COULD_NOT_RUN,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> NoReturn:
    click.echo("rosi-edge: " + " ".join(line.split()), err=True)
    sys.exit(code)
