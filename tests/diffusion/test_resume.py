"""A render that is cut at any step and goes on elsewhere ends with the same bits, of its latents and its frames."""

from __future__ import annotations

import hashlib
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.core.errors import SnapshotRefused, StudioError
from backend.core.plan import Stage
from backend.core.schema import Fidelity
from backend.diffusion.components import load_components
from backend.diffusion.conditions import encode_conditions
from backend.diffusion.decode import StreamingDecoder
from backend.diffusion.sampler import Sampler
from backend.diffusion.snapshot import NAME, read_snapshot, write_snapshot
from backend.diffusion.text import encode_prompt
from backend.engine import Inputs
from tests.diffusion.conftest import NEGATIVE, REQUEST, to_the_end

WINDOWS = {"base_num_frames": 17, "overlap_history": 5, "addnoise_condition": 20}
JOBS = {
    "short": ("df", {}),
    "long": ("df", {"num_frames": 37, "skyreels": WINDOWS}),
    "async": ("df", {"num_frames": 21, "skyreels": {"ar_step": 3, "causal_block_size": 2}}),
    "async windows": (
        "df",
        {
            "num_frames": 37,
            "skyreels": {"ar_step": 3, "causal_block_size": 2, "base_num_frames": 29, "overlap_history": 13},
        },
    ),
    "picture": ("df", {"mode": "image_to_video"}),
    "end picture": ("df", {"mode": "image_to_video", "end": True, "num_frames": 29, "skyreels": WINDOWS}),
    "extension": ("df", {"source_frames": 17, "num_frames": 24, "skyreels": WINDOWS}),
    "balanced": ("df", {"num_frames": 37, "preset": "balanced", "skyreels": WINDOWS}),
    "turbo async": (
        "df",
        {"num_frames": 21, "preset": "turbo", "skyreels": {"ar_step": 3, "causal_block_size": 2}},
    ),
    "plain": ("t2v", {}),
    "plain picture": ("i2v", {"mode": "image_to_video"}),
    "timestep per frame": ("wan-ti2v", {"mode": "image_to_video"}),
}


@pytest.fixture
def start(components, plan_for, picture, last_picture, clip):
    """A fresh sampler for a job, with its inputs encoded anew."""

    def make(job, fidelity=Fidelity.ORIGINAL, request=REQUEST, **changes):
        kind, wishes = JOBS[job]
        plan = replace(plan_for(kind, **wishes), fidelity=fidelity, **changes)
        parts = components[kind]
        image = picture if wishes.get("mode") == "image_to_video" else None
        end_image = last_picture if wishes.get("end") else None
        prefix = clip[-plan.prefix_frames :] if plan.prefix_frames else None
        conditions = encode_conditions(parts, plan, Inputs(image, end_image, prefix))
        return Sampler(parts, plan, request, [encode_prompt(parts, "A boat", NEGATIVE)], conditions)

    return make


@pytest.mark.parametrize(
    ("job", "fidelity"),
    [(job, Fidelity.ORIGINAL) for job in JOBS]
    + [(job, Fidelity.DIFFUSERS) for job in ("long", "async windows", "timestep per frame")],
)
def test_a_cut_at_every_step_changes_nothing(start, job, fidelity, tmp_path):
    unbroken = StreamingDecoder(start(job, fidelity))
    whole = np.concatenate(to_the_end(unbroken))
    decoder, steps, frames = StreamingDecoder(start(job, fidelity)), 0, []
    while not decoder.sampler.finished or decoder.has_undecoded:
        write_snapshot(tmp_path, decoder.state())
        torch.manual_seed(steps)  # the global generator has no say
        decoder = StreamingDecoder(start(job, fidelity), first=sum(len(chunk) for chunk in frames))
        decoder.restore(read_snapshot(tmp_path))
        if decoder.sampler.window_done:
            frames += list(decoder.frames())
            if decoder.sampler.finished:
                break
            decoder.next_window()
        else:
            decoder.sampler.step()
            steps += 1
    assert steps == sum(decoder.sampler.plan.window_steps)
    assert torch.equal(decoder.sampler.latents, unbroken.sampler.latents)
    assert np.array_equal(np.concatenate(frames), whole)


def test_a_state_whose_context_was_rounded_goes_on_with_it(start):
    """Version 0.1 rounded the picture of Wan 2.2 TI2V to bfloat16: what it began ends with the bits that it had."""

    def end(sampler):
        while not sampler.finished:
            sampler.step()
        return sampler.latents

    rounded, fresh = (start("timestep per frame", Fidelity.DIFFUSERS) for _ in range(2))
    rounded.latents[:, :, :1] = rounded.latents[:, :, :1].bfloat16().float()
    rounded.step()
    fresh.restore(rounded.state())
    assert torch.equal(end(fresh), end(rounded))
    assert torch.equal(fresh.latents[:, :, :1], fresh.latents[:, :, :1].bfloat16().float())
    assert not torch.equal(fresh.latents, end(start("timestep per frame", Fidelity.DIFFUSERS)))


def fingerprint(decoder, frames):
    """What a render came to: its last latents and all frames from its first on."""
    latents = decoder.sampler.latents.numpy().tobytes()
    return hashlib.sha1(latents).hexdigest(), [hashlib.sha1(chunk.tobytes()).hexdigest() for chunk in frames]


def finish(folder, plan, inputs, snapshots):
    """In a process that has seen nothing of the render: take each snapshot up and go to the end."""
    torch.set_num_threads(1)
    parts = load_components(folder, torch.device("cpu"), lambda part: None)
    text = [encode_prompt(parts, "A boat", NEGATIVE)]
    found = []
    for snapshot, first in snapshots:
        conditions = encode_conditions(parts, plan, Inputs(*inputs))
        decoder = StreamingDecoder(Sampler(parts, plan, REQUEST, text, conditions), first)
        decoder.restore(read_snapshot(snapshot))
        chunks = [chunk for chunk in to_the_end(decoder) if len(chunk)]
        found.append(fingerprint(decoder, [np.concatenate(chunks)] if chunks else []))
    return found


@pytest.fixture(scope="module")
def fresh_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda *task: pool.apply(finish, task)


@pytest.mark.parametrize(
    "job",
    ["short", "long", "async windows", "picture", "end picture", "extension", "plain picture", "timestep per frame"],
)
def test_every_snapshot_ends_alike_in_a_fresh_process(
    start, checkpoints, fresh_process, tmp_path, job, picture, last_picture, clip
):
    kind, wishes = JOBS[job]
    decoder, snapshots, chunks = StreamingDecoder(start(job)), [], []
    while True:
        folder = tmp_path / f"{len(snapshots)}"
        folder.mkdir()
        write_snapshot(folder, decoder.state())
        snapshots.append((folder, sum(len(chunk) for chunk in chunks)))
        if decoder.sampler.window_done and not decoder.has_undecoded:
            decoder.next_window()
        decoder.sampler.step()
        if decoder.has_undecoded:
            chunks += list(decoder.frames())
        if decoder.sampler.finished:
            break
    frames = np.concatenate([chunk for chunk in chunks if len(chunk)])
    plan = decoder.sampler.plan
    inputs = (
        picture if wishes.get("mode") == "image_to_video" else None,
        last_picture if wishes.get("end") else None,
        clip[-plan.prefix_frames :] if plan.prefix_frames else None,
    )
    ends = fresh_process(checkpoints[kind], plan, inputs, snapshots)
    assert len(ends) == sum(plan.window_steps)
    assert ends == [fingerprint(decoder, [frames[first:]]) for _, first in snapshots]


def test_a_film_can_be_taken_up_between_two_blocks(start):
    """Blocks that are final are shown while later ones go down; what was shown is not given again."""
    sampler = start("async windows")
    whole = np.concatenate(to_the_end(StreamingDecoder(sampler)))
    decoder, given = StreamingDecoder(start("async windows")), []
    while len(given) < 3:
        while not decoder.has_undecoded:
            decoder.sampler.step()
        assert not decoder.sampler.window_done
        given += [chunk for chunk in decoder.frames() if len(chunk)]
    shown = sum(len(chunk) for chunk in given)
    assert 0 < shown < len(whole) // 2
    taken_up = StreamingDecoder(start("async windows"), first=shown)
    taken_up.restore(decoder.state())
    rest = to_the_end(taken_up)
    assert np.array_equal(np.concatenate([*given, *rest]), whole)


def test_a_state_is_refused_where_frames_before_it_are_missing(start):
    decoder = StreamingDecoder(start("long"))
    while decoder.sampler.window == 0:
        decoder.sampler.step()
        if decoder.sampler.window_done:
            list(decoder.frames())
            decoder.next_window()
    StreamingDecoder(start("long"), first=17).restore(decoder.state())
    with pytest.raises(SnapshotRefused, match="gives no frame 16; render from the beginning"):
        StreamingDecoder(start("long"), first=16).restore(decoder.state())


def test_a_used_sampler_can_go_back(start):
    sampler = start("async windows")
    for _ in range(13):
        sampler.step()
    state = sampler.state()
    kept = {name: tensor.clone() for name, tensor in state.tensors.items()}
    while not sampler.window_done:
        sampler.step()
    latents = sampler.latents.clone()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.tensors.items()), "the state is no copy"
    sampler.restore(state)
    assert (sampler.window, sampler.step_index) == (0, 13)
    while not sampler.window_done:
        sampler.step()
    assert torch.equal(sampler.latents, latents)


def test_the_noise_of_a_window_needs_none_of_the_windows_before(start):
    tensors, _ = start("long").state()
    assert set(tensors) == {"latents"}
    assert set(start("long", Fidelity.DIFFUSERS).state()[0]) == {"latents", "noise"}


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 5.0},
        {"num_inference_steps": 11},
        {"fidelity": Fidelity.DIFFUSERS},
        {"request": REQUEST.model_copy(update={"seed": 8})},
        {"request": REQUEST.model_copy(update={"prompt": "A fox"})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_another_render_is_refused(start, changes):
    other = start("short", **changes)
    other.step()
    sampler = start("short")
    before = sampler.latents.clone()
    with pytest.raises(SnapshotRefused, match="another request, plan or model; render from the beginning"):
        sampler.restore(other.state())
    assert issubclass(SnapshotRefused, StudioError)
    assert torch.equal(sampler.latents, before)
    assert sampler.step_index == 0


def test_a_checkpoint_of_other_weights_is_refused(start, components):
    sampler = start("short")
    state = sampler.state()
    table = components["df"].transformer.scale_shift_table
    before = table.detach().clone()
    try:
        with torch.no_grad():
            table.add_(1e-3)
        with pytest.raises(SnapshotRefused):
            start("short").restore(state)
    finally:
        table.data.copy_(before)


def test_what_was_learned_about_time_does_not_matter(start):
    sampler = start("short")
    later = replace(sampler.plan.forecast, seconds={Stage.DENOISING: 2.0})
    taken_up = start("short", forecast=later)
    taken_up.restore(sampler.state())
    assert torch.equal(taken_up.latents, sampler.latents)


def test_a_folder_without_a_snapshot_has_none(tmp_path):
    assert read_snapshot(tmp_path) is None


@pytest.mark.parametrize("harm", ["torn", "flipped", "empty"])
def test_a_damaged_snapshot_is_refused(start, tmp_path, harm):
    write_snapshot(tmp_path, start("short").state())
    path = tmp_path / NAME
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[-3] ^= 1
    path.write_bytes({"torn": data[: len(data) // 2], "empty": b""}.get(harm, data))
    with pytest.raises(SnapshotRefused, match="render from the beginning"):
        read_snapshot(tmp_path)


def test_a_snapshot_replaces_the_one_before_and_leaves_nothing_else(start, tmp_path):
    sampler = start("short")
    write_snapshot(tmp_path, sampler.state())
    sampler.step()
    write_snapshot(tmp_path, sampler.state())
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert read_snapshot(tmp_path).metadata["step"] == 1
