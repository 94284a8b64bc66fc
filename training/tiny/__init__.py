"""SkyReels V2 Tiny: a small model trained on clips that `training.painter` draws."""
