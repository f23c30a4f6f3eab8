"""Measures how surely holes are found, and the gaps that untouched models have. Run by hand; takes a while.

    python tests/abliteration/measure.py DIRECTIONS.npy RESULTS.jsonl [SECONDS [PATTERN]]

DIRECTIONS.npy: (24, 896), the demo model's difference of means for every layer. Cases that RESULTS.jsonl
already holds are skipped, so it can be run in turns; PATTERN chooses among the rest.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from weaken import write_weakened

from rosi_edge.abliteration import find_holes
from rosi_edge.models.architectures import write_matrices
from rosi_edge.models.gguf_file import GgufFile
from rosi_edge.sources.resolve import resolve

TYPES = {
    "same": None,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_K": gguf.GGMLQuantizationType.Q4_K,
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q2_K": gguf.GGMLQuantizationType.Q2_K,
}
SIZES = {"demo": (24, 896), "smollm2-135m": (30, 576), "gemma3-270m": (18, 640)}


def cases(demo_directions):
    """(name, model, directions by block, strength, types)"""
    for model, (blocks, hidden) in SIZES.items():
        for kind in TYPES:
            yield f"{model} untouched {kind}", model, {}, 1.0, kind
        random = np.random.default_rng(7)
        common = random.standard_normal(hidden)
        vectors = np.stack([common + 0.5 * random.standard_normal(hidden) for _ in range(blocks)])
        if model == "demo":
            vectors = demo_directions
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        third = blocks // 3
        for kind in ("same", "Q8_0", "Q4_K", "Q4_0"):
            for source in (blocks * 3 // 5, blocks // 2, blocks * 3 // 4):
                same = dict.fromkeys(range(blocks), vectors[source])
                some = dict.fromkeys(range(third, 2 * third + 1), vectors[source])
                yield f"{model} full all {source} {kind}", model, same, 1.0, kind
                yield f"{model} full some {source} {kind}", model, some, 1.0, kind
            each = dict(enumerate(vectors))
            yield f"{model} full each {kind}", model, each, 1.0, kind
            same = dict.fromkeys(range(blocks), vectors[blocks * 3 // 5])
            yield f"{model} partial70 all {kind}", model, same, 0.7, kind


def main(directions: str, results: str, seconds: str = "1e9", pattern: str = "") -> None:
    place, start = Path(results), time.monotonic()
    done = {json.loads(line)["case"] for line in place.read_text().splitlines()} if place.exists() else set()
    for name, model, lost, strength, kind in cases(np.load(directions)):
        if name in done or not re.search(pattern, name) or time.monotonic() - start > float(seconds):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = write_weakened(
                resolve(model if model == "demo" else f"demo:{model}"),
                Path(folder) / "weak.gguf",
                lost,
                strength=strength,
                quantization=TYPES[kind],
                only_written=True,
            )
            with GgufFile.open(path) as file:
                began = time.monotonic()
                found = find_holes(file, write_matrices(file))
        best = found.candidates[0]
        entry = {
            "case": name,
            "seconds": round(time.monotonic() - began, 1),
            "found": len(found.holes),
            "confidence": best.confidence,
            "gap": best.gap,
            "energy_ratio": best.energy_ratio,
            "noise_ratio": best.noise_ratio,
            "layers": list(best.layers),
            "by_noise": best.by_noise,
            "cosine": max(
                (abs(float(best.direction @ lost[b])) for b in best.layers if b in lost), default=None
            ),
            "windows": [
                (len(c.layers), c.space, c.gap, c.noise_ratio, c.energy_ratio, c.by_noise, c.matrices[0])
                for c in found.candidates
            ],
        }
        with place.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
        sys.stdout.write(f"{name}: {len(found.holes)} found, confidence {best.confidence:.4f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
