"""The steps, in their order, in words for somebody who has never heard of a residual stream."""

from __future__ import annotations

from enum import IntEnum


class Step(IntEnum):
    MODEL = 0
    CHECKUP = 1
    CALIBRATE = 2
    STRENGTH = 3
    TRY = 4
    BAKE = 5
    REPORT = 6

    @property
    def title(self) -> str:
        return _TITLES[self]

    @property
    def purpose(self) -> str:
        return _PURPOSES[self]


_TITLES = {
    Step.MODEL: "Model",
    Step.CHECKUP: "Check-up",
    Step.CALIBRATE: "Calibrate",
    Step.STRENGTH: "Strength",
    Step.TRY: "Try it",
    Step.BAKE: "Bake",
    Step.REPORT: "Report",
}

_PURPOSES = {
    Step.MODEL: "Which chat model should refuse more harmful requests?",
    Step.CHECKUP: "What the file is, and whether it can be hardened. It is only read, never changed.",
    Step.CALIBRATE: "The model reads harmful and harmless requests: what does refusing look like inside it?",
    Step.STRENGTH: "How strong should the edit be? Too much refuses harmless requests too.",
    Step.TRY: "Ask the original and the hardened model the same thing. Nothing has been written yet.",
    Step.BAKE: "Write the hardened model to a new file, then measure both on unused prompts.",
    Step.REPORT: "What the new file does, measured before and after.",
}
