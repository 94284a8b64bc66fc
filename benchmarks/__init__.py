"""Benchmarks, one script a claim."""

import time

BEGAN = time.monotonic()  # before torch is imported: `--within` counts from here
