"""The llama.cpp engine: many prompts as sequences of one batch, shared prefixes decoded once, taps, adapters."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rosi_edge.errors import EngineError, UnsupportedModelError
from rosi_edge.injection.adapter import write_adapter
from rosi_edge.injection.edits import RankOneEdit
from rosi_edge.models.architectures import architecture_of
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.progress import Advance
from rosi_edge.runtime import llama_abi
from rosi_edge.runtime.chat import ChatTemplate
from rosi_edge.runtime.engine import (
    Conversation,
    EditHandle,
    EngineOptions,
    Generation,
    ModelFacts,
    Tokens,
)
from rosi_edge.runtime.taps import Capture, Positions, Reducer, TapRequest, reducer

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_PREFIX_SEQUENCE = 0
_SHORTEST_SHARED_PREFIX = 4


@dataclass
class _Wave:
    """Prompts decoded side by side: sequence ``i + 1`` holds ``prompts[i]``."""

    prompts: list[int]
    logits: Float32


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
        self._model = llama_abi.Model(path, gpu_layers=options.gpu_layers)
        self._tap = _TapReader(self._model.layers, self._architecture.stream_name)
        # Recurrent states are split by sequence: one prompt a batch keeps rows in batch order.
        self._width = 1 if self._model.recurrent else options.sequences
        self._context = llama_abi.Context(
            self._model,
            context_size=min(options.context_size, max(self._model.training_context, 512) * self._width),
            batch_size=options.batch_size,
            sequences=self._width + 1,
            threads=options.threads or len(os.sched_getaffinity(0)),
            on_node=self._tap.on_node,
        )
        template = options.template or self._model.chat_template
        self._template = (
            ChatTemplate(template, bos=self._model.special_text("bos"), eos=self._model.special_text("eos"))
            if template
            else None
        )
        self._adapters: dict[EditHandle, llama_abi.Adapter] = {}
        self._next_handle = 1
        self._active: dict[EditHandle, float] = {}
        self._prefix: Tokens = []
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
        return self._model.tokenize(text, add_special=not (bos and text.startswith(bos)))

    # --- reading ---------------------------------------------------------------------------------------

    def capture(
        self,
        prompts: Sequence[Tokens],
        request: TapRequest,
        *,
        share_prefix: bool = True,
        advance: Advance | None = None,
    ) -> Capture:
        prefix = self._open_prefix(prompts) if share_prefix else self._forget_prefix()
        with self._tap.reading(request):
            for wave in self._waves(
                prompts, prefix, reserve=0, all_outputs=request.positions is Positions.ALL
            ):
                _count(advance, len(wave.prompts))
            return self._tap.capture()

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
        answers: dict[int, Generation] = {}
        prefix = self._open_prefix(prompts)
        for wave in self._waves(prompts, prefix, reserve=max_tokens):
            if logprobs is not None:
                logprobs[wave.prompts] = log_softmax(wave.logits)
            lengths = [len(prompts[index]) for index in wave.prompts]
            answers.update(zip(wave.prompts, self._continue(wave, lengths, max_tokens), strict=True))
            _count(advance, len(wave.prompts))
        return [answers[index] for index in range(len(prompts))]

    def _continue(self, wave: _Wave, lengths: list[int], max_tokens: int) -> list[Generation]:
        """Greedy continuation of every sequence of a wave, in lockstep."""
        written: list[Tokens] = [[] for _ in wave.prompts]
        finished = [False] * len(wave.prompts)
        running = list(range(len(wave.prompts)))
        logits = wave.logits
        for _ in range(max_tokens):
            chosen = logits.argmax(axis=1)
            still = []
            for row, member in enumerate(running):
                token = int(chosen[row])
                if self._model.ends_generation(token):
                    finished[member] = True
                else:
                    written[member].append(token)
                    if len(written[member]) < max_tokens:
                        still.append(member)
            running = still
            if not running:
                break
            self._context.decode(
                np.array([written[m][-1] for m in running], dtype=np.int32),
                np.array([lengths[m] + len(written[m]) - 1 for m in running], dtype=np.int32),
                np.array([m + 1 for m in running], dtype=np.int32),
                np.ones(len(running), dtype=np.int8),
            )
            logits = self._context.logits(len(running))
        return [
            Generation(self._model.detokenize(tokens), tokens, done)
            for tokens, done in zip(written, finished, strict=True)
        ]

    # --- batching --------------------------------------------------------------------------------------

    def _open_prefix(self, prompts: Sequence[Tokens]) -> int:
        """Decode what all prompts begin with into the prefix sequence; returns its length."""
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        shared = _common_prefix(prompts)
        if len(shared) < _SHORTEST_SHARED_PREFIX:
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
        return 0

    def _waves(
        self, prompts: Sequence[Tokens], prefix: int, *, reserve: int, all_outputs: bool = False
    ) -> Iterator[_Wave]:
        """Decode prompts side by side, as many as the context holds, longest first so that the prompts of
        a wave end together. Yields with the sequences still in the cache and drops them afterwards."""
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        while order:
            wave: list[int] = []
            cells = prefix
            while order and len(wave) < self._width:
                need = len(prompts[order[0]]) - prefix + reserve
                if cells + need > self._context.size:
                    break
                cells += need
                wave.append(order.pop(0))
            if not wave:
                raise EngineError(
                    f"a prompt of {len(prompts[order[0]])} tokens with {reserve} tokens of answer does not "
                    f"fit into a context of {self._context.size}",
                    "Use a larger -c",
                )
            try:
                logits = self._prefill([prompts[index][prefix:] for index in wave], wave, prefix, all_outputs)
                yield _Wave(wave, logits)
            except BaseException:
                self._forget_prefix()
                raise
            for member in range(len(wave)):
                self._context.remove_sequence(member + 1)

    def _prefill(self, suffixes: list[Tokens], wave: list[int], prefix: int, all_outputs: bool) -> Float32:
        """Decode the suffixes; returns the logits after each one's last token, (suffixes, vocabulary)."""
        if prefix:
            for member in range(len(suffixes)):
                self._context.copy_sequence(_PREFIX_SEQUENCE, member + 1)
        lengths = np.array([len(suffix) for suffix in suffixes])
        owner: Int32 = np.repeat(np.arange(len(suffixes), dtype=np.int32), lengths)
        tokens = np.concatenate([np.array(suffix, dtype=np.int32) for suffix in suffixes])
        positions = np.concatenate([np.arange(prefix, prefix + n, dtype=np.int32) for n in lengths])
        last = np.zeros(len(tokens), dtype=bool)
        last[np.cumsum(lengths) - 1] = True
        reading = self._tap.active
        logits = np.empty((0 if reading else len(suffixes), self.facts.vocabulary_size), dtype=np.float32)
        for start in range(0, len(tokens), self._context.batch_size):
            piece = slice(start, start + self._context.batch_size)
            wanted = np.ones_like(last[piece]) if all_outputs else last[piece]
            self._tap.expect(np.array(wave, dtype=np.int32)[owner[piece]], wanted, last[piece])
            self._context.decode(
                tokens[piece],
                positions[piece],
                (owner[piece] + 1).astype(np.int32),
                wanted.astype(np.int8),
            )
            self._tap.check_complete()
            if not reading and wanted.any():
                logits[owner[piece][wanted]] = self._context.logits(int(wanted.sum()))
        return logits

    # --- edits -----------------------------------------------------------------------------------------

    def load_edits(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        with tempfile.TemporaryDirectory(prefix="rosi-edge-") as folder:
            path = Path(folder) / "adapter.gguf"
            write_adapter(path, edits, architecture=self._architecture.name)
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
        self._context.set_adapters([(self._adapters[h], s) for h, s in active.items()])
        self._active = active
        # The cached prefix was computed by a different model.
        self._forget_prefix()

    def unload(self, handle: EditHandle) -> None:
        if handle in self._active:
            self.apply({h: s for h, s in self._active.items() if h != handle})
        self._model.free_adapter(self._adapters.pop(handle))


class _TapReader:
    """Receives graph nodes from the eval callback and hands their rows to reducers."""

    def __init__(self, layers: int, stream_name: object) -> None:
        assert callable(stream_name)
        self._stream_names = {str(stream_name(block)).encode(): block for block in range(layers)}
        self._reducers: dict[bytes, Reducer] = {}
        self._request: TapRequest | None = None
        self._seen: set[bytes] = set()
        self._owners: Int32 = np.empty(0, dtype=np.int32)
        self._wanted = self._last = np.empty(0, dtype=bool)

    @property
    def active(self) -> bool:
        return self._request is not None

    @contextmanager
    def reading(self, request: TapRequest) -> Iterator[None]:
        names = {block: name for name, block in self._stream_names.items()}
        unknown = [block for block in request.blocks if block not in names]
        if unknown:
            raise EngineError(f"the model has no block {unknown[0]}")
        self._keys: dict[bytes, int | str] = {names[block]: block for block in request.blocks}
        self._keys |= {weight.encode(): weight for weight in request.inputs}
        self._reducers = {key: reducer(request.keep) for key in self._keys}
        self._request = request
        try:
            yield
        finally:
            self._request = None
            self._reducers = {}
            self._seen = set()

    def expect(self, owners: Int32, wanted: npt.NDArray[np.bool_], last: npt.NDArray[np.bool_]) -> None:
        """What the next micro-batch holds: per token its prompt, whether it is an output, and whether it
        is its prompt's last."""
        self._owners, self._wanted, self._last = owners, wanted, last
        self._seen = set()

    def on_node(self, node: llama_abi.Node, asked: bool) -> bool:
        if self._request is None:
            return False
        key = self._key(node)
        if asked:
            return key is not None
        if key is not None:
            weight = node.name not in self._reducers
            self._take(key, (node.source(1) if weight else node).rows())
        # With everything read there is no use for the rest of the graph (the vocabulary projection, mostly).
        return len(self._seen) < len(self._reducers)

    def _key(self, node: llama_abi.Node) -> bytes | None:
        if node.op in (llama_abi.OP_MUL_MAT, llama_abi.OP_MUL_MAT_ID):
            name = node.source(0).name
            if b"#" in name:
                # A weight copied to another backend is called "<backend>#<tensor>#<copy>".
                name = name.split(b"#")[1]
        else:
            name = node.name
        return name if name in self._reducers and name not in self._seen else None

    def _take(self, key: bytes, rows: Float32) -> None:
        assert self._request is not None
        self._seen.add(key)
        if len(rows) == len(self._owners):
            keep = self._last if self._request.positions is Positions.LAST else np.ones_like(self._last)
            owners = self._owners
        elif len(rows) == int(self._wanted.sum()):
            # The last block computes output rows only.
            keep, owners = self._last[self._wanted], self._owners[self._wanted]
            if self._request.positions is Positions.ALL:
                keep = np.ones_like(keep)
        else:
            raise EngineError(f"{key.decode()} has {len(rows)} rows for {len(self._owners)} tokens")
        if keep.any():
            self._reducers[key].add(np.ascontiguousarray(rows[keep]), owners[keep])

    def check_complete(self) -> None:
        """Raises EngineError when something asked for did not come by in the last micro-batch."""
        missing = [key for key in self._reducers if key not in self._seen]
        # A micro-batch without outputs may skip the last block altogether; its rows come with a later one.
        if missing and self._wanted.any():
            raise EngineError(f"llama.cpp did not compute {missing[0].decode()} for this architecture")

    def capture(self) -> Capture:
        capture = Capture()
        for key, gathered in self._reducers.items():
            name = self._keys[key]
            if isinstance(name, int):
                capture.streams[name] = gathered.result()
            else:
                capture.inputs[name] = gathered.result()
        return capture


def log_softmax(logits: Float32) -> Float32:
    """Natural-log probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: Float32 = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return normalised


def _common_prefix(prompts: Sequence[Tokens]) -> Tokens:
    """The longest opening that all prompts share and that leaves each at least one token."""
    if not prompts:
        return []
    shared = list(prompts[0][: min(len(prompt) for prompt in prompts) - 1])
    for prompt in prompts[1:]:
        while shared != prompt[: len(shared)]:
            # Halving would overshoot; prompts differ soon after the system prompt, so this is short.
            shared = shared[: next(i for i, (a, b) in enumerate(zip(shared, prompt, strict=False)) if a != b)]
    return shared


def _count(advance: Advance | None, units: int) -> None:
    if advance is not None:
        advance(units)
