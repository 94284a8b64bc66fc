from __future__ import annotations

import pytest
import torch
from diffusers.models.activations import GELU
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm, WanUpsample

from backend.diffusion.cpu import (
    OptimizedBlock,
    OptimizedCausalConv3d,
    OptimizedChannelNorm,
    OptimizedGELU,
    OptimizedLinear,
    OptimizedProcessor,
    OptimizedRMSNorm,
    OptimizedUpsample,
    use_cpu_kernels,
)
from backend.diffusion.transformer import rotate
from tests.tiny_checkpoints import new_vae


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3, 3), 1), ((3, 1, 1), (1, 0, 0)), (1, 0), (3, (1, 0, 2))])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (1, 4), (2, 3)])
def test_a_convolution_as_a_sum_of_2d_convolutions_is_the_same(kernel, padding, batch, frames):
    torch.manual_seed(0)
    layer = WanCausalConv3d(6, 10, kernel, padding=padding)
    video, past = torch.randn(batch, 6, frames, 9, 7), torch.randn(batch, 6, 2, 9, 7)
    with torch.no_grad():
        wanted = [layer(video), layer(video, past)]
        use_cpu_kernels(layer, True)
        assert type(layer) is OptimizedCausalConv3d
        found = [layer(video), layer(video, past)]
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_the_layers_of_a_vae_keep_the_channels_of_a_pixel_together():
    layers = torch.nn.Sequential(WanCausalConv3d(6, 10, 3, padding=1), WanRMS_norm(10, images=False))
    larger = WanUpsample(scale_factor=(2.0, 2.0), mode="nearest-exact")
    use_cpu_kernels(layers, True)
    use_cpu_kernels(larger, True)
    with torch.no_grad():
        video = torch.randn(2, 6, 4, 9, 7)
        for layer in layers:
            video = layer(video)
            assert video.is_contiguous(memory_format=torch.channels_last_3d)
        assert larger(video[:, :, 0]).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("channel_first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_along_channels_is_the_same(channel_first, images, bias, dtype):
    random = torch.Generator().manual_seed(0)
    layer = WanRMS_norm(6, channel_first, images, bias).to(dtype)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, generator=random)
    shape = (2, 6, 9, 7) if images else (2, 6, 3, 9, 7)
    x = torch.randn(shape, generator=random).to(dtype)
    x[0, :, 0] = 0
    x[1] *= 1e-13  # shorter than what the stock layer divides by at least
    x = x if channel_first else x.movedim(1, -1)
    with torch.no_grad():
        wanted = layer(x)
        use_cpu_kernels(layer, True)
        assert type(layer) is OptimizedChannelNorm
        torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.0, 3.0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_enlargement_has_the_same_bits(scale, layout):
    layer = WanUpsample(scale_factor=scale, mode="nearest-exact")
    x = torch.randn(2, 6, 3, 5).contiguous(memory_format=layout)
    wanted = layer(x)
    use_cpu_kernels(layer, True)
    assert type(layer) is OptimizedUpsample
    assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (2, 7, 24), (1, 2, 3, 24)])
def test_a_linear_layer_is_the_same(shape, bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40, bias)
    x = torch.randn(shape)
    with torch.no_grad():
        wanted = layer(x)
        use_cpu_kernels(layer, True)
        assert type(layer) is OptimizedLinear
        found = layer(x)
        found_apart = layer(x.transpose(0, 1).contiguous().transpose(0, 1))  # strides of another order
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_apart, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_an_activation_is_the_same(approximate):
    torch.manual_seed(0)
    layer = GELU(24, 40, approximate)
    x = torch.randn(2, 7, 24) * 3
    with torch.no_grad():
        wanted = layer(x)
        use_cpu_kernels(layer, True)
        assert type(layer) is OptimizedGELU
        found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_activation_goes_by_what_stands_in_for_its_projection():
    layer = GELU(24, 40)
    use_cpu_kernels(layer, True)
    layer.proj = torch.nn.Sequential(layer.proj, torch.nn.Hardtanh(-0.1, 0.1))
    assert layer(torch.randn(2, 24)).abs().max() < 0.1


def test_strides_in_time_are_left_to_the_stock_layer():
    layer = WanCausalConv3d(6, 6, (3, 1, 1), stride=(2, 1, 1))
    use_cpu_kernels(layer, True)
    assert type(layer) is WanCausalConv3d


def test_a_vae_works_either_way_and_back_in_the_same_bits():
    torch.manual_seed(0)
    vae = new_vae().eval()
    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1

    def there_and_back():
        with torch.no_grad():
            return vae.decode(vae.encode(video).latent_dist.mode()).sample

    stock = there_and_back()
    use_cpu_kernels(vae, True)
    optimized = there_and_back()
    use_cpu_kernels(vae, False)
    assert not torch.equal(optimized, stock)  # otherwise the kernels were not switched on
    torch.testing.assert_close(optimized, stock, rtol=1e-4, atol=1e-5)
    assert torch.equal(there_and_back(), stock)


@pytest.mark.parametrize("eps", [1e-6, None, 0.1])
@pytest.mark.parametrize("weighed", [True, False])
def test_a_norm_is_the_same(eps, weighed):
    torch.manual_seed(0)
    layer = torch.nn.RMSNorm(24, eps=eps, elementwise_affine=weighed)
    if weighed:
        torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 7, 24) * torch.tensor([1e-3, 1.0])[:, None, None]
    x[0, 0] = 0
    with torch.no_grad():
        wanted = layer(x)
        use_cpu_kernels(layer, True)
        assert type(layer) is OptimizedRMSNorm
        torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("causal", [None, 1, 2])
def test_a_transformer_is_the_same_and_goes_back_to_the_same_bits(components, causal):
    transformer = components["df"].transformer
    random = torch.Generator().manual_seed(3)
    latents, text = (torch.randn(shape, generator=random) for shape in ((2, 16, 4, 8, 6), (2, 8, 32)))
    levels = torch.tensor([[900, 900, 400, 0], [300, 200, 100, 0]])

    def ask():
        with torch.no_grad():
            return transformer(
                latents, levels, text, enable_diffusion_forcing=True, fps=[1], causal_block_size=causal
            ).sample

    stock = ask()
    use_cpu_kernels(transformer, True)
    try:
        assert {type(block) for block in transformer.blocks} == {OptimizedBlock}
        assert type(transformer.blocks[0].attn1.processor) is OptimizedProcessor
        optimized = ask()
    finally:
        use_cpu_kernels(transformer, False)
    assert not torch.equal(optimized, stock)
    torch.testing.assert_close(optimized, stock, rtol=1e-4, atol=1e-5)
    assert torch.equal(ask(), stock)


def test_the_rotary_embedding_in_complex_numbers_is_the_same():
    random = torch.Generator().manual_seed(3)
    tokens, cos, sin = (torch.randn(shape, generator=random) for shape in ((2, 9, 3, 8), (1, 9, 1, 8), (1, 9, 1, 8)))
    torch.testing.assert_close(OptimizedProcessor.rotated(tokens, cos, sin), rotate(tokens, cos, sin))
