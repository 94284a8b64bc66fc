"""Checkpoints of SkyReels V2 and Wan, of 0.1 million random numbers, in the layout and the files of the released ones.

`python tests/tiny_checkpoints.py FOLDER` writes one of each kind into FOLDER: they load and render like the real ones,
in about a second, and draw noise.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS = ("df", "t2v", "i2v")
WAN_KINDS = ("wan-t2v", "wan-i2v", "wan-vace", "wan-ti2v", "wan-t2v-experts", "wan-i2v-experts")
BOUNDARY = 0.9  # of the experts
# By what kind each released model is stood in for, and the flags in which it differs from that.
RELEASED: dict[str, tuple[str, dict[str, Any]]] = {
    "skyreels-v2-df-1.3b-540p": ("df", {}),
    "skyreels-v2-df-14b-540p": ("df", {"inject_sample_info": False}),
    "skyreels-v2-df-14b-720p": ("df", {"inject_sample_info": False}),
    "skyreels-v2-t2v-14b-540p": ("t2v", {}),
    "skyreels-v2-t2v-14b-720p": ("t2v", {}),
    "skyreels-v2-i2v-1.3b-540p": ("i2v", {}),
    "skyreels-v2-i2v-14b-540p": ("i2v", {}),
    "skyreels-v2-i2v-14b-720p": ("i2v", {}),
    "wan2.1-t2v-1.3b": ("wan-t2v", {}),
    "wan2.1-t2v-14b": ("wan-t2v", {}),
    "wan2.1-i2v-14b-480p": ("wan-i2v", {}),
    "wan2.1-i2v-14b-720p": ("wan-i2v", {}),
    "wan2.1-vace-1.3b": ("wan-vace", {"vace_layers": [0, 1]}),
    "wan2.1-vace-14b": ("wan-vace", {}),
    "wan2.2-ti2v-5b": ("wan-ti2v", {}),
    "wan2.2-t2v-a14b": ("wan-t2v-experts", {"boundary_ratio": 0.875}),
    "wan2.2-i2v-a14b": ("wan-i2v-experts", {"boundary_ratio": 0.9}),
}


PIPELINES = {
    "df": "SkyReelsV2DiffusionForcingPipeline",
    "t2v": "SkyReelsV2Pipeline",
    "i2v": "SkyReelsV2ImageToVideoPipeline",
    "wan-t2v": "WanPipeline",
    "wan-i2v": "WanImageToVideoPipeline",
    "wan-vace": "WanVACEPipeline",
    "wan-ti2v": "WanPipeline",
    "wan-t2v-experts": "WanPipeline",
    "wan-i2v-experts": "WanImageToVideoPipeline",
}
WAN_2_VAE = {  # with the flags of Wan 2.2 TI2V's
    "decoder_base_dim": 4,
    "z_dim": 48,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
    "temperal_downsample": [False, True, True],
}


def build_checkpoint(folder: Path, kind: str = "df", flags: Mapping[str, Any] | None = None, **vae: Any) -> Path:
    """Write the checkpoint of `kind` into `folder`, which it returns; the same weights every time.

    `flags` replace settings of the transformer, and the `boundary_ratio`; `vae` those of the VAE, as `patch_size=2`.
    """
    changed = dict(flags or {})
    boundary = changed.pop("boundary_ratio", BOUNDARY)
    import diffusers
    import torch
    from diffusers import UniPCMultistepScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = _tokenizer()
        text_encoder = UMT5EncoderModel(
            UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        )
        parts = {
            "tokenizer": tokenizer,
            "text_encoder": text_encoder,
            "transformer": _transformer(kind, changed),
            "vae": new_vae(**(WAN_2_VAE if kind == "wan-ti2v" else {}) | vae),
            "scheduler": UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0 if kind == "i2v" else 8.0
            ),
        }
        if kind in ("i2v", "wan-i2v"):
            parts |= _image_parts()
        if kind.endswith("experts"):
            parts |= {"transformer_2": _transformer(kind, changed), "boundary_ratio": boundary}
    if kind == "wan-ti2v":
        parts["expand_timesteps"] = True
    getattr(diffusers, PIPELINES[kind])(**parts).save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer() -> Any:
    """One token a letter, in the class that the released checkpoints use."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}", -2.0)]
    return T5Tokenizer(vocab=special + [(chr(code), -3.0) for code in range(33, 127)], extra_ids=0)


def _transformer(kind: str, changed: Mapping[str, Any]) -> Any:
    from diffusers import SkyReelsV2Transformer3DModel, WanTransformer3DModel, WanVACETransformer3DModel

    model = SkyReelsV2Transformer3DModel
    flags: dict[str, Any] = {"in_channels": 16, "out_channels": 16}
    if "i2v" in kind.split("-"):
        flags |= {"in_channels": 36}
        flags |= {} if kind.endswith("experts") else {"image_dim": 32, "added_kv_proj_dim": 24}
    if kind == "df":
        flags["inject_sample_info"] = True
    if kind == "wan-ti2v":
        flags |= {"in_channels": 48, "out_channels": 48}
    if kind.startswith("wan"):
        model = WanTransformer3DModel
    if kind == "wan-vace":
        model = WanVACETransformer3DModel
        flags |= {"vace_layers": [0], "vace_in_channels": 96}
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2}
    made = model(text_dim=32, freq_dim=32, rope_max_seq_len=128, **sizes | flags | dict(changed))
    for block in getattr(made, "vace_blocks", ()):
        block.proj_out.weight.data *= 30  # else what controls it is lost in the rounding of pixels
    return made


def new_vae(**changes: Any) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(**{"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} | changes)


def _image_parts() -> dict[str, Any]:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=28,
        patch_size=14,
        projection_dim=16,
    )
    side = {"height": 28, "width": 28}
    return {
        "image_encoder": CLIPVisionModelWithProjection(config),
        "image_processor": CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/tiny_checkpoints.py FOLDER")
    for each in KINDS + WAN_KINDS:
        print(build_checkpoint(Path(sys.argv[1]) / f"random-{each}", each))
