"""Another attribute than harm, before and after: ``python benchmarks/attribute.py [MODEL] [NAME|FOLDER]``.

Hardens MODEL (default: demo) in the attribute (default: unknowable), into a temporary folder, and prints
what it does with the reporting prompts, which fitted and chose nothing, and whether it still refuses harm.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rosi_edge.basics.statistics import Estimate, PairedChange, paired_change
from rosi_edge.commands.output import progress_bar
from rosi_edge.evaluation.behaviour import Behaviour, Judged, compare
from rosi_edge.evaluation.verdicts import Verdict
from rosi_edge.hardening.attribute import open_attribute
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.session import HardeningSession
from rosi_edge.search.options import ConditionalOptions
from rosi_edge.sources.resolve import resolve

SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("attribute", nargs="?", default="unknowable")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--layer", type=int, help="That of the direction; the best one otherwise.")
    parser.add_argument("--max-kl", type=float, default=0.10)
    arguments = parser.parse_args()
    attribute = open_attribute(arguments.attribute)
    options = HardenOptions(
        look=False,
        stress=0,
        paper=False,
        # Figures are wanted whatever the verdict; the file goes with its folder.
        force=True,
        conditional=ConditionalOptions(
            trials=arguments.trials, max_kl=arguments.max_kl, layer=arguments.layer
        ),
    )
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, progress_bar() as progress:
        output = Path(folder) / "out.gguf"
        model = resolve(arguments.model, progress)
        with HardeningSession(model, attribute.plan(), attribute.judge(), options, progress) as session:
            session.calibrate()
            found = session.search()
            before = session.measure_before()
            session.bake(output)
            after = session.measure_after()
            verdict = session.verdict()
            report = session.finish()
    print(f"verdict   {verdict.status}: {verdict.reason}")
    print(f"setting   {report.injection.setting}")
    print(f"choosing  floor of {attribute.labels[1]!r} {found.floor:.3f}")
    print(f"time      {report.timing.total:.0f} s")
    if after is None:
        return
    names = attribute.names
    print(f"{'on the reporting prompts':44} {'before':30} {'after':30} change")
    changes = compare(before, after)
    _row(attribute.labels[0], before.refusal, after.refusal, changes.refusal)
    _shares(f"  {names.harmful}: evades otherwise", before.harmful, after.harmful, Verdict.EVADED)
    _shares(f"  {names.harmful}: answers", before.harmful, after.harmful, Verdict.COMPLIED)
    _row(attribute.labels[1], before.compliance, after.compliance, changes.compliance)
    sounds = before.sounds_harmful_compliance, after.sounds_harmful_compliance
    if sounds[0] and sounds[1]:
        _row(attribute.labels[2], sounds[0], sounds[1], changes.sounds_harmful_compliance)
    _row("broken answers", before.degenerate, after.degenerate, None)
    if after.kl:
        print(f"{'KL of the first token, nats':75} {_figure(after.kl)}")
    guarded = before.guarded_refusal, after.guarded_refusal
    if guarded[0] and guarded[1]:
        _row("refuses harmful requests (keyword judge)", guarded[0], guarded[1], changes.guarded_refusal)
    _examples(before, after)


def _row(label: str, before: Estimate, after: Estimate, change: PairedChange | None) -> None:
    print(f"{label:44} {_figure(before):30} {_figure(after):30} {_change(change)}")


def _shares(label: str, before: Judged, after: Judged, verdict: Verdict) -> None:
    change = paired_change(before.are(verdict), after.are(verdict))
    _row(label, before.share(verdict), after.share(verdict), change)


def _figure(figure: Estimate) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}, n={figure.n})"


def _change(change: PairedChange | None) -> str:
    if change is None:
        return ""
    interval = f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"
    return f"{100 * change.change:+.1f} points ({interval}, p={change.p_value:.2g})"


def _examples(before: Behaviour, after: Behaviour) -> None:
    """The first answers whose verdict changed, of each set."""
    for old, new in (
        (before.harmful, after.harmful),
        (before.harmless, after.harmless),
        (before.sounds_harmful, after.sounds_harmful),
    ):
        if old is None or new is None:
            continue
        rows = zip(old.prompts.texts, old.answers, new.answers, old.verdicts, new.verdicts, strict=True)
        changed = [row for row in rows if row[3] is not row[4]]
        print(f"\n{old.prompts.name}: {len(changed)} of {len(old.prompts)} verdicts changed")
        for text, first, second, was, became in changed[:SHOWN]:
            print(f"  {text}\n    {was}: {_line(first.text)}\n    {became}: {_line(second.text)}")


def _line(text: str) -> str:
    return " ".join(text.split())[:150]


if __name__ == "__main__":
    main()
