"""A file shaped like a 7B model in Q4_K_M, of random weights, and the bake of it in a process of its own.

``python benchmarks/large_model.py FILE OUT TENSORS`` bakes FILE with so many edited tensors and prints JSON:
seconds, peak memory in bytes, and the least share delivered.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from rosi_edge.baking.gguf import bake
from rosi_edge.baking.settings import BakeSettings
from rosi_edge.basics.arrays import Float32
from rosi_edge.edits.rank_one import RankOneEdit
from rosi_edge.models.architectures import WriteMatrix, write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.quantization.codec import quantize
from rosi_edge.quantization.grid_rounding import GridRounding, input_factor

LAYERS, HIDDEN, FEED_FORWARD, VOCABULARY = 32, 4096, 11008, 32000
_TILE = 64
"""Rows that are made; a tensor is these over and over, as what is measured does not depend on it."""
_RANK = 128
"""Of the inputs' second moments, as ``harden`` takes them."""
_SEEN, _PROBES = 512, 48
_EDIT_SHARE = 0.02
"""Size of an edit against the weights."""


def write_large(path: Path) -> None:
    """Llama's shape, 4.1 GB, in the types that llama.cpp's Q4_K_M gives each tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(32)
    writer.add_layer_norm_rms_eps(1e-5)
    tensors = list(_tensors())
    for name, shape, kind in tensors:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape)) // block * size
        # gguf-py takes the shape of block types in bytes.
        shown = shape if kind == Type.F32 else (*shape[:-1], shape[-1] // block * size)
        dtype = np.dtype(np.float32 if kind == Type.F32 else np.uint8)
        writer.add_tensor_info(name, shown, dtype, count, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    tiles: dict[tuple[int, Type], npt.NDArray[np.uint8]] = {}
    for number, (_, shape, kind) in enumerate(tensors):
        if kind == Type.F32:
            writer.write_tensor_data(np.ones(shape, dtype=np.float32))
            continue
        key = (shape[1], kind)
        if key not in tiles:
            weights = random.standard_normal((_TILE, shape[1]), dtype=np.float32) / np.sqrt(shape[1])
            tiles[key] = quantize(weights.astype(np.float32), kind).reshape(_TILE, -1)
        tile = np.roll(tiles[key], number, axis=0)
        writer.write_tensor_data(np.tile(tile, (shape[0] // _TILE, 1)))
    writer.close()


def _tensors() -> Iterator[tuple[str, tuple[int, ...], Type]]:
    yield "token_embd.weight", (VOCABULARY, HIDDEN), Type.Q4_K
    yield "output.weight", (VOCABULARY, HIDDEN), Type.Q6_K
    yield "output_norm.weight", (HIDDEN,), Type.F32
    for block in range(LAYERS):
        eighth = LAYERS // 8
        more = block < eighth or block >= 7 * eighth or (block - eighth) % 3 == 2
        better = Type.Q6_K if more else Type.Q4_K
        for name, rows, columns, kind in (
            ("attn_q", HIDDEN, HIDDEN, Type.Q4_K),
            ("attn_k", HIDDEN, HIDDEN, Type.Q4_K),
            ("attn_v", HIDDEN, HIDDEN, better),
            ("attn_output", HIDDEN, HIDDEN, Type.Q4_K),
            ("ffn_gate", FEED_FORWARD, HIDDEN, Type.Q4_K),
            ("ffn_up", FEED_FORWARD, HIDDEN, Type.Q4_K),
            ("ffn_down", HIDDEN, FEED_FORWARD, better),
        ):
            yield f"blk.{block}.{name}.weight", (rows, columns), kind
        yield f"blk.{block}.attn_norm.weight", (HIDDEN,), Type.F32
        yield f"blk.{block}.ffn_norm.weight", (HIDDEN,), Type.F32


def _inputs(columns: int, count: int, seed: int) -> Float32:
    """(count, columns), mixed from some causes of falling strength, as activations are."""
    mixing = np.random.default_rng(columns).standard_normal((200, columns), dtype=np.float32)
    random = np.random.default_rng(seed)
    causes = random.standard_normal((count, 200)) / np.arange(1, 201)
    noise = 0.01 * random.standard_normal((count, columns))
    return np.asarray(causes.astype(np.float32) @ mixing + noise.astype(np.float32), dtype=np.float32)


def _edit(matrix: WriteMatrix, seen: Float32) -> RankOneEdit:
    rows, columns = matrix.shape
    gram = (seen @ seen.T).astype(np.float64)
    gram[np.diag_indices_from(gram)] += 0.02 * np.trace(gram) / len(gram)
    wanted = np.random.default_rng(matrix.block).standard_normal(len(seen))
    push = (seen.T @ np.linalg.solve(gram, wanted)).astype(np.float32)
    output = np.random.default_rng(0).standard_normal(rows).astype(np.float32)
    size = _EDIT_SHARE / np.sqrt(columns) / float(np.sqrt(np.mean(np.square(np.outer(output, push)))))
    return RankOneEdit(matrix.name, output, push).scaled(size)


def main() -> None:
    source, target, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with GgufFile.open(source) as file:
        # From the middle of the model on, where edits usually lie.
        matrices = write_matrices(file)[LAYERS:][:count]
        seen = {columns: _inputs(columns, _SEEN, 1) for columns in {matrix.shape[1] for matrix in matrices}}
        probes = {columns: _inputs(columns, _PROBES, 2) for columns in seen}
        aims = {columns: _inputs(columns, _PROBES, 3) for columns in seen}
        edits = [_edit(matrix, seen[matrix.shape[1]]) for matrix in matrices]
        factors = {edit.matrix: input_factor(seen[len(edit.input)], _RANK, edit.input) for edit in edits}
        del seen
        start = time.perf_counter()
        baked = bake(
            file,
            target,
            edits,
            BakeSettings(
                rounding=GridRounding(factors),
                probes={edit.matrix: probes[len(edit.input)] for edit in edits},
                aims={edit.matrix: aims[len(edit.input)] for edit in edits},
                metadata={"rosi.method": "benchmark"},
            ),
        )
        seconds = time.perf_counter() - start
    delivered = min((tensor.delivered for tensor in baked), default=None)
    print(json.dumps({"seconds": seconds, "peak": _peak(), "delivered": delivered}))


def _peak() -> int:
    """Bytes. Not from getrusage, which also counts the process that started this one."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
