"""The request, the bounds of its fields, and the errors for a bad one.

Bounds are written here once; widgets, routes and flags read them.
"""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from backend.core.errors import InvalidRequest, Mention, Words, mention
from backend.core.inputs import INPUTS, mode_title, required_inputs
from backend.core.inputs import Mode as Mode
from backend.core.text import is_blank


class Bounds(NamedTuple):
    """The least and the greatest legal value, both included."""

    least: float
    most: float

    def __str__(self) -> str:
        """
        >>> f"{SEED}", f"{SECONDS}"
        ('0 to 4294967295', '0.5 to 182')
        """
        return " to ".join(str(side) if isinstance(side, int) else f"{side:g}" for side in self)


FPS = Bounds(8, 30)
STEPS = Bounds(10, 50)
DRAFT_STEPS = Bounds(1, 49)  # a draft stops before the last step
GUIDANCE_SCALE = Bounds(1.0, 20.0)
CROP_POSITION = Bounds(0.0, 1.0)
NUM_FRAMES = Bounds(16, 1457)  # 1457 frames are a minute at 24 fps, the longest video of the original's examples
PAGE_FRAMES = Bounds(16, 128)  # what the Create page's slider offers, without a story
SECONDS = Bounds(0.5, 182.0)
SIDE = Bounds(64, 1920)  # pixels; both sides even, as yuv420p wants them
SEED = Bounds(0, 2**32 - 1)
RANDOM_SEED = -1  # draws one when the request is queued
FLOW_SHIFT = Bounds(1.0, 20.0)
WINDOW_FRAMES = Bounds(17, 257)
OVERLAP_FRAMES = Bounds(5, 97)
ADDNOISE = Bounds(0, 100)
AR_STEP = Bounds(0, 50)  # as many as there are steps: then each block waits for the one before to finish
BLOCK = Bounds(1, 12)  # latent frames; two of 12 fit into the usual window of 97 frames
PROMPT_LENGTH = 4000  # characters; the text encoder reads 512 tokens
STORYBOARD_LENGTH = 30  # prompts after the first
STRENGTH = Bounds(-4.0, 4.0)
LORAS_MOST = 8
FEWEST_STEPS = 4  # with a LoRA that was made for few

DEFAULT_FRAMES = 64
DEFAULT_FPS = 24
DEFAULT_BLOCK = 5  # latent frames, as the original's authors recommend together with ar_step=5

UPLOAD_ID = r"[0-9a-z]{20}"
USUAL_MINIMUM = "x-usual-minimum"  # in the JSON schema of a field: the least value that is shown as a bound


class Orientation(str, Enum):
    LANDSCAPE = "landscape"
    PORTRAIT = "portrait"
    SQUARE = "square"


class Fit(str, Enum):
    """How an input of another shape meets the frame: `crop` fills it, `letterbox` shows all of the input."""

    CROP = "crop"
    LETTERBOX = "letterbox"


class Preset(str, Enum):
    """What may be traded for speed: nothing, a little, or what a draft can do without."""

    EXACT = "exact"
    BALANCED = "balanced"
    TURBO = "turbo"


class Fidelity(str, Enum):
    """Whose arithmetic a render follows.

    `original`: SkyReels V2 as its authors run it, with guidance in float32 and a solver that remembers what it was
    given. `diffusers`: the pipelines of that library bit for bit, for comparing with videos made there.
    """

    ORIGINAL = "original"
    DIFFUSERS = "diffusers"


SIZES: dict[tuple[str, Orientation], tuple[int, int]] = {
    ("540p", Orientation.LANDSCAPE): (960, 540),
    ("540p", Orientation.PORTRAIT): (540, 960),
    ("540p", Orientation.SQUARE): (720, 720),
    ("720p", Orientation.LANDSCAPE): (1280, 720),
    ("720p", Orientation.PORTRAIT): (720, 1280),
    ("720p", Orientation.SQUARE): (960, 960),
}


def draw_seed() -> int:
    """A random seed."""
    return secrets.randbelow(int(SEED.most) + 1)


def orientation_of(width: int, height: int) -> Orientation:
    """The orientation of a picture; square where one side is at most a tenth longer than the other.

    >>> [orientation_of(*size).value for size in ((1920, 1080), (1080, 1350), (1000, 1080))]
    ['landscape', 'portrait', 'square']
    """
    if 10 * max(width, height) <= 11 * min(width, height):
        return Orientation.SQUARE
    return Orientation.LANDSCAPE if width > height else Orientation.PORTRAIT


def between(bounds: Bounds, default: Any = ..., *, title: str, description: str) -> Any:
    return Field(default, ge=bounds.least, le=bounds.most, title=title, description=description)


def of_input(name: str) -> Any:
    """The field of an input, called and explained as in its row of `INPUTS`."""
    row = INPUTS[name]
    return Field(None, title=row.label, description=f"{row.help} The id of an upload.")


def _number(value: Any) -> Any:
    """`value`, unless it is one of JSON's look-alikes, true and "12", which Python would take for numbers."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("number_type", "input should be a number")
    return value


def _scene(text: str) -> str:
    """`text`, unless nothing of it can be seen."""
    if is_blank(text):
        raise PydanticCustomError("string_too_short", "it is empty")
    return text


def _upload_id(value: str, info: ValidationInfo) -> str:
    if not re.fullmatch(UPLOAD_ID, value):
        way_out = "send the file to /api/v1/uploads first."
        raise InvalidRequest("is not the id of an upload;", hint=way_out, field=info.field_name, value=value)
    return value


UploadId = Annotated[str, AfterValidator(_upload_id)]
Scene = Annotated[str, StringConstraints(strip_whitespace=True, max_length=PROMPT_LENGTH), AfterValidator(_scene)]


AR_STEP_FIELD = mention("skyreels.ar_step")
CAUSAL_FIELD = mention("skyreels.causal_attention")
ORIGINAL = mention("skyreels.fidelity", Fidelity.ORIGINAL)


def _only_of_the_original(name: str, reason: str) -> InvalidRequest:
    way_out: list[str | Mention] = ["leave it out or use ", ORIGINAL, "."]
    return InvalidRequest(f"is not possible: {reason};", hint=way_out, field=f"skyreels.{name}", value=True)


class SkyReelsOptions(BaseModel):
    """Diffusion-forcing settings by the names of the pipelines; None means the model's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storyboard: tuple[Scene, ...] = Field(
        (),
        max_length=STORYBOARD_LENGTH,
        title="Storyboard",
        description="What the windows after the first show, a prompt for each; the last one stays.",
    )
    base_num_frames: int | None = between(
        WINDOW_FRAMES,
        None,
        title="Frames per window",
        description="Frames that the model sees at once, 4k+1. Fewer take less memory, but motion may forget what came"
        " before.",
    )
    overlap_history: int | None = between(
        OVERLAP_FRAMES,
        None,
        title="Shared frames",
        description="Frames that a window repeats of the one before, 4k+1. More make smoother joins and more work.",
    )
    addnoise_condition: int = between(
        ADDNOISE,
        0,
        title="Noise on shared frames",
        description="Noise on the frames that windows share: about 20 lets long videos drift less.",
    )
    flow_shift: float | None = between(
        FLOW_SHIFT,
        None,
        title="Flow shift",
        description="Higher spends more of the steps on layout and motion, lower on texture.",
    )
    ar_step: int = between(
        AR_STEP,
        0,
        title="Async step delay",
        description="Frames come in blocks, each this many steps behind the one before: steadier motion, more steps."
        " 0 denoises all frames together.",
    )
    causal_block_size: int | None = between(
        BLOCK,
        None,
        title="Block size (latent frames)",
        description="Latent frames, of four frames each, that are denoised together where blocks wait.",
    )
    causal_attention: bool = Field(
        False,
        strict=True,
        title="Causal attention",
        description="Blocks see only themselves and earlier ones. For weights that were trained so; the released ones"
        " draw a worse picture.",
    )
    batch_guidance: bool = Field(
        False,
        strict=True,
        title="Batch guidance",
        description="Both model calls of guidance in one: often a little faster, more memory, the same picture but for"
        " rounding.",
    )
    fidelity: Fidelity = Field(
        Fidelity.ORIGINAL,
        title="Reference",
        description="Whose results are matched: SkyReels V2 as its authors run it, or the pipelines of diffusers bit"
        " for bit.",
    )

    _numbers = field_validator(
        "base_num_frames",
        "overlap_history",
        "addnoise_condition",
        "flow_shift",
        "ar_step",
        "causal_block_size",
        mode="before",
    )(_number)

    @field_validator("base_num_frames", "overlap_history")
    @classmethod
    def _packs_into_latents(cls, frames: int | None, info: ValidationInfo) -> int | None:
        if frames is not None and frames % 4 != 1:
            below = frames - (frames - 1) % 4
            raise InvalidRequest(
                "is not 4k+1 (the VAE packs 4 frames into one latent frame);",
                hint=f"use {below} or {below + 4}.",
                field=f"skyreels.{info.field_name}",
                value=frames,
            )
        return frames

    @model_validator(mode="after")
    def _go_together(self) -> SkyReelsOptions:
        if self.block == 1 and (self.causal_block_size or 1) > 1:
            raise InvalidRequest(
                ["needs ", AR_STEP_FIELD, ", by which a block lags behind the one before, or ", CAUSAL_FIELD, ";"],
                hint="leave it out, or set one of these.",
                field="skyreels.causal_block_size",
                value=self.causal_block_size,
            )
        if self.fidelity is Fidelity.DIFFUSERS:
            if self.causal_attention:
                raise _only_of_the_original("causal_attention", "the pipelines of diffusers do not know it")
            if self.batch_guidance:
                raise _only_of_the_original("batch_guidance", "the pipelines of diffusers make two calls")
        return self

    @property
    def block(self) -> int:
        """Latent frames that go down the noise levels together or see one another; 1 where all do."""
        return (self.causal_block_size or DEFAULT_BLOCK) if self.ar_step or self.causal_attention else 1

    @property
    def needs_forcing(self) -> bool:
        """Whether only a model that gives every latent frame its own noise level can do it."""
        windows = self.storyboard or self.base_num_frames or self.overlap_history
        return bool(windows or self.ar_step or self.causal_attention)


class LoraUse(BaseModel):
    """A LoRA in models/loras, by its file's name without the suffix, after its subfolders ("styles/grain"). `strength`
    is a number, or one for each window, of which the last one stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(
        min_length=1, max_length=255, title="LoRA", description="The name of its file without the suffix."
    )
    strength: tuple[Annotated[float, Field(ge=STRENGTH.least, le=STRENGTH.most)], ...] = Field(
        (1.0,),
        min_length=1,
        max_length=STORYBOARD_LENGTH + 1,
        title="Strength",
        description="How strongly it changes the video: a number, or one for each window, of which the last one stays.",
    )

    @field_validator("strength", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return tuple(_number(one) for one in value) if isinstance(value, list | tuple) else (_number(value),)

    def strength_in(self, window: int) -> float:
        """In window number `window`, from 0."""
        return self.strength[min(window, len(self.strength) - 1)]


class GenerationRequest(BaseModel):
    """A request for one video. Frozen; a missing seed is drawn at once, so that every request can be repeated."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    kind: Literal["render"] = Field("render", exclude=True, title="Kind", description="The kind of job: render.")
    mode: Mode = Field(
        Mode.TEXT_TO_VIDEO,
        title="Mode",
        description="What the video starts from: the prompt alone, a picture, or the end of another video.",
    )
    prompt: str = Field("", max_length=PROMPT_LENGTH, title="Prompt", description="What the video should show.")
    negative_prompt: str = Field(
        "", max_length=PROMPT_LENGTH, title="Negative prompt", description="What the video should not show."
    )
    image: UploadId | None = of_input("image")
    end_image: UploadId | None = of_input("end_image")
    video: UploadId | None = of_input("video")
    fit: Fit = Field(
        Fit.CROP,
        title="If the input has a different shape",
        description="How an input of another shape meets the frame: crop fills it, letterbox adds black bars.",
    )
    crop_position: float = between(
        CROP_POSITION,
        0.5,
        title="Part that is kept",
        description="Which part of an input of another shape crop keeps: 0 is its left or upper end, 1 the other.",
    )
    model: str = Field(
        "auto",
        min_length=1,
        max_length=200,
        title="Model",
        description="The id of the model that renders; auto takes the best one here that this machine can run.",
    )
    resolution: str = Field(
        "540p", title="Size", description="540p, 720p or WIDTHxHEIGHT in pixels, both sides even and from 64 to 1920."
    )
    orientation: Orientation = Field(
        Orientation.LANDSCAPE,
        title="Shape",
        description="The shape of 540p and 720p: 16:9, 9:16 or 1:1; if left out, that of the picture or video.",
    )
    num_frames: int | None = between(NUM_FRAMES, None, title="Length", description="New frames, delivered exactly.")
    seconds: float | None = between(
        SECONDS, None, title="Length in seconds", description="The length, instead of the number of frames."
    )
    fps: int | None = between(FPS, None, title="Frames per second", description="The frame rate of the finished video.")
    num_inference_steps: int | None = Field(
        None,
        ge=FEWEST_STEPS,
        le=STEPS.most,
        title="Steps",
        description="Denoising steps: more is finer and slower. A LoRA made for few steps allows as few as 4.",
        json_schema_extra={USUAL_MINIMUM: STEPS.least},
    )
    draft_steps: int | None = between(
        DRAFT_STEPS,
        None,
        title="Draft steps",
        description="Stops after so many of the steps and shows what the video will be; promoting the draft makes the"
        " rest of them.",
    )
    guidance_scale: float | None = between(
        GUIDANCE_SCALE,
        None,
        title="Guidance",
        description="How closely the video follows the prompt.",
    )
    seed: int = Field(
        default_factory=draw_seed,
        ge=RANDOM_SEED,
        le=SEED.most,
        title="Seed",
        description="The same seed with the same settings makes the same video again; -1 draws one.",
        json_schema_extra={USUAL_MINIMUM: SEED.least},
    )
    preset: Preset = Field(
        Preset.EXACT,
        title="Quality",
        description="exact computes every step, balanced less than half of them, turbo a third, for drafts.",
    )
    loras: tuple[LoraUse, ...] = Field(
        (),
        max_length=LORAS_MOST,
        title="LoRAs",
        description="What is added to the model: style, subject, fewer steps.",
    )
    skyreels: SkyReelsOptions = Field(
        SkyReelsOptions(), title="SkyReels options", description="Windows, blocks and arithmetic of the denoising."
    )

    _numbers = field_validator(
        *("num_frames", "seconds", "fps", "num_inference_steps", "draft_steps", "guidance_scale", "seed"),
        "crop_position",
        mode="before",
    )(_number)

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _what_nobody_sees_is_empty(cls, text: str) -> str:
        return "" if is_blank(text) else text

    @model_validator(mode="before")
    @classmethod
    def _null_seed_is_no_seed(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("seed", 0) is None:
            return {name: value for name, value in data.items() if name != "seed"}
        return data

    @field_validator("resolution")
    @classmethod
    def _known_resolution(cls, value: str) -> str:
        parse_resolution(value)
        return value

    @model_validator(mode="after")
    def _loras_and_steps(self) -> GenerationRequest:
        names = [use.name for use in self.loras]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InvalidRequest([mention("loras"), f" has {twice[:80]!r} twice;"], hint="use it once.", field="loras")
        if self.num_inference_steps is not None and self.num_inference_steps < STEPS.least and not self.loras:
            raise InvalidRequest(
                "is below the least that is possible without a LoRA made for few steps;",
                hint=f"use {STEPS}.",
                field="num_inference_steps",
                value=self.num_inference_steps,
            )
        return self

    @model_validator(mode="after")
    def _preset_fits_the_fidelity(self) -> GenerationRequest:
        if self.preset is not Preset.EXACT and self.skyreels.fidelity is Fidelity.DIFFUSERS:
            raise InvalidRequest(
                "is not possible: the pipelines of diffusers compute every step;",
                hint=["use ", mention("preset", Preset.EXACT), " or ", ORIGINAL, "."],
                field="preset",
                value=self.preset,
            )
        return self

    @model_validator(mode="after")
    def _fits_the_mode(self) -> GenerationRequest:
        if self.num_frames is not None and self.seconds is not None:
            raise InvalidRequest(
                ["and ", mention("seconds", self.seconds), " both give the length;"],
                hint="send one.",
                field="num_frames",
                value=self.num_frames,
            )
        if self.mode is Mode.TEXT_TO_VIDEO and not self.prompt:
            raise self._misses("prompt", "a prompt", "write what the video should show.")
        for row in required_inputs(self.mode):
            if not getattr(self, row.name):
                raise self._misses(row.name, row.kind.noun, f"give {row.kind.formats} (its id, once it is uploaded).")
        for row in INPUTS.values():
            if getattr(self, row.name) and self.mode not in row.modes:
                raise InvalidRequest(
                    [mention(row.name), f" is given, but {self.mode.value} does not use it;"],
                    hint=["leave it out or change the ", mention("mode"), "."],
                    field=row.name,
                )
        return self

    def _misses(self, field: str, what: str, way_out: str) -> InvalidRequest:
        needs = f" is missing: {self.mode.value} needs {what};"
        return InvalidRequest([mention(field), needs], hint=way_out, field=field)

    @property
    def follows_material(self) -> bool:
        """Whether the shape is that of the picture or video, because the request names none."""
        named_size = (self.resolution, Orientation.LANDSCAPE) in SIZES
        return named_size and "orientation" not in self.model_fields_set

    def with_seed(self) -> GenerationRequest:
        """This request with a seed that is drawn for RANDOM_SEED; as one that was left out, it is not among the fields
        that are set.
        """
        if self.seed != RANDOM_SEED:
            return self
        drawn = self.model_copy(update={"seed": draw_seed()})
        drawn.model_fields_set.discard("seed")
        return drawn

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the delivered video, in pixels."""
        named = SIZES.get((self.resolution, self.orientation))
        return named or parse_resolution(self.resolution)

    @property
    def title(self) -> str:
        """What its job is called in lists: the prompt, or the mode where there is none."""
        return self.prompt or mode_title(self.mode.value)

    def prompt_of(self, window: int) -> str:
        """What window number `window`, from 0, shows. Windows beyond the storyboard keep its last prompt."""
        prompts = (self.prompt, *self.skyreels.storyboard)
        return prompts[min(window, len(prompts) - 1)]


def parse_resolution(value: str) -> tuple[int, int]:
    """Width and height of `540p`, `720p` (as landscape) or `WIDTHxHEIGHT`, in pixels; InvalidRequest otherwise."""
    if (value, Orientation.LANDSCAPE) in SIZES:
        return SIZES[value, Orientation.LANDSCAPE]
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)
    if not match:
        raise _no_size(value, "is not a resolution;", "use 540p, 720p or WIDTHxHEIGHT such as 640x360.")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if not SIDE.least <= side <= SIDE.most:
            raise _no_size(value, f"has a side of {side} pixels;", f"both sides go from {SIDE.least} to {SIDE.most}.")
        if side % 2:
            raise _no_size(value, "has an odd side, which H.264 cannot store;", f"use {side - 1} or {side + 1}.")
    return width, height


def _no_size(value: str, reason: str, way_out: str) -> InvalidRequest:
    return InvalidRequest(reason, hint=way_out, field="resolution", value=value)


def parse_request(data: Mapping[str, Any]) -> GenerationRequest:
    """The request in `data`; InvalidRequest names the first value that is wrong, the reason and the way out."""
    try:
        return GenerationRequest.model_validate(dict(data))
    except ValidationError as error:
        raise explain(error.errors()) from None


def explain(errors: Sequence[Any], model: type[BaseModel] | None = None) -> InvalidRequest:
    """One sentence from pydantic's error list (its first entry): value, reason, way out. `model` is what was validated,
    by default the request of a render.
    """
    error = errors[0]
    path = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    if (error["type"] == "json_invalid" or not path) and (refusal := _of_the_body(error)):
        return InvalidRequest(refusal[0], hint=refusal[1])
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequest):
        return cause
    return _of_a_field(error, path, model or GenerationRequest)


def _of_the_body(error: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and way out where there is no request at all."""
    match error["type"]:
        case "json_invalid":
            reason = error.get("ctx", {}).get("error", "it cannot be read")
            return f"The body is not JSON ({reason});", "send a JSON object with the request's fields."
        case "model_attributes_type" if isinstance(error.get("input"), str | bytes):
            return "The body is not said to be JSON;", "send it with the header Content-Type: application/json."
        case "missing" | "model_attributes_type" | "model_type" | "dict_type":
            return "The body is no JSON object;", 'send the request\'s fields, such as {"prompt": ...}.'
    return None


def _of_a_field(error: Mapping[str, Any], path: Sequence[str], model: type[BaseModel]) -> InvalidRequest:
    """Why pydantic found a field wrong, or the whole."""
    value, context, bounds = error.get("input"), error.get("ctx", {}), _bounds_of(path, model)
    lora = path[:1] == ["loras"]
    field = ".".join(path) or None
    name: str | Mention = mention(field) if field else "the request"
    entries = "numbers" if "strength" in path else "LoRAs" if lora else "prompts"

    def wrong(reason: str, way_out: str) -> InvalidRequest:
        """About the value."""
        if field is None:
            return InvalidRequest([name, f" {reason}"], hint=way_out)
        return InvalidRequest(reason, hint=way_out, field=field, value=value)

    def odd(reason: str, way_out: Words) -> InvalidRequest:
        """About the field; its value, if it has any, is not shown."""
        return InvalidRequest([name, f" {reason}"], hint=way_out, field=field)

    match error["type"]:
        case "missing" | "model_type" | "model_attributes_type" if lora:
            return odd("is no LoRA;", 'send objects such as {"name": "grain", "strength": 0.8}.')
        case "missing":
            return odd("is missing;", "send it.")
        case "model_type" | "model_attributes_type":
            return wrong("is no object;", "send {...}, or leave it out.")
        case "extra_forbidden":
            known = _part_at(path, model).model_fields
            if near := difflib.get_close_matches(path[-1], known, n=1):
                similar = near[0] if lora else mention(".".join([*path[:-1], near[0]]))
                return odd("is not a field of a request;", ["did you mean ", similar, "?"])
            return odd("is not a field of a request;", f"the fields are {', '.join(known)}.")
        case "enum" | "literal_error":
            return wrong("is not a choice;", f"use {context.get('expected')}.")
        case "string_too_long":
            return odd(f"has {len(str(value))} characters;", f"use at most {context['max_length']}.")
        case "string_too_short":
            return odd("is empty;", "fill it in, or leave it out.")
        case "tuple_type":
            return wrong("is no list;", f"send a list of {entries}.")
        case "too_long":
            return odd(f"has {context['actual_length']} {entries};", f"use at most {context['max_length']}.")
        case "greater_than_equal" if bounds:
            few_steps = path[-1] == "num_inference_steps"
            fewer = f", or from {FEWEST_STEPS} on with a LoRA made for few steps" if few_steps else ""
            return wrong("is below the least that is possible;", f"use {bounds}{fewer}.")
        case "less_than_equal" if bounds:
            return wrong("is above the most that is possible;", f"use {bounds}.")
        case "number_type" if bounds:
            unquoted = ", without quotes" if isinstance(value, str) else ""
            return wrong("is no number;", f"use {bounds}{unquoted}.")
        case _ if bounds:
            return wrong("is not a number that fits;", f"use {bounds}.")
        case "bool_type":
            return wrong("is not a choice;", "use true or false.")
    return wrong("does not fit;", f"{error['msg'][0].lower()}{error['msg'][1:]}.")


def _part_at(path: Sequence[str], model: type[BaseModel]) -> type[BaseModel]:
    """The model that the last name of `path` is a field of."""
    parts: dict[str, type[BaseModel]] = {"skyreels": SkyReelsOptions, "loras": LoraUse}
    return parts.get(path[0], model) if len(path) > 1 else model


def _bounds_of(path: Sequence[str], model: type[BaseModel]) -> Bounds | None:
    if "strength" in path:
        return STRENGTH
    info = _part_at(path, model).model_fields.get(path[-1]) if path else None
    return _bounds(info) if info else None


def _bounds(info: FieldInfo) -> Bounds | None:
    """The bounds that a field is shown with."""
    limits = {type(rule).__name__: rule for rule in info.metadata}
    if "Ge" not in limits or "Le" not in limits:
        return None
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    least: Any = extra.get(USUAL_MINIMUM, limits["Ge"].ge)
    return Bounds(least, limits["Le"].le)


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a request as every client shows it; `field` is dotted, `help` says what it does to the video."""

    name: str
    field: str
    title: str
    help: str
    bounds: Bounds | None
    annotation: Any

    @property
    def is_skyreels(self) -> bool:
        return self.field != self.name

    @property
    def help_with_bounds(self) -> str:
        """
        >>> SETTINGS["fps"].help_with_bounds
        'The frame rate of the finished video. 8 to 30.'
        """
        return f"{self.help} {self.bounds}." if self.bounds else self.help


def _setting(name: str, info: FieldInfo, prefix: str) -> Setting:
    help_text = INPUTS[name].help if name in INPUTS else info.description or ""
    return Setting(name, f"{prefix}{name}", info.title or name, help_text, _bounds(info), info.annotation)


SETTINGS: dict[str, Setting] = {
    name: _setting(name, info, prefix)
    for prefix, model in (("", GenerationRequest), ("skyreels.", SkyReelsOptions))
    for name, info in model.model_fields.items()
    if name not in ("kind", "skyreels")
}
