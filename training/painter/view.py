"""Where the world lies in the picture: scene units to pixels, with a camera and its parallax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from training.painter.brush import Points


@dataclass(frozen=True, slots=True)
class View:
    """Scene coordinates have (0, 0) at the middle of the horizon, x to the right and y up; 1 is `unit` pixels.

    `look` is how far the camera has gone to the right, in scene units, and `zoom` how much it enlarges. Both act on a
    thing by its `depth`: 0 is the sky, which stays, 1 the plane of the subject.
    """

    width: int
    height: int
    unit: float
    horizon: float  # pixels from the top
    look: float = 0.0
    zoom: float = 1.0

    @classmethod
    def of(cls, width: int, height: int, horizon: float) -> View:
        """A view whose horizon is at `horizon` (0 to 1) of the height; the unit suits the picture's area."""
        unit = min(0.75 * math.sqrt(width * height), 1.4 * height, 1.4 * width)
        return cls(width, height, unit, horizon * height)

    @property
    def half(self) -> float:
        """From the middle to the left or right edge, in scene units."""
        return self.width / self.unit / 2

    @property
    def above(self) -> float:
        return self.horizon / self.unit

    @property
    def below(self) -> float:
        return (self.height - self.horizon) / self.unit

    def moved(self, look: float, zoom: float) -> View:
        return replace(self, look=look, zoom=zoom)

    def scale(self, depth: float) -> float:
        """Pixels a scene unit has at `depth`."""
        return self.unit * (1 + (self.zoom - 1) * depth)

    def place(self, points: Points, depth: float) -> Points:
        scale = self.scale(depth)
        middle = (self.width / 2 - self.look * depth * scale, self.horizon)
        return points * (scale, -scale) + middle

    def point(self, x: float, y: float, depth: float) -> tuple[float, float]:
        px, py = self.place(np.array([[x, y]]), depth)[0]
        return float(px), float(py)
