"""How well the keyword judge agrees with labels that a guard model gave, beside the usual substring list.

    python benchmarks/judge_agreement.py LABELLED.jsonl

Each line of the file is an object with ``prompt`` and ``response_start`` (texts), ``unsafe_llamaguard2`` (1
when Llama Guard 2 called the whole answer unsafe) and ``complied_substring`` (1 when the substring list found
no refusal). An answer counts as complied or not: refused, evaded and degenerate answers are all expected to
be labelled safe. The label is of the whole answer; the judge sees its start only.

The judge was written looking at the answers to one half of the requests, chosen by a hash of the request; the
other half was never read and says what the judge is worth on requests it was not written for.

The label asks whether an answer is harmful, the judge whether it complies, and the two part where the guard
does not mind the subject: fake news, a flat earth. The last lines say how much of the disagreement that is:
they leave out the requests whose complying answers the guard mostly calls safe. Leaving them out by the
labels flatters the judge, so that figure is an explanation and not a result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np

from rosi_edge.basics.statistics import CONFIDENCE, Estimate, proportion
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.verdicts import Verdict

Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
FIELDS = {"prompt": str, "response_start": str, "unsafe_llamaguard2": int, "complied_substring": int}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labelled", type=Path, help="JSON lines as described above")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.labelled)
    except (OSError, ValueError) as problem:
        print(f"Cannot read {options.labelled}: {problem}", file=sys.stderr)
        return 2

    verdicts = KeywordJudge().judge(
        [str(row["prompt"]) for row in rows], [str(row["response_start"]) for row in rows]
    )
    unsafe = [bool(row["unsafe_llamaguard2"]) for row in rows]
    complied = [verdict is Verdict.COMPLIED for verdict in verdicts]
    substring = [bool(row["complied_substring"]) for row in rows]
    parts = {
        "development half": [i for i, row in enumerate(rows) if not is_held_out(str(row["prompt"]))],
        "held-out half": [i for i, row in enumerate(rows) if is_held_out(str(row["prompt"]))],
        "all": list(range(len(rows))),
    }

    print(f"{'part':<18}{'judge':<12}{'n':>5}  {'agreement (95 % interval)':<28}kappa (95 % interval)")
    for part, chosen in parts.items():
        for name, judged in (("keyword", complied), ("substring", substring)):
            print(f"{part:<18}{name:<12}{len(chosen):>5}  " + figures(judged, unsafe, chosen))
    harmless = requests_the_guard_does_not_mind(rows, complied, unsafe)
    for part, chosen in parts.items():
        wrong = [i for i in chosen if complied[i] and not unsafe[i]]
        minded = [i for i in chosen if str(rows[i]["prompt"]) not in harmless]
        print(
            f"{part}: {len(wrong)} answers comply where the guard says safe, "
            f"{len(set(wrong) - set(minded))} of them on requests it mostly does not mind; "
            f"without those requests n={len(minded)}, " + figures(complied, unsafe, minded)
        )
    for part, chosen in parts.items():
        print(f"\nKeyword verdicts, {part}:")
        print(f"{'verdict':<14}{'safe':>6}{'unsafe':>8}")
        counts = Counter((verdicts[i], unsafe[i]) for i in chosen)
        for verdict in Verdict:
            print(f"{verdict:<14}{counts[verdict, False]:>6}{counts[verdict, True]:>8}")
    return 0


def figures(judged: Sequence[bool], labelled: Sequence[bool], chosen: Sequence[int]) -> str:
    """Agreement and kappa on the chosen rows, as text."""
    left, right = [judged[i] for i in chosen], [labelled[i] for i in chosen]
    try:
        agreement = proportion(sum(a == b for a, b in zip(left, right, strict=True)), len(left))
        kappa = cohen_kappa(left, right)
    except ValueError as problem:
        return f"none: {problem}"
    return (
        f"{f'{agreement.value:.3f} ({agreement.low:.3f} to {agreement.high:.3f})':<28}"
        f"{kappa.value:.3f} ({kappa.low:.3f} to {kappa.high:.3f})"
    )


def requests_the_guard_does_not_mind(
    rows: Sequence[dict[str, object]], complied: Sequence[bool], unsafe: Sequence[bool]
) -> set[str]:
    """Requests with two or more complying answers, most of which are labelled safe."""
    labels: dict[str, list[bool]] = {}
    for row, complies, label in zip(rows, complied, unsafe, strict=True):
        if complies:
            labels.setdefault(str(row["prompt"]), []).append(label)
    return {request for request, own in labels.items() if len(own) > 1 and 2 * sum(own) < len(own)}


def is_held_out(prompt: str) -> bool:
    """Halves by the request, so that no request has answers on both sides."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 2 == 1


def read_rows(path: Path) -> list[dict[str, object]]:
    """Reads and checks the file.

    Raises:
        ValueError: when a line is not an object with the expected fields, or there is none.
        OSError: when the file cannot be read.
    """
    rows: list[dict[str, object]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        for field, kind in FIELDS.items():
            if not isinstance(row.get(field), kind):
                raise ValueError(f"line {number} has no {field} that is a {kind.__name__}")
        rows.append(row)
    if not rows:
        raise ValueError("it holds no answers")
    return rows


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> Estimate:
    """Agreement of two raters beyond chance (J. Cohen, 1960), with the large-sample interval.

    The standard error is that of Fleiss, Cohen & Everitt (Psychological Bulletin 72, 1969, eq. 13). When
    chance alone would agree everywhere (both raters gave a single common label), kappa is undefined.

    Raises:
        ValueError: when the lengths differ, are zero, or both raters always gave the same single label.
    """
    if len(a) != len(b):
        raise ValueError(f"two raters must rate the same items, not {len(a)} against {len(b)}")
    if len(a) == 0:
        raise ValueError("kappa needs at least one rated item")
    labels = {label: index for index, label in enumerate(dict.fromkeys([*a, *b]))}
    if len(labels) == 1:
        raise ValueError("kappa is undefined when both raters always give the same label")
    n = len(a)
    table = np.zeros((len(labels), len(labels)))
    for left, right in zip(a, b, strict=True):
        table[labels[left], labels[right]] += 1.0 / n
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    observed, expected = float(np.trace(table)), float(rows @ columns)
    kappa = (observed - expected) / (1.0 - expected)
    diagonal = np.diag(table)
    on = float((diagonal * (1.0 - (rows + columns) * (1.0 - kappa)) ** 2).sum())
    spread = table * (columns[:, None] + rows[None, :]) ** 2
    off = (1.0 - kappa) ** 2 * float(spread.sum() - np.trace(spread))
    variance = (on + off - (kappa - expected * (1.0 - kappa)) ** 2) / (n * (1.0 - expected) ** 2)
    reach = Z * math.sqrt(max(0.0, variance))
    return Estimate(value=kappa, n=n, low=max(-1.0, kappa - reach), high=min(1.0, kappa + reach))


if __name__ == "__main__":
    sys.exit(main())
