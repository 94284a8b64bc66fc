"""SkyReels V2 Tiny: a small model trained on drawn clips."""
