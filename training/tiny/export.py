"""Export of the trained parts to a checkpoint in diffusers' format, which the studio loads like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler
from torch import nn

from backend.core.config import ROOT
from backend.core.registry import TINY
from training.tiny.denoiser import Denoiser
from training.tiny.judge import WEIGHTS
from training.tiny.text import pretrained
from training.tiny.vae import new_vae

FOLDER = ROOT / "models" / TINY.id


def begin_with(folder: Path, work: Path) -> None:
    """Start the training in `work` from the checkpoint in `folder`: copy its VAE, tokenizer and text encoder, which the
    trained transformer depends on. Files that are in `work` already are kept.
    """
    if (work / "text").exists():
        return
    for part, kept in (("vae", "code"), ("tokenizer", "text"), ("text_encoder", "text")):
        shutil.copytree(folder / part, work / kept, dirs_exist_ok=True)


def export(work: Path, folder: Path = FOLDER) -> None:
    """Write the averaged weights of `work` to `folder`, and the judge beside its module; the model card is kept.

    A VAE decoder or a judge that was not trained in `work` is not changed.
    """
    tokenizer, _ = pretrained(work / "text")
    model = Denoiser(tokenizer)
    _load_averaged(model, work / "denoiser")
    vae = new_vae()
    vae.load_state_dict(AutoencoderKLWan.from_pretrained(work / "code", local_files_only=True).state_dict())
    if (work / "vae").exists():
        _load_averaged(vae.decoder, work / "vae")
    vae.decoder.half()  # but not the encoder, whose weights differ too much in size
    vae.save_pretrained(folder / "vae")
    transformer = SkyReelsV2Transformer3DModel.from_config(model.transformer.config)
    transformer.load_state_dict(model.transformer.state_dict())
    transformer.half().save_pretrained(folder / "transformer")
    model.text_encoder.half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=TINY.flow_shift
    ).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "SkyReelsV2DiffusionForcingPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", UniPCMultistepScheduler.__name__],
        "text_encoder": ["transformers", type(model.text_encoder).__name__],
        "tokenizer": ["transformers", type(tokenizer).__name__],
        "transformer": ["diffusers", SkyReelsV2Transformer3DModel.__name__],
        "vae": ["diffusers", AutoencoderKLWan.__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    if (work / WEIGHTS.name).exists():
        shutil.copyfile(work / WEIGHTS.name, WEIGHTS)


def _load_averaged(model: nn.Module, folder: Path) -> None:
    model.load_state_dict(torch.load(folder / "state.pt", weights_only=True, map_location="cpu")["averaged"])
