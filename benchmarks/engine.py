"""Speed of the engine against llama-cpp-python itself, in one run: ``python benchmarks/engine.py [MODEL]``.

Prints capture with taps against the same prompts without, batched generation against one-at-a-time chat
completion, and what a new strength costs. Only the ratios mean much on a shared machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

from llama_cpp import Llama

from rosi_edge.edits.paper import rosi_edits, row_means
from rosi_edge.inspection import require_hardenable
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.prompts.sets import Kind, Part, bundled
from rosi_edge.runtime.engine import ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import TapRequest
from rosi_edge.sources.resolve import resolve


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    path = resolve(sys.argv[1] if len(sys.argv) > 1 else "demo")
    harmful = bundled(Kind.HARMFUL, Part.CALIBRATION).texts[:64]
    harmless = bundled(Kind.HARMLESS, Part.CALIBRATION).texts[:64]
    with LlamaEngine(path) as engine, GgufFile.open(path) as file:
        matrices = require_hardenable(file)
        prompts = engine.encode([ask(text) for text in harmful + harmless])
        streams = TapRequest(blocks=tuple(range(engine.facts.layers)))
        inputs = TapRequest(inputs=tuple(matrix.name for matrix in matrices))
        engine.next_token_logprobs(prompts[:8])
        plain, stream, weight_inputs = [], [], []
        for _ in range(2):
            plain.append(timed(lambda: engine.next_token_logprobs(prompts)))
            stream.append(timed(lambda: engine.capture(prompts, streams)))
            weight_inputs.append(timed(lambda: engine.capture(prompts, inputs)))
        print(f"128 prompts, no tap             {median(plain):7.2f} s")
        for name, times in (("every block's stream", stream), ("every write matrix's input", weight_inputs)):
            ratio = median(a / b for a, b in zip(times, plain, strict=True))
            print(f"128 prompts, {name:27s} {median(times):7.2f} s  ratio {ratio:.2f} (goal: at most 1.10)")

        direction = engine.capture(prompts[:2], TapRequest(blocks=(14,))).stream_rows(14)
        unit = (direction[0] - direction[1]) / max(
            float(((direction[0] - direction[1]) ** 2).sum()) ** 0.5, 1e-9
        )
        edits = rosi_edits(file, matrices, row_means(file, matrices), unit)
        handle = engine.load_edits(edits)
        evaluation = timed(lambda: engine.next_token_logprobs(prompts[:32]))
        switch = timed(lambda: engine.apply({handle: 1.0}))
        edited = timed(lambda: engine.next_token_logprobs(prompts[:32]))
        print(f"switching to another strength   {switch * 1000:7.2f} ms")
        print(f"32 prompts with the adapter     {edited:7.2f} s  ratio to none {edited / evaluation:.2f}")
        engine.apply({})

        sample = harmful[:32] + harmless[:32]
        encoded = engine.encode([ask(text) for text in sample])
        batched = timed(lambda: engine.generate(encoded, max_tokens=32))
    peer = Llama(str(path), n_ctx=2048, verbose=False)
    few = sample[::4]  # one at a time is slow; a quarter, scaled up, is measured
    one_by_one = 4 * timed(
        lambda: [
            peer.create_chat_completion([{"role": "user", "content": text}], max_tokens=32, temperature=0.0)
            for text in few
        ]
    )
    print(f"64 prompts × 32 tokens, batched {batched:7.2f} s")
    print(
        f"64 prompts × 32 tokens, create_chat_completion {one_by_one:7.2f} s (16 measured, × 4)  "
        f"ratio {one_by_one / batched:.2f} (goal: at least 3)"
    )


if __name__ == "__main__":
    main()
