"""Models as data: what each can do, its defaults and what it needs. A new model is a row here and a test.

Sources: the model cards of the SkyReels-V2 and Wan families (sizes, windows, shift, guidance; Wan's own defaults where
its cards are silent) and the configurations of the converted checkpoints (layers, dim, ffn_dim). Memory is in GiB of
2**30 bytes, in bfloat16, counted from those shapes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.core.schema import Mode
from backend.core.vocabulary import DIRECTED_FORMS, PAINTED_WORDS

T2V, I2V, EXTEND = Mode.TEXT_TO_VIDEO, Mode.IMAGE_TO_VIDEO, Mode.VIDEO_EXTENSION
ALL_MODES = frozenset({T2V, I2V, EXTEND})

PIXELS_540P = 960 * 544
PIXELS_720P = 1280 * 720
PIXELS_480P = 832 * 480

DECODE_ELEMENTS = 5.0e3  # numbers that the decoder of Wan's VAE holds for one pixel of a frame

CINEMATIC_PROMPTS = (
    "A red fishing boat drifts on a calm sea at sunset, gulls circle above it, slow camera push in",
    "A fox walks through fresh snow in a birch forest, breath in the cold air, shallow depth of field",
    "An old lighthouse in a storm at night, waves break over the rocks, the beam sweeps past",
)
PAINTED_PROMPTS = (
    "A red boat drifts left on a calm sea at sunset",
    "A yellow balloon rises over green hills at dawn",
    "A white bird circles under the moon",
    "A blue car drives through the city at noon in the rain",
)


@dataclass(frozen=True, slots=True)
class Transformer:
    """The shape of a diffusion transformer, for counting its work: layers, width and feed-forward width. What controls
    it, in Wan-VACE, counts as more layers, `vace_layers` of them. `in_channels` are those of its input: the latents, in
    some models with what conditions them beside.

    `text_dim`, `image_dim` and `freq_dim` are the widths that come from the text encoder, the image encoder (0: it has
    no layers for one) and the sinusoids of the time.
    """

    layers: int
    dim: int
    ffn_dim: int
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    image_dim: int = 0
    freq_dim: int = 256
    vace_layers: int = 0
    vace_in_channels: int = 96

    @property
    def blocks(self) -> int:
        """Its layers without those that control it."""
        return self.layers - self.vace_layers


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. `weights_gib` is its transformers, `other_gib` what is loaded beside them (text encoder, VAE). Of two
    `experts` the first takes the strong noise and the second the rest, with `guidance_scale_2`.

    What a model can do is declared here, so that no other room asks which engine it is of.
    """

    id: str
    title: str
    engine: str  # "skyreels" or "synthetic"
    modes: frozenset[Mode]
    needs_checkpoint: bool = True  # its weights are read from a folder, by torch
    denoises: bool = True  # by a diffusion transformer, so that presets, blocks and guidance have an effect
    any_size: bool = False  # it makes frames of every width and height, not only multiples of the latent patches
    diffusion_forcing: bool = False
    end_image: bool = False
    family: str = "skyreels-v2"  # whose transformer it has: "skyreels-v2" or "wan"
    repo_id: str | None = None
    revision: str | None = None  # the commit of `repo_id` to fetch; None: its newest, resolved once and written down
    licence: str = ""
    max_pixels: int | None = PIXELS_540P  # it renders at most this many pixels a frame; larger videos are upscaled
    base_num_frames: int = 97
    overlap_history: int = 17
    fps: int = 24
    num_inference_steps: int = 30
    guidance_scale: float = 6.0
    guidance_scale_2: float | None = None  # None: as the first expert's
    flow_shift: float = 8.0
    spatial_factor: int = 8  # pixels a latent pixel stands for, along one side
    transformer: Transformer | None = None
    experts: int = 1
    decode_flops: float = 8.5e6  # of the VAE, for one pixel of one frame; of Wan's, counted at 97 frames of 960x544
    decode_elements: float = DECODE_ELEMENTS
    weights_gib: float = 0.0
    other_gib: float = 0.0
    vae_gib: float = 0.5  # of `other_gib`
    prompts: tuple[str, ...] = CINEMATIC_PROMPTS
    about: str = ""

    @property
    def many_windows(self) -> bool:
        """Whether a video may have more than one window, each with its own prompt."""
        return self.diffusion_forcing or not self.denoises

    @property
    def painted(self) -> bool:
        """Whether it knows the small painted world only."""
        return self.prompts is PAINTED_PROMPTS

    @property
    def words(self) -> frozenset[str] | None:
        """The words that it was trained on, of a small model; None where they cannot be listed."""
        return PAINTED_WORDS | DIRECTED_FORMS if self.painted else None

    def as_dict(self) -> dict[str, Any]:
        """The row as REST and `--json` show it."""
        return asdict(self) | {"modes": sorted(mode.value for mode in self.modes), "memory_gib": self.memory_gib}

    @property
    def memory_gib(self) -> float:
        """What the weights take when all of them are loaded."""
        return self.weights_gib + self.other_gib


SMALL = Transformer(layers=30, dim=1536, ffn_dim=8960)
LARGE = Transformer(layers=40, dim=5120, ffn_dim=13824)
SMALL_VACE = replace(SMALL, layers=30 + 15, vace_layers=15)
LARGE_VACE = replace(LARGE, layers=40 + 8, vace_layers=8)
IMAGE_CHANNELS = 36  # of a model that sees a picture: noise, the picture in latents (16 each) and a mask
IMAGE_DIM = 1280  # of what CLIP ViT-H says of a picture
TEXT_AND_VAE_GIB = 11.9  # UMT5-XXL in bfloat16 and the VAE in float32
IMAGE_ENCODER_GIB = 1.2  # CLIP ViT-H


def _skyreels(name: str, size: Transformer, weights_gib: float) -> ModelSpec:
    """One of the eight released checkpoints, from its name."""
    kind, _, resolution = name.split("-")
    forcing, image = kind == "DF", kind == "I2V"
    hd = resolution == "720P"
    return ModelSpec(
        id=f"skyreels-v2-{name.lower()}",
        title=f"SkyReels-V2 {name.replace('-', ' ')}",
        engine="skyreels",
        repo_id=f"Skywork/SkyReels-V2-{name}-Diffusers",
        licence="Skywork Community License",
        modes=ALL_MODES if forcing else frozenset({I2V if image else T2V}),
        diffusion_forcing=forcing,
        end_image=forcing,
        max_pixels=PIXELS_720P if hd else PIXELS_540P,
        base_num_frames=121 if hd else 97,
        guidance_scale=5.0 if image else 6.0,
        flow_shift=8.0 if not image else 5.0 if hd else 3.0,
        transformer=replace(size, in_channels=IMAGE_CHANNELS, image_dim=IMAGE_DIM) if image else size,
        weights_gib=weights_gib,
        other_gib=TEXT_AND_VAE_GIB + (IMAGE_ENCODER_GIB if image else 0.0),
    )


def _wan(name: str, size: Transformer, weights_gib: float, modes: frozenset[Mode], **more: Any) -> ModelSpec:
    """A checkpoint of Wan, from its name: "2.1-T2V-14B", "2.1-I2V-14B-480P". It makes one window."""
    if modes == {I2V}:  # of Wan 2.2, without an image encoder
        size = replace(size, in_channels=IMAGE_CHANNELS, image_dim=0 if name.startswith("2.2") else IMAGE_DIM)
    suffix = "diffusers" if "VACE" in name else "Diffusers"
    row: dict[str, Any] = {
        "repo_id": f"Wan-AI/Wan{name}-{suffix}",
        "end_image": False,
        "max_pixels": PIXELS_720P,
        "base_num_frames": 81,
        "fps": 16,
        "num_inference_steps": 50,
        "guidance_scale": 5.0,
        "flow_shift": 5.0,
        "other_gib": TEXT_AND_VAE_GIB,
    }
    return ModelSpec(
        id=f"wan{name.lower()}",
        title=f"Wan {name.replace('-', ' ')}",
        engine="skyreels",
        family="wan",
        licence="Apache-2.0",
        modes=modes,
        transformer=size,
        weights_gib=weights_gib,
        **row | more,
    )


TINY = ModelSpec(
    id="skyreels-v2-tiny",
    title="SkyReels V2 Tiny",
    engine="skyreels",
    licence="Apache-2.0",
    modes=ALL_MODES,
    diffusion_forcing=True,
    end_image=True,
    max_pixels=160 * 96,
    base_num_frames=65,
    num_inference_steps=20,
    guidance_scale=5.0,
    flow_shift=5.0,
    transformer=Transformer(
        layers=6, dim=288, ffn_dim=1152, in_channels=32, out_channels=32, text_dim=192, freq_dim=128
    ),
    decode_flops=3e5,
    decode_elements=524.0,
    weights_gib=0.02,
    other_gib=0.02,
    prompts=PAINTED_PROMPTS,
    about="A real SkyReels V2, only tiny: it came with the studio, knows a small painted world of ten things in eight "
    "colours, and needs no GPU. For any video you can think of, put a released checkpoint into models/.",
)

SYNTHETIC = ModelSpec(
    id="synthetic",
    title="Test pattern (no AI)",
    engine="synthetic",
    modes=ALL_MODES,
    needs_checkpoint=False,
    denoises=False,
    any_size=True,
    end_image=True,
    max_pixels=None,
    base_num_frames=97,
    num_inference_steps=20,
    about="Not an AI model: a placeholder where none can run. It shows a test pattern, or zooms slowly into the given "
    "picture or the end of the given video, with the prompt and the frame number written into it.",
)

TEXT, IMAGE = frozenset({T2V}), frozenset({I2V})
SEES_PICTURES: dict[str, Any] = {"num_inference_steps": 40, "other_gib": TEXT_AND_VAE_GIB + IMAGE_ENCODER_GIB}
CONTROLLED: dict[str, Any] = {"end_image": True, "flow_shift": 16.0}
EXPERTS: dict[str, Any] = {"experts": 2, "num_inference_steps": 40}

MODELS: dict[str, ModelSpec] = {
    spec.id: spec
    for spec in (
        _skyreels("DF-1.3B-540P", SMALL, 2.7),
        _skyreels("DF-14B-540P", LARGE, 26.7),
        _skyreels("DF-14B-720P", LARGE, 26.7),
        _skyreels("T2V-14B-540P", LARGE, 26.7),
        _skyreels("T2V-14B-720P", LARGE, 26.7),
        _skyreels("I2V-1.3B-540P", SMALL, 2.9),
        _skyreels("I2V-14B-540P", LARGE, 30.6),
        _skyreels("I2V-14B-720P", LARGE, 30.6),
        _wan("2.1-T2V-1.3B", SMALL, 2.7, TEXT, max_pixels=PIXELS_480P, guidance_scale=6.0, flow_shift=8.0),
        _wan("2.1-T2V-14B", LARGE, 26.6, TEXT),
        _wan("2.1-I2V-14B-480P", LARGE, 30.5, IMAGE, max_pixels=PIXELS_480P, flow_shift=3.0, **SEES_PICTURES),
        _wan("2.1-I2V-14B-720P", LARGE, 30.5, IMAGE, **SEES_PICTURES),
        _wan("2.1-VACE-1.3B", SMALL_VACE, 4.0, ALL_MODES, max_pixels=PIXELS_480P, **CONTROLLED),
        _wan("2.1-VACE-14B", LARGE_VACE, 32.3, ALL_MODES, **CONTROLLED),
        _wan(
            "2.2-TI2V-5B",
            Transformer(layers=30, dim=3072, ffn_dim=14336, in_channels=48, out_channels=48),
            9.3,
            TEXT | IMAGE,
            max_pixels=1280 * 704,
            base_num_frames=121,
            fps=24,
            spatial_factor=16,
            decode_flops=15e6,
            decode_elements=DECODE_ELEMENTS * 2 / 3,
            vae_gib=2.6,
            other_gib=TEXT_AND_VAE_GIB + 2.1,
        ),
        _wan("2.2-T2V-A14B", LARGE, 53.2, TEXT, guidance_scale=4.0, guidance_scale_2=3.0, flow_shift=12.0, **EXPERTS),
        _wan("2.2-I2V-A14B", LARGE, 53.2, IMAGE, guidance_scale=3.5, end_image=True, **EXPERTS),
        TINY,
        SYNTHETIC,
    )
}
