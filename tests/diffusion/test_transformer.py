"""Our transformer against the stock one: the same bits for less work."""

from __future__ import annotations

import pytest
import torch
from diffusers import SkyReelsV2Transformer3DModel
from diffusers.models import attention_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from backend.diffusion.transformer import Transformer

FRAMES, HIGH, WIDE = 6, 8, 12  # 4x6 patches a frame
TOKENS = FRAMES * 24


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def pair(checkpoints):
    """The same weights in both classes."""

    def load(kind="df", dtype=torch.float32, **config):
        loaded = []
        for model in (SkyReelsV2Transformer3DModel, Transformer):
            found = model.from_pretrained(checkpoints[kind] / "transformer", torch_dtype=dtype, local_files_only=True)
            loaded.append(found.eval().requires_grad_(False))
        return loaded

    return load


@pytest.fixture
def inputs():
    """Latents, timesteps, text and, for i2v, image tokens."""

    def make(kind="df", dtype=torch.float32, frames=FRAMES):
        torch.manual_seed(1)
        found = {
            "hidden_states": torch.randn(1, 36 if kind == "i2v" else 16, frames, HIGH, WIDE).to(dtype),
            "timestep": torch.randint(0, 999, (1, frames)) if kind == "df" else torch.tensor([500]),
            "encoder_hidden_states": torch.randn(1, 512, 32).to(dtype),
            "enable_diffusion_forcing": kind == "df",
            "fps": [1],
            "return_dict": False,
        }
        if kind == "i2v":
            found["encoder_hidden_states_image"] = torch.randn(1, 5, 32).to(dtype)
        return found

    return make


@pytest.mark.parametrize("kind", ["df", "t2v", "i2v"])
@pytest.mark.parametrize("frames", [1, 5, 6])
def test_a_forward_equals_the_stock_one(pair, inputs, kind, frames, dtype):
    stock, ours = pair(kind, dtype)
    wish = inputs(kind, dtype, frames)
    assert torch.equal(ours(**wish)[0], stock(**wish)[0])


@pytest.mark.parametrize("fps", [0, 1])
def test_the_rate_is_told_as_the_stock_model_is(pair, inputs, fps):
    stock, ours = pair()
    wish = inputs() | {"fps": [fps]}
    assert ours.config.inject_sample_info
    assert torch.equal(ours(**wish)[0], stock(**wish)[0])
    assert not torch.equal(ours(**wish)[0], ours(**wish | {"fps": [1 - fps]})[0])


def test_it_does_without_the_rate(inputs):
    torch.manual_seed(0)
    config = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "freq_dim": 32, "ffn_dim": 32}
    stock = SkyReelsV2Transformer3DModel(**config, num_layers=2, in_channels=16, out_channels=16).eval()
    ours = Transformer(**config, num_layers=2, in_channels=16, out_channels=16).eval()
    ours.load_state_dict(stock.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(**inputs())[0], stock(**inputs())[0])


@pytest.mark.parametrize("block", [2, 3])
def test_causal_blocks_equal_the_stock_mask(pair, inputs, block, dtype):
    stock, ours = pair(dtype=dtype)
    stock._set_ar_attention(block)
    masked, causal = stock(**inputs(dtype=dtype))[0], ours(**inputs(dtype=dtype), causal_block_size=block)[0]
    tolerance = 2e-6 if dtype is torch.float32 else 1e-2
    torch.testing.assert_close(causal, masked, atol=tolerance, rtol=0)
    free = ours(**inputs(dtype=dtype))[0]
    assert (causal - free)[:, :, :block].abs().max() > 2 * tolerance


@pytest.mark.parametrize("block", [1, 2, 4, 5])
def test_a_block_does_not_see_later_ones(pair, inputs, block):
    _, ours = pair()
    wish = inputs()
    before = ours(**wish, causal_block_size=block)[0]
    wish["hidden_states"][:, :, 4:] += 1
    after = ours(**wish, causal_block_size=block)[0]
    unseen = 4 // block * block
    assert torch.equal(after[:, :, :unseen], before[:, :, :unseen])
    assert not torch.allclose(after[:, :, unseen:], before[:, :, unseen:], atol=1e-4)


def test_blocks_that_have_not_begun_can_be_left_out(pair, inputs):
    _, ours = pair()
    wish = inputs()
    whole = ours(**wish, causal_block_size=2)[0]
    begun = wish | {"hidden_states": wish["hidden_states"][:, :, :4], "timestep": wish["timestep"][:, :4]}
    torch.testing.assert_close(ours(**begun, causal_block_size=2)[0], whole[:, :, :4], atol=1e-6, rtol=0)


class Sizes(TorchDispatchMode):
    """How many elements the largest new tensor has."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.largest = max(self.largest, made.untyped_storage().nbytes() // made.element_size())
        return made


def test_nothing_is_made_for_each_token_or_pair_of_tokens(pair, inputs, monkeypatch):
    stock, ours = pair()
    wish = inputs()
    masks = []
    native = attention_dispatch.dispatch_attention_fn

    def watched(*args, attn_mask=None, **kwargs):
        masks.append(attn_mask)
        return native(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr("backend.diffusion.transformer.dispatch_attention_fn", watched)
    dim = ours.config.num_attention_heads * ours.config.attention_head_dim
    with Sizes() as theirs:
        stock(**wish)
    with Sizes() as mine:
        ours(**wish)
    assert theirs.largest >= 6 * TOKENS * dim > mine.largest
    ours(**wish, causal_block_size=2)
    assert masks == [None] * 3 * len(ours.blocks)


def test_the_mask_of_the_stock_pipelines_can_still_be_had(pair, inputs):
    stock, ours = pair()
    for model in (stock, ours):
        model._set_ar_attention(2)
    assert torch.equal(ours(**inputs())[0], stock(**inputs())[0])


def test_two_prompts_go_in_one_forward(pair, inputs):
    _, ours = pair()
    wish = inputs()
    one = ours(**wish)[0]
    both = wish | {
        "hidden_states": wish["hidden_states"].repeat(2, 1, 1, 1, 1),
        "timestep": wish["timestep"].repeat(2, 1),
        "encoder_hidden_states": torch.cat([wish["encoder_hidden_states"], 0.5 * wish["encoder_hidden_states"]]),
    }
    two = ours(**both)[0]
    torch.testing.assert_close(two[:1], one, atol=3e-6, rtol=0)
    assert not torch.allclose(two[1:], one, atol=1e-4)


def test_an_attention_backend_is_this_models_alone(pair, inputs):
    _, ours = pair()
    before, default = ours(**inputs())[0], attention_dispatch._AttentionBackendRegistry.get_active_backend()
    ours.set_attention_backend("_native_math")
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == default
    processors = [attn.processor for block in ours.blocks for attn in (block.attn1, block.attn2)]
    assert all(processor._attention_backend.value == "_native_math" for processor in processors)
    for wish in ({}, {"causal_block_size": 2}):
        assert torch.isfinite(ours(**inputs(), **wish)[0]).all()
    torch.testing.assert_close(ours(**inputs())[0], before, atol=2e-6, rtol=0)
    with pytest.raises(ValueError, match="no_such"):
        ours.set_attention_backend("no_such")


def test_causal_blocks_are_refused_where_all_frames_are_one(pair, inputs):
    _, ours = pair("t2v")
    with pytest.raises(ValueError, match="causal_block_size=2"):
        ours(**inputs("t2v"), causal_block_size=2)


def test_gradients_are_the_same_with_checkpointing(pair, inputs):
    _, ours = pair()
    gradients = []
    for checkpointing in (False, True):
        ours.requires_grad_(True).zero_grad()
        if checkpointing:
            ours.enable_gradient_checkpointing()
        calls = []
        hook = ours.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        ours(**inputs())[0].square().mean().backward()
        hook.remove()
        assert len(calls) == 1 + checkpointing  # the second forward is that of the backward pass
        gradients.append(ours.blocks[0].attn1.to_q.weight.grad.clone())
    assert torch.equal(*gradients)
