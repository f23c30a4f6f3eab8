"""The model card: what was done to a model, what it does now, and what that does not prove."""

from __future__ import annotations

from collections.abc import Sequence

from rosi_edge.basics.text import megabytes
from rosi_edge.direction.difference import EACH_LAYERS_OWN
from rosi_edge.records.figures import Changes, shown_figures
from rosi_edge.records.hardening import HardeningReport, Method, Status
from rosi_edge.report import numbers
from rosi_edge.report.arrival import delivered_summary, every_tensor, rounding_cost
from rosi_edge.report.escape import code, code_block, paragraph, plain, table
from rosi_edge.report.experiments import (
    jailbreak_stress_test,
    layer_sweep,
    strength_calibration,
    why_this_layer,
)
from rosi_edge.report.layers import direction_taken
from rosi_edge.report.limits import beyond_limits_words

_HEADLINES: dict[Status, str] = {
    "hardened": "Hardened: it refuses more harmful requests than before and still answers harmless ones.",
    "ineffective": "Not hardened: the injection did not make this model refuse harmful requests more often.",
    "over_refusing": "Not hardened: it now refuses too many harmless requests as well.",
    "degraded": "Not hardened: the injection damaged the model.",
}

_CAPTIONS = {
    "before_after.png": "Refusal, compliance and broken text before and after, with 95 % intervals",
    "separation_by_layer.png": "How well each layer's direction tells harmful from harmless requests",
    "layer_sweep.png": "What injecting each direction does to refusal, and what it costs",
    "strength_calibration.png": "Refusal of harmful and compliance with harmless requests against strength",
    "frontier.png": "Refusal of harmful requests against compliance with harmless ones, by setting",
    "jailbreak_stress.png": "Share of attacks that come through, before and after",
    "delivered_by_tensor.png": "Share of the wanted change that each matrix received, by block",
}

_METHODS: dict[Method, str] = {
    "rosi": "rosi (paper, eq. 6)",
    "conditional": "conditional (the paper's direction; the input side of each edit is fitted)",
}
_ROUNDINGS = {
    "grid": "grid (codes are moved, and blocks keep their scales where those have room for the edit)",
    "requantize": "requantize (every block is quantized anew)",
}


def model_card(report: HardeningReport, pictures: Sequence[str] = ()) -> str:
    """The report as Markdown.

    Args:
        pictures: file names beside the card, as :func:`rosi_edge.report.pictures.render_all` gave them; each
            is shown where it belongs.
    """
    shown = {name: f"![{_CAPTIONS[name]}]({name})" for name in pictures}
    parts = [
        _title(report),
        _verdict(report),
        *([] if not report.findings else ["## What was noticed", _findings(report)]),
        "## What was done",
        _what_was_done(report),
        "## Before and after",
        _before_after(report),
        shown.get("before_after.png", ""),
        "## Why this layer",
        why_this_layer(report),
        shown.get("separation_by_layer.png", ""),
        "## The paper's three experiments",
        "### Layer sweep",
        layer_sweep(report),
        shown.get("layer_sweep.png", ""),
        "### Strength calibration",
        strength_calibration(report),
        shown.get("strength_calibration.png", ""),
        shown.get("frontier.png", ""),
        "### Jailbreak stress test",
        jailbreak_stress_test(report),
        shown.get("jailbreak_stress.png", ""),
        "## What reached the weights",
        rounding_cost(report),
        delivered_summary(report),
        shown.get("delivered_by_tensor.png", ""),
        "## How it was made",
        _making(report),
        *([] if not report.injection.tensors else ["## Every edited matrix", every_tensor(report)]),
        "## Limits",
        _limits(report),
        "## Do it again",
        _reproduce(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(report: HardeningReport) -> str:
    name = plain(report.model.name or report.model.file_name, 120)
    ending = "hardened" if report.verdict.status == "hardened" else "an attempt to harden it"
    return f"# {name}: {ending}"


def _verdict(report: HardeningReport) -> str:
    verdict = report.verdict
    lines = [f"> **{_HEADLINES[verdict.status]}**"]
    lines += [
        f">\n> {paragraph(_sentence(text))}" for text in (verdict.reason, verdict.advice) if text.strip()
    ]
    if report.output is None:
        kept = "No model file was written." if report.after is None else "The edited file was not kept."
        lines.append(f">\n> {kept}")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _findings(report: HardeningReport) -> str:
    return "\n".join(f"- {paragraph(_sentence(finding))}" for finding in report.findings)


def _what_was_done(report: HardeningReport) -> str:
    direction, injection = report.direction, report.injection
    taken = direction_taken(report)
    elicited = ", taken while a temporary safety system prompt was in place" if direction.elicitation else ""
    if taken is None or taken == f"layer {direction.layer}":
        source = (
            f"In the residual stream after block {direction.layer} of {code(report.model.file_name)}, the "
            f"mean difference between {direction.harmful_prompts} harmful and {direction.harmless_prompts} "
            f"harmless requests gave a safety direction{elicited}."
        )
    elif taken == EACH_LAYERS_OWN:
        source = (
            f"In the residual stream of {code(report.model.file_name)}, the mean difference between "
            f"{direction.harmful_prompts} harmful and {direction.harmless_prompts} harmless requests gave a "
            f"safety direction after every block{elicited}; each block was edited along its own."
        )
    else:
        source = (
            f"The safety direction ({plain(taken, 60)}) is one that the weights of "
            f"{code(report.model.file_name)} avoid around block {direction.layer}: what an ablated model "
            "cannot write cannot be measured in its activations."
        )
    return f"{source} {_applied(report)} {_input_side(injection.method)}"


def _applied(report: HardeningReport) -> str:
    injection = report.injection
    paper = "rank-one safety injection (ROSI, [arXiv 2508.20766](https://arxiv.org/abs/2508.20766))"
    if not injection.tensors:
        return (
            f"Adding it by {paper} to the matrices that write to the residual stream was then tried with "
            "adapters, and no weight was changed."
        )
    return (
        f"By {paper} that direction was then added, at strength {numbers.strength(injection.strength)}, "
        f"to what the {len(injection.tensors)} matrices that were edited write to the residual stream; "
        "nothing was trained, and nothing extra runs with the model."
    )


def _input_side(method: Method) -> str:
    if method == "rosi":
        return "The input side of each edit is the mean row of its matrix, as in the paper."
    return (
        "The input side of each edit is not the paper's mean row: it was fitted on real inputs of that very "
        "matrix to answer to harmful requests and to stay silent on harmless ones (as in ROME, "
        "[arXiv 2202.05262](https://arxiv.org/abs/2202.05262), and conditional steering, "
        "[arXiv 2409.05907](https://arxiv.org/abs/2409.05907))."
    )


def _before_after(report: HardeningReport) -> str:
    columns = [("Before", report.before), ("After", report.after)]
    rows = []
    for figure in shown_figures(report.before):
        measured = [getattr(figures, figure.name) if figures else None for _, figures in columns]
        change = getattr(report.changes, figure.name, None)
        cells = [numbers.rate(each) for each in measured]
        told = [numbers.points(change), numbers.p_value(change.p_value) if change else numbers.NOT_MEASURED]
        if figure.name == "kl_first_token":
            cells = ["0 by definition", numbers.nats(measured[1])]
        if figure.name not in Changes.model_fields:
            told = ["", ""]
        label = figure.words[:1].upper() + figure.words[1:]
        rows.append([f"{label} ({figure.better} is better)", *cells, *told])
    head = ["", *(name for name, _ in columns), "Change", "p"]
    note = (
        "In brackets: the 95 % interval. Shares have Wilson intervals, averages BCa bootstrap intervals, and "
        "changes Newcombe's interval for pairs; p is the exact McNemar test on the same prompts before and "
        "after. The KL divergence is that from the original, on harmless requests."
    )
    return "\n\n".join(filter(None, [table(head, rows), beyond_limits_words(report), note]))


def _making(report: HardeningReport) -> str:
    model, direction = report.model, report.direction
    mix = ", ".join(f"{plain(kind)}: {share.tensors} tensors" for kind, share in model.tensor_types.items())
    rows = [
        ["Model", f"{code(model.file_name, in_table=True)}, {megabytes(model.size)}"],
        ["SHA-256", code(model.sha256)],
        ["Architecture", plain(model.architecture or "unknown", 80)],
        ["Quantization", f"{plain(model.file_type or 'unnamed mix', 80)} ({mix})"],
        ["Layer of the direction", f"{direction.layer} of 0 to {max(s.layer for s in direction.separation)}"],
        ["Strength", numbers.strength(report.injection.strength)],
        ["Method", _METHODS[report.injection.method]],
        ["Rounding", _ROUNDINGS.get(report.injection.rounding, plain(report.injection.rounding, 80))],
    ]
    if report.injection.setting:
        rows.append(["Setting", plain(report.injection.setting, 200)])
    if report.output:
        written = report.output
        rows += [
            ["Written", f"{code(written.file_name, in_table=True)}, {megabytes(written.size)}"],
            ["SHA-256 of what was written", code(written.sha256)],
        ]
    sets = [("fitting and choosing", s) for s in direction.prompt_sets]
    sets += [("reporting", s) for s in report.evaluation.prompt_sets]
    rows += [
        [f"Prompts for {use}", f"{plain(s.name, 120)}, n = {s.n}, SHA-256 {code(s.sha256)}"]
        for use, s in sets
    ]
    rows += [
        [f"Time: {plain(name, 80)}", numbers.seconds(time)] for name, time in report.timing.stages.items()
    ]
    rows.append(["Time in all", numbers.seconds(report.timing.total)])
    text = table(["", ""], rows)
    if direction.elicitation:
        text += (
            "\n\nThe direction was taken under this system prompt, which the model no longer needs:\n\n"
            + code_block(direction.elicitation, "text")
        )
    return text


def _limits(report: HardeningReport) -> str:
    figures = report.after or report.before
    counts = [
        f"{estimate.n} {kind}"
        for estimate, kind in (
            (figures.harmful_refusal_rate, "harmful"),
            (figures.benign_compliance_rate, "harmless"),
            (figures.sounds_harmful_compliance_rate, "harmful-sounding harmless"),
        )
        if estimate
    ]
    judge = report.evaluation.judge
    reads = " It goes by phrases, not by meaning, and errs at times." if judge == "keyword" else ""
    asked = ", ".join(counts) or "no"
    attacks = "attempts to talk the model out of it"
    if report.stress:
        attacks = f"other {attacks} than the {len(report.stress.attacks)} tried"
    limits = (
        "It resists prompts. Whoever holds the weights can undo it, by the same arithmetic or by training.",
        (
            f"The figures come from {asked} prompts, judged by the {plain(judge, 80)} judge on the first "
            f"{report.evaluation.max_tokens} tokens of each answer.{reads}"
        ),
        (
            "The intervals cover the choice of prompts, not other kinds of prompts, other languages, long "
            f"conversations or {attacks}. Those were not measured here."
        ),
        (
            "A refusal rate is no guarantee: some harmful requests are still answered, and some harmless "
            "ones refused."
        ),
    )
    return "\n".join(f"- {limit}" for limit in limits)


def _reproduce(report: HardeningReport) -> str:
    tool = report.tool
    return (
        f"{code_block(tool.command, 'sh')}\n\n"
        f"Made by {plain(tool.name)} {plain(tool.version)} with llama-cpp-python "
        f"{plain(tool.llama_cpp_python)}, seed {tool.seed}, on {plain(report.generated, 40)}. "
        "All figures are in [report.json](report.json)."
    )
