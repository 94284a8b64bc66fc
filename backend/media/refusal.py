"""Why the decoder process does not accept a file, and the shapes and lengths it accepts."""

from __future__ import annotations

LEAST_SIDE = 16  # pixels
MOST_ASPECT = 32
SECONDS = 600  # of a video that is sent


class Refused(Exception):
    """The file is not accepted. `reason` continues a sentence that begins with its name, `hint` is the way out."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def check_shape(width: int, height: int, most_pixels: int) -> None:
    """Raise Refused for a picture or frame that is too large, too small or too long."""
    size = f"{width}x{height} pixels"
    if width * height > most_pixels:
        raise Refused(f"has {size}, more than {most_pixels / 1e6:.1f} megapixels", "make it smaller.")
    if min(width, height) < LEAST_SIDE:
        raise Refused(f"has {size}", f"both sides need at least {LEAST_SIDE}.")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise Refused(f"has {size}, longer than {MOST_ASPECT} times its other side", "crop it.")
