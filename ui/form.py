"""The Create form's state: the widgets' names, the request they add up to, and how a request fills them again."""

from __future__ import annotations

import contextlib
from typing import Any

import streamlit as st

from backend.core.errors import StudioError
from backend.core.inputs import INPUTS
from backend.core.plan import Plan
from backend.core.registry import ModelSpec
from backend.core.schema import (
    DEFAULT_FRAMES,
    NUM_FRAMES,
    PAGE_FRAMES,
    SETTINGS,
    Fidelity,
    GenerationRequest,
    Mode,
    Orientation,
    Preset,
    draw_seed,
    orientation_of,
)
from ui.studio import studio

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
    "loras": [],  # their names; the strength of each is stored under `strength_key`
    "lora_windows": False,
}
SKYREELS: dict[str, Any] = {
    "storyboard": "",  # on the page one line per window
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
    """The strength in each window, as far as they were set; one for all windows unless each has its own."""
    found: list[float] = []
    while (key := strength_key(lora, len(found))) in st.session_state and (not found or get("lora_windows")):
        found.append(st.session_state[key])
    return found or [1.0]


def get(field: str) -> Any:
    return st.session_state.get(key(field), (DEFAULTS | SKYREELS).get(field))


def put(field: str, value: Any) -> None:
    st.session_state[key(field)] = value


def worded(error: StudioError) -> str:
    """The message of `error`, with the page's names for the settings."""
    return error.worded({setting.field: f'"{setting.title}"' for setting in SETTINGS.values()}, equals=" ")


def prepare() -> None:
    """Before the first widget: fill in the request that another page restores, and the defaults."""
    waiting: dict[str, Any] | None = st.session_state.pop("form_to_restore", None)
    for field, value in (waiting or {}).items():
        put(field, value)
    if waiting and "storyboard" in waiting:  # the whole request of a video
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
    """The prompts of the windows after the first, one per line."""
    return [line for line in get("storyboard").splitlines() if line.strip()]


def longest(spec: ModelSpec) -> int:
    """The largest number of frames of the slider: PAGE_FRAMES for each prompt, or the length of a restored request.

    It changes only when the number of prompts does: Streamlit resets the value of a slider whose bounds change.
    """
    lines = story() if "storyboard" in controls_of(spec) else []
    most, frames = int(min(PAGE_FRAMES.most * (1 + len(lines)), NUM_FRAMES.most)), get("num_frames")
    end: int
    known_most, end = st.session_state.get("longest", (0, 0))
    if most != known_most or frames > end:
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
    if not get("orientation_chosen"):  # it is that of the picture or video
        found.pop("orientation")
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
    """Fill the form with an earlier request at the next run of the Create page; `seed=None` picks a random one."""
    fields = {
        name: value for name, value in request.model_dump(mode="json").items() if name in DEFAULTS or name in INPUTS
    }
    fields["orientation_chosen"] = True
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
        fields |= {"resolution": "540p", "orientation": orientation_of(*request.size).value}
    options = request.skyreels.model_dump(mode="json")
    options["storyboard"] = "\n".join(" ".join(prompt.split()) for prompt in request.skyreels.storyboard)
    fields |= {name: options[name] or default for name, default in SKYREELS.items()}
    st.session_state["form_to_restore"] = fields


def edit(job_id: str, request: GenerationRequest, plan: Plan) -> None:
    """Fill the form with a waiting job's request; the next Generate replaces that job, which is paused until then."""
    restore(request, plan, seed=request.seed)
    st.session_state["replaces"] = job_id


def put_seed() -> None:
    put("seed", draw_seed())


def choose_orientation() -> None:
    put("orientation_chosen", True)


def follow_material() -> None:
    """Set the orientation to that of the picture or video, unless one was chosen: as the plan of the request will."""
    if get("orientation_chosen"):
        return
    found = Orientation.LANDSCAPE
    material = [name for name in ("video", "image") if Mode(get("mode")) in INPUTS[name].modes and get(name)]
    if material:
        with contextlib.suppress(StudioError):  # cleaned up meanwhile
            upload = studio().uploads.get(get(material[0]))
            found = orientation_of(upload.width, upload.height)
    put("orientation", found.value)
