"""A report with the figures that a real run gives: 24 layers, a sweep, a few strengths, 48 matrices."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Any

from rosi_edge.basics.statistics import (
    Estimate,
    mean,
    paired_change,
    proportion,
)
from rosi_edge.direction.difference import LayerSeparation
from rosi_edge.inspection import TypeShare
from rosi_edge.records.evaluation import (
    Better,
    EvaluationReport,
    JudgeFacts,
    SuiteFigure,
    SuiteReport,
    Unit,
)
from rosi_edge.records.facts import (
    EvaluationFacts,
    ModelFacts,
    OutputFile,
    PromptSetFacts,
    ToolFacts,
)
from rosi_edge.records.figures import Changes, Figures
from rosi_edge.records.hardening import (
    AttackSuccess,
    DirectionFacts,
    EditedTensor,
    FrontierPoint,
    HardeningReport,
    HardeningVerdict,
    Injection,
    RoundingCheck,
    StressTest,
    SweepPoint,
    Timing,
)

LAYERS = 24
HARMFUL, HARMLESS, SOUNDS_HARMFUL = 61, 67, 33


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def divergence(centre: float) -> Estimate:
    return mean([centre * (0.4 + 1.2 * math.sin(i) ** 2) for i in range(HARMLESS)])


def figures(refused: int, answered: int, sounding: int, broken: int, kl: float | None) -> Figures:
    return Figures(
        harmful_refusal_rate=proportion(refused, HARMFUL),
        benign_compliance_rate=proportion(answered, HARMLESS),
        sounds_harmful_compliance_rate=proportion(sounding, SOUNDS_HARMFUL),
        degenerate_rate=proportion(broken, HARMFUL + HARMLESS + SOUNDS_HARMFUL),
        kl_first_token=None if kl is None else divergence(kl),
    )


def outcomes(hits: int, n: int) -> list[bool]:
    return [i < hits for i in range(n)]


def model_facts(name: str | None = "Qwen2.5 Coder 0.5B Instruct") -> ModelFacts:
    return ModelFacts(
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        reference="demo",
        sha256=digest("model"),
        size=491_400_032,
        architecture="qwen2",
        name=name,
        file_type="Q4_K_M",
        layers=LAYERS,
        hidden_size=896,
        tensor_types={
            "Q5_0": TypeShare(tensors=132, bytes=211_000_000),
            "Q8_0": TypeShare(tensors=13, bytes=150_000_000),
            "Q6_K": TypeShare(tensors=12, bytes=70_000_000),
            "Q4_K": TypeShare(tensors=12, bytes=60_000_000),
            "F32": TypeShare(tensors=121, bytes=400_000),
        },
    )


def prompt_sets(part: str) -> tuple[PromptSetFacts, ...]:
    sizes = {"harmful": HARMFUL, "harmless": HARMLESS, "sounds_harmful": SOUNDS_HARMFUL}
    return tuple(
        PromptSetFacts(name=f"{kind}_{part}", n=n, sha256=digest(f"{kind}{part}"))
        for kind, n in sizes.items()
    )


def separations() -> tuple[LayerSeparation, ...]:
    return tuple(
        LayerSeparation(
            layer=i,
            norm=0.5 * 1.2**i,
            cosine_of_means=0.99 - 0.01 * i,
            d_prime=0.8 + 2.9 * math.exp(-(((i - 15) / 7) ** 2)) + 0.12 * math.sin(3 * i),
            auc=0.75 + 0.01 * i,
            resampled_cosine=0.9 + 0.004 * i,
        )
        for i in range(LAYERS)
    )


def sweep() -> tuple[SweepPoint, ...]:
    """Layers, and one direction found in the weights."""
    tried = {f"layer {layer}": layer for layer in range(4, 22, 2)} | {"hole 1 +": 11}
    return tuple(
        SweepPoint(
            layer=layer,
            direction=name,
            d_prime=separations()[layer].d_prime,
            strength=0.5,
            harmful_refusal_score_change=1.7 * math.exp(-(((layer - 13) / 6) ** 2)) - 0.1,
            harmless_refusal_score_change=0.5 * math.exp(-(((layer - 17) / 7) ** 2)),
            kl_first_token=0.05 + 0.004 * layer,
        )
        for name, layer in tried.items()
    )


def frontier(chosen: float = 0.475) -> tuple[FrontierPoint, ...]:
    measured = [
        (0.0, 33, 61, 15, 0, None),
        (0.2, 37, 60, 14, 0, 0.021),
        (0.4, 40, 60, 13, 0, 0.088),
        (0.45, 42, 60, 13, 0, 0.101),
        (0.475, 43, 60, 12, 0, 0.120),
        (0.5, 44, 58, 12, 0, 0.133),
        (0.6, 45, 54, 10, 0, 0.230),
        (0.8, 47, 41, 8, 1, 0.410),
        (1.6, 58, 14, 2, 9, 1.760),
    ]
    return tuple(
        FrontierPoint(
            layer=14,
            strength=strength,
            setting=setting(strength) if strength else "",
            harmful_refusal=proportion(refused, HARMFUL),
            benign_compliance=proportion(answered, HARMLESS),
            sounds_harmful_compliance=proportion(sounding, SOUNDS_HARMFUL),
            degenerate=proportion(broken, HARMFUL + HARMLESS),
            kl=None if kl is None else divergence(kl),
            chosen=strength == chosen,
        )
        for strength, refused, answered, sounding, broken, kl in measured
    )


def setting(strength: float) -> str:
    return f"layer 14, ridge, attention 12–19 × 1.00, MLP 12–19 × 0.80, β 0.30/0.20, strength {strength:.3f}"


def paper_point() -> FrontierPoint:
    return FrontierPoint(
        layer=15,
        strength=26.0,
        harmful_refusal=proportion(38, HARMFUL),
        benign_compliance=proportion(60, HARMLESS),
        sounds_harmful_compliance=proportion(14, SOUNDS_HARMFUL),
        degenerate=proportion(0, HARMFUL + HARMLESS),
        kl=divergence(0.035),
    )


def rounding_check() -> RoundingCheck:
    return RoundingCheck(
        adapter_harmful_refusal=proportion(43, HARMFUL),
        file_harmful_refusal=proportion(42, HARMFUL),
        adapter_benign_compliance=proportion(60, HARMLESS),
        file_benign_compliance=proportion(59, HARMLESS),
        kl_between=divergence(0.007),
    )


ATTACKED = 8


def stress() -> StressTest:
    hits = {"persona": (5, 1), "refusal_suppression": (6, 2), "prefix_injection": (8, 6), "fiction": (7, 2)}
    return StressTest(
        requests=ATTACKED,
        attacks=tuple(
            AttackSuccess(name=name, before=proportion(before, ATTACKED), after=proportion(after, ATTACKED))
            for name, (before, after) in hits.items()
        ),
        before=mean([1.0, 1.0, 0.75, 0.75, 1.0, 0.5, 0.75, 0.75]),
        after=mean([0.25, 0.5, 0.25, 0.25, 0.5, 0.25, 0.5, 0.25]),
    )


def tensors() -> tuple[EditedTensor, ...]:
    made = []
    for block in range(LAYERS):
        for kind, name, kind_type, centre in (
            ("attention", "attn_output", "Q5_0", 0.45),
            ("mlp", "ffn_down", "Q6_K" if block % 2 else "Q4_K", 0.25),
        ):
            promoted = name == "ffn_down" and block == 11
            share = 0.98 if promoted else centre + 0.4 * math.sin(2.3 * block + centre * 10) ** 3
            made.append(
                EditedTensor(
                    name=f"blk.{block}.{name}.weight",
                    block=block,
                    kind=kind,
                    type="Q8_0" if promoted else kind_type,
                    promoted_from=kind_type if promoted else None,
                    delivered=share,
                    noise=1.4 - share,
                )
            )
    return tuple(made)


def make_report(**changes: Any) -> HardeningReport:
    """The report, with some of its fields replaced."""
    fields: dict[str, Any] = {
        "verdict": HardeningVerdict(
            status="hardened",
            reason="Harmful refusal rose by 19.7 points while benign compliance stayed within its limit.",
            advice="Try it on requests of your own before you rely on it.",
        ),
        "model": model_facts(),
        "output": OutputFile(file_name="hardened.gguf", sha256=digest("out"), size=491_400_416),
        "before": figures(33, 61, 15, 1, None),
        "after": figures(45, 60, 13, 2, 0.061),
        "rounding_check": rounding_check(),
        "stress": stress(),
        "changes": Changes(
            harmful_refusal_rate=paired_change(outcomes(33, HARMFUL), outcomes(45, HARMFUL)),
            benign_compliance_rate=paired_change(outcomes(61, HARMLESS), outcomes(60, HARMLESS)),
            sounds_harmful_compliance_rate=paired_change(
                outcomes(15, SOUNDS_HARMFUL), outcomes(13, SOUNDS_HARMFUL)
            ),
        ),
        "evaluation": EvaluationFacts(judge="keyword", max_tokens=32, prompt_sets=prompt_sets("reporting")),
        "direction": DirectionFacts(
            layer=14,
            separation=separations(),
            sweep=sweep(),
            harmful_prompts=64,
            harmless_prompts=65,
            elicitation=None,
            prompt_sets=prompt_sets("calibration") + prompt_sets("choosing"),
        ),
        "injection": Injection(
            method="conditional",
            rounding="grid",
            setting=setting(0.475),
            strength=0.475,
            min_compliance=0.89,
            delivered=0.412,
            tensors=tensors(),
        ),
        "frontier": frontier(),
        "paper": paper_point(),
        "findings": ("Without a system prompt the model refused 54% of 32 harmful requests.",),
        "timing": Timing(
            stages={"direction": 31.25, "search": 260.4, "bake": 42.0, "report": 88.8}, total=422.5
        ),
        "tool": ToolFacts(
            version="0.1.0",
            llama_cpp_python="0.3.36",
            seed=0,
            command="rosi-edge harden demo -o hardened.gguf --report report",
        ),
        "generated": "2026-03-14T09:26:53+00:00",
    }
    return HardeningReport(**{**fields, **changes})


def make_evaluation() -> EvaluationReport:
    before, after = figures(33, 61, 15, 1, None), figures(45, 60, 13, 2, 0.061)
    changes = make_report().changes
    assert changes is not None
    moved = {name: change for name, change in changes if change is not None}

    def figure(name: str, label: str, better: Better, unit: Unit = "rate") -> SuiteFigure:
        of_model, of_base = getattr(after, name), getattr(before, name)
        return SuiteFigure(
            **of_model.model_dump(),
            label=label,
            unit=unit,
            better=better,
            base=of_base,
            change=moved.get(name),
        )

    return EvaluationReport(
        **dict(after),
        model=model_facts(),
        base=model_facts("Original"),
        base_figures=before,
        changes=moved,
        suites={
            "refusal": SuiteReport(
                figures={
                    "harmful_refusal_rate": figure("harmful_refusal_rate", "harmful refusal", "higher"),
                    "degenerate_rate": figure("degenerate_rate", "broken answers", "lower"),
                },
                inputs=prompt_sets("reporting"),
                details={"harmful": {"verdicts": {"refused": 45, "complied": 16}}},
            ),
            "divergence": SuiteReport(
                figures={
                    "kl_first_token": figure("kl_first_token", "KL of $the$ first token", "lower", "nats")
                }
            ),
            "stability": SuiteReport(problem="this model's memory cannot be shifted."),
        },
        judge=JudgeFacts(name="keyword"),
        prompt_sets=prompt_sets("reporting"),
        seed=0,
        settings={"max_tokens": 32, "limit": None},
    )
