"""The llama.cpp engine: many prompts in one batch, shared prefixes decoded once, taps, adapters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.cores import usable_cores
from rosi_edge.basics.progress import Advance, count_done
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import adapter_gains
from rosi_edge.errors import EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import architecture_of, expert_counts, write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.native import llama
from rosi_edge.runtime import branches
from rosi_edge.runtime.batching import Batching, Member, common_prefix, does_not_fit
from rosi_edge.runtime.chat import ChatTemplate
from rosi_edge.runtime.engine import (
    EditHandle,
    EngineFacts,
    EngineOptions,
    Generation,
    OnText,
    Tokens,
)
from rosi_edge.runtime.engine_base import EngineBase
from rosi_edge.runtime.held import HeldPrompts
from rosi_edge.runtime.logits import log_softmax
from rosi_edge.runtime.memory import Memory
from rosi_edge.runtime.tap_reader import TapReader
from rosi_edge.runtime.taps import (
    Positions,
    TapRequest,
    Visit,
)

Read = Callable[[int, Float32], None]
"""Receives a prompt's place and the logits after its last token, (vocabulary,); valid during the call."""


class LlamaEngine(EngineBase):
    """Runs a GGUF file with llama.cpp in this process. See ``Engine`` for the methods.

    Args:
        path: the GGUF file.
        options: llama.cpp's run-time flags.

    Raises:
        ModelFileError: the file is damaged or llama.cpp does not load it.
        UnsupportedModelError: the tool does not know the architecture.
    """

    def __init__(self, path: Path, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        # Our own reader first: llama.cpp aborts the process on some broken files, ours says what is wrong.
        with GgufFile.open(path) as file:
            self._architecture = architecture_of(file)
            self._adapter_gains, self._experts = _adapter_facts(file)
        self._model = llama.Model(path, gpu_layers=options.gpu_layers, rpc=options.rpc)
        self._tap = TapReader(self._model.layers, self._architecture.stream_name)
        # Recurrent states are split by sequence: one prompt a batch keeps rows in batch order.
        self._width = 1 if self._model.recurrent else options.sequences
        self._context = llama.Context(
            self._model,
            context_size=min(options.context_size, max(self._model.training_context, 512) * self._width),
            batch_size=options.batch_size,
            sequences=max(self._width, 0 if self._model.recurrent else options.held) + 1,
            threads=options.threads or usable_cores(),
            on_node=self._tap.on_node,
        )
        template = options.template or self._model.chat_template
        self._template = (
            ChatTemplate(template, bos=self._model.special_text("bos"), eos=self._model.special_text("eos"))
            if template
            else None
        )
        self._adapters: dict[EditHandle, llama.Adapter] = {}
        self._next_handle = 1
        self._active: dict[EditHandle, float] = {}
        self._memory = Memory(self._context, self._model.vocabulary_size)
        self.path = path
        self._can_hold = 0 if self._model.recurrent else options.held
        self._to_hold: tuple[Sequence[Tokens], int] | None = None
        self.facts = EngineFacts(
            architecture=self._architecture.name,
            layers=self._model.layers,
            hidden_size=self._model.hidden_size,
            vocabulary_size=self._model.vocabulary_size,
            context_size=self._context.size,
            has_chat_template=template is not None,
        )

    def close(self) -> None:
        self._context.close()
        self._model.close()

    # --- text ------------------------------------------------------------------------------------------

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._model.tokenize(text, add_special=True, parse_special=False) for text in texts]

    def _tokenize(self, text: str) -> Tokens:
        bos = self._model.special_text("bos")
        # Most templates write the opening token themselves; a second one would change every activation.
        return self._model.tokenize(text, add_special=not (bos and text.lstrip().startswith(bos)))

    # --- reading ---------------------------------------------------------------------------------------

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
        if not share_prefix:
            self._memory.forget()
        prefix = self._memory.open_prefix(prompts) if share_prefix else 0
        with self._tap.reading(request):
            tail = request.last if request.positions is Positions.LAST else self._context.size
            # The last token that is chosen is not decoded, hence one more.
            written = request.answer + 1 if request.answer else 0
            self._decode(prompts, prefix, written, tail=tail, advance=advance)
            self._tap.deliver(visit)

    def _answer(
        self, prompts: Sequence[Tokens], max_tokens: int, logprobs: Float32 | None, advance: Advance | None
    ) -> list[Generation]:
        def keep(prompt: int, logits: Float32) -> None:
            assert logprobs is not None
            logprobs[prompt] = log_softmax(logits[None])[0]

        # Log-probabilities are compared between models: what is in a batch must not depend on their answers.
        return self._decode(
            prompts,
            self._memory.open_prefix(prompts),
            max_tokens,
            refill=logprobs is None,
            read=keep if logprobs is not None else None,
            advance=advance,
        )

    def _decode(
        self,
        prompts: Sequence[Tokens],
        prefix: int,
        max_tokens: int,
        *,
        tail: int = 1,
        refill: bool = False,
        read: Read | None = None,
        advance: Advance | None = None,
    ) -> list[Generation]:
        """Decode prompts side by side and write greedy answers of at most ``max_tokens``.

        Args:
            prefix: so many first tokens stand in the prefix sequence.
            tail: how many of each prompt's last tokens are outputs (and read, while a tap is active).
            refill: see ``Batching``.
        """
        if any(len(prompt) <= prefix for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        batching = Batching(
            prompts,
            prefix,
            reserve=max_tokens,
            cells=self._context.size - prefix,
            width=self._width,
            batch_size=self._context.batch_size,
            tail=tail,
            refill=refill,
        )
        answers: dict[int, Generation] = {}
        try:
            while batching.busy or batching.next_in_line is not None:
                for member in batching.admit():
                    if prefix:
                        self._memory.continue_in(member.sequence)
                if not batching.busy:
                    waiting = prompts[batching.next_in_line or 0]
                    raise does_not_fit(waiting, max_tokens, self._context.size)
                for member, finished in self._decode_batch(batching, max_tokens, read):
                    text = self._model.detokenize(member.written)
                    answers[member.prompt] = Generation(text, member.written, finished)
                    self._context.remove_sequence(member.sequence)
                    batching.leave(member)
                    count_done(advance, 1)
        except BaseException:
            self._memory.forget()
            raise
        return [answers[index] for index in range(len(prompts))]

    def _decode_batch(
        self, batching: Batching, max_tokens: int, read: Read | None
    ) -> list[tuple[Member, bool]]:
        """One micro-batch; returns the members that ended with it, and whether they ended by themselves."""
        batch = batching.next_batch()
        self._tap.expect(batch)
        self._context.decode(batch.tokens, batch.positions, batch.sequences, batch.outputs.astype(np.int8))
        self._tap.check_complete()
        if not batch.ends:
            return []
        if not self._tap.needs_logits:
            return [(member, False) for member in batch.ends]
        logits = self._context.logits(int(batch.outputs.sum()))
        if len(batch.ends) < len(logits):
            logits = logits[batch.end_rows]
        chosen = logits.argmax(axis=1)
        ended = []
        for row, member in enumerate(batch.ends):
            if read is not None and not member.written:
                read(member.prompt, logits[row])
            token = int(chosen[row])
            stops = max_tokens > 0 and self._model.ends_generation(token)
            if max_tokens > 0 and not stops:
                member.written.append(token)
                member.pending = [token]
            if stops or len(member.written) >= max_tokens:
                ended.append((member, stops))
        return ended

    def stream(self, prompt: Tokens, *, max_tokens: int, on_text: OnText) -> None:
        if not prompt:
            raise EngineError("an empty prompt cannot be decoded")
        if len(prompt) + max_tokens > self._context.size:
            raise does_not_fit(prompt, max_tokens, self._context.size)
        self._memory.forget()
        logits = self._memory.prefill([prompt], 0, [1])
        written: Tokens = []
        text = said = ""
        while len(written) < max_tokens:
            token = int(logits[0].argmax())
            if self._model.ends_generation(token):
                break
            written.append(token)
            text = self._model.detokenize(written)
            # A character of several tokens is incomplete until its last one.
            if not text.endswith("\ufffd"):
                on_text(text[len(said) :])
                said = text
            self._context.decode(
                np.array([token], dtype=np.int32),
                np.array([len(prompt) + len(written) - 1], dtype=np.int32),
                np.array([1], dtype=np.int32),
                np.ones(1, dtype=np.int8),
            )
            logits = self._context.logits(1)
        if len(text) > len(said):
            on_text(text[len(said) :])
        self._memory.forget()

    # --- held prompts ----------------------------------------------------------------------------------

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        self._to_hold = (list(prompts), tail)
        if self._memory.held is not None:
            self._memory.forget()

    def held_logprobs(self) -> Float32:
        if self._to_hold is None:
            raise EngineError("no prompts are held")
        prompts, tail = self._to_hold
        shared = len(common_prefix(prompts))
        cells = shared + sum(len(prompt) - shared for prompt in prompts)
        if len(prompts) > self._can_hold or cells > self._context.size or tail > self._context.batch_size:
            return self.next_token_logprobs(prompts)
        if self._memory.held is None:
            self._memory.forget()
            # Everything but the last tokens is the unedited model's, whatever is applied now.
            self._context.set_adapters([])
            try:
                self._memory.held = HeldPrompts(self._context, prompts, shared=shared, tail=tail)
            finally:
                self._set_adapters()
        try:
            return log_softmax(self._memory.held.logits(self.facts.vocabulary_size))
        except BaseException:
            self._memory.forget()
            raise

    # --- continuations ---------------------------------------------------------------------------------

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        return branches.score(self._memory, groups, self._width, advance)

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        return branches.logprobs(self._memory, list(zip(prompts, continuations, strict=True)), self._width)

    # --- a long session --------------------------------------------------------------------------------

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        self._memory.extend_session(tokens, window=window)

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        if self._memory.session is None:
            raise EngineError("there is no session to go on from")
        # The session stands where a shared prefix stands; what its tokens are no longer matters.
        opened = [[0] * self._memory.session + list(prompt) for prompt in prompts]
        return self._decode(opened, self._memory.session, max_tokens, refill=True)

    # --- edits -----------------------------------------------------------------------------------------

    def load_edits(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        with tempfile.TemporaryDirectory(prefix="rosi-edge-") as folder:
            path = Path(folder) / "adapter.gguf"
            write_adapter(
                path,
                edits,
                architecture=self._architecture.name,
                gains=self._adapter_gains,
                experts=self._experts,
            )
            return self.load_adapter(path)

    def load_adapter(self, path: Path) -> EditHandle:
        handle = self._next_handle
        self._adapters[handle] = self._model.load_adapter(path)
        self._next_handle += 1
        return handle

    def apply(self, strengths: Mapping[EditHandle, float]) -> None:
        active = {handle: strength for handle, strength in strengths.items() if strength != 0}
        if active == self._active:
            return
        self._active = active
        self._set_adapters()
        # A cached prefix was computed by a different model; held prompts are meant to have been.
        if self._memory.held is None:
            self._memory.forget()

    def _set_adapters(self) -> None:
        self._context.set_adapters([(self._adapters[h], s) for h, s in self._active.items()])

    def unload(self, handle: EditHandle) -> None:
        if handle in self._active:
            self.apply({h: s for h, s in self._active.items() if h != handle})
        self._model.free_adapter(self._adapters.pop(handle))


def _adapter_facts(file: GgufFile) -> tuple[dict[str, float], dict[str, int]]:
    """``gains`` and ``experts`` of ``write_adapter``."""
    try:
        matrices = write_matrices(file)
        return adapter_gains(file, matrices), expert_counts(matrices)
    except (ModelFileError, UnsupportedModelError):
        # A model that cannot be edited can still be run and measured.
        return {}, {}
