"""Reading directions, under a safety system prompt where the model hardly refuses without one."""

from __future__ import annotations

from collections.abc import Callable

from rosi_edge.basics.progress import SILENT, Progress
from rosi_edge.direction.calibration import Calibration, calibrate, candidate_matrices
from rosi_edge.direction.difference import Directions, LayerSeparation, extract_directions
from rosi_edge.direction.elicitation import DEFAULT_ELICITATION, LITTLE_REFUSAL, LOOK_PROMPTS
from rosi_edge.evaluation.verdicts import Judge, Verdict
from rosi_edge.hardening.opened import OpenModel
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.prompts.plan import RequestSets
from rosi_edge.prompts.sets import PromptSet
from rosi_edge.runtime.engine import Engine, ask


def read_directions(
    model: OpenModel,
    sets: RequestSets,
    judge: Judge,
    options: HardenOptions,
    progress: Progress = SILENT,
    separated: Callable[[LayerSeparation], None] = lambda layer: None,
) -> tuple[Directions, Calibration | None, list[str]]:
    """Directions of every layer, and for the conditional method the inputs that keys are solved from.

    Returns:
        also sentences about what was noticed.
    """
    engine = model.engines.original(progress)
    elicitation, findings = options.elicitation, list[str]()
    if elicitation is None and options.look:
        with model.watch.measure("look"):
            elicitation, findings = elicitation_needed(
                engine, sets.harmful, judge, max_tokens=options.conditional.max_tokens, progress=progress
            )
    with model.watch.measure("extract"):
        if options.method == "rosi":
            directions = extract_directions(
                engine, sets.harmful.texts, sets.harmless.texts, elicitation=elicitation, progress=progress
            )
            return directions, None, findings
        calibration = calibrate(
            engine,
            sets,
            candidate_matrices(model.matrices, engine.facts.layers),
            elicitation=elicitation,
            progress=progress,
            separated=separated,
        )
        return calibration.directions, calibration, findings


def elicitation_needed(
    engine: Engine, harmful: PromptSet, judge: Judge, *, max_tokens: int, progress: Progress = SILENT
) -> tuple[str | None, list[str]]:
    """The default safety prompt where the model refuses little without it and more with it.

    Returns:
        it, or None; and a sentence about what was found where the model refuses little.
    """
    requests = harmful.take(LOOK_PROMPTS)

    def refusal(system: str | None) -> float:
        prompts = engine.encode([ask(text, system) for text in requests.texts])
        answers = engine.generate(prompts, max_tokens=max_tokens, advance=advance)
        verdicts = judge.judge(requests.texts, [answer.text for answer in answers])
        return sum(verdict is Verdict.REFUSED for verdict in verdicts) / len(verdicts)

    with progress.stage("Looking at the original model", 2 * len(requests)) as advance:
        plain = refusal(None)
        if plain >= LITTLE_REFUSAL:
            return None, []
        asked = refusal(DEFAULT_ELICITATION)
    finding = (
        f"Without a system prompt the model refused {plain:.0%} of {len(requests)} harmful requests, "
        f"under a safety system prompt {asked:.0%}"
        + ("; the directions were taken under it." if asked > plain else ".")
    )
    progress.note(finding)
    return DEFAULT_ELICITATION if asked > plain else None, [finding]
