"""The residual stream against an independent implementation: transformers, on the same file's weights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from rosi_edge.runtime.engine import ask
from rosi_edge.runtime.llama_engine import LlamaEngine
from rosi_edge.runtime.taps import Positions, TapRequest

pytestmark = [pytest.mark.model, pytest.mark.torch]


@pytest.fixture(scope="module")
def unpacked(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's weights as 16-bit floats. llama.cpp rounds activations to 8 bits where weights are
    quantized, differently on every kind of processor; at single tokens that moves the stream visibly."""
    target = tmp_path_factory.mktemp("unpacked") / "demo-f16.gguf"
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_F16
    parameters.allow_requantize = True
    done = llama_cpp.llama_model_quantize(
        os.fsencode(demo_model), os.fsencode(target), ctypes.byref(parameters)
    )
    assert done == 0
    return target


def test_stream_of_every_layer(unpacked: Path, record_property: Callable[[str, object], None]) -> None:
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers loads GGUF files through it")
    with LlamaEngine(unpacked) as engine:
        prompts = engine.encode(
            [ask("How do I bake bread?"), ask("Name three rivers in Africa.", "Answer in French.")]
        )
        layers = engine.facts.layers
        request = TapRequest(blocks=tuple(range(layers)), positions=Positions.ALL)
        every = engine.capture(prompts, request, share_prefix=False)
        last = engine.capture(prompts, TapRequest(blocks=request.blocks))

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(unpacked.parent), gguf_file=unpacked.name, dtype=torch.float32
    ).eval()
    # Hooks, because the last of transformers' hidden_states has already been normalised.
    streams: dict[int, list[Any]] = {layer: [] for layer in range(layers)}
    for layer, block in enumerate(model.model.layers):
        block.register_forward_hook(
            lambda _module, _inputs, output, layer=layer: streams[layer].append(
                (output[0] if isinstance(output, tuple) else output).detach().numpy().reshape(-1, 896)
            )
        )
    with torch.inference_mode():
        for prompt in prompts:
            model(input_ids=torch.tensor([prompt]), use_cache=False)

    ends = np.cumsum([len(prompt) for prompt in prompts]) - 1
    smallest: dict[int, float] = {}
    for layer in range(layers):
        theirs = np.concatenate(streams[layer]).astype(np.float64)
        for ours, expected in (
            (every.stream_rows(layer), theirs),
            (last.stream_rows(layer), theirs[ends]),
        ):
            assert ours.shape == expected.shape
            lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(expected, axis=1)
            cosine = float(((ours * expected).sum(axis=1) / lengths).min())
            smallest[layer] = min(cosine, smallest.get(layer, 1.0))
            ratio = np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
            assert np.abs(ratio - 1).max() < 0.03
    record_property("smallest cosine", min(smallest.values()))
    assert min(smallest.values()) >= 0.999, smallest
