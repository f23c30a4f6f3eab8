"""Tiny random models of any architecture: llama.cpp itself says which tensors one has.

``llama_model_init_from_user`` builds a model from metadata alone and asks for the contents of every tensor it
would read, the optional ones (biases, scales) too. Their names and shapes are all that is taken from it; the
file is then written with gguf-py and loaded like any other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from architectures.recipes import left_out, settings
from gguf import GGMLQuantizationType
from tiny_gguf import quantize

from rosi_edge.basics.arrays import Float32
from rosi_edge.native import ggml, log

Shapes = dict[str, tuple[int, ...]]

_ggml = ggml.libggml
_llama = llama_cpp.llama_cpp._lib
_SetTensor = ctypes.CFUNCTYPE(None, ctypes.POINTER(ggml.Tensor), ctypes.c_void_p)


class _Parameters(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _Parameters]
_ggml.gguf_init_from_file.restype = ctypes.c_void_p
_ggml.gguf_free.argtypes = [ctypes.c_void_p]
_llama.llama_model_init_from_user.argtypes = [
    ctypes.c_void_p,
    _SetTensor,
    ctypes.c_void_p,
    llama_cpp.llama_model_params,
]
_llama.llama_model_init_from_user.restype = ctypes.c_void_p


@dataclass(frozen=True)
class Blueprint:
    """The metadata and the tensors of one variant of an architecture."""

    architecture: str
    metadata: Mapping[str, Any]
    shapes: Shapes


def blueprint(architecture: str, folder: Path, *, experts: bool, **changes: Any) -> Blueprint:
    """Ask llama.cpp what a model of this architecture is made of. ``changes`` override settings by key with
    dots written as ``__``.

    Raises:
        ValueError: llama.cpp does not build it.
    """
    metadata = settings(architecture, experts=experts)
    metadata |= {key.replace("__", "."): value for key, value in changes.items()}
    path = folder / f"{architecture}-metadata.gguf"
    writer = _writer(path, architecture, metadata)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    shapes: Shapes = {}

    def note(tensor: Any, _user_data: Any) -> None:
        # ggml counts columns first, and always four extents.
        extents = list(tensor.contents.ne)
        while len(extents) > 1 and extents[-1] == 1:
            extents.pop()
        name = tensor.contents.name.decode()
        if not left_out(architecture, name):
            shapes[name] = tuple(reversed(extents))

    log.silence()
    llama_cpp.llama_backend_init()
    log.forget_errors()
    context = _ggml.gguf_init_from_file(str(path).encode(), _Parameters(True, None))
    callback = _SetTensor(note)
    parameters = llama_cpp.llama_model_default_params()
    model = _llama.llama_model_init_from_user(context, callback, None, parameters)
    _ggml.gguf_free(context)
    if not model:
        raise ValueError(f"{architecture}: {log.first_error('no reason given')}")
    llama_cpp.llama_model_free(model)
    return Blueprint(architecture, metadata, shapes)


def write_model(
    path: Path,
    plan: Blueprint,
    *,
    zero: Callable[[str], bool] = lambda name: False,
    kind: Callable[[str], GGMLQuantizationType] = lambda name: GGMLQuantizationType.F32,
    seed: int = 0,
) -> Path:
    """Write a model with random weights.

    Args:
        zero: names of tensors that are nothing but zeros.
        kind: the type to store a tensor in.
    """
    writer = _writer(path, plan.architecture, plan.metadata)
    for name, shape in plan.shapes.items():
        random = np.random.default_rng([seed, *name.encode()])
        weights = np.zeros(shape, np.float32) if zero(name) else _weights(name, shape, random)
        writer.add_tensor(name, quantize(weights, kind(name)), raw_dtype=kind(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Float32:
    noise = random.standard_normal(shape)
    short, _, suffix = name.rpartition(".")
    if name.endswith(("ssm_a", "ssm_a_log")):
        values = -np.abs(1 + 0.1 * noise)
    elif "rope_f" in name:
        values = np.ones(shape)
    elif suffix == "scale" or suffix == "input_scale" or "out_scale" in name or "output_scale" in name:
        values = 0.6 + 0.2 * np.abs(noise)
    elif "norm" in short.rpartition(".")[2] or "norm" in suffix:
        values = 0.1 * noise if suffix == "bias" else 1 + 0.2 * noise
    elif suffix == "bias" or len(shape) == 1:
        values = 0.1 * noise
    elif name == "token_embd.weight":
        values = noise
    else:
        values = noise / np.sqrt(shape[-1])
    return values.astype(np.float32)


def _writer(path: Path, architecture: str, metadata: Mapping[str, Any]) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        full = key if key.startswith("xielu.") else f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(full, value)
        elif isinstance(value, int):
            writer.add_uint32(full, value)
        elif isinstance(value, float):
            writer.add_float32(full, value)
        else:
            writer.add_array(full, value)
    # llama.cpp's own stand-in for a tokenizer.
    size = metadata["vocab_size"]
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{number}" for number in range(size)])
    writer.add_token_scores([0.0] * size)
    return writer
