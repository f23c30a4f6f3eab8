"""What ``rosi-edge check`` takes: static rules on a large file, the default on the demo model, hostile files.

python benchmarks/check.py static [FOLDER]       a file of 7B shapes (4 GB), made for it and removed again
python benchmarks/check.py behaviour             the default policy on the demo model
python benchmarks/check.py hostile [NUMBER]      mutated files and template bombs (default 20000)
"""

from __future__ import annotations

import importlib
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import numpy as np

from rosi_edge.models.digest import sha256_of_model
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.policy.model import DEFAULT_POLICY, parse_policy
from rosi_edge.policy.run import Checked, CheckOptions, check
from rosi_edge.sources.resolve import resolve

TESTS = Path(__file__).parents[1] / "tests"
_LONGEST_FILE = 30.0


def static(folder: str | None = None) -> None:
    """32 layers, 4096 wide, Q4_K: the shapes of a 7B llama. Under 60 s and 1 GB is wanted."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "seven-billion.gguf"
        _write_large(path)
        print(f"file: {path.stat().st_size / 1e9:.2f} GB")
        # A child each, so that what one took does not count for the next.
        for name in ("rules", "hash"):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds, peak, verdict = pool.submit(_timed, str(path), name).result()
            print(f"{name}: {seconds:.1f} s, peak {peak:.0f} MB, {verdict}")


def _timed(path: str, what: str) -> tuple[float, float, str]:
    start = time.monotonic()
    if what == "hash":
        with GgufFile.open(path) as file:
            verdict = sha256_of_model(file)[:12]
    else:
        options = CheckOptions(behaviour=False)
        report = check(Checked(path, Path(path)), DEFAULT_POLICY, options=options)
        verdict = report.summary
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return time.monotonic() - start, peak, verdict


def _write_large(path: Path, layers: int = 32, hidden: int = 4096, forward: int = 14336) -> None:
    """Random blocks: their bytes decide nothing about the time."""
    kind = gguf.GGMLQuantizationType.Q4_K
    writer = gguf.GGUFWriter(path, "llama")
    for name, number in (
        ("block_count", layers), ("context_length", 4096), ("embedding_length", hidden),
        ("feed_forward_length", forward), ("attention.head_count", 32), ("attention.head_count_kv", 8),
    ):  # fmt: skip
        writer.add_uint32(f"llama.{name}", number)
    writer.add_name("Seven billion")
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    shapes = {"token_embd": (32000, hidden), "output": (32000, hidden)}
    for block in range(layers):
        for short, shape in (
            ("attn_q", (hidden, hidden)),
            ("attn_k", (hidden // 4, hidden)), ("attn_v", (hidden // 4, hidden)),
            ("attn_output", (hidden, hidden)), ("ffn_gate", (forward, hidden)), ("ffn_up", (forward, hidden)),
            ("ffn_down", (hidden, forward)),
        ):  # fmt: skip
            shapes[f"blk.{block}.{short}"] = shape
    random = np.random.default_rng(0)
    size, weights = gguf.GGML_QUANT_SIZES[kind][1], gguf.GGML_QUANT_SIZES[kind][0]
    blocks = random.integers(0, 256, (1 << 16, size), dtype=np.uint8)
    # The block's two half-precision scales: numbers as in a real file.
    scales = np.abs(random.standard_normal((1 << 16, 2)) * 1e-4 + 5e-4).astype(np.float16)
    blocks[:, :4] = scales.view(np.uint8)
    for name, (rows, columns) in shapes.items():
        writer.add_tensor_info(
            f"{name}.weight",
            (rows, columns // weights * size),
            np.dtype(np.uint8),
            rows * columns // weights * size,
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for rows, columns in shapes.values():
        chosen = random.integers(0, len(blocks), rows * columns // weights)
        writer.write_tensor_data(blocks[chosen])
    writer.close()


def behaviour() -> None:
    """The default policy. Under 180 s is wanted."""
    start = time.monotonic()
    report = check(Checked("demo", resolve("demo")), DEFAULT_POLICY)
    print(f"{time.monotonic() - start:.1f} s: {report.summary}")
    print(*report.notes, sep="\n")


def hostile(number: int = 20_000) -> None:
    """No crash, no hang, nothing rendered is wanted."""
    bombs_of = _of_the_tests("hostile").BOMBS
    write_tiny_llama = _of_the_tests("tiny_gguf").write_tiny_llama

    start = time.monotonic()
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        bombs = []
        for index, template in enumerate(bombs_of):
            bombs.append(Path(folder) / f"bomb{index}.gguf")
            write_tiny_llama(bombs[-1], chat_template=template, layers=1, vocabulary=280)
        write_tiny_llama(whole, layers=1, vocabulary=280)
        shares = [(folder, share, number // 20) for share in range(20)]
        slowest = 0.0
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                for part, longest in pool.map(_hostile_share, shares):
                    slowest = max(slowest, longest)
                    for verdict, count in part.items():
                        counts[verdict] = counts.get(verdict, 0) + count
                for part, longest in pool.map(_bomb, map(str, bombs)):
                    slowest = max(slowest, longest)
                    for verdict, count in part.items():
                        counts[verdict] = counts.get(verdict, 0) + count
            except BrokenProcessPool:
                print("CRASH: a file killed the process")
                raise SystemExit(1) from None
    total = sum(counts.values())
    print(f"{total} files in {time.monotonic() - start:.0f} s, the slowest {slowest:.2f} s: {counts}")
    if slowest > _LONGEST_FILE or total != number // 20 * 20 + len(bombs_of):
        raise SystemExit(1)


def _of_the_tests(name: str) -> Any:
    for folder in (TESTS, TESTS / "policy"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def _hostile_share(work: tuple[str, int, int]) -> tuple[dict[str, int], float]:
    variants = _of_the_tests("hostile").variants
    folder, share, number = work
    whole = Path(folder) / "whole.gguf"
    with GgufFile.open(whole) as file:
        header = file.data_offset
    counts: dict[str, int] = {}
    slowest = 0.0
    path = Path(folder) / f"hostile{share}.gguf"
    for data in variants(whole.read_bytes(), header, number, seed=share):
        path.write_bytes(data)
        verdict, seconds = _judge(path)
        counts[verdict] = counts.get(verdict, 0) + 1
        slowest = max(slowest, seconds)
    return counts, slowest


def _bomb(path: str) -> tuple[dict[str, int], float]:
    verdict, seconds = _judge(Path(path))
    return {verdict: 1}, seconds


def _judge(path: Path) -> tuple[str, float]:
    """The check, with everything that compiles or renders a template taken away."""
    start = time.monotonic()
    with (
        mock.patch("jinja2.Environment.compile", side_effect=AssertionError("compiled")),
        mock.patch("jinja2.Template.render", side_effect=AssertionError("rendered")),
    ):
        report = check(
            Checked("hostile", path),
            parse_policy("time_limit = '60s'"),
            options=CheckOptions(behaviour=False),
        )
    return str(report.verdict), time.monotonic() - start


def main(what: str, *more: str) -> None:
    if what == "static":
        static(*more)
    elif what == "behaviour":
        behaviour()
    elif what == "hostile":
        hostile(*map(int, more))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*(sys.argv[1:] or [""]))
