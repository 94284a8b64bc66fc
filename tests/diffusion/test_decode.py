from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Pipeline

from backend.diffusion.conditions import latent_statistics
from backend.diffusion.decode import decode

VAES = {
    "wan 2.1": {"base_dim": 4, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1},
    "patches": {
        "base_dim": 4,
        "dim_mult": [1, 2, 4],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "latents_mean": [0.1 * n for n in range(16)],
        "latents_std": [1.0 + 0.1 * n for n in range(16)],
    },
    "residual": {
        "base_dim": 4,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "is_residual": True,
    },
}

TENSORS = (torch.Tensor, torch.nn.Parameter)


@pytest.fixture(params=VAES)
def vae(request):
    torch.manual_seed(0)
    return AutoencoderKLWan(**VAES[request.param]).eval()


@pytest.fixture
def latents():
    return torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_stream_equals_the_whole(vae, latents):
    chunks = list(decode(vae, latents))
    assert [len(chunk) for chunk in chunks] == [1, 4, 4, 4, 4]
    mean, inverse_std = latent_statistics(vae)
    with torch.no_grad():
        whole = vae.decode(latents / inverse_std + mean).sample
    expected = ((whole * 0.5 + 0.5).clamp(0, 1).numpy() * 255).round().astype("uint8")[0].transpose(1, 2, 3, 0)
    frames = np.concatenate(chunks)
    assert frames.shape == (17, 64, 64, 3)
    assert frames.std() > 5
    assert np.array_equal(frames, expected)


def test_frames_equal_the_stock_pipelines(checkpoints, components, plan_for):
    pipe = SkyReelsV2Pipeline.from_pretrained(checkpoints["t2v"], local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    wishes = {"height": 64, "width": 64, "num_frames": 17, "num_inference_steps": 2}

    def run(kind):
        generator = torch.Generator().manual_seed(7)
        return pipe(prompt="A boat", generator=generator, output_type=kind, **wishes).frames

    theirs = np.stack([np.asarray(frame) for frame in run("pil")[0]])
    assert np.array_equal(np.concatenate(list(decode(components["t2v"].vae, run("latent")))), theirs)


def test_the_next_frames_wait_until_they_are_asked_for(vae, latents, monkeypatch):
    calls = []
    vae.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    stream = decode(vae, latents)
    next(stream)
    assert len(calls) == 1
    stream.close()
    assert np.array_equal(next(decode(vae, latents)), next(decode(vae, latents)))


def live_bytes() -> int:
    """Bytes of all tensors that anything still holds."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if type(t) in TENSORS
    }
    return sum(storages.values())


def test_memory_does_not_grow_with_the_film(vae):
    film = torch.zeros(1, 16, 1, 8, 8).expand(-1, -1, 16, -1, -1)
    held = {number: live_bytes() for number, _ in enumerate(decode(vae, film)) if number in (0, 5, 15)}
    assert held[5] == held[15]
    assert held[5] > held[0]  # the cache, which shows that the count counts
