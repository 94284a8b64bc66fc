"""torch.compile of the transformer's blocks: fewer and larger kernels, after a wait before the first render."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from backend.core.placement import Placement
from backend.core.plan import Plan, Stage
from backend.diffusion.autotune import autotune_cache, gpu_key, median_seconds
from backend.diffusion.components import Components, blocks_of, is_device_lost, is_out_of_memory
from backend.diffusion.sampler import Sampler

log = logging.getLogger(__name__)

COMPILED, STOCK = "compiled", "stock"
COMPILE_FROM_S = 60.0  # estimated seconds of denoising; a shorter render gains less than compiling takes
MAX_TIME_RATIO = 0.97  # of compiled blocks to stock ones; less gain is not worth the wait
MAX_ERROR = 0.02  # relative difference of the outputs; two roundings to bfloat16 differ by less
Call = Callable[..., Any]

# Blocks are compiled anew, up to twice, for each combination of masks and LoRAs. Beyond its limit torch would run them
# uncompiled and not say so.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True


class _BlockCalled(Exception):
    """Carries the arguments of a block's call out of the transformer."""

    def __init__(self, block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block, self.block_args, self.block_kwargs = block, args, kwargs


def first_block(transformers: Sequence[Any], predict: Call) -> tuple[Call, Call]:
    """Two calls of the first block that `predict` reaches, with the arguments it has there: stock and compiled."""

    def stop(block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _BlockCalled(block, args, kwargs)

    hooks = [model.blocks[0].register_forward_pre_hook(stop, with_kwargs=True) for model in transformers]
    try:
        predict()
    except _BlockCalled as called:
        block, args, kwargs = called.block, called.block_args, called.block_kwargs
    finally:
        for hook in hooks:
            hook.remove()
    calls = (functools.partial(forward, *args, **kwargs) for forward in (block.forward, _compile(block.forward)))
    stock, fast = (torch.no_grad()(call) for call in calls)
    return stock, fast


def benchmark(stock: Call, fast: Call, device: torch.device) -> str:
    """COMPILED if `fast` takes less time than `stock` and its output is equal but for rounding, else STOCK."""
    try:
        expected, output = stock(), fast()
        norm = functools.partial(torch.linalg.vector_norm, dtype=torch.float32)  # makes no float32 copy
        error = float(norm(output - expected) / norm(expected))
        seconds = median_seconds({STOCK: stock, COMPILED: fast}, device)
    except Exception as failure:  # no compiler, or not for this GPU
        _log_failure(failure)
        return STOCK
    log.info("a block: %.1f ms, compiled %.1f ms, error %.4f", 1000 * seconds[STOCK], 1000 * seconds[COMPILED], error)
    return COMPILED if error <= MAX_ERROR and seconds[COMPILED] <= MAX_TIME_RATIO * seconds[STOCK] else STOCK


def is_faster(file: Path | None, components: Components, stock: Call, fast: Call) -> bool:
    """Whether compiled blocks are faster on this GPU, for transformers of this size: from the cache in `file`, or
    measured now.
    """
    config, device = components.transformer.config, components.device
    kind = f"{type(components.transformer).__name__}{', fp8' if components.fp8 else ''}"
    key = f"{gpu_key(device)}, {config.num_attention_heads}x{config.attention_head_dim}, {kind}, blocks"
    tune = functools.partial(benchmark, stock, fast, device)
    return autotune_cache(file, key, STOCK, (STOCK, COMPILED), tune) == COMPILED


def can_compile(fast: Call) -> bool:
    """Compile a block by calling `fast`; whether that works."""
    try:
        fast()
    except Exception as error:
        _log_failure(error)
        return False
    return True


def should_compile(setting: bool | None, plan: Plan, sampler: Sampler, file: Path | None) -> bool:
    """Whether the blocks of a render run compiled; then they are compiled now, at the sampler's next step.

    Without a `setting` a benchmark, cached in `file`, decides for long renders on a GPU.
    """
    components = sampler.components
    # Of the whole video, for the rest of a draft must go on with the blocks that the draft was made with.
    guess_s = plan.forecast.whole_guess_s or plan.forecast.guess[Stage.DENOISING]
    long = components.device.type == "cuda" and guess_s >= COMPILE_FROM_S
    if components.placement is Placement.GROUP_OFFLOAD or not (long if setting is None else setting):
        return False
    with components.on_device(sampler.expert):
        stock, fast = first_block(components.transformers, sampler.warm_up)
        try:
            return (setting or is_faster(file, components, stock, fast)) and can_compile(fast)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("no memory to compile blocks: %s", error)
            return False


def _log_failure(error: Exception) -> None:
    """Log why blocks are not compiled. Raises `error` again if it is a lack of memory or a lost GPU."""
    if is_out_of_memory(error) or is_device_lost(error):
        raise error
    log.warning("the blocks are not compiled: %s", " ".join(str(error).split())[:300])


def _compile(forward: Call, backend: str | Call = "inductor") -> Call:
    fast: Call = torch.compile(forward, dynamic=True, backend=backend)
    return fast


@contextmanager
def compiled(transformer: Any, backend: str | Call = "inductor") -> Iterator[None]:
    """While open, the blocks of `transformer` run compiled, by one compilation for all blocks and sizes.

    After a failure they run uncompiled, and the log says so.

    Blocks under group offloading cannot be compiled, because of the hooks that copy their weights.
    """
    failed = False

    def run(stock: Callable[..., Any], fast: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return fast(*args, **kwargs)
            except Exception as error:
                _log_failure(error)
                failed = True
        return stock(*args, **kwargs)

    for block in blocks_of(transformer):
        # `forward` and not the block, so that its forward hooks are not compiled.
        block.forward = functools.partial(run, block.forward, _compile(block.forward, backend))
    try:
        yield
    finally:
        for block in blocks_of(transformer):
            del block.forward
