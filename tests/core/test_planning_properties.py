"""Whatever is asked for: a plan that holds together, or a refusal whose way out leads on."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.core.delivery import check_delivery
from backend.core.errors import InvalidRequest
from backend.core.model_choice import choose_model
from backend.core.plan import Machine, Plan, Source
from backend.core.planning import make_plan
from backend.core.presets import MIN_STEPS_TO_SKIP
from backend.core.registry import MODELS
from backend.core.schedule import make_schedule
from backend.core.schema import Mode, Preset, SkyReelsOptions, parse_request
from backend.core.windows import latent_frames

H200 = Machine("NVIDIA H200", cores=16, ram_gib=128, vram_gib=139)
UPLOAD = "0" * 20


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def packed(least: int, most: int) -> st.SearchStrategy[int]:
    """4k+1 frames."""
    return st.integers((least - 1) // 4, (most - 1) // 4).map(lambda k: 4 * k + 1)


OPTIONS = {
    "storyboard": st.lists(st.just("and then"), max_size=4) | st.lists(st.just("and then"), max_size=30),
    "base_num_frames": maybe(packed(17, 257)),
    "overlap_history": maybe(packed(5, 97)),
    "addnoise_condition": st.integers(0, 100),
    "flow_shift": maybe(st.floats(1, 20)),
    "ar_step": st.just(0) | st.integers(0, 50),
    "causal_block_size": maybe(st.integers(1, 12)),
    "causal_attention": st.sampled_from([False, False, True]),
    "batch_guidance": st.booleans(),
    "fidelity": st.sampled_from(["original", "original", "diffusers"]),
}


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """A request's fields, each legal by itself."""
    mode = draw(st.sampled_from(Mode))
    able = [spec.id for spec in MODELS.values() if mode in spec.modes]
    model = draw(st.sampled_from(["auto", *able, *(name for name in able if "-df-" in name)]))
    width, height = (2 * draw(st.integers(32, 960)) for _ in "wh")
    wish: dict[str, Any] = {"mode": mode.value, "prompt": "a boat", "seed": 1, "model": model}
    wish["resolution"] = draw(st.sampled_from(["540p", "720p", f"{width}x{height}"]))
    wish["orientation"] = draw(st.sampled_from(["landscape", "portrait", "square"]))
    length = draw(st.sampled_from(["num_frames", "seconds", None]))
    if length:
        wish[length] = draw(st.integers(16, 1457) if length == "num_frames" else st.floats(0.5, 61))
    wish |= {
        "fps": draw(maybe(st.integers(8, 30))),
        "num_inference_steps": draw(maybe(st.integers(10, 50))),
        "draft_steps": draw(maybe(st.integers(1, 9))),
        "guidance_scale": draw(maybe(st.just(1.0) | st.floats(1, 20))),
        "preset": draw(st.sampled_from(["exact", "exact", "balanced", "turbo"])),
    }
    if mode is Mode.IMAGE_TO_VIDEO:
        wish["image"] = UPLOAD
    if mode is Mode.VIDEO_EXTENSION:
        wish["video"] = UPLOAD
    if mode is not Mode.TEXT_TO_VIDEO and draw(st.booleans()):
        wish["end_image"] = UPLOAD
    names = draw(st.sets(st.sampled_from(sorted(OPTIONS)))) | draw(st.sampled_from([set(), {"ar_step"}]))
    wish["skyreels"] = {name: draw(OPTIONS[name]) for name in sorted(names)}
    return wish


SOURCES = st.builds(Source, st.just(640), st.just(360), st.integers(1, 400), st.floats(5, 60))


def ask(wish: dict[str, Any], source: Source) -> Plan | InvalidRequest:
    """What comes of the wish."""
    try:
        request = parse_request(wish)
        spec = choose_model(request, MODELS.values(), H200)
        return make_plan(request, spec, H200, source if request.video else None)
    except InvalidRequest as refused:
        return refused


def ways_out(wish: dict[str, Any], refused: InvalidRequest) -> list[tuple[str, dict[str, Any]]]:
    """The fields and wishes that a refusal's hint names by their values: `use 45 or 65`, `num_frames=98`."""
    found = []
    named = re.findall(r"(\w+)=(\d+|true|false|original)", refused.hint)
    rest = re.sub(r"\w+=\w+|DF model|blocks of \d+|block of \d+|(\w+-V2|Wan) [\w. ]+", "", refused.hint)
    plain = re.findall(r"\b\d+(?:\.\d+)?", rest)
    for field, value in [*((str(refused.field).rpartition(".")[2], number) for number in plain), *named]:
        parsed: Any = value if value == "original" else json.loads(value)
        if field == "storyboard":
            parsed = wish["skyreels"]["storyboard"][: int(value)]
        if field in SkyReelsOptions.model_fields:
            found.append((f"skyreels.{field}", wish | {"skyreels": wish["skyreels"] | {field: parsed}}))
        else:
            length = {"num_frames", "seconds"} if field in ("num_frames", "seconds") else set()
            found.append((field, {name: kept for name, kept in wish.items() if name not in length} | {field: parsed}))
    return found


def check(plan: Plan, wish: dict[str, Any]) -> None:
    if "num_frames" in wish:
        assert plan.num_frames == int(wish["num_frames"])
    if "seconds" in wish:
        assert plan.num_frames == round(float(wish["seconds"]) * plan.fps)
    check_delivery(plan.rendered, plan.finishing_steps, replace(plan.delivered, frames=plan.new_frames))
    if plan.draft_steps is not None:
        assert plan.window_steps == (plan.draft_steps,) == (wish["draft_steps"],)
        assert 0 < plan.new_frames <= min(plan.num_frames, plan.decoded_frames - plan.prefix_frames)
        assert plan.decoded_frames <= 4 * plan.windows[0].stop - 3
        assert plan.segments == ((plan.prefix_frames, plan.prefix_frames + plan.new_frames),)
        assert 0 < plan.forwards <= 2 * plan.draft_steps
        plan = replace(plan, draft_steps=None)
    assert plan.prefix_frames + plan.num_frames <= plan.render_frames
    assert plan.total_frames == plan.source_frames + plan.num_frames
    overlap, block = latent_frames(plan.overlap_history), plan.causal_block_size
    assert plan.windows[0].start == 0
    assert plan.windows[-1].stop == latent_frames(plan.render_frames)
    known = [latent_frames(plan.prefix_frames) if plan.prefix_frames else int("image" in wish)]
    for before, after in itertools.pairwise(plan.windows):
        assert before.stop - after.start == overlap
        known.append(overlap)
    for window, num_context_frames, steps in zip(plan.windows, known, plan.window_steps, strict=True):
        length = window.stop - window.start
        assert length % block == num_context_frames % block == 0
        assert num_context_frames < length
        schedule = make_schedule(length, plan.num_inference_steps, plan.ar_step, block, num_context_frames)
        assert steps == len(schedule.timestep_indices)
    most = (1 if plan.batch_guidance or plan.guidance_scale <= 1 else 2) * sum(plan.window_steps)
    every = plan.preset is Preset.EXACT or plan.num_inference_steps < MIN_STEPS_TO_SKIP
    # Where blocks wait for one another, one of them may have to be asked about at every step.
    assert plan.forwards == most if every else 0 < plan.forwards <= most - (plan.ar_step == 0)
    assert len(wish["skyreels"].get("storyboard", [])) < len(plan.windows)
    if plan.engine == "skyreels":
        assert plan.render_width % 16 == plan.render_height % 16 == 0


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(wish=wishes(), source=SOURCES)
def test_every_wish_has_a_plan_that_holds_together_or_a_refusal_that_leads_on(wish, source):
    answer = ask(wish, source)
    if isinstance(answer, Plan):
        check(answer, wish)
        return
    assert answer.message
    assert answer.hint
    assert answer.field
    for field, other in ways_out(wish, answer):
        further = ask(other, source)
        if isinstance(further, Plan):
            check(further, other)
        else:
            assert further.message != answer.message
            assert further.field != field
            assert answer.field != further.field or answer.field != "skyreels.storyboard"
