"""The torch engine: a Hugging Face checkpoint folder run by transformers, on CPU, CUDA or MPS.

It answers to the same names as the llama.cpp engine: blocks by number, write matrices by their GGUF names.
Edits are rank-one terms added to a module's output while it runs; the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.cores import usable_cores
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import WriteMatrix, write_matrices
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.runtime.chat import ChatTemplate
from rosi_edge.runtime.engine import (
    Conversation,
    EditHandle,
    EngineOptions,
    Generation,
    ModelFacts,
    OnText,
    Tokens,
)
from rosi_edge.runtime.taps import Capture, Positions, TapRequest, Visit
from rosi_edge.runtime.torch_loading import device_for, end_tokens, load_model, load_tokenizer
from rosi_edge.runtime.torch_taps import Taps, add, to_numpy

try:
    import torch
    import transformers
except ImportError:
    torch = None
    transformers = None


_SHORTEST_SHARED_PREFIX = 4  # As in the llama.cpp engine: what is captured must not depend on the engine.
_SESSION_OPENING = 64


@dataclass
class _Batch:
    """Prompts padded on the left to one length. ``prompts``: their places among the caller's."""

    prompts: list[int]
    tokens: Any
    mask: Any

    @property
    def positions(self) -> Any:
        return (self.mask.cumsum(-1) - 1).clamp(min=0)


class TorchEngine:
    """Runs a checkpoint folder in this process. See ``Engine`` for the methods.

    Args:
        path: the folder. Nothing in it is executed: no remote code, no pickles.
        options: ``gpu_layers`` other than 0 means CUDA, or MPS where there is no CUDA. On a GPU the weights
            keep their type; on the CPU they are float32.

    Raises:
        EngineError: torch is not installed, or there is no GPU.
        ModelFileError: the folder is damaged, or transformers does not load it.
        UnsupportedModelError: quantized, or a kind of model that is not covered.
    """

    def __init__(self, path: Path, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        if torch is None or transformers is None:
            raise EngineError(
                "running a checkpoint folder needs torch and transformers",
                "Install them with pip install 'rosi-edge[torch]', or give a GGUF file",
            )
        if options.rpc:
            raise EngineError("--rpc is for GGUF files, which llama.cpp runs", "Leave out --rpc")
        self._checkpoint = Checkpoint.open(path)
        self._matrices = {matrix.name: matrix for matrix in write_matrices(self._checkpoint)}
        self._device = device_for(options.gpu_layers)
        torch.set_num_threads(options.threads or usable_cores())
        self._model = load_model(self._checkpoint, self._device)
        self._tokenizer = load_tokenizer(path, self._model.config)
        self._width = options.sequences
        limit = self._checkpoint.integer(f"{self._checkpoint.architecture}.context_length")
        self._cells = options.context_size
        self._larger = "Use a larger -c"
        if limit is not None and limit <= self._cells:
            self._larger = f"The model is made for {limit} tokens: use shorter prompts"
        blocks: dict[int, str] = {}
        for matrix in self._matrices.values():
            blocks[matrix.block] = self._checkpoint.block_name(matrix.name)
        try:
            self._blocks = {block: self._model.get_submodule(name) for block, name in blocks.items()}
            self._modules = {name: self._module(matrix) for name, matrix in self._matrices.items()}
        except AttributeError as error:
            raise UnsupportedModelError(
                f"transformers names the parts of {path.name} otherwise than the file does ({error})",
                "Give a GGUF file of this model",
            ) from error
        template = options.template or self._checkpoint.text("tokenizer.chat_template")
        self._template = (
            ChatTemplate(template, bos=self._special("bos_token"), eos=self._special("eos_token"))
            if template
            else None
        )
        self._ends = end_tokens(self._model, self._tokenizer)
        self._edits: dict[EditHandle, list[RankOneEdit]] = {}
        self._next_handle = 1
        self._active: list[Any] = []
        self._cancelled = False
        self._session: Tokens | None = None
        self._held: list[Tokens] | None = None
        self.facts = ModelFacts(
            architecture=self._checkpoint.architecture,
            layers=len(self._blocks),
            hidden_size=int(self._model.config.hidden_size),
            vocabulary_size=int(self._model.config.vocab_size),
            context_size=min(self._cells, limit or self._cells),
            has_chat_template=template is not None,
        )

    def _module(self, matrix: WriteMatrix) -> Any:
        return self._model.get_submodule(self._checkpoint.names[matrix.name].removesuffix(".weight"))

    def _special(self, which: str) -> str:
        return str(getattr(self._tokenizer, which, None) or "")

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._remove_edits()
        self._checkpoint.close()
        # Whoever still holds the engine does not hold the weights.
        self._model = self._tokenizer = self._held = None
        self._blocks.clear()
        self._modules.clear()
        self._edits.clear()

    @property
    def alive(self) -> bool:
        return not self._cancelled

    def cancel(self) -> None:
        # Noticed before the next forward pass: a few seconds, at most, on a processor.
        self._cancelled = True

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise KeyboardInterrupt

    # --- text ------------------------------------------------------------------------------------------

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        if self._template is None:
            raise UnsupportedModelError(
                "this model has no chat template", "Use a chat model, or give a template with --template FILE"
            )
        return [self._tokenize(self._template.render(conversation)) for conversation in conversations]

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._ids(text, special=True) for text in texts]

    def _tokenize(self, text: str) -> Tokens:
        bos = self._special("bos_token")
        return self._ids(text, special=not (bos and text.lstrip().startswith(bos)))

    def _ids(self, text: str, *, special: bool) -> Tokens:
        tokens = [int(token) for token in self._tokenizer(text, add_special_tokens=special)["input_ids"]]
        if max(tokens, default=0) >= self.facts.vocabulary_size:
            raise ModelFileError(
                f"the tokenizer of {self._checkpoint.path} has tokens that the model lacks",
                "Download it again",
            )
        return tokens

    def _text(self, tokens: Tokens) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    # --- reading ---------------------------------------------------------------------------------------

    def capture(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> Capture:
        capture = Capture()
        self.capture_each(prompts, request, capture.keep, share_prefix=share_prefix, advance=advance)
        return capture

    def capture_each(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        visit: Visit,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> None:
        if not prompts:
            raise EngineError("there are no prompts to read activations from")
        shared = common_prefix(prompts) if share_prefix else 0
        with self._tapping(request) as taps:
            for batch in self._batches(prompts, request.answer):
                lengths = [len(prompts[index]) for index in batch.prompts]
                tail = request.last if request.positions is Positions.LAST else max(lengths)
                taken = [min(tail, length - shared) for length in lengths]
                taps.expect(batch.prompts, taken)
                if request.answer:
                    # The last token that is chosen is not decoded, hence one more.
                    self._continue(batch, request.answer + 1, listen=taps.expect_next)
                else:
                    self._forward(batch, keep=1)
                _count(advance, len(batch.prompts))
            taps.deliver(visit)

    def next_token_logprobs(self, prompts: Sequence[Tokens], *, advance: Advance | None = None) -> Float32:
        return self.generate_with_logprobs(prompts, max_tokens=0, advance=advance)[1]

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        # Computed whole each time: caches of transformers are not made to be rolled back in every model.
        self._held = [list(prompt) for prompt in prompts]

    def held_logprobs(self) -> Float32:
        if self._held is None:
            raise EngineError("no prompts are held")
        return self.next_token_logprobs(self._held)

    def generate(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> list[Generation]:
        return self._answer(prompts, max_tokens, None, advance)

    def generate_with_logprobs(
        self, prompts: Sequence[Tokens], *, max_tokens: int, advance: Advance | None = None
    ) -> tuple[list[Generation], Float32]:
        logprobs = np.empty((len(prompts), self.facts.vocabulary_size), dtype=np.float32)
        return self._answer(prompts, max_tokens, logprobs, advance), logprobs

    def _answer(
        self, prompts: Sequence[Tokens], max_tokens: int, logprobs: Float32 | None, advance: Advance | None
    ) -> list[Generation]:
        answers: dict[int, Generation] = {}
        for batch in self._batches(prompts, max_tokens):

            def keep(logits: Any, members: list[int] = batch.prompts) -> None:
                if logprobs is not None:
                    logprobs[members] = to_numpy(torch.log_softmax(logits.float(), dim=-1))

            answers.update(zip(batch.prompts, self._continue(batch, max_tokens, first=keep), strict=True))
            _count(advance, len(batch.prompts))
        return [answers[index] for index in range(len(prompts))]

    def _continue(
        self,
        batch: _Batch,
        max_tokens: int,
        *,
        first: Callable[[Any], None] | None = None,
        listen: Callable[[list[int]], None] | None = None,
        written: list[Tokens] | None = None,
    ) -> list[Generation]:
        """Greedy continuations, in lockstep.

        Args:
            first: receives the logits after the prompts, (prompts, vocabulary).
            listen: told, before each further token is decoded, which members of the batch are still going.
            written: receives the tokens of each member as they come.
        """
        output = self._forward(batch, keep=1, cache=max_tokens > 0)
        logits = output.logits[:, -1]
        if first is not None:
            first(logits)
        count = len(batch.prompts)
        written = [] if written is None else written
        written += [[] for _ in range(count)]
        finished = [False] * count
        mask, position = batch.mask, batch.positions[:, -1:]
        for step in range(max_tokens):
            chosen = logits.argmax(-1).tolist()
            for member, token in enumerate(chosen):
                if finished[member]:
                    continue
                if token in self._ends:
                    finished[member] = True
                else:
                    written[member].append(token)
            going = [member for member in range(count) if not finished[member]]
            if not going or step == max_tokens - 1:
                break
            if listen is not None:
                listen(going)
            self._check_cancelled()
            mask = torch.cat([mask, mask.new_ones((count, 1))], dim=1)
            position = position + 1
            with torch.inference_mode():
                output = self._model(
                    input_ids=torch.tensor(chosen, device=self._device)[:, None],
                    attention_mask=mask,
                    position_ids=position,
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
            logits = output.logits[:, -1]
        return [
            Generation(self._text(tokens), tokens, done)
            for tokens, done in zip(written, finished, strict=True)
        ]

    def stream(self, prompt: Tokens, *, max_tokens: int, on_text: OnText) -> None:
        written: list[Tokens] = []
        said = ""

        def tell(_going: list[int] | None = None) -> None:
            nonlocal said
            text = self._text(written[0])
            # A character of several tokens is incomplete until its last one.
            if not text.endswith("\ufffd") and len(text) > len(said):
                on_text(text[len(said) :])
                said = text

        for batch in self._batches([prompt], max_tokens):
            self._continue(batch, max_tokens, listen=tell, written=written)
        tell()

    # --- continuations ---------------------------------------------------------------------------------

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        pairs = [(context, tokens) for context, branches in groups for tokens in branches]
        picked: list[Float32] = [np.empty(0, dtype=np.float32)] * len(pairs)
        for index, rows in self._distributions(pairs):
            tokens = pairs[index][1]
            picked[index] = rows[np.arange(len(tokens)), tokens].copy()
        scores = iter(picked)
        found = [[next(scores) for _ in branches] for _, branches in groups]
        _count(advance, len(groups))
        return found

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        pairs = list(zip(prompts, continuations, strict=True))
        found: list[Float32] = [np.empty((0, 0), dtype=np.float32)] * len(pairs)
        for index, rows in self._distributions(pairs):
            found[index] = rows
        return found

    def _distributions(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> Iterator[tuple[int, Float32]]:
        """For each (context, continuation) the log-probabilities before each token of the continuation."""
        if any(not tokens for _, tokens in pairs):
            raise EngineError("an empty continuation cannot be scored")
        whole = [[*context, *tokens[:-1]] for context, tokens in pairs]
        for batch in self._batches(whole, 0):
            most = max(len(pairs[index][1]) for index in batch.prompts)
            logits = self._forward(batch, keep=most).logits
            for row, index in enumerate(batch.prompts):
                rows = logits[row, -len(pairs[index][1]) :].float()
                yield index, to_numpy(torch.log_softmax(rows, dim=-1))

    # --- a long session --------------------------------------------------------------------------------

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        # Kept as tokens and computed anew for each answer: exact, where a shifted cache is not.
        if window > self.facts.context_size:
            raise EngineError(
                f"a window of {window} tokens does not fit into a context of {self.facts.context_size}",
                self._larger,
            )
        session = list(self._session or [])
        for token in tokens:
            if len(session) >= window:
                keep = min(_SESSION_OPENING, window // 2)
                del session[keep : keep + (len(session) - keep + 1) // 2]
            session.append(token)
        self._session = session

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        if self._session is None:
            raise EngineError("there is no session to go on from")
        session = self._session
        answers = self._answer([[*session, *prompt] for prompt in prompts], max_tokens, None, None)
        self._session = session
        return answers

    # --- batching --------------------------------------------------------------------------------------

    def _batches(self, prompts: Sequence[Tokens], reserve: int) -> Iterator[_Batch]:
        """Prompts side by side, longest first, as many as ``-c`` and the number of sequences allow."""
        self._session = None
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        while order:
            longest = len(prompts[order[0]]) + reserve
            if longest > self.facts.context_size:
                raise EngineError(
                    f"a prompt of {len(prompts[order[0]])} tokens with {reserve} tokens of answer does not "
                    f"fit into a context of {self.facts.context_size}",
                    self._larger,
                )
            count = max(1, min(self._width, self._cells // longest))
            members, order = order[:count], order[count:]
            width = len(prompts[members[0]])
            tokens = torch.zeros((len(members), width), dtype=torch.long)
            mask = torch.zeros((len(members), width), dtype=torch.long)
            for row, index in enumerate(members):
                tokens[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
                mask[row, width - len(prompts[index]) :] = 1
            yield _Batch(members, tokens.to(self._device), mask.to(self._device))

    def _forward(self, batch: _Batch, *, keep: int, cache: bool = False) -> Any:
        self._check_cancelled()
        with torch.inference_mode():
            return self._model(
                input_ids=batch.tokens,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=cache,
                logits_to_keep=keep,
            )

    @contextmanager
    def _tapping(self, request: TapRequest) -> Iterator[Taps]:
        for block in request.blocks:
            if block not in self._blocks:
                raise EngineError(f"the model has no block {block}")
        for name in request.inputs:
            if name not in self._modules:
                raise EngineError(f"{name} is not a write matrix of this model")
        taps = Taps(request)
        hooks = [self._blocks[block].register_forward_hook(taps.on_block(block)) for block in request.blocks]
        hooks += [
            self._modules[name].register_forward_pre_hook(taps.on_input(name)) for name in request.inputs
        ]
        try:
            yield taps
        finally:
            for hook in hooks:
                hook.remove()

    # --- edits -----------------------------------------------------------------------------------------

    def load_edits(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        for edit in edits:
            matrix = self._matrices.get(edit.tensor)
            if matrix is None or matrix.shape != (len(edit.output), len(edit.input)):
                raise EngineError(f"an edit of {edit.tensor} does not fit this model")
        handle = self._next_handle
        self._edits[handle] = list(edits)
        self._next_handle += 1
        return handle

    def load_adapter(self, path: Path) -> EditHandle:
        with GgufFile.open(path) as file:
            return self.load_edits(read_adapter(file))

    def apply(self, strengths: Mapping[EditHandle, float]) -> None:
        self._check_cancelled()
        self._remove_edits()
        by_tensor: dict[str, list[RankOneEdit]] = {}
        for handle, strength in strengths.items():
            for edit in self._edits[handle]:
                if strength:
                    by_tensor.setdefault(edit.tensor, []).append(edit.scaled(strength))
        for name, edits in by_tensor.items():
            inward = torch.tensor(np.stack([edit.input for edit in edits]), device=self._device)
            outward = torch.tensor(np.stack([edit.output for edit in edits]), device=self._device)
            self._active.append(self._modules[name].register_forward_hook(add(inward, outward)))

    def _remove_edits(self) -> None:
        for hook in self._active:
            hook.remove()
        self._active = []

    def unload(self, handle: EditHandle) -> None:
        del self._edits[handle]


def common_prefix(prompts: Sequence[Tokens]) -> int:
    """How many tokens all prompts begin with, each keeping at least one; 0 when too few to share."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    columns = zip(*(prompt[:shortest] for prompt in prompts), strict=True)
    shared = 0
    for column in columns:
        if len(set(column)) > 1:
            break
        shared += 1
    return shared if shared >= _SHORTEST_SHARED_PREFIX else 0


def _count(advance: Advance | None, units: int) -> None:
    if advance is not None:
        advance(units)
