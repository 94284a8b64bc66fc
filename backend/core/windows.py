"""Windows: how a long video is split into passes over a model that denoises at most `base_num_frames` at once.

The VAE packs the first pixel frame into one latent frame and every further four into another, so legal counts are 4k+1.
With asynchronous diffusion forcing (`ar_step`) or block-causal attention (`causal_attention`) every window and every
overlap consists of whole blocks: frames that fill no block would never be denoised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.core.errors import InvalidRequest, mention
from backend.core.registry import ModelSpec
from backend.core.schema import OVERLAP_FRAMES, WINDOW_FRAMES, GenerationRequest


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open range of latent frames that are denoised in one pass."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Windows of at most `base_num_frames` frames over `render_frames`. The first `prefix_frames` come from the source,
    and every window after the first begins with the last `overlap_history` frames of the one before.
    """

    render_frames: int
    prefix_frames: int
    base_num_frames: int
    overlap_history: int
    windows: tuple[Window, ...]


def latent_frames(frames: int) -> int:
    """Latent frames of 4k+1 pixel frames.

    >>> latent_frames(97)
    25
    """
    return (frames - 1) // 4 + 1


def pixel_frames(latents: int) -> int:
    """Pixel frames of `latents` latent frames: the inverse of `latent_frames`.

    >>> pixel_frames(25)
    97
    """
    return 4 * latents - 3


def legal_frames(frames: int) -> int:
    """The least 4k+1 that is not below `frames`.

    >>> [legal_frames(n) for n in (1, 64, 65, 66)]
    [1, 65, 65, 69]
    """
    return 4 * math.ceil((frames - 1) / 4) + 1


def plan_windows(num_frames: int, base_num_frames: int, overlap_history: int) -> tuple[Window, ...]:
    """Split a long video into denoising windows that share `overlap_history` frames; the last may be shorter.

    Arguments are frames, each 4k+1. Raises InvalidRequest unless `overlap_history` is shorter than `base_num_frames`.

    >>> plan_windows(257, base_num_frames=97, overlap_history=17)
    (Window(start=0, stop=25), Window(start=20, stop=45), Window(start=40, stop=65))
    """
    total, base, overlap = latent_frames(num_frames), latent_frames(base_num_frames), latent_frames(overlap_history)
    if overlap >= base:
        raise InvalidRequest(
            f"is not shorter than the window of {base_num_frames} frames;",
            hint=f"use at most {base_num_frames - 4}.",
            field="skyreels.overlap_history",
            value=overlap_history,
        )
    windows = [Window(0, min(base, total))]
    while windows[-1].stop < total:
        start = windows[-1].stop - overlap
        windows.append(Window(start, min(start + base, total)))
    return tuple(windows)


def lay_out(request: GenerationRequest, spec: ModelSpec, num_frames: int, source_frames: int) -> Layout:
    """The shortest legal layout of `num_frames` new frames after a source of `source_frames` frames, 0 for none.

    Sizes that the request leaves open are fitted to its block size. Raises InvalidRequest for a size that cannot be
    used; the error suggests the two nearest ones that can.
    """
    block = request.skyreels.block if spec.denoises else 1  # without noise levels nothing waits
    base, overlap = _sizes(request, spec, block)
    prefix = _prefix(overlap, source_frames, block) if source_frames else 0
    prefix_frames = pixel_frames(prefix) if prefix else 0
    total = _whole_blocks(latent_frames(legal_frames(prefix_frames + num_frames)), block)
    if total > base and not spec.many_windows:
        raise InvalidRequest(
            f"is more than {spec.title} makes in its one window;",
            hint=f"use at most {pixel_frames(base) - prefix_frames} frames, or a DF model.",
            field="num_frames",
            value=num_frames,
        )
    if block > 1 and total > base and request.skyreels.base_num_frames is not None:
        room = 2 * block if request.skyreels.overlap_history is None else max(2 * block, overlap + 1)
        shortest, longest = (latent_frames(int(bound)) for bound in WINDOW_FRAMES)
        _check_blocks("base_num_frames", base, block, max(room, shortest), longest)
    if block > 1 and (total > base or prefix):
        most = latent_frames(int(OVERLAP_FRAMES.most))
        fits = min(most, base - block)  # fits any source; a longer overlap needs a second window for most sources
        _check_blocks("overlap_history", overlap, block, block, fits if total > base else most, fits)
    frames = pixel_frames(total), pixel_frames(base), pixel_frames(overlap)
    windows = (Window(0, total),) if total <= base else plan_windows(*frames)
    return Layout(pixel_frames(total), prefix_frames, pixel_frames(base), pixel_frames(overlap), windows)


def _sizes(request: GenerationRequest, spec: ModelSpec, block: int) -> tuple[int, int]:
    """Latent frames of a window and of the overlap: those of the request, else the model's, fitted to `block`."""
    options = request.skyreels
    base = latent_frames(options.base_num_frames or spec.base_num_frames)
    if options.base_num_frames is None:
        base = max(base - base % block, 2 * block)
    if options.overlap_history is not None:
        return base, latent_frames(options.overlap_history)
    wanted = _whole_blocks(latent_frames(spec.overlap_history), block)
    return base, max(min(wanted, base - base % block - block), block)


def _prefix(overlap: int, source_frames: int, block: int) -> int:
    """Latent frames at the end of the source that begin the first window: at most `overlap`, in whole blocks."""
    available = latent_frames(source_frames)
    if available < block:
        raise InvalidRequest(
            f"continues {pixel_frames(block)} frames or more, the video has {source_frames};",
            hint=["use ", mention("skyreels.causal_block_size", available), ", or a longer video."],
            field="skyreels.causal_block_size",
            value=block,
        )
    return min(overlap, available - available % block)


def _check_blocks(name: str, value: int, block: int, least: int, most: int, fits: int | None = None) -> None:
    """Raise InvalidRequest unless `value`, in latent frames, is a number of whole blocks from `least` to `most`.

    The error suggests counts up to `fits`, if there are any.
    """
    if value % block == 0 and least <= value <= most:
        return
    legal = [count for count in range(block, most + 1, block) if count >= least]
    if fits is not None:
        legal = [count for count in legal if count <= fits] or legal
    nearest = sorted(sorted(legal, key=lambda count: abs(count - value))[:2])
    reason = "cannot be divided by" if value % block else "leaves no room for"
    raise InvalidRequest(
        f"is {value} latent frames, which {reason} blocks of {block};",
        hint=f"use {' or '.join(str(pixel_frames(count)) for count in nearest)}.",
        field=f"skyreels.{name}",
        value=pixel_frames(value),
    )


def _whole_blocks(latents: int, block: int) -> int:
    """The least number of whole blocks that is not below `latents`."""
    return block * math.ceil(latents / block)
