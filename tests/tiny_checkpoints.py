"""SkyReels V2 checkpoints of 0.1 million random numbers, in the layout and the files of the released ones.

`python tests/tiny_checkpoints.py FOLDER` writes one of each kind into FOLDER: they load and render like the real ones,
in about a second, and draw noise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

KINDS = ("df", "t2v", "i2v")


def build_checkpoint(folder: Path, kind: str = "df", **vae: Any) -> Path:
    """Write the checkpoint of `kind` into `folder`, which it returns; the same weights every time.

    `vae` replaces settings of the VAE, such as `patch_size=2`.
    """
    import torch
    from diffusers import (
        SkyReelsV2DiffusionForcingPipeline,
        SkyReelsV2ImageToVideoPipeline,
        SkyReelsV2Pipeline,
        UniPCMultistepScheduler,
    )
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
            "transformer": _transformer(kind),
            "vae": new_vae(**vae),
            "scheduler": UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0 if kind == "i2v" else 8.0
            ),
        }
        if kind == "i2v":
            parts |= _image_parts()
    pipelines = {
        "df": SkyReelsV2DiffusionForcingPipeline,
        "t2v": SkyReelsV2Pipeline,
        "i2v": SkyReelsV2ImageToVideoPipeline,
    }
    pipelines[kind](**parts).save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer() -> Any:
    """One token a letter, in the class that the released checkpoints use."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}", -2.0)]
    return T5Tokenizer(vocab=special + [(chr(code), -3.0) for code in range(33, 127)], extra_ids=0)


def _transformer(kind: str) -> Any:
    from diffusers import SkyReelsV2Transformer3DModel

    image = {"in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 24} if kind == "i2v" else {"in_channels": 16}
    return SkyReelsV2Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=128,
        inject_sample_info=kind == "df",
        **image,
    )


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
    for each in KINDS:
        print(build_checkpoint(Path(sys.argv[1]) / f"random-{each}", each))
