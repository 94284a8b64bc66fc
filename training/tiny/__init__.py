"""SkyReels V2 Tiny: a small model trained on films that the sketch draws."""
