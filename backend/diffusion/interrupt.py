"""Interruption inside a forward: a check before every block, so that a cancellation does not wait for a whole step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from backend.diffusion.components import Components, blocks_of


@contextmanager
def interruptible(components: Components, check: Callable[[], None]) -> Iterator[None]:
    """While open, `check` runs before every transformer block, text encoder block and 4 frames that the VAE encodes.

    An exception of `check` ends the forward. Afterwards the hooks are removed and the cache of the VAE is empty.
    """

    def before(*_: Any) -> None:
        check()

    layers = [block for model in components.transformers for block in blocks_of(model)]
    layers.append(components.vae.encoder)
    if components.text_encoder is not None:
        layers += components.text_encoder.encoder.block
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        components.vae.clear_cache()
