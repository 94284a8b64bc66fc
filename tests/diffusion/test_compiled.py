"""Compiled blocks: the same film, one compilation for all of them, and no harm where it fails."""

import logging

import pytest
import torch
from torch._dynamo.backends.debugging import eager

from backend.diffusion.compiled import compiled
from backend.diffusion.interrupt import interruptible

TEXT = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def predict(components, frames: int, rows: int = 8):
    latents = torch.randn(1, 16, frames, rows, 12, generator=torch.Generator().manual_seed(2))
    levels = torch.full((1, frames), 500)
    with torch.no_grad():
        return components.transformer(latents, levels, TEXT, enable_diffusion_forcing=True, fps=[1], return_dict=False)[
            0
        ]


def test_blocks_are_compiled_once_for_all_of_them_and_for_all_sizes(components):
    made = []

    def counting(graph, inputs):
        made.append(graph)
        return eager(graph, inputs)

    sizes = [(5, 8), (7, 8), (9, 6), (5, 8)]
    wanted = [predict(components["df"], *size) for size in sizes]
    with compiled(components["df"].transformer, counting):
        found = [predict(components["df"], *size) for size in sizes]
        graphs = len(made)
        predict(components["df"], 11, 10)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(wanted, found, strict=True))
    assert 1 <= graphs <= 2  # of two blocks and three sizes
    assert len(made) == graphs


def test_afterwards_the_blocks_are_as_they_were(components):
    transformer = components["df"].transformer
    wanted = predict(components["df"], 5)
    with compiled(transformer, "eager"):
        assert all("forward" in vars(block) for block in transformer.blocks)
    assert not any("forward" in vars(block) for block in transformer.blocks)
    assert torch.equal(predict(components["df"], 5), wanted)


def test_what_cannot_be_compiled_runs_as_it_is_and_the_log_says_so(components, caplog):
    tries = []

    def broken(graph, inputs):
        tries.append(graph)
        raise RuntimeError("there is no compiler on this machine")

    wanted = predict(components["df"], 5)
    with caplog.at_level(logging.WARNING), compiled(components["df"].transformer, broken):
        assert torch.equal(predict(components["df"], 5), wanted)
        predict(components["df"], 7)
    assert len(tries) == 1
    assert "not compiled" in caplog.text
    assert "no compiler on this machine" in caplog.text


def test_the_checks_before_each_block_stay(components):
    checks = []
    with compiled(components["df"].transformer, "eager"), interruptible(components["df"], lambda: checks.append(1)):
        predict(components["df"], 5)
    assert len(checks) == len(components["df"].transformer.blocks)
