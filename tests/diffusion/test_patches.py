"""The patches of a render: all of them at once, undone without a trace, and only in their order."""

from __future__ import annotations

import pytest
import torch

from backend.core.schema import LoraUse
from backend.diffusion.cpu import OptimizedBlock, OptimizedLinear, OptimizedProcessor
from backend.diffusion.loras import LoadedLora, LoraLayer
from backend.diffusion.patches import RenderPatches
from backend.diffusion.transformer import Block, Processor
from backend.library.loras import inspect
from tests.lora_files import write_lora


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def lora(components, tmp_path):
    file = write_lora(tmp_path / "grain.safetensors", size=0.3)
    return LoadedLora(inspect(file), LoraUse(name="grain", strength=0.7), components["df"])


def predict(components):
    random = torch.Generator().manual_seed(2)
    latents, text = torch.randn(1, 16, 5, 8, 12, generator=random), torch.randn(1, 8, 32, generator=random)
    timesteps = torch.full((1, 5), 500)
    with torch.no_grad():
        return components.transformer(latents, timesteps, text, enable_diffusion_forcing=True, fps=[1]).sample


def traces(components):
    """What patches change of every layer: class, own attributes, hooks, and class and kernel of the processor."""
    found = {}
    for number, model in enumerate((components.transformer, components.vae, components.text_encoder)):
        for name, module in model.named_modules():
            processor = getattr(module, "processor", None)
            kernel = str(getattr(processor, "_attention_backend", None) or "native")
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            own = sorted(set(vars(module)) & {"forward", "deltas"})
            found[number, name] = type(module), own, hooks, type(processor), kernel
    return found


def test_all_patches_at_once_are_undone_without_a_trace(components, lora):
    parts, checks = components["df"], []
    with RenderPatches(parts) as patches:  # the attention kernel is named from the first render on
        patches.set_attention_backend("native")
    before, stock = traces(parts), predict(parts)
    with RenderPatches(parts) as patches:
        patches.use_cpu_kernels()
        patches.set_attention_backend("_native_math")
        patches.interrupt_by(lambda: checks.append(1))
        patches.apply_loras([lora], lambda: 0)
        uncompiled = predict(parts)
        patches.compile_blocks("eager")
        compiled = predict(parts)
        block = parts.transformer.blocks[0]
        assert isinstance(block, OptimizedBlock)
        assert isinstance(block.attn1.to_q, LoraLayer)
        assert isinstance(block.attn1.to_q, OptimizedLinear), "LoRAs keep the kernel that they find"
        assert type(block.attn1.processor) is OptimizedProcessor
        assert "forward" in vars(block)
    assert len(checks) == 2 * len(parts.transformer.blocks)
    torch.testing.assert_close(compiled, uncompiled, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(compiled, stock, atol=1e-2)
    assert traces(parts) == before
    assert (type(block), type(block.attn1.processor)) == (Block, Processor)
    assert torch.equal(predict(parts), stock)


def test_patches_are_undone_after_an_error(components, lora):
    parts = components["df"]
    with RenderPatches(parts) as patches:
        patches.set_attention_backend("native")
    before = traces(parts)

    def fail():
        raise ValueError("cancelled")

    def render():
        with RenderPatches(parts) as patches:
            patches.use_cpu_kernels()
            patches.interrupt_by(fail)
            patches.apply_loras([lora], lambda: 0)
            predict(parts)

    with pytest.raises(ValueError, match="cancelled"):
        render()
    assert traces(parts) == before


@pytest.mark.parametrize("second", ["use_cpu_kernels", "apply_loras"])
def test_another_order_is_refused(components, lora, second):
    before = type(components["df"].transformer.blocks[0])
    with RenderPatches(components["df"]) as patches:
        patches.apply_loras([lora], lambda: 0)
        with pytest.raises(RuntimeError, match="cannot be applied after patch 7"):
            patches.use_cpu_kernels() if second == "use_cpu_kernels" else patches.apply_loras([lora], lambda: 0)
        assert type(components["df"].transformer.blocks[0]) is before
