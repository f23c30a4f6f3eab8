"""Edits found on one file, baked into others of the same model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from command import assert_refused, called, rosi_edge, write_requests
from gguf import GGMLQuantizationType
from split_gguf import split_gguf
from test_hardening import OPTIONS as HARDENING
from test_hardening import Changed, Unmoved, interrupt_after_bake, plan
from tiny_gguf import write_tiny_llama

from rosi_edge.baking.inputs import SharedFactors
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import ModelFileError, OutputError, UnsupportedModelError
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.session import harden
from rosi_edge.hardening.transfer import (
    FoundEdits,
    Target,
    check_targets,
    edits_from,
    transfer,
    transfer_all,
)
from rosi_edge.inspection import inspect
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import dequantize
from rosi_edge.quantization.promotion import NEVER
from rosi_edge.runtime.engine import EngineOptions
from rosi_edge.verification.gguf import verify

OPTIONS = HardenOptions(engine=EngineOptions(threads=1, context_size=1024), max_tokens=8)
NAMES = ("blk.0.attn_output.weight", "blk.1.ffn_down.weight")
T = GGMLQuantizationType


def edits(columns: tuple[int, int] = (256, 256), size: float = 0.3) -> list[RankOneEdit]:
    random = np.random.default_rng(0)
    return [
        RankOneEdit(
            name,
            random.standard_normal(256).astype(np.float32),
            size * random.standard_normal(width).astype(np.float32) / 16,
        )
        for name, width in zip(NAMES, columns, strict=True)
    ]


def model(folder: Path, kind: T, feed_forward: int = 256) -> Path:
    return write_tiny_llama(
        folder / f"{kind.name}.gguf", hidden=256, feed_forward=feed_forward, heads=8, types=kind
    )


@pytest.fixture
def found(tmp_path: Path) -> FoundEdits:
    write_adapter(tmp_path / "edits.gguf", edits(size=0.15), architecture="llama")
    return edits_from(tmp_path / "edits.gguf")


@pytest.mark.parametrize(
    "kinds", [(T.Q8_0, T.Q4_K), pytest.param((T.F16, T.Q6_K, T.Q5_0), marks=pytest.mark.long)], ids=str
)
@pytest.mark.parametrize("rounding", ["grid", "requantize"])
def test_one_adapter_into_several_quantizations(
    tmp_path: Path, found: FoundEdits, rounding: str, kinds: tuple[T, ...]
) -> None:
    targets = [
        Target(kind.name, model(tmp_path, kind), tmp_path / f"{kind.name}-hard.gguf") for kind in kinds
    ]
    before = {target.model: target.model.read_bytes() for target in targets}
    # By force: how far random weights diverge is not what is tested here.
    options = replace(OPTIONS, rounding=rounding, force=True, min_delivered=0.0)  # type: ignore[arg-type]
    # A judge for each: it knows the first answers of one model only.
    files = [transfer(target, found, plan(), Changed(), options) for target in targets]
    for target, file, kind in zip(targets, files, kinds, strict=True):
        assert target.model.read_bytes() == before[target.model]
        assert file.problem is None
        assert file.verdict is not None
        assert file.verdict.status in ("hardened", "ineffective", "degraded"), file.verdict
        assert file.before is not None and file.before.harmful_refusal_rate is not None
        assert file.after is not None and file.after.harmful_refusal_rate is not None
        assert file.before.harmful_refusal_rate.value == 0
        assert file.after.harmful_refusal_rate.value > 0
        assert [tensor.name for tensor in file.tensors] == list(NAMES)
        assert file.output is not None
        assert file.output.sha256 == hashlib.sha256(target.output.read_bytes()).hexdigest()
        with GgufFile.open(target.model) as old, GgufFile.open(target.output) as new:
            assert new.text("rosi.edits.sha256") == found.sha256
            for edit, tensor in zip(found.edits, file.tensors, strict=True):
                assert tensor.type == kind.name
                moved = (dequantize(new, edit.tensor) - dequantize(old, edit.tensor)).astype(np.float64)
                wanted = edit.delta(1.0)
                assert (moved * wanted).sum() / (wanted**2).sum() > 0.3
                assert tensor.delivered > 0.7, (kind, tensor)
            assert verify(target.output, old).passed
        # The file declares the very edits, so it is a source itself.
        assert edits_from(target.output).sha256 == found.sha256
    assert len(list(tmp_path.iterdir())) == 2 * len(kinds) + 1, "something was left behind"


def test_a_file_that_is_not_hardened_is_not_kept(tmp_path: Path, found: FoundEdits) -> None:
    target = Target("tiny", model(tmp_path, T.Q8_0), tmp_path / "out.gguf")
    file = transfer(target, found, plan(), Unmoved(), OPTIONS)
    assert file.verdict is not None
    assert file.verdict.status != "hardened"
    assert file.output is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Q8_0.gguf", "edits.gguf"]
    file = transfer(target, found, plan(), Unmoved(), replace(OPTIONS, force=True))
    assert file.output is not None
    assert target.output.is_file()
    # Without a measurement there is no verdict, and the file is written.
    target.output.unlink()
    file = transfer(target, found, plan(), Unmoved(), replace(OPTIONS, evaluate=False))
    assert (file.verdict, file.before, file.after) == (None, None, None)
    assert target.output.is_file()


def test_an_interrupt_at_the_instant_the_draft_is_whole_leaves_nothing(
    tmp_path: Path, found: FoundEdits, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = interrupt_after_bake(monkeypatch)
    target = Target("tiny", model(tmp_path, T.Q8_0), tmp_path / "out.gguf")
    with pytest.raises(KeyboardInterrupt):
        transfer(target, found, plan(), Changed(), replace(OPTIONS, evaluate=False))
    assert len(written) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Q8_0.gguf", "edits.gguf"]


def test_one_that_cannot_hold_the_edit_does_not_stop_the_others(tmp_path: Path) -> None:
    write_adapter(tmp_path / "small.gguf", edits(size=1e-5), architecture="llama")
    found = edits_from(tmp_path / "small.gguf")
    options = replace(OPTIONS, rounding="grid", promotion=NEVER, evaluate=False, min_delivered=0.95)
    targets = [
        Target("coarse", model(tmp_path, T.Q2_K), tmp_path / "coarse-out.gguf"),
        Target("exact", model(tmp_path, T.F32), tmp_path / "exact-out.gguf"),
    ]
    coarse, exact = transfer_all(targets, found, plan(), Changed(), options)
    assert coarse.problem is not None and "as much noise" in coarse.problem
    assert (coarse.output, coarse.tensors) == (None, ())
    assert exact.output is not None and exact.output.file_name == "exact-out.gguf"
    assert not (tmp_path / "coarse-out.gguf").exists()


class Titles:
    """Keeps the names of stages."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        self.seen.append(description)
        yield lambda units: None

    def note(self, line: str) -> None:
        pass


def test_inputs_to_round_by_are_read_on_one_file(tmp_path: Path, found: FoundEdits) -> None:
    """And the bytes of a file rounded by another one's inputs deliver the edit as well."""
    options = replace(OPTIONS, evaluate=False)
    targets = [
        Target(kind.name, model(tmp_path, kind), tmp_path / f"{kind.name}-o.gguf")
        for kind in (T.Q8_0, T.Q4_K)
    ]
    titles = Titles()
    together = transfer_all(targets, found, plan(), Changed(), options, titles)
    assert titles.seen.count("Reading inputs at all positions") == 1
    assert titles.seen.count("Reading inputs of write matrices") == 2
    own = transfer_all([replace(targets[1], output=tmp_path / "own.gguf")], found, plan(), Changed(), options)
    for tensor, alone in zip(together[1].tensors, own[0].tensors, strict=True):
        assert tensor.delivered == pytest.approx(alone.delivered, abs=0.05)


def test_inputs_that_hardening_read_serve_the_other_files(tmp_path: Path) -> None:
    source, other = model(tmp_path, T.F16), model(tmp_path, T.Q4_K)
    shared, titles = SharedFactors(), Titles()
    options = replace(HARDENING, rounding="grid", force=True)
    harden(source, tmp_path / "out.gguf", plan(), Changed(), options, shared=shared)
    target = Target("other", other, tmp_path / "other-out.gguf")
    (file,) = transfer_all(
        [target],
        edits_from(tmp_path / "out.gguf"),
        plan(),
        Changed(),
        replace(OPTIONS, force=True),
        titles,
        shared,
    )
    assert file.output is not None
    assert "Reading inputs at all positions" not in titles.seen


def test_edits_of_another_model_are_refused(tmp_path: Path) -> None:
    target = Target("m", model(tmp_path, T.F32, feed_forward=128), tmp_path / "out.gguf")
    write_adapter(tmp_path / "wide.gguf", edits(), architecture="llama")
    with pytest.raises(UnsupportedModelError, match=r"which F32\.gguf does not have"):
        transfer_all([target], edits_from(tmp_path / "wide.gguf"), plan(), Changed(), OPTIONS)
    write_adapter(tmp_path / "qwen.gguf", edits((256, 128)), architecture="qwen2")
    with pytest.raises(UnsupportedModelError, match=r"qwen2 model, and F32\.gguf is llama"):
        transfer_all([target], edits_from(tmp_path / "qwen.gguf"), plan(), Changed(), OPTIONS)
    assert not (tmp_path / "out.gguf").exists()


def test_places_that_cannot_be(tmp_path: Path, found: FoundEdits) -> None:
    one, two = model(tmp_path, T.F32), model(tmp_path, T.F16)
    out = tmp_path / "out.gguf"
    for targets in (
        [Target("a", one, out), Target("b", two, out)],
        [Target("a", one, two), Target("b", two, out)],
        [Target("a", one, one)],
    ):
        with pytest.raises(OutputError):
            transfer_all(targets, found, plan(), Changed(), OPTIONS)
    assert not out.exists()


def test_what_holds_no_edits(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        edits_from(tmp_path)
    write_adapter(tmp_path / "empty.gguf", [], architecture="llama")
    with pytest.raises(ModelFileError, match="holds no edits"):
        edits_from(tmp_path / "empty.gguf")
    with pytest.raises(ModelFileError, match="holds no edits"):
        edits_from(model(tmp_path, T.F32))


def test_the_command(tmp_path: Path) -> None:
    flags = [*write_requests(tmp_path), "-t", "1", "-c", "1024"]
    one, two = model(tmp_path, T.Q8_0), model(tmp_path, T.Q4_K)
    write_adapter(tmp_path / "edits.gguf", edits(size=0.15), architecture="llama")
    start = ["harden", one, "--from", tmp_path / "edits.gguf", "-o", "one-out.gguf"]
    also = ["--also", two, "two-out.gguf"]
    result = rosi_edge(tmp_path, *start, *also, "--no-evaluation", "--json", *flags)
    assert result.code == 0, result.error
    report = json.loads(result.out)
    assert [file["output"]["file_name"] for file in report["files"]] == ["one-out.gguf", "two-out.gguf"]
    assert all(file["verdict"] is None and file["delivered"] > 0.9 for file in report["files"])
    tensors = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "two-out.gguf").tensors}
    assert set(NAMES) <= tensors
    assert rosi_edge(tmp_path, "verify", "two-out.gguf", "--base", two).code == 0

    # Noise of random weights is neither a refusal nor an answer: measured, it is a finding, and not kept.
    (tmp_path / "one-out.gguf").unlink()
    result = rosi_edge(tmp_path, *start, *flags)
    assert result.code == 1, result
    assert "not written" in result.out
    assert not (tmp_path / "one-out.gguf").exists()

    assert_refused(called(tmp_path, *start, "--alpha", "0.5", *flags), "--alpha is for a search")
    assert_refused(called(tmp_path, *start, "--from", "nothing.gguf", *flags), "nothing.gguf")
    # Nothing that is read is written to.
    before = (tmp_path / "edits.gguf").read_bytes()
    onto = ["harden", one, "--from", tmp_path / "edits.gguf", "-o", "edits.gguf", "--no-evaluation", *flags]
    assert_refused(called(tmp_path, *onto), "would overwrite the input")
    assert (tmp_path / "edits.gguf").read_bytes() == before
    plain = ["harden", one, "-o", "one-out.gguf", "--no-evaluation", *flags]
    assert_refused(called(tmp_path, *plain), "--no-evaluation")


def test_the_parts_of_a_model_are_not_overwritten(tmp_path: Path, found: FoundEdits) -> None:
    one, other = model(tmp_path, T.Q8_0), model(tmp_path, T.Q4_K)
    parts = split_gguf(one, tmp_path / "split.gguf", 10)
    before = [path.read_bytes() for path in parts]
    adapter = tmp_path / "edits.gguf"
    first = ["harden", parts[0], "--from", adapter, "--no-evaluation", "-t", "1"]
    assert_refused(called(tmp_path, *first, "-o", "split.gguf"), "would overwrite the input")
    # Nor those of another model, or of the source.
    beside = ["harden", one, "--from", adapter, "-o", "out.gguf", "--no-evaluation", "--also", parts[0]]
    assert_refused(called(tmp_path, *beside, "split.gguf"), "would overwrite the input")
    assert rosi_edge(tmp_path, *first, "-o", "hard.gguf").code == 0
    hard = sorted(tmp_path.glob("hard-*.gguf"))
    before += [path.read_bytes() for path in hard]
    again = ["harden", parts[0], "--from", hard[0], "-o", "hard.gguf", "--no-evaluation", "-t", "1"]
    assert_refused(called(tmp_path, *again), "would overwrite the input")
    assert [path.read_bytes() for path in (*parts, *hard)] == before
    # Two outputs of which one is a part of the other.
    pair = [Target("a", parts[0], tmp_path / "x.gguf"), Target("b", other, tmp_path / hard[0].name)]
    pair[1] = Target("b", other, tmp_path / f"x-00001-of-{len(parts):05}.gguf")
    with pytest.raises(OutputError, match="named twice"):
        check_targets(pair, found, OPTIONS)
    # An adapter is an output too.
    apart = [Target("a", one, tmp_path / "y.gguf"), Target("b", other, tmp_path / "z.gguf")]
    with pytest.raises(OutputError, match="named twice"):
        check_targets(apart, None, replace(OPTIONS, adapter=apart[1].output))
    with pytest.raises(OutputError, match="would overwrite the input"):
        check_targets(apart, None, replace(OPTIONS, adapter=other))


def test_a_search_on_a_model_in_parts_and_its_other_files(tmp_path: Path) -> None:
    """An older file of the name that the parts are named after holds other edits."""
    one, two = model(tmp_path, T.Q8_0), model(tmp_path, T.Q4_K)
    parts = split_gguf(one, tmp_path / "split.gguf", 10)
    write_adapter(tmp_path / "edits.gguf", edits(size=0.15), architecture="llama")
    older = rosi_edge(
        tmp_path, "harden", one, "--from", tmp_path / "edits.gguf", "-o", "out.gguf", "--no-evaluation"
    )
    assert older.code == 0, older.error
    asked = ["--method", "rosi", "--layer", "1", "--alpha", "0.2", "--force", "--stress", "0", "-t", "1"]
    also = ["--also", two, "two-out.gguf", "--no-evaluation", "--report", "report", "-c", "1024"]
    result = rosi_edge(
        tmp_path, "harden", parts[0], "-o", "out.gguf", *also, *asked, *write_requests(tmp_path)
    )
    assert result.code in (0, 1), result.error
    (first,) = tmp_path.glob("out-00001-of-*.gguf")
    assert edits_from(tmp_path / "two-out.gguf").sha256 == edits_from(first).sha256
    assert edits_from(tmp_path / "out.gguf").sha256 != edits_from(first).sha256
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [file["output"]["file_name"] for file in report["also"]] == ["two-out.gguf"]


def test_a_source_that_is_named_like_one_of_several_parts(tmp_path: Path, found: FoundEdits) -> None:
    alone = (tmp_path / "edits.gguf").rename(tmp_path / "edits-00001-of-00002.gguf")
    (tmp_path / "out.gguf").write_bytes(b"older")
    arguments = ["harden", model(tmp_path, T.Q8_0), "--from", alone, "-o", "out.gguf", "--no-evaluation"]
    result = rosi_edge(tmp_path, *arguments, "-t", "1")
    assert result.code == 0, result.error


def test_another_model_is_refused_before_the_search(tmp_path: Path) -> None:
    first = Target("a", model(tmp_path, T.Q8_0), tmp_path / "a-out.gguf")
    same = Target("b", model(tmp_path, T.Q4_K), tmp_path / "b-out.gguf")
    narrow = write_tiny_llama(tmp_path / "narrow.gguf")
    check_targets([first, same], None, OPTIONS)
    with pytest.raises(UnsupportedModelError, match=r"narrow.gguf is another model than Q8_0.gguf"):
        check_targets([first, same, Target("c", narrow, tmp_path / "c-out.gguf")], None, OPTIONS)


def test_a_verdict_says_what_the_requests_are_about(tmp_path: Path, found: FoundEdits) -> None:
    target = Target("tiny", model(tmp_path, T.Q8_0), tmp_path / "out.gguf")
    names = replace(plan().names, harmful="unknowable questions")
    file = transfer(target, found, replace(plan(), names=names), Unmoved(), OPTIONS)
    assert file.verdict is not None and "unknowable questions" in file.verdict.reason


def test_a_name_that_is_no_text(tmp_path: Path, found: FoundEdits) -> None:
    path = model(tmp_path, T.Q8_0).rename(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le.gguf"))
    target = Target("tiny", path, tmp_path / "out.gguf")
    transfer(target, found, plan(), Unmoved(), replace(OPTIONS, evaluate=False))
    with GgufFile.open(target.output) as file:
        assert file.text("rosi.source.file") == "mod?le.gguf"
    with GgufFile.open(path) as file:
        assert json.loads(inspect(file).model_dump_json())["path"].endswith("mod?le.gguf")
