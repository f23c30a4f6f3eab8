"""Reading activations: the llama.cpp engine against the torch engine, in one run on the same cores.

``python benchmarks/torch_engine.py [GGUF] [CHECKPOINT] [PROMPTS]``; without a checkpoint the weights of the
GGUF file are unpacked into one for the time of the run. Needs the ``torch`` extra. Prints seconds, and how
far what was read agrees, also for the file's weights as F16 and Q8_0. Goals for the directions: a cosine of
at least 0.999 for F16 and 0.98 for Q8_0.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from quantizations import quantize

from rosi_edge.basics.arrays import Float32
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.runtime.engine import Engine, Tokens, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Capture, TapRequest
from rosi_edge.runtime.torch_engine import TorchEngine
from rosi_edge.sources.resolve import resolve


def unpack(model: Path, folder: Path) -> Path:
    """The file's weights as a float32 checkpoint."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    place = {"gguf_file": model.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        str(model.parent), dtype=torch.float32, **place
    )
    # Loaded from a GGUF file, a model counts as quantized, and transformers does not save such.
    plain = transformers.AutoConfig.from_pretrained(str(model.parent), **place)
    fresh = transformers.AutoModelForCausalLM.from_config(plain, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(str(model.parent), **place).save_pretrained(folder)
    return folder


def read(engine: Engine, prompts: Sequence[Tokens], request: TapRequest) -> tuple[float, Capture]:
    engine.capture(prompts[:4], request)
    start = time.perf_counter()
    capture = engine.capture(prompts, request)
    return time.perf_counter() - start, capture


def smallest_cosine(one: Float32, two: Float32) -> float:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return float(((one.astype(np.float64) * two).sum(axis=1) / lengths).min())


def main() -> None:
    model = resolve(sys.argv[1] if len(sys.argv) > 1 else "demo")
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 128
    harmful = bundled(Kind.HARMFUL, Part.CALIBRATION).texts[: count // 2]
    harmless = bundled(Kind.HARMLESS, Part.CALIBRATION).texts[: count // 2]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        checkpoint = Path(sys.argv[2]) if sys.argv[2:] and sys.argv[2] else unpack(model, folder / "torch")
        captures = {}
        for path in (
            model,
            quantize(model, folder / "F16", llama_cpp.LLAMA_FTYPE_MOSTLY_F16),
            quantize(model, folder / "Q8_0", llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0),
        ):
            with LlamaEngine(path) as llama:
                prompts = llama.encode([ask(text) for text in harmful + harmless])
                request = TapRequest(blocks=tuple(range(llama.facts.layers)))
                captures[path.name] = read(llama, prompts, request)
        with TorchEngine(checkpoint) as torch_engine:
            seconds, theirs = read(torch_engine, prompts, request)
    print(f"{len(prompts)} prompts; smallest cosines over {len(request.blocks)} blocks")
    print(f"{'torch, float32':40}{seconds:8.2f} s")
    half = len(harmful)
    for name, (ours_seconds, ours) in captures.items():
        streams, directions = [], []
        for block in request.blocks:
            one, two = ours.stream_rows(block), theirs.stream_rows(block)
            streams.append(smallest_cosine(one, two))
            apart = [rows[:half].mean(axis=0) - rows[half:].mean(axis=0) for rows in (one, two)]
            directions.append(smallest_cosine(apart[0][None], apart[1][None]))
        print(
            f"{'llama.cpp, ' + name:40}{ours_seconds:8.2f} s  torch {seconds / ours_seconds:.2f} × as long  "
            f"streams {min(streams):.4f}, directions {min(directions):.4f} (block {np.argmin(directions)})"
        )


if __name__ == "__main__":
    main()
