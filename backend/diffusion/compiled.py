"""The transformer's blocks compiled: fewer and larger kernels, for a wait before the first film of a new size."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from backend.diffusion.components import blocks_of

log = logging.getLogger(__name__)


@contextmanager
def compiled(transformer: Any, backend: str = "inductor") -> Iterator[None]:
    """While open, the blocks of `transformer` run compiled, once for all of them and for all sizes. What cannot be
    compiled here runs as it is, with a line in the log.

    Blocks that are streamed to the GPU cannot be: what brings them there is in the way.
    """
    failed = False

    def block_by(plain: Callable[..., Any], fast: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return fast(*args, **kwargs)
            except TorchDynamoException as error:
                failed = True
                log.warning("the blocks are not compiled: %s", " ".join(str(error).split())[:300])
        return plain(*args, **kwargs)

    for block in blocks_of(transformer):
        # Not the module itself: the checks before each block stay outside of what is compiled.
        fast = torch.compile(block.forward, dynamic=True, backend=backend)
        block.forward = functools.partial(block_by, block.forward, fast)
    try:
        yield
    finally:
        for block in blocks_of(transformer):
            del block.forward
