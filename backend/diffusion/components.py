"""The parts of a checkpoint folder as models in memory, and on which device they lie."""

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

from backend.core.config import GIB
from backend.core.errors import ModelUnavailable
from backend.core.placement import Need, Placement, decode_gib, denoise_gib
from backend.core.planning import Plan
from backend.core.registry import DECODE_ELEMENTS
from backend.diffusion.fp8 import quantize_fp8
from backend.diffusion.transformer import Transformer
from backend.diffusion.wan import WanControlTransformer, WanTransformer
from backend.library.checkpoints import FORCING_CLASSES, WAN_CLASSES, WAN_CONTROL_CLASS, weights_of

log = logging.getLogger(__name__)

TRAIN_TIMESTEPS = 1000
WAN_BASE_DIM = 96  # channels of the widest layers of the decoder that DECODE_ELEMENTS was counted with
DEVICE_WORDS = ("CUDA error", "device-side assert", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")

# Their bars would draw over the log of the server; progress goes through the job instead.
transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.disable_progress_bar()

# The converter and its users name either; only what both share is read.
IMAGE_ENCODERS = {model.__name__: model for model in (CLIPVisionModel, CLIPVisionModelWithProjection)}


@dataclass(slots=True)
class Components:
    """A loaded checkpoint. Models lie where `put` put them; `device` is where they work.

    Where there is a `transformer_2`, it takes the timesteps below `boundary`. With `own_levels` the transformer is told
    a timestep for every latent frame; only those trained by diffusion forcing can go on from frames of any kind.
    """

    folder: Path
    device: torch.device
    diffusion_forcing: bool
    own_levels: bool
    tokenizer: Any
    text_encoder: Any  # None until `read_text_encoder`, where it was left out
    transformer: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    image_encoder: Any = None
    image_processor: Any = None
    placement: Placement | None = None  # none: in main memory, as they were read
    half_vae: Any = None  # decodes instead of `vae` if it is there
    transformer_2: Any = None
    boundary: float = 0.0
    fp8: bool = False  # the large matrices of the transformers are
    _streamed: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def decoder(self) -> Any:
        """The VAE that decodes."""
        return self.vae if self.half_vae is None else self.half_vae

    @property
    def controlled(self) -> bool:
        """Whether it is Wan-VACE, which is shown what is given of the film beside the noise."""
        return "vace_layers" in self.transformer.config

    @property
    def transformers(self) -> list[Any]:
        """The one, or both experts."""
        return [model for model in (self.transformer, self.transformer_2) if model is not None]

    def expert(self, timestep: int) -> Any:
        """The transformer that is asked at `timestep`."""
        weak = self.transformer_2 is not None and timestep < self.boundary
        return self.transformer_2 if weak else self.transformer

    @property
    def spatial_factor(self) -> int:
        """Pixels that a latent pixel stands for, along one side."""
        config = self.vae.config
        return int(2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1))

    def tokens(self, plan: Plan) -> int:
        """That the transformer sees at once: of the longest window."""
        rows = plan.render_width * plan.render_height // (2 * self.spatial_factor) ** 2
        return rows * max(window.stop - window.start for window in plan.windows)

    def need(self, plan: Plan) -> Need:
        """What a render of `plan` needs of the GPU's memory."""
        config = self.transformer.config
        dim = config.num_attention_heads * config.attention_head_dim
        batch = 2 if plan.batch_guidance and plan.guidance_scale > 1 else 1
        denoise = denoise_gib(dim, config.ffn_dim, batch * self.tokens(plan), self.transformer.dtype.itemsize)
        vae = self.vae.config
        part = (vae.decoder_base_dim or vae.base_dim) / WAN_BASE_DIM / (vae.patch_size or 1) ** 2
        decode = decode_gib(DECODE_ELEMENTS * part * plan.render_width * plan.render_height)
        text = _gib(self.text_encoder) + _gib(self.image_encoder)
        idle = _gib(self.transformer_2)
        return Need(text, _gib(self.transformer), _gib(self.vae), denoise, decode, decode / 2, idle)

    def read_text_encoder(self) -> None:
        """Have the text encoder too, if it was left out. Raises ModelUnavailable."""
        if self.text_encoder is not None:
            return
        with _explained(self.folder, "text_encoder"):
            self.text_encoder = _load_model(UMT5EncoderModel, self.folder / "text_encoder", self.transformer.dtype)
        if self.placement in (Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD):
            _stream(self.text_encoder, self.device)
            self._streamed.append(self.text_encoder)
        else:
            self.placement = None  # so that `put` finds a place for it

    def put(self, placement: Placement) -> None:
        """Have the models lie where `placement` says from now on."""
        if placement is self.placement:
            return
        for model in self._streamed:
            _stream_no_more(model)
        home = self.device if placement is Placement.RESIDENT else torch.device("cpu")
        for model in (*self.transformers, self.text_encoder, self.image_encoder, self.vae, self.half_vae):
            if model is not None:
                model.to(home)
        self.placement = placement
        layered = {
            Placement.RESIDENT: [],
            Placement.MODEL_OFFLOAD: [self.text_encoder],
            Placement.GROUP_OFFLOAD: [*self.transformers, self.text_encoder],
        }[placement]
        self._streamed = [model for model in layered if model is not None]
        for model in self._streamed:
            _stream(model, self.device)

    def decode_in_half(self, half: bool) -> None:
        """Let a copy of the VAE in half precision decode, or the VAE itself."""
        if half and self.half_vae is None:
            self.half_vae = halved(self.vae)
        elif not half:
            self.half_vae = None

    @contextmanager
    def at_work(self, model: Any) -> Iterator[None]:
        """Have `model` on the working device for a while, then where it was: its weights have not changed, and are not
        copied back.
        """
        if model.device == self.device or any(model is streamed for streamed in self._streamed):
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
    """Its blocks, and in Wan-VACE those of what controls it."""
    return [*transformer.blocks, *getattr(transformer, "vace_blocks", ())]


def halved(vae: Any) -> Any:
    """A copy in bfloat16, with its convolutions as cuDNN likes them."""
    copied = torch.nn.Module.to(copy.deepcopy(vae), torch.bfloat16)  # without the warnings of diffusers
    for module in copied.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    return copied


def _gib(model: Any) -> float:
    """Of all weights of `model`, which may be None."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / GIB if model is not None else 0.0


def _stream(model: Any, device: torch.device) -> None:
    """From now on the layers of `model` come to `device` one after the other, the next while one works."""
    on_gpu = device.type == "cuda"
    # A list of blocks that is no child of the model itself is not found as such.
    blocks = {"offload_type": "block_level", "num_blocks_per_group": 1} if hasattr(model, "blocks") else {}
    # What passes once a prompt need not lie in pinned memory beside the copy that it is read from.
    groups = blocks or {"offload_type": "leaf_level", "low_cpu_mem_usage": on_gpu}
    apply_group_offloading(model, onload_device=device, use_stream=on_gpu, record_stream=on_gpu, **groups)


def _stream_no_more(model: Any) -> None:
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None:
            for name in list(registry.hooks):
                registry.remove_hook(name, recurse=False)


def working_device() -> torch.device:
    """The GPU if torch can use one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_components(
    folder: Path,
    device: torch.device,
    loaded: Callable[[float], None],
    *,
    text_encoder: bool = True,
    fp8: bool = False,
) -> Components:
    """The checkpoint in `folder`, its models in main memory; `loaded` hears which part of the files is read, 0 to 1.

    Without the `text_encoder`, which is large, only texts that were encoded before can be drawn, until it is read.

    For a GPU the transformer and the encoders are bfloat16 and the VAE is float32; on the CPU all are float32. With
    `fp8` the large matrices of the transformer are float8. Raises ModelUnavailable where a file is missing or
    damaged.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with _explained(folder, "model_index.json"):
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
        loaded(number / len(models))
        with _explained(folder, part):
            parts[part] = _load_model(model, folder / part, part_dtype)
        if fp8 and part in ("transformer", "transformer_2"):
            quantize_fp8(blocks_of(parts[part]), device)
    with _explained(folder, "tokenizer"):
        parts["tokenizer"] = AutoTokenizer.from_pretrained(
            folder / "tokenizer", local_files_only=True, trust_remote_code=False
        )
    with _explained(folder, "scheduler"):
        parts["scheduler_config"] = UniPCMultistepScheduler.load_config(folder / "scheduler", local_files_only=True)
    if "image_encoder" in models:
        with _explained(folder, "image_processor"):
            parts["image_processor"] = CLIPImageProcessorPil.from_pretrained(
                folder / "image_processor", local_files_only=True
            )
    if name not in WAN_CLASSES:
        # A block size above 1 in the configuration would switch on a causal mask that no weights were trained with.
        parts["transformer"]._set_ar_attention(1)
    loaded(1.0)
    forcing = name in FORCING_CLASSES
    return Components(
        folder=folder,
        device=device,
        diffusion_forcing=forcing,
        own_levels=forcing or bool(index.get("expand_timesteps")),
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
    loaded, info = model.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **names
    )
    # Both libraries fill missing tensors with random numbers and say so in a log line only.
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are missing or of another shape, such as {wrong[0]}")
    return loaded.eval().requires_grad_(False)


@contextmanager
def _explained(folder: Path, part: str) -> Iterator[None]:
    """Whatever a library raises for a bad file becomes ModelUnavailable; a lack of memory stays what it is."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s: %s could not be loaded: %s", folder, part, str(error))
        reason = str(error).split("\n")[0].replace(str(folder), folder.name) or type(error).__name__
        raise ModelUnavailable(
            f"{part} of the checkpoint {folder.name} could not be loaded ({reason});",
            hint="download the model again.",
            field="model",
        ) from error


def is_device_lost(error: BaseException) -> bool:
    """Whether `error` leaves the GPU unusable for this process: every later call fails like this one."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in DEVICE_WORDS)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the GPU's or the computer's memory is full."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator has no class of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
