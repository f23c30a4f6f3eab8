"""The llama.cpp engine: many prompts in one batch, shared prefixes decoded once, taps, adapters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rosi_edge.basics.arrays import Float32, Int32
from rosi_edge.basics.cores import usable_cores
from rosi_edge.basics.progress import Advance
from rosi_edge.edits.adapter import write_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.edits.write_directions import adapter_gains
from rosi_edge.errors import EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import architecture_of, expert_counts, write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.native import llama
from rosi_edge.runtime.batching import SHORTEST_SHARED_PREFIX, Batching, Member, common_prefix
from rosi_edge.runtime.branches import SCORED_AT_A_TIME
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
from rosi_edge.runtime.held import HeldPrompts
from rosi_edge.runtime.logits import count, log_softmax, log_sum_exp
from rosi_edge.runtime.tap_reader import TapReader
from rosi_edge.runtime.taps import (
    Capture,
    Positions,
    TapRequest,
    Visit,
)

_PREFIX_SEQUENCE = 0
_SESSION_OPENING = 64
"""Tokens at the opening of a session, its system prompt, that never fall out of the window."""


Read = Callable[[int, Float32], None]
"""Receives a prompt's place and the logits after its last token, (vocabulary,); valid during the call."""


class LlamaEngine:
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
        self._prefix: Tokens = []
        self._session: int | None = None
        self.path = path
        self._can_hold = 0 if self._model.recurrent else options.held
        self._to_hold: tuple[Sequence[Tokens], int] | None = None
        self._held: HeldPrompts | None = None
        self.facts = ModelFacts(
            architecture=self._architecture.name,
            layers=self._model.layers,
            hidden_size=self._model.hidden_size,
            vocabulary_size=self._model.vocabulary_size,
            context_size=self._context.size,
            has_chat_template=template is not None,
        )

    def __enter__(self) -> LlamaEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._context.close()
        self._model.close()

    # --- text ------------------------------------------------------------------------------------------

    def encode(self, conversations: Sequence[Conversation]) -> list[Tokens]:
        if self._template is None:
            raise UnsupportedModelError(
                "this model has no chat template", "Use a chat model, or give a template with --template FILE"
            )
        return [self._tokenize(self._template.render(conversation)) for conversation in conversations]

    def encode_text(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._model.tokenize(text, add_special=True, parse_special=False) for text in texts]

    def _tokenize(self, text: str) -> Tokens:
        bos = self._model.special_text("bos")
        # Most templates write the opening token themselves; a second one would change every activation.
        return self._model.tokenize(text, add_special=not (bos and text.lstrip().startswith(bos)))

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
        prefix = self._open_prefix(prompts) if share_prefix else self._forget_prefix()
        with self._tap.reading(request):
            tail = request.last if request.positions is Positions.LAST else self._context.size
            # The last token that is chosen is not decoded, hence one more.
            written = request.answer + 1 if request.answer else 0
            self._decode(prompts, prefix, written, tail=tail, advance=advance)
            self._tap.deliver(visit)

    def next_token_logprobs(self, prompts: Sequence[Tokens], *, advance: Advance | None = None) -> Float32:
        return self.generate_with_logprobs(prompts, max_tokens=0, advance=advance)[1]

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
        def keep(prompt: int, logits: Float32) -> None:
            assert logprobs is not None
            logprobs[prompt] = log_softmax(logits[None])[0]

        # Log-probabilities are compared between models: what is in a batch must not depend on their answers.
        return self._decode(
            prompts,
            self._open_prefix(prompts),
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
                        self._context.copy_sequence(_PREFIX_SEQUENCE, member.sequence)
                if not batching.busy:
                    raise EngineError(
                        f"a prompt of {len(prompts[batching.next_in_line or 0])} tokens with {max_tokens} "
                        f"tokens of answer does not fit into a context of {self._context.size}",
                        "Use a larger -c",
                    )
                for member, finished in self._decode_batch(batching, max_tokens, read):
                    text = self._model.detokenize(member.written)
                    answers[member.prompt] = Generation(text, member.written, finished)
                    self._context.remove_sequence(member.sequence)
                    batching.leave(member)
                    count(advance, 1)
        except BaseException:
            self._forget_prefix()
            raise
        return [answers[index] for index in range(len(prompts))]

    def _decode_batch(
        self, batching: Batching, max_tokens: int, read: Read | None
    ) -> list[tuple[Member, bool]]:
        """One micro-batch; returns the members that ended with it, and whether they ended by themselves."""
        batch = batching.next_batch()
        self._tap.expect(batch.owners, batch.outputs)
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
            raise EngineError(
                f"a prompt of {len(prompt)} tokens with {max_tokens} tokens of answer does not fit into a "
                f"context of {self._context.size}",
                "Use a larger -c",
            )
        self._forget_prefix()
        logits = self._prefill([prompt], 0, [1])
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
        self._forget_prefix()

    # --- held prompts ----------------------------------------------------------------------------------

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        self._to_hold = (list(prompts), tail)
        if self._held is not None:
            self._forget_prefix()

    def held_logprobs(self) -> Float32:
        if self._to_hold is None:
            raise EngineError("no prompts are held")
        prompts, tail = self._to_hold
        shared = len(common_prefix(prompts))
        cells = shared + sum(len(prompt) - shared for prompt in prompts)
        if len(prompts) > self._can_hold or cells > self._context.size or tail > self._context.batch_size:
            return self.next_token_logprobs(prompts)
        if self._held is None:
            self._forget_prefix()
            # Everything but the last tokens is the unedited model's, whatever is applied now.
            self._context.set_adapters([])
            try:
                self._held = HeldPrompts(self._context, prompts, shared=shared, tail=tail)
            finally:
                self._set_adapters()
        try:
            return log_softmax(self._held.logits(self.facts.vocabulary_size))
        except BaseException:
            self._forget_prefix()
            raise

    # --- continuations ---------------------------------------------------------------------------------

    def score_continuations(
        self, groups: Sequence[tuple[Tokens, Sequence[Tokens]]], *, advance: Advance | None = None
    ) -> list[list[Float32]]:
        scores: list[list[Float32]] = [[] for _ in groups]

        def gather(group: int, branch: int, rows: Float32, tokens: Tokens) -> None:
            while len(scores[group]) <= branch:
                scores[group].append(np.empty(0, dtype=np.float32))
            picked = rows[np.arange(len(tokens)), tokens] - log_sum_exp(rows)
            scores[group][branch] = np.concatenate([scores[group][branch], picked]).astype(np.float32)

        self._branch(groups, gather, advance)
        return scores

    def continuation_logprobs(
        self, prompts: Sequence[Tokens], continuations: Sequence[Tokens]
    ) -> list[Float32]:
        collected: list[list[Float32]] = [[] for _ in prompts]

        def gather(group: int, branch: int, rows: Float32, tokens: Tokens) -> None:
            collected[group].append(log_softmax(rows))

        groups = [(prompt, [tokens]) for prompt, tokens in zip(prompts, continuations, strict=True)]
        self._branch(groups, gather, None)
        return [np.concatenate(rows) for rows in collected]

    def _branch(
        self,
        groups: Sequence[tuple[Tokens, Sequence[Tokens]]],
        gather: Callable[[int, int, Float32, Tokens], None],
        advance: Advance | None,
    ) -> None:
        """Decode each context once and its continuations as branches of it. ``gather`` receives, in order of
        position, the logits before some tokens of a branch and those tokens."""
        if any(not tokens for _, branches in groups for tokens in branches):
            raise EngineError("an empty continuation cannot be scored")
        contexts = [context for context, _ in groups]
        prefix = self._open_prefix(contexts)
        pending = list(range(len(groups)))
        while pending:
            members: list[int] = []
            cells, used = prefix, 0
            while pending:
                context, branches = groups[pending[0]]
                need = len(context) - prefix + sum(len(tokens) for tokens in branches)
                if members and (cells + need > self._context.size or used + len(branches) > self._width):
                    break
                if cells + need > self._context.size or len(branches) > max(self._width, 1):
                    raise EngineError(
                        f"a context of {len(context)} tokens with {len(branches)} continuations does not fit",
                        "Use a larger -c",
                    )
                cells, used = cells + need, used + len(branches)
                members.append(pending.pop(0))
            try:
                self._branch_wave(groups, members, prefix, gather)
            except BaseException:
                self._forget_prefix()
                raise
            count(advance, len(members))

    def _branch_wave(
        self,
        groups: Sequence[tuple[Tokens, Sequence[Tokens]]],
        members: list[int],
        prefix: int,
        gather: Callable[[int, int, Float32, Tokens], None],
    ) -> None:
        sequences: list[tuple[int, int, int]] = []  # (group, branch, sequence)
        suffixes, first = [], []
        for group in members:
            first.append(len(sequences) + 1)
            suffixes.append(groups[group][0][prefix:])
            sequences += [(group, b, len(sequences) + 1 + b) for b in range(len(groups[group][1]))]
        logits = self._prefill(suffixes, prefix, first)
        tokens: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        for group, branch, sequence in sequences:
            row = members.index(group)
            if sequence != first[row]:
                self._context.copy_sequence(first[row], sequence)
            continuation = groups[group][1][branch]
            gather(group, branch, logits[row : row + 1], continuation[:1])
            tokens += continuation[:-1]
            positions += range(len(groups[group][0]), len(groups[group][0]) + len(continuation) - 1)
            owners += [sequence] * (len(continuation) - 1)
        by_sequence = {sequence: (group, branch) for group, branch, sequence in sequences}
        done: dict[int, int] = dict.fromkeys(by_sequence, 1)
        step = min(self._context.batch_size, SCORED_AT_A_TIME)
        for start in range(0, len(tokens), step):
            part = owners[start : start + step]
            self._context.decode(
                np.array(tokens[start : start + step], dtype=np.int32),
                np.array(positions[start : start + step], dtype=np.int32),
                np.array(part, dtype=np.int32),
                np.ones(len(part), dtype=np.int8),
            )
            rows = self._context.logits(len(part))
            for sequence in dict.fromkeys(part):
                group, branch = by_sequence[sequence]
                mine = np.array([owner == sequence for owner in part])
                at = done[sequence]
                done[sequence] = at + int(mine.sum())
                gather(group, branch, rows[mine], groups[group][1][branch][at : done[sequence]])
        for _, _, sequence in sequences:
            self._context.remove_sequence(sequence)

    # --- a long session --------------------------------------------------------------------------------

    def extend_session(self, tokens: Tokens, *, window: int) -> None:
        if self._session is None:
            self._forget_prefix()
            self._session = 0
        if window > self._context.size:
            raise EngineError(
                f"a window of {window} tokens does not fit into a context of {self._context.size}",
                "Use a larger -c",
            )
        for start in range(0, len(tokens), self._context.batch_size):
            piece = np.array(tokens[start : start + self._context.batch_size], dtype=np.int32)
            if self._session + len(piece) > window:
                # As llama.cpp's own context shift does: keep the opening, drop the older half of the rest.
                keep = min(_SESSION_OPENING, self._session)
                dropped = max((self._session - keep) // 2, self._session + len(piece) - window)
                self._context.shift_sequence(_PREFIX_SEQUENCE, keep, keep + dropped)
                self._session -= dropped
            self._context.decode(
                piece,
                np.arange(self._session, self._session + len(piece), dtype=np.int32),
                np.full(len(piece), _PREFIX_SEQUENCE, dtype=np.int32),
                np.zeros(len(piece), dtype=np.int8),
            )
            self._session += len(piece)

    def generate_in_session(self, prompts: Sequence[Tokens], *, max_tokens: int) -> list[Generation]:
        if self._session is None:
            raise EngineError("there is no session to go on from")
        # The session stands where a shared prefix stands; what its tokens are no longer matters.
        opened = [[0] * self._session + list(prompt) for prompt in prompts]
        return self._decode(opened, self._session, max_tokens, refill=True)

    # --- batching --------------------------------------------------------------------------------------

    def _open_prefix(self, prompts: Sequence[Tokens]) -> int:
        """Decode what all prompts begin with into the prefix sequence; returns its length."""
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        if self._session is not None or self._held is not None:
            self._forget_prefix()
        shared = common_prefix(prompts)
        if len(shared) < SHORTEST_SHARED_PREFIX:
            return self._forget_prefix()
        if shared != self._prefix:
            self._forget_prefix()
            for start in range(0, len(shared), self._context.batch_size):
                piece = np.array(shared[start : start + self._context.batch_size], dtype=np.int32)
                self._context.decode(
                    piece,
                    np.arange(start, start + len(piece), dtype=np.int32),
                    np.full(len(piece), _PREFIX_SEQUENCE, dtype=np.int32),
                    np.zeros(len(piece), dtype=np.int8),
                )
            self._prefix = shared
        return len(shared)

    def _forget_prefix(self) -> int:
        self._context.clear()
        self._prefix = []
        self._session = None
        self._held = None
        return 0

    def _prefill(self, suffixes: list[Tokens], prefix: int, sequences: list[int]) -> Float32:
        """Decode the suffixes into sequences; returns the logits after each one's last token, (suffixes,
        vocabulary)."""
        numbers = np.array(sequences, dtype=np.int32)
        if prefix:
            for number in sequences:
                self._context.copy_sequence(_PREFIX_SEQUENCE, number)
        lengths = np.array([len(suffix) for suffix in suffixes])
        owner: Int32 = np.repeat(np.arange(len(suffixes), dtype=np.int32), lengths)
        tokens = np.concatenate([np.array(suffix, dtype=np.int32) for suffix in suffixes])
        positions = np.concatenate([np.arange(prefix, prefix + n, dtype=np.int32) for n in lengths])
        ends = np.zeros(len(tokens), dtype=bool)
        ends[np.cumsum(lengths) - 1] = True
        logits = np.empty((len(suffixes), self.facts.vocabulary_size), dtype=np.float32)
        for start in range(0, len(tokens), self._context.batch_size):
            piece = slice(start, start + self._context.batch_size)
            wanted = ends[piece]
            self._context.decode(
                tokens[piece], positions[piece], numbers[owner[piece]], wanted.astype(np.int8)
            )
            if wanted.any():
                logits[owner[piece][wanted]] = self._context.logits(int(wanted.sum()))
        return logits

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
        if self._held is None:
            self._forget_prefix()

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
