"""Contact sheet of clips that the model in the checkout generates for ordinary prompts.

python -m training.tiny.sheet [docs/tiny.jpg]
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.core.config import ROOT
from backend.media.fitting import Frames
from backend.skyreels_integration import SkyReelsEngine
from training.tiny.sample import generate

PROMPTS = (
    "A red boat drifts left on a calm sea at sunset",
    "A yellow balloon rises over green hills at dawn",
    "A white bird circles under the moon",
    "A blue car drives through the city at noon in the rain",
    "A green fish swims to the right under water",
    "A big orange rocket rises over the desert at night",
    "A pink ball bounces on a meadow at noon",
    "A purple train rolls to the left through the city at night",
    "A bright star grows over the sea at dusk",
    "A large green tree stands in the hills while it snows",
    "A tiny white sailing boat on the ocean in the morning",
    "A red hot air balloon comes down over the desert in the evening",
    "An orange seagull flies to the right over the sea by day",
    "A yellow taxi goes left in the city at sunset",
    "A purple fish circles above a reef",
    "A blue rocket lands in green hills at sunrise",
    "A green beach ball rolls to the right through the desert",
    "A red steam train crosses the hills from left to right on a cloudy day",
    "A pink balloon floats over the city in the snow",
    "A blue tree in the desert under the stars",
    "A red fish sinks in the deep sea",
    "A golden star bounces up and down over the hills on a dark night",
    "A pink car waits in the desert at midday",
    "An orange boat in the rain, the camera zooms in",
)
COLUMNS, CELL, GAP, LINE = 3, (224, 134), 8, 20


def sheet(clips: list[Frames], texts: tuple[str, ...] = PROMPTS) -> Image.Image:
    """Contact sheet: first and last frame of each clip, with its prompt below."""
    width, height = 2 * CELL[0] + GAP, CELL[1] + LINE + GAP
    rows = -(-len(clips) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, (frames, text) in enumerate(zip(clips, texts, strict=True)):
        x, y = GAP + number % COLUMNS * width, GAP + number // COLUMNS * height
        for place, frame in enumerate((frames[0], frames[-1])):
            large = cv2.resize(frame, CELL, interpolation=cv2.INTER_CUBIC)
            page.paste(Image.fromarray(np.ascontiguousarray(large)), (x + place * CELL[0], y))
        pen.text((x, y + CELL[1] + 2), text, "black", font)
    return page


def main(target: Path) -> None:
    engine = SkyReelsEngine()
    clips = [generate(engine, prompt=prompt, seed=number) for number, prompt in enumerate(PROMPTS)]
    sheet(clips).save(target, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "tiny.jpg")
