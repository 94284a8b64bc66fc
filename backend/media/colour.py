"""Colours of other ranges brought to what an ordinary screen shows: HDR tone-mapped, wide primaries converted.

Sources: ITU-R BT.2100-2 (PQ and HLG, table 4 and 5), BT.2408-7 (reference white is 203 cd/m2: HLG 0.75, PQ 0.58),
BT.1886 (gamma 2.4 of a video display), IEC 61966-2-1 (sRGB), ITU-T H.273 (the code numbers, which PNG's cICP uses too).
Light is linear, and 1.0 is reference white.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.media.fitting import Picture

Light = NDArray[np.float32]
Signal = NDArray[np.uint8] | NDArray[np.uint16]
Curve = Callable[[Any], Any]

BT709, BT2020, P3 = 1, 9, 12  # primaries
GAMMA22, GAMMA28, LINEAR, SRGB, PQ, HLG = 4, 5, 8, 13, 16, 18  # transfer characteristics
VIDEO = (1, 6, 14, 15)  # the camera curve of BT.601, BT.709 and BT.2020, which BT.1886 displays
YCGCO = 8  # matrix coefficients
HDR_NAMES = {PQ: "PQ", HLG: "HLG"}
PRIMARIES_NAMES = {BT2020: "BT.2020", P3: "P3"}

WHITE_NITS = 203.0
PEAK_NITS = 1000.0  # the nominal peak of HLG, and of most PQ material
PEAK = PEAK_NITS / WHITE_NITS
BLOCK_PIXELS = 2**18  # converted at once, so that memory does not grow with the picture
D65 = (0.3127, 0.3290)
CHROMATICITIES = {  # x and y of red, green, blue, white
    BT709: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
Chromaticities = tuple[tuple[float, float], ...]


# --- transfer functions ---


def pq_light(signal: Any) -> Any:
    """The EOTF of PQ (BT.2100 table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = np.power(signal, 1 / m2)
    return np.power(np.maximum(root - c1, 0) / (c2 - c3 * root), 1 / m1) * 10000 / WHITE_NITS


def hlg_scene_light(signal: Any) -> Any:
    """The inverse OETF of HLG (BT.2100 table 5): light of the scene, 0 to 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def srgb_light(signal: Any) -> Any:
    return np.where(signal <= 0.04045, signal / 12.92, np.power((signal + 0.055) / 1.055, 2.4))


def srgb_signal(light: Any) -> Any:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.power(light, 1 / 2.4) - 0.055)


def bt1886_signal(light: Any) -> Any:
    return np.power(light, 1 / 2.4)


def power(exponent: float) -> Curve:
    return lambda signal: np.power(signal, exponent)


TO_LIGHT: dict[int, Curve] = {
    **dict.fromkeys(VIDEO, power(2.4)),
    GAMMA22: power(2.2),
    GAMMA28: power(2.8),
    LINEAR: power(1.0),
    SRGB: srgb_light,
    PQ: pq_light,
    HLG: hlg_scene_light,
}

# --- tone curves: light of the brightest channel, 1.0 at reference white, to light that the screen has ---


def moebius(light: Any) -> Any:
    """Unchanged up to 0.8 of reference white, then a Möbius transform that takes PEAK to 1.

    The operator `mobius` of ffmpeg's filter `tonemap` with param=0.8 and peak=4.926. Reference white becomes 244, and
    everything below 0.8 of it (skin is at 0.2 to 0.5) stays as BT.2408 relates it to BT.709.
    """
    knee = 0.8
    a = -(knee**2) * (PEAK - 1) / (knee**2 - 2 * knee + PEAK)
    b = (knee**2 - 2 * knee * PEAK + PEAK) / (PEAK - 1)
    light = np.minimum(light, PEAK)
    rolled = (b * b + 2 * b * knee + knee**2) / (b - a) * (light + a) / (light + b)
    return np.where(light <= knee, light, rolled)


def reference_white(light: Any) -> Any:
    """The Reference White Tone Mapping Operator of SMPTE ST 2094-50 (annex C) for a screen without headroom: reference
    white becomes half of the screen's light, a quadratic Bézier curve from there takes PEAK to 1. Browsers show HDR
    pictures by it.
    """
    knee, kappa = 0.5, 0.65
    x_middle = (1 - kappa) + kappa / knee
    middle = (1 - kappa) * knee + kappa
    a, b = PEAK + 1 - 2 * x_middle, 2 * x_middle - 2
    over = np.clip(light, 1, PEAK) - 1
    t = (-b + np.sqrt(b * b + 4 * a * over)) / (2 * a)
    bezier = knee + 2 * (middle - knee) * t + (knee + 1 - 2 * middle) * t * t
    return np.where(light <= 1, knee * light, bezier)


# --- primaries ---


def to_xyz(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """The matrix from linear RGB to XYZ (SMPTE RP 177), white adapted to D65 (Bradford). Raises LinAlgError."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
    matrix: NDArray[np.float64] = columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d65 = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    gains = (bradford @ d65) / (bradford @ columns[:, 3])
    adapted: NDArray[np.float64] = np.linalg.inv(bradford) @ np.diag(gains) @ bradford @ matrix
    return adapted


def to_bt709(chromaticities: Chromaticities) -> NDArray[np.float32]:
    """The matrix from linear RGB of these primaries to that of BT.709 (and sRGB)."""
    return to_primaries(BT709, chromaticities)


def to_primaries(code: int, chromaticities: Chromaticities) -> NDArray[np.float32]:
    """The matrix from linear RGB of these primaries to that of the primaries `code`. Raises LinAlgError."""
    matrix = np.linalg.solve(to_xyz(CHROMATICITIES[code]), to_xyz(chromaticities))
    if not np.isfinite(matrix).all():
        raise np.linalg.LinAlgError("not a set of primaries")
    return matrix.astype(np.float32)


# --- conversion ---


@dataclass(frozen=True, slots=True)
class ColourSpace:
    """How signals are to be read: the light of a signal from 0 to 1, and the primaries."""

    light: Curve
    chromaticities: Chromaticities
    transfer: int = 0  # its code number, where it is PQ or HLG

    @property
    def is_hdr(self) -> bool:
        return self.transfer in HDR_NAMES


def coded_space(transfer: int, primaries: int) -> ColourSpace | None:
    """The colour space of two code numbers of H.273; None for a transfer that is not known."""
    if transfer not in TO_LIGHT:
        return None
    chromaticities = CHROMATICITIES.get(primaries, CHROMATICITIES[BT709])
    return ColourSpace(TO_LIGHT[transfer], chromaticities, transfer if transfer in HDR_NAMES else 0)


def rounded_to_8(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16 bits as 8, rounded."""
    return ((values - (values >> 8) + 128) >> 8).astype(np.uint8)  # without leaving 16 bits


def rgb_of_ycgco(planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """R'G'B' of Y, Cg and Co at full range, all of shape (height, width, 3): H.273, equations 56 to 59."""
    y, cg, co = np.moveaxis(planes.astype(np.int32), -1, 0)
    cg, co = cg - 2**15, co - 2**15
    rgb: NDArray[np.int32] = np.stack([y - cg + co, y + cg, y - cg - co], axis=-1)
    return rgb.clip(0, 2**16 - 1).astype(np.uint16)


def for_video(rgb: Signal, space: ColourSpace) -> Picture:
    """R'G'B' of a video frame, uint16 (height, width, 3), as BT.709 of 8 bits, tone-mapped by `moebius` in BT.709.

    The brightest channel is mapped and the others scaled alike, which keeps the hue.
    """
    return _converted(rgb, space, moebius if space.is_hdr else None, BT709, bt1886_signal)


def for_picture(rgb: Signal, space: ColourSpace) -> Picture:
    """R'G'B' of a picture, uint8 or uint16 (height, width, 3), as sRGB of 8 bits, HDR tone-mapped as browsers do, by
    `reference_white` in BT.2020.
    """
    return _converted(rgb, space, reference_white if space.is_hdr else None, BT2020, srgb_signal)


def _converted(rgb: Signal, space: ColourSpace, tone: Curve | None, mapped_in: int, signal: Curve) -> Picture:
    """`tone` is applied in the primaries `mapped_in`."""
    most = np.iinfo(rgb.dtype).max
    lights = _light_table(space.light, most)
    to_tone = to_primaries(mapped_in, space.chromaticities).T
    to_end = to_bt709(CHROMATICITIES[mapped_in] if tone else space.chromaticities).T
    luma = to_xyz(space.chromaticities)[1].astype(np.float32)
    codes = _code_table(signal)
    out = np.empty(rgb.shape, np.uint8)
    rows = max(1, BLOCK_PIXELS // rgb.shape[1])
    for top in range(0, len(rgb), rows):
        light = lights[rgb[top : top + rows]]
        if space.transfer == HLG:  # the OOTF: a display of 1000 cd/m2 has gamma 1.2
            light *= PEAK * np.power(light @ luma, np.float32(0.2))[..., None]
        if tone:
            light = np.maximum(light @ to_tone, 0)
            light *= _gain(light, tone)
        light = np.maximum(light @ to_end, 0)
        # The square root spreads dark light over more entries of the table.
        out[top : top + rows] = codes[(np.sqrt(np.minimum(light, 1)) * (len(codes) - 1) + 0.5).astype(np.uint16)]
    return out


def _gain(light: Light, tone: Curve) -> Light:
    brightest = np.maximum(light.max(axis=2, keepdims=True), np.float32(1e-6))
    gain: Light = (tone(brightest) / brightest).astype(np.float32)
    return gain


@cache
def _light_table(light: Curve, most: int) -> Light:
    table: Light = light(np.arange(most + 1) / most).astype(np.float32)
    return table


@cache
def _code_table(signal: Curve) -> Picture:
    light = (np.arange(2**14) / (2**14 - 1)) ** 2
    return np.asarray(np.clip(signal(light), 0, 1) * 255 + 0.5, np.uint8)
