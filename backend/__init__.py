"""The studio behind the pages: nouns in `core`, films in `media`, the model in `diffusion`, work in `jobs`."""

__version__ = "0.1.0"
