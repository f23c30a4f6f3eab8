"""Harden once, bake five quantizations: ``python benchmarks/many_quantizations.py [MODEL] [FLAG ...]``.

Four more quantizations of MODEL (``demo``) are made on the spot with llama.cpp's quantizer. One command then
hardens MODEL, bakes its edit into all of them and measures each before and after. Flags go to ``rosi-edge
harden``. Goal: hardening one and baking all five takes at most 1.5 times the time of hardening one; printed
with the measuring of the four and without.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
from quantizations import quantize

from rosi_edge.sources.resolve import resolve

# As llama-quantize names them; the model itself is the fifth.
TYPES = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def main() -> None:
    reference, *flags = sys.argv[1:] or ["demo"]
    model = resolve(reference)
    executable = Path(sys.executable).parent / "rosi-edge"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        command = [str(executable), "harden", str(model), "-o", str(folder / "out.gguf"), "--force", "--json"]
        for kind, number in TYPES.items():
            made = quantize(model, folder / f"{kind}.gguf", number)
            command += ["--also", str(made), str(folder / f"{kind}-out.gguf")]
        done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(done.returncode)
    report = json.loads(done.stdout)
    one = report["timing"]["total"]
    print(f"{model.name:24} {one:7.0f} s   {report['verdict']['status']}")
    total = measured = 0.0
    for file in report["also"]:
        if file["problem"]:
            print(f"{Path(file['reference']).name:24} {file['problem']}")
            continue
        total += file["timing"]["total"]
        stages = file["timing"]["stages"]
        measured += sum(seconds for name, seconds in stages.items() if name.startswith("evaluate"))
        least = min(tensor["delivered"] for tensor in file["tensors"])
        verdict = file["verdict"]["status"] if file["verdict"] else "not measured"
        print(
            f"{Path(file['reference']).name:24} {file['timing']['total']:7.0f} s   {verdict}, "
            f"delivered {file['delivered']:.2f} ({least:.2f} at the least)"
        )
        print("    " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.items()))
    baked = one + total - measured
    print(f"all five baked           {baked:7.0f} s   {baked / one:.2f} × one (goal: at most 1.5)")
    print(f"and the four measured    {one + total:7.0f} s   {(one + total) / one:.2f} × one")


if __name__ == "__main__":
    main()
