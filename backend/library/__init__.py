"""Model files: checkpoints, LoRAs, downloads, language models."""
