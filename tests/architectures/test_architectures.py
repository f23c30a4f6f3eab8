"""Every architecture that the table supports: an edit moves the residual stream where it should."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from architectures.make_table import TABLE, refusals, render, row
from architectures.measure import Measurement, everything, load_edit, prompt, short_name, sweep
from architectures.recipes import settings
from architectures.tiny import blueprint, write_model
from gguf import GGMLQuantizationType
from sampling import draw, mostly_long

from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import UnsupportedModelError
from rosi_edge.models.architectures import WriteMatrix, known_architectures, write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Positions, TapRequest

KNOWN = known_architectures()
OPTIONS = EngineOptions(threads=1, context_size=64, batch_size=32, sequences=1)
RESIDUAL_SCALE = settings("granite", experts=False)["residual_scale"]
ALL = everything()

DENSE = [
    *("llama", "qwen2", "qwen3", "gemma", "phi3", "falcon", "gpt2", "gptneox", "starcoder2", "smollm3"),
    "mistral3",
]
POST_NORM = ["gemma2", "gemma3", "olmo2", "glm4"]
SCALED = ["granite", "minicpm"]
PARALLEL = ["phi2", "command-r"]
MIXTURES = ["qwen2moe", "qwen3moe", "gpt-oss"]
RECURRENT = ["mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "lfm2", "qwen3next", "rwkv7"]
SAMPLE = draw(
    list(dict.fromkeys(name for name, _ in ALL)),
    8,
    always=DENSE + POST_NORM + SCALED + PARALLEL + MIXTURES + RECURRENT,
)
"""What make test measures: those that matter most, and a few others."""
NOW = [variant for variant in ALL if variant[0] in SAMPLE]
LATER = [variant for variant in ALL if variant[0] not in SAMPLE]

# What stands between a push and the stream; one for all others.
FACTORS = {
    **dict.fromkeys(("granite", "granite_swa", "granitehybrid", "granitemoe", "minicpm"), RESIDUAL_SCALE),
    "minicpm3": 1.4 / math.sqrt(2),
    "cohere2moe ffn_down_shexp": 0.5,
}
# A number per token, from the token itself.
GATED = {f"{name} ffn_down_shexp" for name in ("qwen2moe", "qwen35moe", "qwen3next")}


class Measurements:
    """Measured when first asked for, a few variants to a process, so that no single test waits for all."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], Measurement] = {}

    def __getitem__(self, variant: tuple[str, bool]) -> Measurement:
        if variant not in self._found:
            together = NOW if variant in NOW else LATER
            start = together.index(variant)
            for found in sweep(one for one in together[start : start + 10] if one not in self._found):
                self._found[found.architecture, found.experts] = found
        return self._found[variant]


every_variant = pytest.mark.parametrize(("name", "experts"), mostly_long(ALL, NOW))


@pytest.fixture(scope="module")
def measurements() -> Measurements:
    return Measurements()


def test_the_ones_that_matter_most_are_measured() -> None:
    assert {(name, False) for name in DENSE + POST_NORM + SCALED + PARALLEL} <= set(ALL)
    assert {(name, True) for name in ["llama", *MIXTURES]} <= set(ALL)
    assert set(RECURRENT) <= {name for name, _ in ALL}


@every_variant
def test_the_stream_moves_along_the_direction(name: str, experts: bool, measurements: Measurements) -> None:
    found = measurements[name, experts]
    assert found.failure is None
    entry = KNOWN[name]
    assert found.movements
    assert {one.matrix for one in found.movements} <= set(entry.writes)
    for one in found.movements:
        where = f"{found.name} {one.matrix}: {one}"
        if entry.post_norm:
            assert min(one.cosine, one.baked) > 0.9, where
        else:
            assert min(one.cosine, one.baked) > 0.999, where
        stacked = one.matrix.endswith("exps")
        assert (one.factor is None) == stacked, where
        if stacked:
            # Where the inputs of experts are said to go, and no others, an edit of one expert is felt.
            assert one.astray is not None
            assert one.astray < 1e-5, where
        if stacked or one.factor is None or one.baked_factor is None or one.spread is None:
            continue
        if entry.post_norm:
            assert one.predicted is not None
            assert one.predicted > 0.999, where
        if f"{name} {one.matrix}" in GATED:
            assert 0.05 < one.spread < 1
            continue
        assert one.spread < 0.01, where
        # An adapter must do what the same edit does in the weights.
        assert one.factor == pytest.approx(one.baked_factor, rel=2e-3), where
        if name != "gemma4":  # Its factor is a tensor of the file, another one for every block.
            expected = FACTORS.get(f"{name} {one.matrix}", FACTORS.get(name, 1.0))
            assert one.factor == pytest.approx(expected, rel=2e-3), where


@every_variant
def test_nothing_else_writes_to_the_stream(name: str, experts: bool, measurements: Measurements) -> None:
    assert abs(measurements[name, experts].unlisted) < 1e-6


def test_the_page_says_what_is_measured(measurements: Measurements) -> None:
    page = TABLE.read_text("utf-8")
    for name in SAMPLE:
        found = [measurements[variant] for variant in NOW if variant[0] == name]
        assert row(KNOWN[name], found) in page.splitlines()
    assert page.endswith("\n".join(refusals()) + "\n")
    assert all(f"| {entry.name} | " in page for entry in KNOWN.values())


@pytest.mark.long
def test_the_page_is_current(measurements: Measurements) -> None:
    assert TABLE.read_text("utf-8") == render(measurements[variant] for variant in ALL), (
        "run PYTHONPATH=tests python tests/architectures/make_table.py"
    )


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rwkv6", "gemma3n", "step35", "kimi-linear", "deepseek4", "t5", "bert"])
def test_what_the_table_calls_unfit_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    reason = KNOWN[name].refused
    assert reason
    # Tensors as a supported architecture has them: the name alone decides.
    plan = replace(blueprint("llama", tmp_path, experts=False), architecture=name)
    path = write_model(tmp_path / "model.gguf", plan)
    with GgufFile.open(path) as file, pytest.raises(UnsupportedModelError) as caught:
        write_matrices(file)
    assert reason in str(caught.value)


def test_the_reason_for_refusing_rwkv6_holds(tmp_path: Path) -> None:
    """Its channel mixing multiplies the write channel by channel, so the stream leaves the direction."""
    path = write_model(tmp_path / "model.gguf", blueprint("rwkv6", tmp_path, experts=False))
    tensor = "blk.1.channel_mix_value.weight"
    with GgufFile.open(path) as file:
        matrix = WriteMatrix(tensor, 1, "mlp", file.tensors[tensor].shape, file.tensors[tensor].type)
    assert turned(path, matrix, tmp_path) < 0.99


# --- types that come with an architecture --------------------------------------------------------------


def test_gpt_oss_with_experts_in_mxfp4(tmp_path: Path) -> None:
    """The type its files have. The attention's edit is a plain one; experts take a stacked adapter."""
    plan = blueprint("gpt-oss", tmp_path, experts=True)

    def kind(name: str) -> GGMLQuantizationType:
        return GGMLQuantizationType.MXFP4 if "_exps.weight" in name else GGMLQuantizationType.F32

    for short, other in (("attn_output", "ffn_down_exps"), ("ffn_down_exps", "attn_output")):
        silent = partial(_is, other)
        path = write_model(tmp_path / f"{short}.gguf", plan, zero=silent, kind=kind)
        with GgufFile.open(path) as file:
            matrix = next(one for one in write_matrices(file) if short_name(one.name) == short)
        assert matrix.type.name == ("MXFP4" if matrix.experts else "F32")
        assert turned(path, matrix, tmp_path) > 0.999


def turned(path: Path, matrix: WriteMatrix, folder: Path) -> float:
    """The smallest cosine, over tokens, of the stream's change with the direction of an edit."""
    random = np.random.default_rng(0)
    hidden, width = matrix.shape[-2:]
    direction = random.standard_normal(hidden).astype(np.float32)
    direction /= np.linalg.norm(direction)
    edit = RankOneEdit(matrix.name, direction, random.standard_normal(width).astype(np.float32))
    request = TapRequest(blocks=(matrix.block,), positions=Positions.ALL)
    with LlamaEngine(path, OPTIONS) as engine:
        before = engine.capture([prompt()], request, share_prefix=False).stream_rows(matrix.block)
        engine.apply({load_edit(engine, edit, matrix, engine.facts.architecture, folder): 1.0})
        after = engine.capture([prompt()], request, share_prefix=False).stream_rows(matrix.block)
    change = after - before
    return float((np.abs(change @ direction) / np.linalg.norm(change, axis=1)).min())


def _is(short: str, name: str) -> bool:
    return short_name(name) == short
