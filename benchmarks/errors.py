"""How far our ways to run a transformer are from float32, beside how far the stock class in half precision is.

    python -m benchmarks.errors [--small]

Forwards of two blocks of the released widths in bfloat16, with random weights of which a few channels are fifty times
as strong as the others, where half precision fails first: the stock class, ours, ours compiled, and with matrices in
eight bits; of one call, and after four steps downwards. It runs on a CPU: what is rounded is the same on a GPU, the
order of sums is not. Claim: what counts as exact is at most 1.1 times as far from float32 as the stock class.

`--small` runs all of it in a minute or two, to see that it runs.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import SkyReelsV2Transformer3DModel

from backend.diffusion.compiled import compiled
from backend.diffusion.fp8 import quantize_fp8
from backend.diffusion.transformer import Transformer
from benchmarks.gpu import MODELS, SMALL_MODELS, TEXT, apart, build, in_float32, walk
from benchmarks.record import record

CPU = torch.device("cpu")
SHAPE, SMALL_SHAPE = (5, 16, 24), (3, 4, 6)  # latent frames, height, width
LAYERS = 2
WAYS = ("stock", "ours", "compiled", "eight bits")


def measure(models: Mapping[str, tuple[int, ...]], shape: tuple[int, ...], backend: str = "inductor") -> dict[str, Any]:
    """Of each model and mode, the errors of each way: of one call, and after the last step."""
    found: dict[str, Any] = {}
    random = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, *shape, generator=random).bfloat16(),
        "timestep": torch.full((1, 1), 500),
        "encoder_hidden_states": torch.randn(TEXT, generator=random).bfloat16(),
    }
    for model, (*width, layers) in models.items():
        size = (*width, min(layers, LAYERS))
        for forcing in (False, True):
            wanted = in_float32(size, forcing, inputs, CPU)

            ways: dict[str, dict[str, float]] = {}
            for way in WAYS:
                errors = apart(answers(way, size, forcing, inputs, backend), wanted)
                ways[way] = {"one_call": errors[0], "after_steps": errors[-1]}
                stock = ways["stock"]
                ways[way] |= {"of_stock": max(errors[0] / stock["one_call"], errors[-1] / stock["after_steps"])}
                gc.collect()
            name = f"{model}, {'diffusion forcing' if forcing else 'text to video'}"
            found[name] = {way: {what: float(f"{e:.4g}") for what, e in one.items()} for way, one in ways.items()}
            print(name, found[name], file=sys.stderr)
    return found


def answers(way: str, size: tuple[int, ...], forcing: bool, inputs: dict[str, Any], backend: str) -> list[torch.Tensor]:
    """What a transformer run in this way answers, step by step."""
    kind = SkyReelsV2Transformer3DModel if way == "stock" else Transformer
    built = build(kind, size, forcing, CPU, torch.bfloat16)
    if way == "eight bits":
        quantize_fp8(built.blocks, CPU)
    if way != "compiled":
        return walk(built, forcing, inputs)
    torch.compiler.reset()
    with compiled(built, backend):
        return walk(built, forcing, inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs; nothing is kept")
    if parser.parse_args().small:
        print(measure(SMALL_MODELS, SMALL_SHAPE))
    else:
        record("errors", measure(MODELS, SHAPE))


if __name__ == "__main__":
    main()
