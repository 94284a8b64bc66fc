"""The page of the models, docs/models.md, from the registry and the stand-ins that the tests make of them.

python -m benchmarks.models
"""

from __future__ import annotations

from collections.abc import Iterable

from backend.core.config import ROOT
from backend.core.placement import USABLE_VRAM, Placement
from backend.core.plan import Machine
from backend.core.planning import make_plan
from backend.core.registry import I2V, MODELS, PIXELS_480P, PIXELS_540P, PIXELS_720P, TINY, ModelSpec
from backend.core.schema import Mode, Preset, parse_request
from tests.tiny_checkpoints import PIPELINES, RELEASED

PAGE = ROOT / "docs" / "models.md"

HEAD = """# Models

Made from the registry (`backend/core/registry.py`) by `python -m benchmarks.models`. *Fetch* one on the Models page
or with `./launch.sh models download NAME`.

## What each can do

*Size* is the largest that it draws; a larger video is enlarged. *Window* is how many frames it makes at once, at its
own rate: a diffusion-forcing model (DF) makes longer videos window by window, the others make one. *Steps, guidance,
shift* are its defaults. Of two experts one takes the strong noise, the other the rest.
"""

MEMORY = """
## From how much memory of a GPU on

For 64 frames of 540p, as forecast, by what is free on the GPU (a card of 24 GB has about 23.5 GiB): with all models on
it, with each there only while it works (of the text encoder, layer after layer), and with the transformer, too, passing
through layer by layer. The studio takes the first that fits, decoding in half precision where it must; longer windows
and larger frames take more, and the plan says how much. `balanced` and `turbo` keep the matrices of a transformer of
8 GiB or more in eight bits. Whatever is not on the GPU lies in main memory: the weights, in GiB of bfloat16 in the last
column, and 12 of the text encoder.
"""

TESTED = """
## What was tested here, and what only the weights can tell

No released weights were at hand. For every row the tests make a small checkpoint of random numbers with the same
pipeline class and the same flags, only fewer and narrower layers; it is found by its folder's name, planned with its
row, and rendered by the engine in every mode that the row claims (`tests/test_model_matrix.py`). The latents are
compared, bit for bit, with those of the stock pipeline of diffusers that is named (`tests/diffusion/test_sampler.py`,
`tests/diffusion/test_wan.py`).
"""

UNKNOWN = """
Only a machine with the weights can tell whether the pictures are good, whether the files on the hub are laid out as
these are, how much memory a render really takes, and how long it lasts. One command looks:

    ./launch.sh models verify NAME --render

It hashes the files, makes a short video of every kind that the model claims, and says what is wrong with each as far
as numbers tell: that it shows something, that it is no noise, that it moves, that a given picture returns, that a
video goes on where it ended. The videos stay in the gallery for your eyes. SkyReels V2 Tiny passes it.
"""

SIZES = {
    PIXELS_480P: "832x480",
    PIXELS_540P: "960x544",
    1280 * 704: "1280x704",
    PIXELS_720P: "1280x720",
    TINY.max_pixels: "160x96",
}
WORDS = {Mode.TEXT_TO_VIDEO: "text", Mode.IMAGE_TO_VIDEO: "image", Mode.VIDEO_EXTENSION: "extension"}


def page() -> str:
    """The page as it should be."""
    rows = [spec for spec in MODELS.values() if spec.needs_checkpoint]
    released = [spec for spec in rows if spec.repo_id]
    able = ["name", "modes", "size", "window, fps", "steps, guidance, shift", "licence, from"]
    memory = ["name", "all on the GPU", "in turns", "layer by layer", "in turns, `balanced`", "weights"]
    tested = ["name", "stands in for it", "rendered in", "same bits as"]
    return (
        HEAD
        + _table(able, map(_abilities, rows))
        + MEMORY
        + _table(memory, map(_memory, released))
        + TESTED
        + _table(tested, map(_tested, released))
        + UNKNOWN
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _modes(spec: ModelSpec) -> str:
    words = [WORDS[mode] for mode in Mode if mode in spec.modes]
    return ", ".join([*words, *(["end picture"] if spec.end_image else [])])


def _abilities(spec: ModelSpec) -> list[str]:
    guidance = f"{spec.guidance_scale:g}" + (f" and {spec.guidance_scale_2:g}" if spec.guidance_scale_2 else "")
    defaults = f"{spec.num_inference_steps}, {guidance}, {spec.flow_shift:g}"
    source = f"`{spec.repo_id}`" if spec.repo_id else "comes with the studio"
    window = f"{spec.base_num_frames}, {spec.fps}" + (", window by window" if spec.diffusion_forcing else "")
    return [f"`{spec.id}`", _modes(spec), SIZES[spec.max_pixels], window, defaults, f"{spec.licence}, {source}"]


def _memory(spec: ModelSpec) -> list[str]:
    fields = {"prompt": "-", "model": spec.id, "num_frames": 64}
    if I2V in spec.modes and len(spec.modes) == 1:
        fields |= {"mode": "image_to_video", "image": "0" * 20}

    def least(preset: Preset) -> dict[Placement, str]:
        """The smallest GPU for each way."""
        found: dict[Placement, str] = {}
        request = parse_request(fields | {"preset": preset})
        for vram in (half / 2 for half in range(6, 284)):
            plan = make_plan(request, spec, Machine("a GPU", 16, 128, vram))
            if plan.forecast.peak_gib <= USABLE_VRAM * vram:
                found.setdefault(plan.placement, f"{vram:g} GiB")
        return found

    exact, balanced = least(Preset.EXACT), least(Preset.BALANCED)
    experts = " in two experts" if spec.experts == 2 else ""
    ways = [exact.get(way, "") for way in Placement]
    return [f"`{spec.id}`", *ways, balanced[Placement.MODEL_OFFLOAD], f"{spec.weights_gib:.1f}{experts}"]


def _tested(spec: ModelSpec) -> list[str]:
    kind, flags = RELEASED[spec.id]
    changed = ", ".join(f"{name}={value}" for name, value in flags.items())
    pipelines = {
        "df": "`SkyReelsV2DiffusionForcingPipeline` and its image and video siblings",
        "wan-ti2v": "`WanPipeline`, `WanImageToVideoPipeline`",
    }
    return [
        f"`{spec.id}`",
        f"{kind}{f' with {changed}' if changed else ''}",
        _modes(spec) + (", two windows, frame by frame" if spec.diffusion_forcing else ""),
        pipelines.get(kind, f"`{PIPELINES[kind]}`"),
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
