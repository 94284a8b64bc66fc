"""The transformer's blocks compiled: fewer and larger kernels, for a wait before the first film of a new size."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from backend.diffusion.choices import remembered, seconds_in_turn, this_gpu
from backend.diffusion.components import Components, blocks_of, is_device_lost, is_out_of_memory

log = logging.getLogger(__name__)

COMPILED, STOCK = "compiled", "stock"
WORTH = 0.97  # of the stock time, at most
ALIKE = 0.02  # how far two roundings to bfloat16 are apart at most, of the whole
Call = Callable[..., Any]

# A kind of film (with a mask or without, with these LoRAs or those) is compiled apart from the others, twice. Past the
# limit torch would go on uncompiled and say nothing.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


class _Reached(Exception):
    """A block would be called with this."""

    def __init__(self, block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block, self.args_given, self.kwargs_given = block, args, kwargs


def first_block(transformers: Sequence[Any], ask: Call) -> tuple[Call, Call]:
    """A call of the first block that `ask` comes to, with what it is given there: as it is, and compiled."""

    def stop(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(block, args, kwargs)

    hooks = [model.blocks[0].register_forward_pre_hook(stop, with_kwargs=True) for model in transformers]
    try:
        ask()
    except _Reached as reached:
        block, args, kwargs = reached.block, reached.args_given, reached.kwargs_given
    finally:
        for hook in hooks:
            hook.remove()
    calls = (functools.partial(forward, *args, **kwargs) for forward in (block.forward, _compiled(block.forward)))
    plain, fast = (torch.no_grad()(call) for call in calls)
    return plain, fast


def faster(plain: Call, fast: Call, device: torch.device) -> str:
    """COMPILED if `fast` takes less time than `plain` and gives the same but for rounding, else STOCK."""
    try:
        wanted, found = plain(), fast()
        size = functools.partial(torch.linalg.vector_norm, dtype=torch.float32)  # makes no copy of that
        apart = float(size(found - wanted) / size(wanted))
        seconds = seconds_in_turn({STOCK: plain, COMPILED: fast}, device)
    except Exception as error:  # no compiler, or not for this GPU
        _refuse(error)
        return STOCK
    log.info("a block: %.1f ms, compiled %.1f ms, %.4f apart", 1000 * seconds[STOCK], 1000 * seconds[COMPILED], apart)
    return COMPILED if apart <= ALIKE and seconds[COMPILED] <= WORTH * seconds[STOCK] else STOCK


def pays(file: Path | None, components: Components, plain: Call, fast: Call) -> bool:
    """Whether compiled blocks are the faster ones on this GPU: as was found for transformers of this size, or is found
    now; kept in `file`.
    """
    config, device = components.transformer.config, components.device
    kind = f"{type(components.transformer).__name__}{', fp8' if components.fp8 else ''}"
    name = f"{this_gpu(device)}, {config.num_attention_heads}x{config.attention_head_dim}, {kind}, blocks"
    return remembered(file, name, STOCK, (STOCK, COMPILED), lambda: faster(plain, fast, device)) == COMPILED


def compiles(fast: Call) -> bool:
    """Whether the compiled block can be had; then it is ready."""
    try:
        fast()
    except Exception as error:
        _refuse(error)
        return False
    return True


def _refuse(error: Exception) -> None:
    """Say why nothing is compiled. Raises `error` again if that is not a matter of compiling."""
    if is_out_of_memory(error) or is_device_lost(error):
        raise error
    log.warning("the blocks are not compiled: %s", " ".join(str(error).split())[:300])


def _compiled(forward: Call, backend: str | Call = "inductor") -> Call:
    found: Call = torch.compile(forward, dynamic=True, backend=backend)
    return found


@contextmanager
def compiled(transformer: Any, backend: str | Call = "inductor") -> Iterator[None]:
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
            except Exception as error:
                _refuse(error)
                failed = True
        return plain(*args, **kwargs)

    for block in blocks_of(transformer):
        # Not the module itself: the checks before each block stay outside of what is compiled.
        block.forward = functools.partial(block_by, block.forward, _compiled(block.forward, backend))
    try:
        yield
    finally:
        for block in blocks_of(transformer):
            del block.forward
