"""The sampler and what it needs; the only room that imports torch."""
