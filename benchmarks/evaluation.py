"""Speed of the evaluation against llama-cpp-python itself, in one run: ``python benchmarks/evaluation.py``.

Prints 100 harmful and 100 benign prompts × 32 tokens against a loop over ``Llama.create_chat_completion``,
multiple choice with shared questions against scoring every choice from scratch, and how far the
log-probabilities of a batch are from those of one prompt at a time. Only the ratios mean much on a shared
machine. What is slow one by one is measured on a sample and scaled up; the lines say so. ``--quick N`` takes
N prompts of each kind and N questions.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import Llama

from rosi_edge.evaluation.checkpoint import Checkpoint
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.multiple_choice import bundled as bundled_questions
from rosi_edge.evaluation.suites.refusal import Refusal
from rosi_edge.evaluation.suites.suite import Subject
from rosi_edge.evaluation.suites.utility import tokenized
from rosi_edge.models.sources import resolve
from rosi_edge.progress import SILENT
from rosi_edge.prompts import Kind, Part, bundled
from rosi_edge.runtime.engine import Tokens, ask
from rosi_edge.runtime.llama_engine import LlamaEngine

Float32 = npt.NDArray[np.float32]

MAX_TOKENS = 32
SAMPLE = 8
"""One of so many prompts or questions is measured the slow way."""


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _ignore(level: int, text: bytes, user_data: Any) -> None:
    pass


class OneAtATime:
    """llama.cpp's own functions with one prompt in one sequence, and weights not repacked, as the engine has
    them: repacked ones round differently."""

    def __init__(self, path: Path, context_size: int = 2048, micro_batch: int = 512) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_ignore, ctypes.c_void_p(0))
        model_parameters = llama_cpp.llama_model_default_params()
        model_parameters.use_extra_bufts = False
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_parameters)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = context_size
        parameters.n_ubatch = micro_batch
        parameters.n_threads = parameters.n_threads_batch = len(os.sched_getaffinity(0))
        self._context: Any = llama_cpp.llama_init_from_model(self._model, parameters)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def logprobs(self, tokens: Sequence[int], first: int) -> Float32:
        """Log-probabilities after the tokens from place ``first`` on, (tokens − first, vocabulary)."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index] = ctypes.c_int32(token)
                batch.pos[index] = index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = index >= first
            if llama_cpp.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama_decode failed")
        finally:
            llama_cpp.llama_batch_free(batch)
        rows = [
            np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(self._context, index), shape=(self._vocabulary,)
            )
            for index in range(first, len(tokens))
        ]
        logits = np.array(rows, dtype=np.float64)
        highest = logits.max(axis=1, keepdims=True)
        normalised = logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
        return np.asarray(normalised, dtype=np.float32)

    def score(self, context: Tokens, continuation: Tokens) -> float:
        rows = self.logprobs([*context, *continuation[:-1]], len(context) - 1)
        return float(rows[np.arange(len(continuation)), continuation].sum(dtype=np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--quick", type=int, metavar="N", help="N prompts of each kind and N questions")
    options = parser.parse_args()
    path = resolve(options.model)
    harmful, harmless = (
        bundled(kind, Part.REPORTING).take(options.quick or 100) for kind in (Kind.HARMFUL, Kind.HARMLESS)
    )
    # In turn, so that a sample has both.
    texts = [text for pair in zip(harmful.texts, harmless.texts, strict=True) for text in pair]
    questions = [question for each in bundled_questions().values() for question in each]
    if options.quick is not None:
        questions = questions[:: max(1, len(questions) // options.quick)][: options.quick]

    with LlamaEngine(path) as engine:
        prompts = engine.encode([ask(text) for text in texts])
        engine.next_token_logprobs(prompts[:2])
        # The whole suite as eval runs it, judge and all, but for the disk.
        subject = Subject("Model", "", lambda: engine, Checkpoint(None, {}), KeywordJudge())
        batched = timed(lambda: Refusal(harmful, harmless, MAX_TOKENS).measure(subject, SILENT))
        groups = [tokenized(engine, question) for question in questions]
        scores: list[list[Float32]] = []
        shared = timed(lambda: scores.extend(engine.score_continuations(groups)))
        in_batch = engine.next_token_logprobs(prompts[:32])

    # Two neighbours of every few: one harmful, one harmless.
    few = [text for index, text in enumerate(texts) if index % (2 * SAMPLE) < 2]
    peer = Llama(str(path), n_ctx=2048, verbose=False)

    def complete(text: str) -> object:
        return peer.create_chat_completion(
            [{"role": "user", "content": text}], max_tokens=MAX_TOKENS, temperature=0.0
        )

    complete(few[0])
    one_by_one = timed(lambda: [complete(text) for text in few]) * len(texts) / len(few)
    peer.close()
    print(f"{len(texts)} prompts × {MAX_TOKENS} tokens, this tool            {batched:8.2f} s")
    print(
        f"{len(texts)} prompts × {MAX_TOKENS} tokens, create_chat_completion {one_by_one:8.2f} s "
        f"({len(few)} measured, × {len(texts) / len(few):.1f})  "
        f"ratio {one_by_one / batched:.2f} (goal: at least 4)"
    )

    plain = OneAtATime(path)
    numbers = list(range(0, len(groups), SAMPLE if len(groups) > 2 * SAMPLE else 1))
    alone: list[list[float]] = []
    scratch = timed(
        lambda: alone.extend([plain.score(groups[i][0], choice) for choice in groups[i][1]] for i in numbers)
    )
    # By tokens, not by questions: the formats differ in length.
    share = sum(_tokens(groups[i]) for i in numbers) / sum(map(_tokens, groups))
    print(f"{len(groups)} questions, contexts decoded once            {shared:8.2f} s")
    print(
        f"{len(groups)} questions, every choice from scratch        {scratch / share:8.2f} s "
        f"({len(numbers)} measured, × {1 / share:.1f})  "
        f"ratio {scratch / share / shared:.2f} (goal: at least 2.5)"
    )
    apart = max(
        abs(float(np.sum(scores[i][c], dtype=np.float64)) - alone[row][c])
        for row, i in enumerate(numbers)
        for c in range(len(alone[row]))
    )
    print(f"largest difference of a choice's summed log-probability   {apart:.2e}")
    plain_again = OneAtATime(path, micro_batch=16)
    batch_to_single = own_noise = 0.0
    checked = range(0, len(in_batch), 4)
    for index in checked:
        last = len(prompts[index]) - 1
        single, again = (one.logprobs(prompts[index], last)[0] for one in (plain, plain_again))
        batch_to_single = max(batch_to_single, float(np.abs(in_batch[index] - single).max()))
        own_noise = max(own_noise, float(np.abs(again - single).max()))
    plain.close()
    plain_again.close()
    # Activations are rounded to 8 bits before each quantized matrix: the order of additions, and so the size of
    # a batch, decides which way a value falls. llama.cpp has the same noise against itself.
    print(
        f"largest difference of a log-probability, batch to single  {batch_to_single:.2e} "
        f"({len(checked)} prompts, whole vocabulary; goal: at most 1e-3)"
    )
    print(f"the same, llama.cpp with n_ubatch 16 to llama.cpp         {own_noise:.2e}")


def _tokens(group: tuple[Tokens, Sequence[Tokens]]) -> int:
    context, choices = group
    return sum(len(context) + len(choice) - 1 for choice in choices)


if __name__ == "__main__":
    main()
