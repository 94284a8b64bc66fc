"""From a request to a file, with real inputs: what the finished film shows, frame for frame."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backend.core.errors import Conflict, InvalidRequest
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import MODELS
from backend.core.schema import Fit, parse_request
from backend.finishing.fit import fit_frames
from backend.jobs.job import JobState
from backend.media.fitting import fit_back, fit_picture
from backend.media.probe import probe
from backend.media.reader import read_frames
from backend.media.writer import read_recipe
from backend.skyreels_integration import SkyReelsEngine
from backend.video_generator import VideoGenerator
from tests.lora_files import write_lora
from tests.media_files import real_media
from tests.tiny_checkpoints import build_checkpoint

WIDE = (("A", (4, 96)), ("B", (96, 4)))


def psnr(one, other) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures, in dB."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def frames_of(file, width, height, fps):
    chunks = read_frames(file, fps=fps, width=width, height=height, fit=Fit.CROP)
    return np.concatenate(list(chunks))


def upload(generator, file) -> str:
    with generator.uploads.receive(file.name) as incoming:
        incoming.write(file.read_bytes())
        return incoming.accept().id


def film(generator, request):
    job = generator.wait(generator.submit(request).id, timeout=100)
    assert job.state is JobState.SUCCEEDED, job.error
    return job, generator.settings.data / job.artifact.video


@pytest.fixture
def photo(tmp_path):
    """A real photograph (NASA, public domain), as a JPEG."""
    from PIL import Image
    from skimage import data

    file = tmp_path / "astronaut.jpg"
    picture = data.astronaut()
    Image.fromarray(picture).save(file, quality=97)
    return file, picture


@pytest.mark.parametrize("fit", list(Fit))
def test_a_photograph_is_the_first_frame_of_its_film(generator, a_request, photo, fit):
    file, picture = photo
    size = {"resolution": "540p", "orientation": "landscape"}  # without the second it would follow the picture
    request = a_request(mode="image_to_video", image=upload(generator, file), fit=fit, num_frames=24, **size)
    _, video = film(generator, request)
    frames = frames_of(video, 960, 540, 24)
    assert psnr(frames[0], fit_picture(picture, 960, 540, fit)) > 30
    assert psnr(frames[0], frames[-1]) < 40  # it moves


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_the_part_of_a_photograph_that_is_named_is_kept(generator, a_request, photo, position):
    file, picture = photo
    size = {"resolution": "320x180", "crop_position": position}
    request = a_request(mode="image_to_video", image=upload(generator, file), num_frames=16, **size)
    _, video = film(generator, request)
    assert psnr(frames_of(video, 320, 180, 24)[0], fit_picture(picture, 320, 180, Fit.CROP, position)) > 28


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_the_part_of_a_clip_that_is_named_is_continued(generator, a_request, position):
    clip = real_media("bigbuckbunny.mp4")
    size = {"resolution": "180x180", "crop_position": position}
    request = a_request(mode="video_extension", video=upload(generator, clip), num_frames=16, **size)
    _, video = film(generator, request)
    whole = frames_of(clip, 640, 360, 25)
    kept = [fit_picture(frame, 180, 180, Fit.CROP, position) for frame in (whole[0], whole[-1])]
    after = frames_of(video, 180, 180, 25)
    assert psnr(after[0], kept[0]) > 28
    assert psnr(after[len(whole) - 1], kept[1]) > 28
    assert psnr(after[len(whole), :-40], kept[1][:-40]) > 26  # it goes on from there


def test_a_real_clip_is_continued_and_its_frames_come_once_each(generator, a_request):
    clip = real_media("bigbuckbunny.mp4")
    request = a_request(mode="video_extension", video=upload(generator, clip), resolution="640x360", num_frames=24)
    job, video = film(generator, request)
    info, source = probe(video), probe(clip)
    assert (info.frames, info.fps) == (source.frames + 24, source.fps)
    before, after = frames_of(clip, 640, 360, 25), frames_of(video, 640, 360, 25)
    worst = min(psnr(one, other) for one, other in zip(before, after, strict=False))
    assert worst > 30
    seam = after[source.frames - 1 : source.frames + 1, :-40]  # above the two lines that the placeholder writes
    assert psnr(*seam) > 30  # no jump where the new frames begin
    assert job.plan.source_frames == source.frames


@pytest.mark.parametrize("size", ["960x540", "1280x720", "720x720", "540x960", "640x358", "130x98"])
@pytest.mark.parametrize("model", ["skyreels-v2-df-1.3b-540p", "skyreels-v2-df-14b-720p"])
def test_what_the_model_continues_lies_exactly_on_what_is_shown(size, model):
    """A frame given to the model and delivered again is where it was: an extension has no jump at its seam."""
    request = parse_request({"prompt": "x", "resolution": size})
    plan = make_plan(request, MODELS[model], Machine("CPU", 2, 8))
    random = np.random.default_rng(0).integers(0, 256, (plan.height // 8, plan.width // 8, 3), np.uint8)
    shown = fit_picture(random, plan.width, plan.height, Fit.CROP)
    drawn = fit_back(shown, plan.render_width, plan.render_height)
    assert drawn.shape == (plan.render_height, plan.render_width, 3)
    assert psnr(fit_frames(drawn[None], plan.width, plan.height)[0], shown) > 30


@pytest.mark.parametrize(
    ("wish", "size"),
    [
        ({"resolution": "540p", "num_frames": 64, "fps": 24}, (960, 540, 64, 24)),
        ({"resolution": "540p", "orientation": "portrait", "num_frames": 16, "fps": 8}, (540, 960, 16, 8)),
        ({"resolution": "540p", "orientation": "square", "num_frames": 17, "fps": 30}, (720, 720, 17, 30)),
        ({"resolution": "720p", "num_frames": 31, "fps": 25}, (1280, 720, 31, 25)),
        ({"resolution": "130x98", "num_frames": None, "seconds": 2, "fps": 13}, (130, 98, 26, 13)),
    ],
)
def test_what_was_asked_is_what_the_file_has(generator, a_request, wish, size):
    _, video = film(generator, a_request(**wish))
    info = probe(video)
    assert (info.width, info.height, info.frames, info.fps) == size


@pytest.fixture
def model_studio(settings):
    """A studio with a tiny random SkyReels V2 of the diffusion-forcing kind in its models folder."""
    build_checkpoint(settings.models / "tiny-random-df", "df")
    generator = VideoGenerator(settings, {"skyreels": SkyReelsEngine()})
    generator.start()
    yield generator
    generator.stop()


def test_the_model_makes_all_three_kinds_of_film(model_studio, a_request, photo, tmp_path):
    size = {"model": "tiny-random-df", "resolution": "64x64", "num_frames": 18, "num_inference_steps": 10}
    job, first = film(model_studio, a_request(**size))
    assert (job.artifact.model, job.artifact.engine) == ("tiny-random-df", "skyreels")
    assert read_recipe(first)["plan"]["engine"] == "skyreels"
    _, again = film(model_studio, a_request(**size))
    _, other = film(model_studio, a_request(**size | {"seed": 2}))
    pixels = [frames_of(video, 64, 64, 24).tobytes() for video in (first, again, other)]
    assert pixels[0] == pixels[1]
    assert pixels[0] != pixels[2]

    image = upload(model_studio, photo[0])
    _, video = film(model_studio, a_request(mode="image_to_video", image=image, end_image=image, **size))
    assert probe(video).frames == 18

    clip = upload(model_studio, first)
    _, video = film(model_studio, a_request(mode="video_extension", video=clip, **size))
    source, longer = frames_of(first, 64, 64, 24), frames_of(video, 64, 64, 24)
    assert len(longer) == 18 + 18
    assert min(psnr(one, new) for one, new in zip(source, longer, strict=False)) > 30


def test_loras_change_the_film_are_in_its_recipe_and_leave_nothing(model_studio, a_request, tmp_path):
    grain = model_studio.loras.add(write_lora(tmp_path / "grain.safetensors", "kohya", alpha=4.0))
    model_studio.loras.add(write_lora(tmp_path / "noir.safetensors", "original", seed=1))
    size = {"model": "tiny-random-df", "resolution": "64x64", "num_frames": 40, "num_inference_steps": 10}
    windows = {"skyreels": {"base_num_frames": 17, "overlap_history": 5}}

    def pixels(**wish):
        job, video = film(model_studio, a_request(**size | wish))
        return job, frames_of(video, 64, 64, 24).tobytes()

    _, plain = pixels(**windows)
    _, one = pixels(**windows, loras=[{"name": "grain", "strength": 0.8}])
    job, two = pixels(**windows, loras=[{"name": "grain", "strength": 0.8}, {"name": "noir", "strength": 0.5}])
    _, first_only = pixels(**windows, loras=[{"name": "grain", "strength": [0.8, 0.0]}])
    _, off = pixels(**windows, loras=[{"name": "grain", "strength": 0}])
    _, again = pixels(**windows)
    assert plain == again == off
    assert len({plain, one, two, first_only}) == 4
    frame = 64 * 64 * 3
    assert first_only[: 10 * frame] == one[: 10 * frame]
    recipe = read_recipe(model_studio.settings.data / job.artifact.video)
    assert [lora["sha256"] for lora in recipe["plan"]["loras"]] == [
        hashlib.sha256((model_studio.settings.models / f"loras/{name}.safetensors").read_bytes()).hexdigest()
        for name in ("grain", "noir")
    ]
    assert recipe["request"]["loras"][0] == {"name": "grain", "strength": [0.8]}
    assert model_studio.plan(a_request(**size, loras=[{"name": "grain"}])).loras[0].name == "grain"
    fewer = a_request(**size | {"num_inference_steps": 4, "guidance_scale": 1}, loras=[{"name": "grain"}])
    assert len(model_studio.plan(fewer).window_steps) == 1
    assert film(model_studio, fewer)[0].plan.window_steps == (4,)
    assert grain.name == "grain"


def test_a_film_with_a_lora_that_went_away_or_changed_fails_in_a_sentence(model_studio, a_request, tmp_path):
    model_studio.loras.add(write_lora(tmp_path / "grain.safetensors"))
    wish = {"model": "tiny-random-df", "resolution": "64x64", "num_inference_steps": 10}
    model_studio.pause_queue(True)
    job = model_studio.submit(a_request(**wish, loras=[{"name": "grain"}]))
    with pytest.raises(Conflict, match="needs grain"):
        model_studio.remove_lora("grain")
    file = model_studio.settings.models / "loras/grain.safetensors"
    kept = file.read_bytes()
    write_lora(file, seed=9)
    model_studio.pause_queue(False)
    ended = model_studio.wait(job.id, timeout=60)
    assert "is another file than when this video was submitted" in ended.error.message
    file.unlink()
    ended = model_studio.wait(model_studio.retry(job.id).id, timeout=60)
    assert "No LoRA 'grain' is here" in ended.error.message
    file.write_bytes(kept)
    assert model_studio.wait(model_studio.retry(job.id).id, timeout=60).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"loras": [{"name": "nope"}]}, "No LoRA 'nope' is here"),
        ({"loras": [{"name": "grain"}], "model": "synthetic"}, "does not fit: Test pattern (no AI) has no layers"),
        ({"loras": [{"name": "wide"}]}, "does not fit: it was made for models of width 96, tiny-random-df has 24"),
        ({"loras": [{"name": "image"}]}, "made for models with 36 input channels, tiny-random-df has 16"),
        ({"loras": [{"name": "grain", "strength": [1, 2]}]}, "has 2 strengths, the video has 1 window"),
        ({"loras": [{"name": "grain", "strength": 9}]}, "use -4 to 4"),
        ({"loras": [{"name": "grain"}, {"name": "grain"}]}, "'grain' twice"),
        ({"loras": [{"name": "grain", "stength": 1}]}, "did you mean strength"),
        ({"loras": ["grain"]}, 'send objects such as {"name"'),
        ({"loras": "grain"}, "send a list of LoRAs"),
        ({"loras": [{"name": "grain", "strength": "1"}]}, "without quotes"),
        ({"loras": [{}]}, 'send objects such as {"name"'),
        ({"loras": [{"name": f"{n}"} for n in range(9)]}, "use at most 8"),
        ({"num_inference_steps": 4}, "use 10 to 50"),
        ({"num_inference_steps": 3, "loras": [{"name": "grain"}]}, "or from 4 on with a LoRA"),
    ],
)
def test_a_wish_for_loras_that_cannot_be_is_refused_in_words(model_studio, a_request, tmp_path, wish, words):
    model_studio.loras.add(write_lora(tmp_path / "grain.safetensors"))
    wide = {f"blocks.0.attn1.to_q.lora_{half}.weight": torch.ones(shape) for half, shape in WIDE}
    save_file(wide, model_studio.settings.models / "loras/wide.safetensors")
    embedding = {"diffusion_model.patch_embedding.diff": torch.zeros(24, 36, 1, 2, 2)}
    save_file(embedding, model_studio.settings.models / "loras/image.safetensors")
    with pytest.raises(InvalidRequest) as refused:
        model_studio.plan(a_request(**{"model": "tiny-random-df", "resolution": "64x64"} | wish))
    assert words in str(refused.value), str(refused.value)


def test_auto_takes_a_model_that_the_lora_fits(model_studio, a_request, tmp_path):
    model_studio.loras.add(write_lora(tmp_path / "grain.safetensors"))
    assert model_studio.plan(a_request()).model == "synthetic"
    assert model_studio.plan(a_request(model="auto", loras=[{"name": "grain"}])).model == "tiny-random-df"


def test_a_damaged_model_fails_its_job_in_a_sentence_and_mended_it_runs(model_studio, a_request, monkeypatch):
    monkeypatch.setattr("backend.library.catalog.KEEP_S", 0)
    model_studio.pause_queue(True)
    job = model_studio.submit(a_request(model="tiny-random-df", resolution="64x64"))
    weights = next((model_studio.settings.models / "tiny-random-df" / "transformer").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    model_studio.pause_queue(False)
    ended = model_studio.wait(job.id, timeout=60)
    assert ended.state is JobState.FAILED
    assert "tiny" in ended.error.message.lower()
    assert str(model_studio.settings.data) not in ended.error.message
    weights.write_bytes(whole)
    assert model_studio.wait(model_studio.retry(job.id).id, timeout=60).state is JobState.SUCCEEDED
