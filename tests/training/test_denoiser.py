"""What the denoiser is trained on, and that its quick attention is the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.tiny.clips import A_SHARD, FRAMES
from training.tiny.denoiser import (
    ENDS,
    Batch,
    Clips,
    Denoiser,
    PlainAttention,
    draw_timesteps,
    latent_frames,
    loss_of,
    weights,
)
from training.tiny.run import Budget
from training.tiny.text import TOKENS, captions, embed, new_text_encoder, new_tokenizer, pretrain, pretrained
from training.tiny.vae import CHANNELS


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    found = Denoiser(tokenizer).eval()
    torch.nn.init.normal_(found.transformer.proj_out.weight, std=0.1)
    return found


def test_plain_attention_is_that_of_the_model(tokenizer, model):
    latents, timesteps = torch.randn(2, CHANNELS, 3, 12, 20), torch.randint(0, 1000, (2, 3))
    text = embed(tokenizer, model.text_encoder, ["A red boat drifts left", "snow"])
    assert text.shape[1] == TOKENS
    with torch.no_grad():
        stock = model(latents, timesteps, text)
        for block in model.transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(PlainAttention())
        plain = model(latents, timesteps, text)
    torch.testing.assert_close(plain, stock, atol=2e-5, rtol=0)


def test_the_tokenizer_reads_any_text(tokenizer):
    unknown = tokenizer.unk_token_id
    for text in [*captions(50), "Zyxgle quorb, 4k! (really) #1", "UPPER lower"]:
        tokens = tokenizer(text).input_ids
        assert unknown not in tokens
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert max(len(tokenizer(text).input_ids) for text in captions(300)) <= TOKENS


def batch_of(clips: int, length: int, ended: bool) -> Batch:
    return Batch(torch.zeros(clips, 2, length, 2, 2), [""] * clips, torch.ones(clips, length, 2, 2), ended)


def test_given_frames_are_nearly_clean_and_not_asked_for():
    random = torch.Generator().manual_seed(0)
    seen = {"all": 0, "first": 0}
    clean = given = 0
    for number in range(200):
        length = (5, 9, 17)[number % 3]
        batch = batch_of(4, length, ended=number % 2 == 0)
        timesteps, asked = draw_timesteps(batch, random)
        assert ((timesteps[~asked] >= 0) & (timesteps[~asked] <= 60)).all()
        clean += int((timesteps[~asked] == 0).sum())
        given += int((~asked).sum())
        assert ((timesteps[asked] >= 1) & (timesteps[asked] <= 999)).all()
        assert asked.any(dim=1).all()
        assert asked[:, -1].any() != batch.ended
        seen["all"] += int(asked.all(dim=1).sum())
        seen["first"] += int((~asked[:, 0]).sum())
    assert seen["all"] > 100
    assert seen["first"] > 200
    assert 0.4 < clean / given < 0.6


def test_a_picture_alone_is_always_asked_for():
    timesteps, asked = draw_timesteps(batch_of(8, 1, ended=False), torch.Generator().manual_seed(1))
    assert asked.all()
    assert np.all(timesteps.numpy() >= 1)
    assert set(ENDS) == {5, 9, 17}


def test_where_the_subject_is_counts_five_times():
    places = torch.tensor([[[3.5, 15.5], [2.5, 8.5]]])  # x, then y, of two latent frames
    found = weights(places, 12, 20)
    assert found.shape == (1, 2, 12, 20)
    assert found[0, 0, 2, 3] == found[0, 1, 8, 15] == 5
    assert found[0, 0, 11, 19] == pytest.approx(1)
    assert found[0, 0].mean() < 1.3


def test_the_frames_that_a_latent_frame_stands_for():
    assert latent_frames(1, ended=False) == [0]
    assert latent_frames(3, ended=False) == [0, 3, 7]
    assert latent_frames(5, ended=True) == [0, 3, 7, 11, 12]


def test_the_encoder_learns_what_captions_say(tokenizer):
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer)
    assert pretrain(tokenizer, encoder, steps=25) > 0.35  # 0.16 after one step, 0.93 in the end


def test_what_was_taught_is_found_again_with_its_tokenizer(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("training.tiny.text.new_tokenizer", lambda: tokenizer)
    monkeypatch.setattr("training.tiny.text.pretrain", lambda tokenizer, encoder: 1.0)
    _, encoder = pretrained(tmp_path)
    again, same = pretrained(tmp_path)
    text = "A red boat, 100% #1?"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == TOKENS
    assert torch.equal(encoder.shared.weight, same.shared.weight)


def test_an_error_that_stays_counts_once_and_one_that_moves_more():
    stays, moves = torch.zeros(1, 2, 5, 4, 6), torch.zeros(1, 2, 5, 4, 6)
    stays[..., 2, 3] = 1
    for frame in range(5):
        moves[:, :, frame, 2, frame] = 1
    sigma, weight = torch.ones(1, 1, 5, 1, 1), torch.ones(1, 5, 4, 6)
    asked = torch.ones(1, 5, dtype=torch.bool)
    once = loss_of(stays, sigma, weight, asked)
    assert once == pytest.approx(1 / 24)
    assert loss_of(moves, sigma, weight, asked) == pytest.approx(3 / 24)
    assert loss_of(moves, 0 * sigma, weight, asked) == pytest.approx(1 / 24)
    asked[:, :4] = False  # what is given is not asked for, and nothing leads to a picture alone
    assert loss_of(moves, sigma, weight, asked) == pytest.approx(1 / 24)


@pytest.fixture
def clips(tmp_path):
    """Two shards of films whose latents tell film and mirror."""
    shards = []
    for number in range(2):
        latents = np.zeros((2, A_SHARD, 17 + len(ENDS), 3, 4, 6), np.float16)
        latents[:, :, :, 0] = 10 * number + np.arange(A_SHARD)[None, :, None, None, None]
        latents[:, :, :, 1] = np.arange(2)[:, None, None, None, None]
        latents[:, :, 17:, 2] = np.arange(1, 4)[None, None, :, None, None]  # which end
        shards.append(tmp_path / f"films-{number:05d}.npy")
        np.save(shards[-1], latents)
    return Clips(shards, np.zeros((2, A_SHARD, FRAMES, 2), np.float32), Budget(100))


def test_a_step_has_the_same_clips_every_time(clips):
    one, again, other = clips.of(7), clips.of(7), clips.of(8)
    assert torch.equal(one.clean, again.clean)
    assert one.texts == again.texts
    assert one.texts != other.texts
    assert one.weight.shape == (len(one.texts), one.clean.shape[2], 4, 6)


def test_films_come_after_pictures_and_some_end_on_one(clips):
    lengths = {step: clips.of(step) for step in range(100)}
    assert {batch.clean.shape[2] for step, batch in lengths.items() if step < 60} == {1, 2, 5}
    assert {batch.clean.shape[2] for step, batch in lengths.items() if step > 85} >= {5, 9, 17}
    ended = [batch for batch in lengths.values() if batch.ended]
    assert 0 < len(ended) < 50
    for batch in ended:
        length = batch.clean.shape[2]
        assert (batch.clean[:, 2, -1] == 1 + list(ENDS).index(length)).all()
        assert (batch.clean[:, 2, :-1] == 0).all()
