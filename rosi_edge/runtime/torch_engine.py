"""The torch engine: a Hugging Face checkpoint folder run by transformers, on CPU, CUDA or MPS.

It answers to the same names as the llama.cpp engine: blocks by number, write matrices by their GGUF names.
Edits are rank-one terms added to a module's output while it runs; the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rosi_edge.basics.arrays import Float32
from rosi_edge.basics.cores import usable_cores
from rosi_edge.basics.progress import Advance, count_done
from rosi_edge.edits.adapter import read_adapter
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.errors import EngineError, ModelFileError, UnsupportedModelError
from rosi_edge.models.architectures import WriteMatrix, write_matrices
from rosi_edge.models.checkpoint import Checkpoint
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.runtime.batching import common_prefix
from rosi_edge.runtime.chat import ChatTemplate
from rosi_edge.runtime.engine import (
    SESSION_OPENING,
    EditHandle,
    EngineFacts,
    EngineOptions,
    Generation,
    OnText,
    Tokens,
)
from rosi_edge.runtime.engine_base import EngineBase
from rosi_edge.runtime.taps import Positions, TapRequest, Visit
from rosi_edge.runtime.torch_batches import Limits, PaddedBatch, padded_batches
from rosi_edge.runtime.torch_hooks import EditHooks, tapping, to_numpy
from rosi_edge.runtime.torch_loading import device_for, end_tokens, load_model, load_tokenizer

try:
    import torch
    import transformers
except ImportError:
    torch = None
    transformers = None


class TorchEngine(EngineBase):
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
        matrices = write_matrices(self._checkpoint)
        self._device = device_for(options.gpu_layers)
        torch.set_num_threads(options.threads or usable_cores())
        self._model = load_model(self._checkpoint, self._device)
        self._tokenizer = load_tokenizer(path, self._model.config)
        self._limits = Limits(
            width=options.sequences,
            cells=options.context_size,
            model=self._checkpoint.integer(f"{self._checkpoint.architecture}.context_length"),
        )
        blocks: dict[int, str] = {}
        for matrix in matrices:
            blocks[matrix.block] = self._checkpoint.block_name(matrix.name)
        try:
            self._blocks = {block: self._model.get_submodule(name) for block, name in blocks.items()}
            self._modules = {matrix.name: self._module(matrix) for matrix in matrices}
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
        self._edits = EditHooks(self._modules, {matrix.name: matrix.shape for matrix in matrices})
        self._cancelled = False
        self._session: Tokens | None = None
        self._held: list[Tokens] | None = None
        self.facts = EngineFacts(
            architecture=self._checkpoint.architecture,
            layers=len(self._blocks),
            hidden_size=int(self._model.config.hidden_size),
            vocabulary_size=int(self._model.config.vocab_size),
            context_size=self._limits.context,
            has_chat_template=template is not None,
        )

    def _module(self, matrix: WriteMatrix) -> Any:
        return self._model.get_submodule(self._checkpoint.names[matrix.name].removesuffix(".weight"))

    def _special(self, which: str) -> str:
        return str(getattr(self._tokenizer, which, None) or "")

    def close(self) -> None:
        self._edits.close()
        self._checkpoint.close()
        # Whoever still holds the engine does not hold the weights.
        self._model = self._tokenizer = self._held = None
        self._blocks.clear()
        self._modules.clear()

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
        shared = len(common_prefix(prompts)) if share_prefix else 0
        with tapping(request, self._blocks, self._modules) as taps:
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
                count_done(advance, len(batch.prompts))
            taps.deliver(visit)

    def hold(self, prompts: Sequence[Tokens], *, tail: int) -> None:
        if any(not prompt for prompt in prompts):
            raise EngineError("an empty prompt cannot be decoded")
        # Computed whole each time: caches of transformers are not made to be rolled back in every model.
        self._held = [list(prompt) for prompt in prompts]

    def held_logprobs(self) -> Float32:
        if self._held is None:
            raise EngineError("no prompts are held")
        return self.next_token_logprobs(self._held)

    def _answer(
        self, prompts: Sequence[Tokens], max_tokens: int, logprobs: Float32 | None, advance: Advance | None
    ) -> list[Generation]:
        answers: dict[int, Generation] = {}
        for batch in self._batches(prompts, max_tokens):

            def keep(logits: Any, members: list[int] = batch.prompts) -> None:
                if logprobs is not None:
                    logprobs[members] = to_numpy(torch.log_softmax(logits.float(), dim=-1))

            answers.update(zip(batch.prompts, self._continue(batch, max_tokens, first=keep), strict=True))
            count_done(advance, len(batch.prompts))
        return [answers[index] for index in range(len(prompts))]

    def _continue(
        self,
        batch: PaddedBatch,
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
        count_done(advance, len(groups))
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
                self._limits.remedy,
            )
        session = list(self._session or [])
        for token in tokens:
            if len(session) >= window:
                keep = min(SESSION_OPENING, window // 2)
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

    def _batches(self, prompts: Sequence[Tokens], reserve: int) -> Iterator[PaddedBatch]:
        self._session = None
        return padded_batches(prompts, reserve, self._limits, self._device)

    def _forward(self, batch: PaddedBatch, *, keep: int, cache: bool = False) -> Any:
        self._check_cancelled()
        with torch.inference_mode():
            return self._model(
                input_ids=batch.tokens,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=cache,
                logits_to_keep=keep,
            )

    # --- edits -----------------------------------------------------------------------------------------

    def load_edits(self, edits: Sequence[RankOneEdit]) -> EditHandle:
        return self._edits.load(edits)

    def load_adapter(self, path: Path) -> EditHandle:
        with GgufFile.open(path) as file:
            return self.load_edits(read_adapter(file))

    def apply(self, strengths: Mapping[EditHandle, float]) -> None:
        self._check_cancelled()
        self._edits.apply(strengths)

    def unload(self, handle: EditHandle) -> None:
        self._edits.unload(handle)
