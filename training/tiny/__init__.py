"""SkyReels V2 Tiny: a small model trained on films that `training.painter` draws."""
