"""The Create form's state: the widgets' names, the request they add up to, and how a request fills them again."""

from __future__ import annotations

import secrets
from typing import Any

import streamlit as st

from backend.core.errors import StudioError
from backend.core.inputs import INPUTS
from backend.core.planning import Plan
from backend.core.registry import ModelSpec
from backend.core.schema import (
    DEFAULT_FRAMES,
    NUM_FRAMES,
    PAGE_FRAMES,
    SEED,
    SETTINGS,
    Fidelity,
    GenerationRequest,
    Mode,
    Preset,
)

DEFAULTS: dict[str, Any] = {
    "mode": Mode.TEXT_TO_VIDEO.value,
    "prompt": "",
    "negative_prompt": "",
    "orientation": "landscape",
    "resolution": "540p",
    "num_frames": DEFAULT_FRAMES,
    "fps": None,
    "num_inference_steps": None,
    "guidance_scale": None,
    "seed": None,
    "fit": "crop",
    "model": "auto",
    "preset": Preset.EXACT.value,
    "loras": [],  # their names; how strong each is stands under `strength_key`
    "lora_windows": False,
}
SKYREELS: dict[str, Any] = {
    "storyboard": "",  # here one line for each window
    "base_num_frames": None,
    "overlap_history": None,
    "addnoise_condition": None,
    "flow_shift": None,
    "ar_step": None,
    "causal_block_size": None,
    "causal_attention": False,
    "batch_guidance": False,
    "fidelity": Fidelity.ORIGINAL.value,
}


def label(field: str) -> str:
    return SETTINGS[field].title


def key(field: str) -> str:
    return f"form_{field}"


def strength_key(lora: str, window: int) -> str:
    return f"form_strength_{window}_{lora}"


def strengths(lora: str) -> list[float]:
    """In each window from the first on, as far as they were set; one for all windows unless each has its own."""
    found: list[float] = []
    while (key := strength_key(lora, len(found))) in st.session_state and (not found or get("lora_windows")):
        found.append(st.session_state[key])
    return found or [1.0]


def get(field: str) -> Any:
    return st.session_state.get(key(field), (DEFAULTS | SKYREELS).get(field))


def put(field: str, value: Any) -> None:
    st.session_state[key(field)] = value


def worded(error: StudioError) -> str:
    """What `error` says, with the page's names for the settings."""
    return error.worded({setting.field: f'"{setting.title}"' for setting in SETTINGS.values()}, equals=" ")


def prepare() -> None:
    """Before the first widget: fill in what another page asked to be restored, and the defaults."""
    waiting: dict[str, Any] | None = st.session_state.pop("form_to_restore", None)
    for field, value in (waiting or {}).items():
        put(field, value)
    if waiting and "storyboard" in waiting:  # a whole video
        st.session_state.pop("longest", None)
        st.session_state["story_open"] = bool(waiting["storyboard"])
    for field, value in (DEFAULTS | SKYREELS).items():
        st.session_state.setdefault(key(field), value)


def controls_of(spec: ModelSpec) -> list[str]:
    """The SkyReels settings that the page shows for a model, by their names in the form."""
    if spec.diffusion_forcing:
        return list(SKYREELS)
    if not spec.denoises:
        return ["storyboard", "base_num_frames", "overlap_history"]
    return ["flow_shift", "batch_guidance", "fidelity"]


def story() -> list[str]:
    """What the windows after the first show, a line each."""
    return [line for line in get("storyboard").splitlines() if line.strip()]


def longest(spec: ModelSpec) -> int:
    """Frames at which the slider ends: as many again for each line of a story, or what a video taken over has. The end
    stays while the story does; a slider with another one is a new one, which is told its value.
    """
    lines = story() if "storyboard" in controls_of(spec) else []
    most, frames = int(min(PAGE_FRAMES.most * (1 + len(lines)), NUM_FRAMES.most)), get("num_frames")
    end: int
    known, end = st.session_state.get("longest", (0, 0))
    if most != known or frames > end:
        end = max(most, frames)
        st.session_state["longest"] = (most, end)
        put("num_frames", frames)
    return end


def request_fields(spec: ModelSpec) -> dict[str, Any]:
    """The form as the fields of a request; files count only in the mode that uses them, SkyReels settings only where
    they are shown.
    """
    mode = Mode(get("mode"))
    found = {field: get(field) for field in DEFAULTS if get(field) is not None}
    own = found.pop("lora_windows") and spec.diffusion_forcing
    uses = {name: strengths(name) for name in found.pop("loras")}
    if uses:
        found["loras"] = [{"name": name, "strength": each if own else each[:1]} for name, each in uses.items()]
    found |= {row.name: get(row.name) for row in INPUTS.values() if mode in row.modes and get(row.name)}
    options = {name: get(name) for name in controls_of(spec) if get(name) != SKYREELS[name]}
    if options.pop("storyboard", ""):
        options["storyboard"] = story()
    return found | ({"skyreels": options} if options else {})


def restore(request: GenerationRequest, plan: Plan, *, seed: int | None) -> None:
    """Fill the form with an earlier request at the next run of the Create page; a `seed` of None draws a new one."""
    fields = {
        name: value for name, value in request.model_dump(mode="json").items() if name in DEFAULTS or name in INPUTS
    }
    fields["loras"] = [use.name for use in request.loras]
    fields["lora_windows"] = any(len(use.strength) > 1 for use in request.loras)
    for use in request.loras:
        fields |= {
            strength_key(use.name, window).removeprefix("form_"): value for window, value in enumerate(use.strength)
        }
    fields |= {
        "num_frames": plan.num_frames,
        "fps": plan.fps,
        "num_inference_steps": plan.num_inference_steps,
        "guidance_scale": plan.guidance_scale,
        "seed": seed,
    }
    if request.resolution not in ("540p", "720p"):
        fields["resolution"] = "540p"
    options = request.skyreels.model_dump(mode="json")
    options["storyboard"] = "\n".join(" ".join(told.split()) for told in request.skyreels.storyboard)
    fields |= {name: options[name] or default for name, default in SKYREELS.items()}
    st.session_state["form_to_restore"] = fields


def edit(job_id: str, request: GenerationRequest, plan: Plan) -> None:
    """Fill the form with a waiting job's request; the next Generate replaces that job, which is held until then."""
    restore(request, plan, seed=request.seed)
    st.session_state["replaces"] = job_id


def roll_the_dice() -> None:
    put("seed", secrets.randbelow(int(SEED.most) + 1))
