"""The studio behind the pages: requests in `core`, files in `media`, models in `diffusion`, jobs in `jobs`."""

__version__ = "0.2.0"
