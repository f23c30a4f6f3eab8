"""Tokens a second of both engines on every device here: ``python benchmarks/devices.py [MODEL] [PROMPTS]``.

A column for llama.cpp and one for torch, on the CPU and, with builds for it, on a GPU (CUDA, or MPS for
torch). Prompts are read without a tap and with every block's stream, and continued by 32 tokens. Torch runs
the same weights, unpacked, and needs the ``torch`` extra. Ratios are to llama.cpp on the CPU.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import llama_cpp
from torch_engine import unpack

from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.runtime.child_engine import ChildEngine
from rosi_edge.runtime.engine import EngineOptions, StoppableEngine, ask
from rosi_edge.runtime.taps import TapRequest
from rosi_edge.runtime.torch_engine import TorchEngine
from rosi_edge.sources.resolve import resolve

ALL_LAYERS = 999
TOKENS = 32
ROWS = ("prompts, no tap", "prompts, every block's stream", "generation")


def engines(model: Path, folder: Path) -> Iterator[tuple[str, Callable[[], StoppableEngine]]]:
    yield "llama.cpp, CPU", lambda: ChildEngine(model, EngineOptions(gpu_layers=0))
    if llama_cpp.llama_supports_gpu_offload():
        yield "llama.cpp, GPU", lambda: ChildEngine(model, EngineOptions(gpu_layers=ALL_LAYERS))
    else:
        print("llama.cpp, GPU: this build of llama-cpp-python has none (docs/cuda.md)")
    if importlib.util.find_spec("torch") is None:
        print("torch: not installed (pip install 'rosi-edge[torch]')")
        return
    import torch

    checkpoint = unpack(model, folder)
    yield "torch, CPU", lambda: TorchEngine(checkpoint, EngineOptions(gpu_layers=0))
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        yield "torch, GPU", lambda: TorchEngine(checkpoint, EngineOptions(gpu_layers=ALL_LAYERS))
    else:
        print("torch, GPU: there is none, or this build of torch has no support for it")


def tokens_a_second(engine: StoppableEngine, texts: list[str]) -> list[float]:
    prompts = engine.encode([ask(text) for text in texts])
    count = sum(len(prompt) for prompt in prompts)
    streams = TapRequest(blocks=tuple(range(engine.facts.layers)))
    engine.next_token_logprobs(prompts[:8])

    def read() -> int:
        engine.next_token_logprobs(prompts)
        return count

    def capture() -> int:
        engine.capture(prompts, streams)
        return count

    def generate() -> int:
        return sum(len(answer.tokens) for answer in engine.generate(prompts[::4], max_tokens=TOKENS))

    speeds = []
    for work in (read, capture, generate):
        start = time.perf_counter()
        done = work()
        speeds.append(done / (time.perf_counter() - start))
    return speeds


def main() -> None:
    model = resolve(sys.argv[1] if len(sys.argv) > 1 else "demo")
    half = int(sys.argv[2]) // 2 if len(sys.argv) > 2 else 64
    texts = [
        text
        for kind in (Kind.HARMFUL, Kind.HARMLESS)
        for text in bundled(kind, Part.CALIBRATION).texts[:half]
    ]
    columns = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for name, opened in engines(model, Path(folder)):
            with closing(opened()) as engine:
                columns[name] = tokens_a_second(engine, texts)
    first = next(iter(columns.values()))
    print(f"{'tokens a second':32}" + "".join(f"{name:>22}" for name in columns))
    for number, row in enumerate(ROWS):
        cells = (
            f"{speeds[number]:,.0f} ({speeds[number] / first[number]:.2f})" for speeds in columns.values()
        )
        print(f"{row:32}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
