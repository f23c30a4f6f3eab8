"""What reached the weights, in the model card: what rounding cost and what each matrix received."""

from __future__ import annotations

from collections import Counter
from statistics import median

from rosi_edge.records.hardening import EditedTensor, HardeningReport, RoundingCheck
from rosi_edge.report import numbers
from rosi_edge.report.escape import code, plain, table

CLOSE_ENOUGH = 0.02
"""How far the file's refusal rate may be from the exact edit's."""


def rounding_cost(report: HardeningReport) -> str:
    """The file beside the adapter that the search measured; empty when that was not compared."""
    check = report.rounding_check
    if check is None:
        return ""
    pairs = (
        ("Refuses harmful requests", check.adapter_harmful_refusal, check.file_harmful_refusal),
        ("Answers harmless requests", check.adapter_benign_compliance, check.file_benign_compliance),
    )
    rows = [
        [label, numbers.rate(exact), numbers.rate(file), f"{(file.value - exact.value) * 100:+.1f} points"]
        for label, exact, file in pairs
    ]
    head = ["", "Exact edit, as an adapter", "The file", "Difference of the two"]
    intro = "What rounding to the file's number formats cost, on the choosing prompts:"
    return f"{intro}\n\n{table(head, rows)}\n\n{rounding_words(check)}"


def rounding_words(check: RoundingCheck) -> str:
    """Whether the file refuses as the exact edit does, and how far their answers are apart."""
    difference = check.file_harmful_refusal.value - check.adapter_harmful_refusal.value
    near = "is within" if abs(difference) <= CLOSE_ENOUGH + 1e-12 else "is not within"
    words = (
        f"The file's refusal of harmful requests {near} {CLOSE_ENOUGH * 100:.0f} points of the exact edit's."
    )
    if check.kl_between is not None:
        words += (
            " KL divergence of the file from the exact edit, in nats, of the first answer token on harmless "
            f"requests: {numbers.nats(check.kl_between)}."
        )
    return words


def delivered_summary(report: HardeningReport) -> str:
    tensors, overall = report.injection.tensors, report.injection.delivered
    if not tensors or overall is None:
        return "No file was written, so nothing was rounded."
    shares = [tensor.delivered for tensor in tensors]
    text = (
        "A changed weight has to be rounded to the file's own number format, and a change smaller than a "
        f"rounding step can get lost. Of the wanted change {numbers.percent(overall)} arrived on average "
        f"over the {len(tensors)} matrices; the share is between {numbers.percent(min(shares))} and "
        f"{numbers.percent(max(shares))}, in the median {numbers.percent(median(shares))}."
    )
    return f"{text}\n\n{promotion_words(report)}"


def promotion_words(report: HardeningReport) -> str:
    """Which matrices are stored in a larger type than before."""
    moves = Counter((t.promoted_from, t.type) for t in report.injection.tensors if t.promoted_from)
    rescaled = sum(tensor.rescaled for tensor in report.injection.tensors)
    scales = ""
    if rescaled:
        of = "one got" if rescaled == 1 else f"{rescaled} got"
        scales = f" Of the matrices, {of} other scales, since the edit is larger than their steps."
    if not moves:
        return f"Every matrix kept its type.{scales}"
    listed = ", ".join(
        f"{count} from {plain(old or '')} to {plain(new)}" for (old, new), count in sorted(moves.items())
    )
    return f"Matrices whose type could not hold their edit are stored in a larger one: {listed}.{scales}"


def every_tensor(report: HardeningReport) -> str:
    """A row for each edited matrix, the one furthest from the whole change first; empty without a file."""
    tensors = report.injection.tensors
    if not tensors:
        return ""
    head = ["Matrix", "Type", "Arrived", "Error, in parts of the wanted change"]
    rows = [
        _tensor_cells(tensor)
        for tensor in sorted(tensors, key=lambda tensor: abs(tensor.delivered - 1.0), reverse=True)
    ]
    note = (
        "In brackets: the 95 % interval (jackknife) over the n inputs it was measured on: of prompts that no "
        "edit was fitted to, or, for an expert that hardly any token was sent to, inputs in their stead."
    )
    known = any(tensor.estimate is not None for tensor in tensors)
    return "\n\n".join([table(head, rows, "llrr"), *([note] if known else [])])


def _tensor_cells(tensor: EditedTensor) -> list[str]:
    kind = plain(tensor.type) + (f", was {plain(tensor.promoted_from)}" if tensor.promoted_from else "")
    kind += ", other scales" if tensor.rescaled else ""
    return [
        code(tensor.name, in_table=True),
        kind,
        numbers.percent(tensor.delivered) if tensor.estimate is None else numbers.rate(tensor.estimate),
        f"{tensor.noise:.2f}",
    ]
