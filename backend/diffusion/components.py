"""A checkpoint folder loaded into memory, and the offloading of its models between GPU and main memory."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.hooks import apply_group_offloading
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    UMT5EncoderModel,
)

from backend.core.errors import ModelUnavailable
from backend.core.placement import Need, Placement, decode_gib, denoise_gib
from backend.core.plan import Plan
from backend.core.registry import DECODE_ELEMENTS
from backend.core.units import GIB
from backend.diffusion.transformer import Transformer
from backend.diffusion.wan import WanControlTransformer, WanTransformer
from backend.library.checkpoints import (
    FORCING_CLASSES,
    WAN_CLASSES,
    WAN_CONTROL_CLASS,
    checkpoint_name,
    find_weights,
    weights_of,
)

log = logging.getLogger(__name__)

TRAIN_TIMESTEPS = 1000
WAN_BASE_DIM = 96  # base channels of the decoder for which DECODE_ELEMENTS was counted
LOST_WORDS = (
    "CUDA error",
    "device-side assert",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
)

# Their progress bars would be written into the log of the server; progress is reported through the job.
transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.disable_progress_bar()

# Checkpoints name either class; only the weights that both share are loaded.
IMAGE_ENCODERS = {model.__name__: model for model in (CLIPVisionModel, CLIPVisionModelWithProjection)}


@dataclass(slots=True)
class Components:
    """A loaded checkpoint. `apply_offload` decides where the models lie; `device` is where they run.

    If there is a `transformer_2`, it is the expert for timesteps below `boundary`. With `per_frame_timesteps` the
    transformer takes one timestep per latent frame; only models trained by diffusion forcing can extend any frames.
    """

    folder: Path
    device: torch.device
    diffusion_forcing: bool
    per_frame_timesteps: bool
    tokenizer: Any
    text_encoder: Any  # None until `load_text_encoder`, if it was not loaded with the others
    transformer: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    image_encoder: Any = None
    image_processor: Any = None
    placement: Placement | None = None  # None: in main memory, as loaded
    half_vae: Any = None  # a copy of `vae` in half precision, which decodes in its place
    transformer_2: Any = None
    boundary: float = 0.0
    fp8: bool = False  # whether the linear layers of the transformers are float8
    _group_offloaded: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def decoder(self) -> Any:
        """The VAE that decodes: `half_vae` if there is one."""
        return self.vae if self.half_vae is None else self.half_vae

    @property
    def is_vace(self) -> bool:
        """Whether it is Wan-VACE, which takes given frames as a control input."""
        return "vace_layers" in self.transformer.config

    @property
    def transformers(self) -> list[Any]:
        """The transformer, or both experts."""
        return [model for model in (self.transformer, self.transformer_2) if model is not None]

    def expert(self, timestep: int) -> Any:
        """The transformer for `timestep`."""
        second = self.transformer_2 is not None and timestep < self.boundary
        return self.transformer_2 if second else self.transformer

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent pixel, along one side."""
        config = self.vae.config
        return int(2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1))

    def max_tokens(self, plan: Plan) -> int:
        """Tokens of the longest window of `plan`."""
        rows = plan.render_width * plan.render_height // (2 * self.spatial_factor) ** 2
        return rows * max(window.stop - window.start for window in plan.windows)

    def need(self, plan: Plan) -> Need:
        """Memory that a render of `plan` needs on the GPU."""
        config = self.transformer.config
        dim = config.num_attention_heads * config.attention_head_dim
        batch = 2 if plan.batch_guidance and plan.guidance_scale > 1 else 1
        denoise = denoise_gib(dim, config.ffn_dim, batch * self.max_tokens(plan), self.transformer.dtype.itemsize)
        vae = self.vae.config
        scale = (vae.decoder_base_dim or vae.base_dim) / WAN_BASE_DIM / (vae.patch_size or 1) ** 2
        decode = decode_gib(DECODE_ELEMENTS * scale * plan.render_width * plan.render_height)
        text = _gib(self.text_encoder) + _gib(self.image_encoder)
        idle = _gib(self.transformer_2)
        return Need(text, _gib(self.transformer), _gib(self.vae), denoise, decode, decode / 2, idle)

    def load_text_encoder(self) -> None:
        """Load the text encoder, if it was not loaded with the others. Raises ModelUnavailable."""
        if self.text_encoder is not None:
            return
        with _as_model_unavailable(self.folder, "text_encoder"):
            self.text_encoder = _load_model(UMT5EncoderModel, self.folder / "text_encoder", self.transformer.dtype)
        if self.placement in (Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD):
            _apply_group_offload(self.text_encoder, self.device)
            self._group_offloaded.append(self.text_encoder)
        else:
            self.placement = None  # so that `apply_offload` moves it

    def apply_offload(self, placement: Placement) -> None:
        """Move the models to where `placement` keeps them, and set up group offloading for those that need it."""
        if placement is self.placement:
            return
        for model in self._group_offloaded:
            _remove_hooks(model)
        home = self.device if placement is Placement.RESIDENT else torch.device("cpu")
        for model in (*self.transformers, self.text_encoder, self.image_encoder, self.vae, self.half_vae):
            if model is not None:
                model.to(home)
        self.placement = placement
        group_offloaded = {
            Placement.RESIDENT: [],
            Placement.MODEL_OFFLOAD: [self.text_encoder],
            Placement.GROUP_OFFLOAD: [*self.transformers, self.text_encoder],
        }[placement]
        self._group_offloaded = [model for model in group_offloaded if model is not None]
        for model in self._group_offloaded:
            _apply_group_offload(model, self.device)

    def set_half_decode(self, half: bool) -> None:
        """Decode with a copy of the VAE in half precision, or with the VAE itself."""
        if half and self.half_vae is None:
            self.half_vae = to_half_precision(self.vae)
        elif not half:
            self.half_vae = None

    @contextmanager
    def on_device(self, model: Any) -> Iterator[None]:
        """While open, `model` is on `device`. Its weights do not change, so afterwards they are not copied back: the
        model has the tensors that it had before.
        """
        if model.device == self.device or any(model is other for other in self._group_offloaded):
            yield
            return
        home = [
            (owned, name, tensor, tensor.data)
            for module in model.modules()
            for owned in (module._parameters, module._buffers)
            for name, tensor in owned.items()
            if tensor is not None
        ]
        try:
            model.to(self.device)
            yield
        finally:
            for owned, name, tensor, data in home:
                owned[name], tensor.data = tensor, data
            torch.cuda.empty_cache()


def blocks_of(transformer: Any) -> list[Any]:
    """The blocks of a transformer, with the control blocks of Wan-VACE."""
    return [*transformer.blocks, *getattr(transformer, "vace_blocks", ())]


def to_half_precision(vae: Any) -> Any:
    """A copy in bfloat16, with convolutions in the channels-last memory format, which is faster in cuDNN."""
    half = torch.nn.Module.to(copy.deepcopy(vae), torch.bfloat16)  # the method of diffusers would log warnings
    for module in half.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return half


def _gib(model: Any) -> float:
    """Memory of all weights of `model`, which may be None."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / GIB if model is not None else 0.0


def _apply_group_offload(model: Any, device: torch.device) -> None:
    """Group offloading: each group of layers is copied to `device` when it runs, the next one while it does."""
    on_gpu = device.type == "cuda"
    # diffusers finds lists of blocks among the children of the model only; others are offloaded by leaf.
    blocks = {"offload_type": "block_level", "num_blocks_per_group": 1} if hasattr(model, "blocks") else {}
    # The text encoder runs once per prompt, so it is not kept in pinned memory besides its ordinary copy.
    groups = blocks or {"offload_type": "leaf_level", "low_cpu_mem_usage": on_gpu}
    apply_group_offloading(model, onload_device=device, use_stream=on_gpu, record_stream=on_gpu, **groups)


def _remove_hooks(model: Any) -> None:
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None:
            for name in list(registry.hooks):
                registry.remove_hook(name, recurse=False)


def compute_device() -> torch.device:
    """The GPU if torch can use one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_components(
    folder: Path,
    device: torch.device,
    on_progress: Callable[[float], None],
    *,
    text_encoder: bool = True,
    fp8: bool = False,
) -> Components:
    """Load the checkpoint in `folder` into main memory; `on_progress` is called with the fraction that is loaded.

    Without `text_encoder`, which is large, only cached prompts can be used until `load_text_encoder`.

    For a GPU the transformer and the encoders are bfloat16 and the VAE is float32; on the CPU all are float32. With
    `fp8` the linear layers of the transformers are float8. Raises ModelUnavailable where a file is missing or damaged.
    """
    from backend.diffusion.patches import patch_loaded  # late: patches.py imports this module

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with _as_model_unavailable(folder, "model_index.json"):
        index = json.loads((folder / "model_index.json").read_bytes())
        name = index["_class_name"]
        models = {
            "text_encoder": (UMT5EncoderModel, dtype),
            "transformer": (_transformer_class(name), dtype),
            "vae": (AutoencoderKLWan, torch.float32),
        }
        if "transformer_2" in weights_of(index):
            models["transformer_2"] = models["transformer"]
        if "image_encoder" in weights_of(index):
            models["image_encoder"] = (IMAGE_ENCODERS[index["image_encoder"][1]], dtype)
    parts: dict[str, Any] = {}
    if not text_encoder:
        parts["text_encoder"] = models.pop("text_encoder") and None
    for number, (part, (model, part_dtype)) in enumerate(models.items()):
        on_progress(number / len(models))
        with _as_model_unavailable(folder, part):
            parts[part] = _load_model(model, folder / part, part_dtype)
        if part in ("transformer", "transformer_2"):
            patch_loaded(parts[part], device, fp8)
    with _as_model_unavailable(folder, "tokenizer"):
        parts["tokenizer"] = AutoTokenizer.from_pretrained(
            folder / "tokenizer", local_files_only=True, trust_remote_code=False
        )
    with _as_model_unavailable(folder, "scheduler"):
        parts["scheduler_config"] = UniPCMultistepScheduler.load_config(folder / "scheduler", local_files_only=True)
    if "image_encoder" in models:
        with _as_model_unavailable(folder, "image_processor"):
            parts["image_processor"] = CLIPImageProcessorPil.from_pretrained(
                folder / "image_processor", local_files_only=True
            )
    if name not in WAN_CLASSES:
        # A block size above 1 in the configuration enables a causal mask that no released weights were trained with.
        parts["transformer"]._set_ar_attention(1)
    on_progress(1.0)
    forcing = name in FORCING_CLASSES
    return Components(
        folder=folder,
        device=device,
        diffusion_forcing=forcing,
        per_frame_timesteps=forcing or bool(index.get("expand_timesteps")),
        boundary=TRAIN_TIMESTEPS * (index.get("boundary_ratio") or 0.0),
        fp8=fp8,
        **parts,
    )


def _transformer_class(pipeline: str) -> Any:
    if pipeline in WAN_CLASSES:
        return WanControlTransformer if pipeline == WAN_CONTROL_CLASS else WanTransformer
    return Transformer


def _load_model(model: Any, folder: Path, dtype: torch.dtype) -> Any:
    names = {"dtype": dtype} if issubclass(model, transformers.PreTrainedModel) else {"torch_dtype": dtype}
    variant = find_weights(folder).variant
    loaded, info = model.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, variant=variant, **names
    )
    # Both libraries initialise missing tensors at random and only log it.
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}")
    return loaded.eval().requires_grad_(False)


@contextmanager
def _as_model_unavailable(folder: Path, part: str) -> Iterator[None]:
    """Raise any error of a library for a bad file as ModelUnavailable, but not a lack of memory."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s: %s could not be loaded: %s", folder, part, str(error))
        name = checkpoint_name(folder)
        reason = str(error).split("\n")[0].replace(str(folder), name) or type(error).__name__
        raise ModelUnavailable(
            f"{part} of the checkpoint {name} could not be loaded ({reason});",
            hint="download the model again.",
            field="model",
        ) from error


def is_device_lost(error: BaseException) -> bool:
    """Whether `error` leaves the GPU unusable for this process: every later call fails like this one."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in LOST_WORDS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the GPU's or the computer's memory is full."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator has no class of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
