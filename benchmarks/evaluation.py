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
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from llama_cpp import Llama

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.progress import SILENT
from rosi_edge.evaluation.judges.keyword import KeywordJudge
from rosi_edge.evaluation.kept import Kept
from rosi_edge.evaluation.multiple_choice import Question
from rosi_edge.evaluation.multiple_choice import bundled as bundled_questions
from rosi_edge.evaluation.suites.refusal import Refusal
from rosi_edge.evaluation.suites.suite import Subject
from rosi_edge.evaluation.suites.utility import tokenized
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.models.rewrite import Retyped, rewrite
from rosi_edge.prompts.sets import (
    Kind,
    Part,
    PromptSet,
    bundled,
)
from rosi_edge.quantization.codec import dequantize
from rosi_edge.runtime.engine import Tokens, ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.sources.resolve import resolve

MAX_TOKENS = 32
AGREEMENT_PROMPTS = 32
EXACT_MODEL = "demo:smollm2-135m"
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

    def __init__(self, path: Path, context_size: int = 2048) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_ignore, ctypes.c_void_p(0))
        model_parameters = llama_cpp.llama_model_default_params()
        model_parameters.use_extra_bufts = False
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_parameters)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = context_size
        parameters.n_threads = parameters.n_threads_batch = len(os.sched_getaffinity(0))
        self._context: Any = llama_cpp.llama_init_from_model(self._model, parameters)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def logprobs(self, tokens: Sequence[int], first: int, *, last_apart: int = 0) -> Float32:
        """Log-probabilities after the tokens from place ``first`` on, (tokens − first, vocabulary).

        Args:
            last_apart: how many last tokens are decoded by a second call.
        """
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        if last_apart:
            self._decode(tokens[:-last_apart], 0, len(tokens))
        begin = len(tokens) - last_apart if last_apart else 0
        self._decode(tokens[begin:], begin, first)
        rows = [
            np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(self._context, index - begin), shape=(self._vocabulary,)
            )
            for index in range(first, len(tokens))
        ]
        logits = np.array(rows, dtype=np.float64)
        highest = logits.max(axis=1, keepdims=True)
        normalised = logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
        return np.asarray(normalised, dtype=np.float32)

    def _decode(self, tokens: Sequence[int], begin: int, first: int) -> None:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index] = ctypes.c_int32(token)
                batch.pos[index] = begin + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = begin + index >= first
            if llama_cpp.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama_decode failed")
        finally:
            llama_cpp.llama_batch_free(batch)

    def score(self, context: Tokens, continuation: Tokens) -> float:
        rows = self.logprobs([*context, *continuation[:-1]], len(context) - 1)
        return float(rows[np.arange(len(continuation)), continuation].sum(dtype=np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--quick", type=int, metavar="N", help="N prompts of each kind and N questions")
    parser.add_argument("--only", choices=("generation", "choices", "agreement"))
    options = parser.parse_args()
    path = resolve(options.model)
    harmful, harmless = (requests(kind, options.quick or 100) for kind in (Kind.HARMFUL, Kind.HARMLESS))
    if options.only in (None, "generation"):
        print_generation(path, harmful, harmless)
    if options.only in (None, "choices"):
        questions = [question for each in bundled_questions().values() for question in each]
        if options.quick is not None:
            questions = questions[:: max(1, len(questions) // options.quick)][: options.quick]
        print_choices(path, questions)
    if options.only in (None, "agreement"):
        texts = [*harmful.texts[: AGREEMENT_PROMPTS // 2], *harmless.texts[: AGREEMENT_PROMPTS // 2]]
        print_agreement("this model", path, texts)
        with tempfile.TemporaryDirectory(prefix="rosi-edge-benchmark-") as folder:
            exact = in_full_precision(resolve(EXACT_MODEL), Path(folder) / "exact.gguf")
            print_agreement(f"{EXACT_MODEL} in F32", exact, texts)


def requests(kind: Kind, count: int) -> PromptSet:
    """So many bundled requests, those of the reporting part first."""
    prompts = [prompt for part in (Part.REPORTING, Part.CHOOSING) for prompt in bundled(kind, part)]
    return PromptSet.of(kind.value, prompts[:count], "bundled")


def print_generation(path: Path, harmful: PromptSet, harmless: PromptSet) -> None:
    # Two neighbours of every few: one harmful, one harmless.
    texts = [text for pair in zip(harmful.texts, harmless.texts, strict=True) for text in pair]
    few = [text for index, text in enumerate(texts) if index % (2 * SAMPLE) < 2]
    half = len(few) // 2

    def one_by_one(peer: Llama, some: Sequence[str]) -> float:
        def complete(text: str) -> object:
            return peer.create_chat_completion(
                [{"role": "user", "content": text}], max_tokens=MAX_TOKENS, temperature=0.0
            )

        return timed(lambda: [complete(text) for text in some])

    cores = len(os.sched_getaffinity(0))
    peers = [Llama(str(path), n_ctx=2048, verbose=False, n_threads=n) for n in (None, cores)]
    with LlamaEngine(path) as engine:
        engine.next_token_logprobs(engine.encode([ask(text) for text in few[:2]]))
        for peer in peers:
            one_by_one(peer, few[:1])
        # Half of the slow way before and half after: other work on the machine comes and goes.
        slow = [one_by_one(peer, few[:half]) for peer in peers]
        # The whole suite as eval runs it, judge and all, but for the disk.
        subject = Subject("Model", "", lambda: engine, Kept(None, {}), KeywordJudge())
        batched = timed(lambda: Refusal(harmful, harmless, MAX_TOKENS).measure(subject, SILENT))
        slow = [so_far + one_by_one(peer, few[half:]) for so_far, peer in zip(slow, peers, strict=True)]
    for peer in peers:
        peer.close()
    scale = len(texts) / len(few)
    what = f"{len(texts)} prompts × {MAX_TOKENS} tokens"
    print(f"{what}, this tool {batched:.1f} s")
    for threads, seconds in zip(("its default threads", f"{cores} threads"), slow, strict=True):
        print(
            f"{what}, create_chat_completion with {threads} {seconds * scale:.1f} s "
            f"({len(few)} measured, × {scale:.1f}), ratio {seconds * scale / batched:.2f} (goal: at least 4)",
            flush=True,
        )


def print_choices(path: Path, questions: Sequence[Question]) -> None:
    scores: list[list[Float32]] = []
    alone: list[list[float]] = []
    with LlamaEngine(path) as engine:
        groups = [tokenized(engine, question) for question in questions]
        numbers = list(range(0, len(groups), SAMPLE if len(groups) > 2 * SAMPLE else 1))
        half = len(numbers) // 2
        plain = OneAtATime(path)

        def from_scratch(some: Sequence[int]) -> float:
            return timed(
                lambda: alone.extend(
                    [plain.score(groups[i][0], choice) for choice in groups[i][1]] for i in some
                )
            )

        scratch = from_scratch(numbers[:half])
        shared = timed(lambda: scores.extend(engine.score_continuations(groups)))
        scratch += from_scratch(numbers[half:])
        plain.close()
    # By tokens, not by questions: the formats differ in length.
    share = sum(_tokens(groups[i]) for i in numbers) / sum(map(_tokens, groups))
    print(f"{len(groups)} questions, contexts decoded once {shared:.1f} s")
    print(
        f"{len(groups)} questions, every choice from scratch {scratch / share:.1f} s "
        f"({len(numbers)} measured, × {1 / share:.1f}), ratio {scratch / share / shared:.2f} "
        "(goal: at least 2.5)"
    )
    apart = max(
        abs(float(np.sum(scores[i][c], dtype=np.float64)) - alone[row][c])
        for row, i in enumerate(numbers)
        for c in range(len(alone[row]))
    )
    print(f"largest difference of a choice's summed log-probability {apart:.2e}", flush=True)


def print_agreement(name: str, path: Path, texts: Sequence[str]) -> None:
    """Log-probabilities of a batch against llama.cpp with one prompt at a time, and llama.cpp's own noise.

    llama.cpp multiplies by other kernels when a batch has few rows (its last block has as many as there are
    outputs), and each adds in another order. Activations are rounded to 8 bits before each quantized matrix,
    so the order decides which way a value falls. It has the same noise against itself, when it decodes the
    last tokens of a prompt apart. Full-precision weights are multiplied without such rounding.
    """
    with LlamaEngine(path) as engine:
        prompts = engine.encode([ask(text) for text in texts])
        in_batch = engine.next_token_logprobs(prompts)
    plain = OneAtATime(path)
    ours, likely, own = [], [], []
    for row, prompt in enumerate(prompts):
        single, again = (plain.logprobs(prompt, len(prompt) - 1, last_apart=n)[0] for n in (0, 4))
        apart = np.abs(in_batch[row] - single)
        ours.append(float(apart.max()))
        likely.append(float(apart[single > np.log(0.01)].max()))
        own.append(float(np.abs(again - single).max()))
    plain.close()
    print(
        f"{name}, largest difference of a log-probability, {len(prompts)} prompts in a batch to one at a "
        f"time: {max(ours):.2e} (goal: at most 1e-3); among tokens of 1 % and more {max(likely):.2e}; "
        f"llama.cpp with the last 4 tokens of each prompt apart to itself: {max(own):.2e}"
    )


def in_full_precision(source: Path, target: Path) -> Path:
    """The same model with every quantized tensor as F32: the values are the same, the arithmetic is not
    rounded."""
    f32 = gguf.GGMLQuantizationType.F32

    def unpacked(file: GgufFile, name: str) -> Callable[[], Retyped]:
        return lambda: Retyped(f32, dequantize(file, name))

    with GgufFile.open(source) as file:
        packed = [name for name, tensor in file.tensors.items() if tensor.type != f32]
        return rewrite(file, target, tensors={name: unpacked(file, name) for name in packed}, metadata={})


def _tokens(group: tuple[Tokens, Sequence[Tokens]]) -> int:
    context, choices = group
    return sum(len(context) + len(choice) - 1 for choice in choices)


if __name__ == "__main__":
    main()
