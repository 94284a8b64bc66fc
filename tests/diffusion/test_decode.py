from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Pipeline

from backend.core.schema import Fidelity
from backend.diffusion.conditions import Conditions, latent_statistics
from backend.diffusion.decode import CausalDecoder, StreamingDecoder, _to_pixels
from backend.diffusion.sampler import Sampler
from backend.diffusion.text import encode_prompt
from tests.diffusion.conftest import REQUEST, to_the_end

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


def decode(vae, latents):
    """Chunks of frames."""
    return (_to_pixels(video) for video in CausalDecoder(vae).decode(latents))


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


def test_memory_does_not_grow_with_the_length(vae):
    latents = torch.zeros(1, 16, 1, 8, 8).expand(-1, -1, 16, -1, -1)
    held = {number: live_bytes() for number, _ in enumerate(decode(vae, latents)) if number in (0, 5, 15)}
    assert held[5] == held[15]
    assert held[5] > held[0]  # the cache, which shows that the count counts


@pytest.fixture
def long_render(components, plan_for):
    """A sampler at the start of three windows of 17 frames with 5 in common."""

    def make(fidelity=Fidelity.ORIGINAL, **skyreels):
        wishes = {"base_num_frames": 17, "overlap_history": 5, "fidelity": fidelity} | skyreels
        plan = plan_for("df", num_frames=37, guidance_scale=1, skyreels=wishes)
        parts = components["df"]
        return Sampler(parts, plan, REQUEST, [encode_prompt(parts, "A boat", None)], Conditions())

    return make


def window_by_window(decoder):
    """The latents of each window and the frames that it gave."""
    while True:
        while not decoder.sampler.window_done:
            decoder.sampler.step()
        yield decoder.sampler.latents.clone(), np.concatenate([chunk for chunk in decoder.frames() if len(chunk)])
        if decoder.sampler.finished:
            return
        decoder.next_window()


def test_a_window_begins_with_the_last_pictures_of_the_one_before(long_render):
    """Encoded again, so that its first latent frame stands for one frame, as in training."""
    decoder = StreamingDecoder(long_render())
    vae = decoder.sampler.components.vae
    mean, inverse_std = latent_statistics(vae)
    before, last, total = None, None, 0
    for latents, frames in window_by_window(decoder):
        with torch.no_grad():
            picture = vae.decode(latents / inverse_std + mean).sample
        if before is not None:
            with torch.no_grad():
                known = (vae.encode(last).latent_dist.mode() - mean) * inverse_std
            assert torch.equal(latents[:, :, :2], known)
            assert not torch.allclose(known, before[:, :, -2:], atol=1e-3)
            picture = picture[:, :, 5:]
        assert np.array_equal(frames, _to_pixels(picture))
        before, last = latents, picture.clamp(-1, 1)[:, :, -5:]
        total += len(frames)
    assert total == 37


def test_the_stock_pipelines_pass_latents_on_and_decode_all_at_once(long_render):
    decoder = StreamingDecoder(long_render(Fidelity.DIFFUSERS))
    latents, frames = zip(*window_by_window(decoder), strict=True)
    assert all(torch.equal(a[:, :, -2:], b[:, :, :2]) for a, b in itertools.pairwise(latents))
    joined = torch.cat([latents[0], *(window[:, :, 2:] for window in latents[1:])], dim=2)
    assert np.array_equal(np.concatenate(frames), np.concatenate(list(decode(decoder.sampler.components.vae, joined))))


@pytest.mark.parametrize("first", [0, 1, 7, 17, 18, 30, 36])
def test_frames_that_exist_are_not_given_again(long_render, first):
    whole, rest = (np.concatenate(to_the_end(StreamingDecoder(long_render(), first=at))) for at in (0, first))
    assert np.array_equal(rest, whole[first:])


def test_blocks_are_given_as_they_become_final(components, plan_for):
    plan = plan_for("df", num_frames=29, guidance_scale=1, skyreels={"ar_step": 3, "causal_block_size": 2})
    parts = components["df"]
    decoder = StreamingDecoder(Sampler(parts, plan, REQUEST, [encode_prompt(parts, "A boat", None)], Conditions()))
    given = []
    while not decoder.sampler.finished:
        decoder.sampler.step()
        if decoder.has_undecoded:
            given.append((decoder.sampler.step_index, sum(len(chunk) for chunk in decoder.frames())))
    assert given == [(10, 5), (13, 8), (16, 8), (19, 8)]


def test_the_fraction_goes_from_0_to_1(long_render):
    decoder = StreamingDecoder(long_render())
    parts = [decoder.fraction]
    for _ in window_by_window(decoder):
        parts.append(decoder.fraction)
    assert parts == [0, 0.5, 0.8, 1.0]
