"""What a bake delivers and what it costs, each figure beside its goal: ``python benchmarks/bake.py``.

Parts, chosen with ``--only``: ``demo`` (delivered, noise against requantization, the file against the exact
edit, time), ``Q4_0``, ``Q3_K`` and ``Q2_K`` (the same model by llama.cpp's quantizer), ``large`` (a 7B-shaped
file: time against ``cp``, memory, growth with the edited tensors). All files lie in a temporary folder.

Tensors are rounded as ``rosi-edge harden`` does by default, with ``--promote auto``; those of other versions
without the rows that calibration reads, as ``--also`` does.

The edit is a plain conditional one: along the direction of the layer three fifths up, in both write matrices
of the upper half of the layers, keys by ridge regression; or that of ``--adapter FILE``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import large_model
import llama_cpp
import numpy as np
from quantizations import quantize

from rosi_edge.baking.measure import BakedTensor
from rosi_edge.basics.progress import Advance
from rosi_edge.direction.difference import Directions
from rosi_edge.edits.adapter import read_adapter, write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import write_direction
from rosi_edge.evaluation.behaviour import Behaviour, measure_behaviour
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.hardening.options import HardenOptions
from rosi_edge.hardening.session import HardeningSession
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.plan import PromptPlan, RequestSets, plan_prompts
from rosi_edge.runtime.engine import EngineOptions, ask
from rosi_edge.runtime.taps import TapRequest
from rosi_edge.search.result import AnsweredPoint
from rosi_edge.sources.resolve import resolve

VERSIONS = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q3_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q2_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K,
}
PROMPTS = 96
"""Of each set, for the edit."""
RIDGE, STRENGTH = 0.05, 0.5
LARGE_TENSORS = 24
"""Of the large file's 64 write matrices: the share that the search edits in the demo model."""
FREE_SPACE = 16_000_000_000


class Stages:
    """A listener that keeps the seconds of the last bake: on the clock, and of all cores' work."""

    def __init__(self) -> None:
        self.clock = self.work = 0.0

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Advance]:
        clock, work = time.perf_counter(), time.process_time()
        yield lambda units: None
        if description == "Rounding tensors":
            self.clock, self.work = time.perf_counter() - clock, time.process_time() - work

    def words(self) -> str:
        return f"{self.clock:.1f} s, {self.work:.1f} s of processor time"

    def note(self, line: str) -> None:
        pass


def main() -> None:
    arguments = _arguments()
    parts = arguments.only or ["demo", *VERSIONS, "large"]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if set(parts) & {"demo", *VERSIONS}:
            source = resolve(arguments.model)
            prompts = plan_prompts({})
            adapter = arguments.adapter or folder / "adapter.gguf"
            if not adapter.exists():
                _write_edits(source, adapter, prompts, arguments.threads)
            with GgufFile.open(adapter) as file:
                edits = read_adapter(file)
            for part in parts:
                if part == "demo":
                    demo(source, folder, edits, prompts, arguments.threads)
                elif part in VERSIONS:
                    version(part, source, folder, edits, prompts, arguments.threads)
        if "large" in parts:
            large(folder, arguments.tensors)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--only", nargs="+", choices=["demo", *VERSIONS, "large"])
    parser.add_argument(
        "--adapter", type=Path, help="The edit; written there first if there is no such file."
    )
    parser.add_argument("--tensors", type=int, default=LARGE_TENSORS, help="Edited ones of the large file.")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="Where the temporary folder lies.")
    parser.add_argument("-t", "--threads", type=int)
    return parser.parse_args()


# --- the demo model --------------------------------------------------------------------------------------


def demo(
    source: Path, folder: Path, edits: Sequence[RankOneEdit], prompts: PromptPlan, threads: int | None
) -> None:
    """Everything that is asked of the demo model."""
    print(f"{source.name}, {len(edits)} edited tensors")
    stages = Stages()
    with _session(source, prompts, threads, stages) as session:
        sets = RequestSets(prompts.choosing.harmful, prompts.choosing.harmless)

        def behaviour() -> Behaviour:
            return measure_behaviour(
                session.engine,
                sets,
                KeywordJudge(),
                max_tokens=session.options.conditional.max_tokens,
            )

        session.calibrate()
        original = behaviour()
        session.choose(_point(edits, original))
        session.apply(1.0)
        session.choose(_point(edits, behaviour()))
        session.measure_before()
        baked = session.bake(folder / "out.gguf")
        session.measure_after()
        check = session.rounding_check
    assert check is not None
    other = _requantized(source, folder, edits, prompts, threads)
    _table(baked, other)
    least = min(tensor.delivered for tensor in baked)
    print(f"delivered, least         {least:.3f} (goal: at least 0.98)")
    print(f"delivered, mean          {mean(t.delivered for t in baked):.3f} (goal: 1.00 ± 0.01)")
    _noise(baked, other)
    before, adapter, file = (
        e.value for e in (original.refusal, check.adapter_harmful_refusal, check.file_harmful_refusal)
    )
    print(
        f"refusal, n={check.file_harmful_refusal.n}            original {before:.3f}, adapter {adapter:.3f}, "
        f"file {file:.3f}"
    )
    if adapter > before:
        share = (file - before) / (adapter - before)
        print(f"gain of the file         {share:.2f} of the adapter's (goal: at least 0.95)")
    compliance = original.compliance, check.adapter_benign_compliance, check.file_benign_compliance
    print(
        f"benign compliance, n={compliance[0].n}  original {compliance[0].value:.3f}, "
        f"adapter {compliance[1].value:.3f}, file {compliance[2].value:.3f}"
    )
    if check.kl_between is not None:
        kl = check.kl_between
        print(f"KL, adapter to file      {kl.value:.4f} nats, n={kl.n} (goal: at most 0.02)")
    print(f"bake                     {stages.words()} (goal: at most 10 s)\n")


def version(
    name: str,
    source: Path,
    folder: Path,
    edits: Sequence[RankOneEdit],
    prompts: PromptPlan,
    threads: int | None,
) -> None:
    """What arrives in the same model by llama.cpp's quantizer."""
    path = folder / f"{name}.gguf"
    quantize(source, path, VERSIONS[name], threads)
    print(f"{source.name} as {name}")
    stages = Stages()
    with _session(path, prompts, threads, stages) as session:
        # Nothing is measured before the bake, so the point says nothing of behaviour.
        session.choose(_point(edits, _nothing()))
        baked = session.bake(folder / "out.gguf")
    other = _requantized(path, folder, edits, prompts, threads)
    path.unlink()
    _table(baked, other)
    least = min(tensor.delivered for tensor in baked)
    print(f"delivered, least         {least:.3f} (goal: at least 0.95)")
    print(f"delivered, mean          {mean(t.delivered for t in baked):.3f}")
    _noise(baked, other)
    print(f"bake                     {stages.words()}\n")


def _requantized(
    source: Path, folder: Path, edits: Sequence[RankOneEdit], prompts: PromptPlan, threads: int | None
) -> list[BakedTensor]:
    """What plain requantization delivers of the same edits."""
    with _session(source, prompts, threads, Stages(), plain=True) as session:
        session.choose(_point(edits, _nothing()))
        return session.bake(folder / "out.gguf")


def _session(
    source: Path, prompts: PromptPlan, threads: int | None, stages: Stages, *, plain: bool = False
) -> HardeningSession:
    few = RequestSets(prompts.reporting.harmful.take(4), prompts.reporting.harmless.take(4))
    options = HardenOptions(
        look=False,
        rounding="requantize" if plain else "grid",
        stress=0,
        engine=EngineOptions(threads=threads),
    )
    session = HardeningSession(source, replace(prompts, reporting=few), KeywordJudge(), options, stages)
    # Only that none was elicited is written into the file, where nothing is calibrated.
    session.directions = Directions(np.zeros((0, 0), dtype=np.float32), (), 0, 0, None)
    return session


def _point(edits: Sequence[RankOneEdit], behaviour: Behaviour) -> AnsweredPoint:
    return AnsweredPoint(layer=0, strength=1.0, behaviour=behaviour, edits=tuple(edits))


def _nothing() -> Behaviour:
    nothing: Any = None
    return Behaviour(**dict.fromkeys(Behaviour.__dataclass_fields__, nothing))


def _write_edits(source: Path, target: Path, prompts: PromptPlan, threads: int | None) -> None:
    """Keys that answer 1 to harmful requests and 0 to both kinds of benign ones, at the last prompt token."""
    sets = prompts.calibration
    texts = [group.take(PROMPTS).texts for group in sets.groups]
    wanted = np.concatenate([np.full(len(part), number == 0) for number, part in enumerate(texts)])
    with _session(source, prompts, threads, Stages()) as session, GgufFile.open(source) as file:
        layers = session.engine.facts.layers
        matrices = [matrix for matrix in session.model.matrices if matrix.block >= layers // 2]
        layer = round(0.6 * layers)
        capture = session.engine.capture(
            session.engine.encode([ask(text) for part in texts for text in part]),
            TapRequest(blocks=(layer,), inputs=tuple(matrix.name for matrix in matrices)),
        )
        stream = capture.stream_rows(layer)
        harmless = np.arange(len(stream)) - len(texts[0])
        direction = stream[wanted].mean(axis=0)
        direction -= stream[(harmless >= 0) & (harmless < len(texts[1]))].mean(axis=0)
        direction /= np.linalg.norm(direction)
        edits = []
        for matrix in matrices:
            rows = capture.inputs[matrix.name].rows
            assert rows is not None
            gram = (rows @ rows.T).astype(np.float64)
            gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram)
            key = (rows.T @ np.linalg.solve(gram, wanted.astype(np.float64))).astype(np.float32)
            edits.append(RankOneEdit(matrix.name, write_direction(file, matrix, direction), STRENGTH * key))
    write_adapter(target, edits, architecture=session.model.inspection.architecture or "")


def _table(baked: Sequence[BakedTensor], requantized: Sequence[BakedTensor]) -> None:
    print(f"  {'tensor':28}{'type':8}{'delivered':>10}{'requantized':>12}{'noise':>8}{'requantized':>12}")
    for tensor, other in zip(baked, requantized, strict=True):
        what = f"  was {tensor.promoted_from}" if tensor.promoted_from else ""
        what += "  other scales" if tensor.rescaled else ""
        print(
            f"  {tensor.name:28}{tensor.type:8}{tensor.delivered:10.3f}{other.delivered:12.3f}"
            f"{tensor.noise:8.3f}{other.noise:12.3f}{what}"
        )


def _noise(baked: Sequence[BakedTensor], requantized: Sequence[BakedTensor]) -> None:
    ratios = [t.noise / other.noise for t, other in zip(baked, requantized, strict=True) if other.noise]
    print(
        f"noise to requantization's median {median(ratios):.2f}, most {max(ratios):.2f} (goal: at most 0.25)"
    )


# --- a large file ----------------------------------------------------------------------------------------


def large(folder: Path, tensors: int) -> None:
    """A 7B-shaped file of random weights."""
    if shutil.disk_usage(folder).free < FREE_SPACE:
        sys.exit(f"the large file needs {FREE_SPACE / 1e9:.0f} GB of free disk; choose another --folder")
    source, target = folder / "large.gguf", folder / "out.gguf"
    large_model.write_large(source)
    print(f"7B-shaped file, Q4_K_M, {source.stat().st_size / 1e9:.2f} GB")
    copy = _copy(source, target)
    print(f"cp and sync              {copy:.0f} s")
    seconds = {}
    for count in (0, tensors // 2, tensors):
        found = _bake_large(source, target, count)
        seconds[count] = found["seconds"]
        goal = f" (goal: at most {4 * copy + 120:.0f} s)" if count == tensors else ""
        delivered = f", delivered at least {found['delivered']:.3f}" if count else ""
        print(
            f"bake, {count:2} tensors edited  {seconds[count]:.0f} s{goal}, "
            f"peak memory {found['peak'] / 1e9:.2f} GB (goal: under 1.5){delivered}"
        )
    first, second = (
        (seconds[more] - seconds[less]) / (more - less)
        for less, more in ((0, tensors // 2), (tensors // 2, tensors))
    )
    print(f"seconds a tensor         {first:.2f} in the first half, {second:.2f} in the second")


def _copy(source: Path, target: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    subprocess.run(["sync", str(target)], check=True)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def _bake_large(source: Path, target: Path, count: int) -> dict[str, float]:
    command = [sys.executable, large_model.__file__, str(source), str(target), str(count)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    target.unlink()
    found: dict[str, float] = json.loads(output)
    return found


if __name__ == "__main__":
    main()
