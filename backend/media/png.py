"""The chunks of a PNG (W3C PNG specification, third edition): which are whole, and which colours they declare."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.media.colour import (
    BT709,
    CHROMATICITIES,
    Chromaticities,
    ColourSpace,
    coded_space,
    power,
    to_bt709,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"iCCP"}  # for the decoder
COLOURS = {b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP"}
BEFORE_PIXELS = COLOURS | {b"tRNS"}  # they say nothing behind them (table 7)
GREY, FULL_RANGE, NO_PRIMARIES = 0, 1, 2
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
PIECE_BYTES = 2**20
PROFILE_BYTES = 4 * 2**20
USUAL_GAMMA = 1 / 2.2


@dataclass(frozen=True, slots=True)
class Png:
    """A PNG without its texts and damaged side chunks. `space` is None where its pixels are sRGB or have a profile."""

    data: bytes
    bits: int
    damaged: list[str] = field(default_factory=list)
    space: ColourSpace | None = None


def read_png(raw: bytes) -> Png | None:
    """The PNG in `raw`; None if it is none. Side chunks (their names begin in lower case) are left out where their
    checksum is wrong, as the specification advises and browsers do.
    """
    if not raw.startswith(SIGNATURE + b"\0\0\0\x0dIHDR"):
        return None
    kept = io.BytesIO()
    found: dict[bytes, bytes] = {}
    damaged = []
    kept.write(SIGNATURE)
    pixels_began = False
    for name, data, whole, chunk in _chunks(memoryview(raw)):
        pixels_began = pixels_began or name == b"IDAT"
        if name[:1].isupper():
            kept.write(chunk)
        elif name in KEPT | COLOURS and not (pixels_began and name in BEFORE_PIXELS):
            if not whole or (name == b"iCCP" and not _is_profile(data)):
                damaged.append(name.decode())
                continue
            if name == b"tRNS":
                chunk = memoryview(_chunk(name, _as_decoded(data, raw)))
            if name in KEPT:
                kept.write(chunk)
            if name in COLOURS:
                found.setdefault(name, bytes(data))
    return Png(kept.getvalue(), raw[24], damaged, _space(found))


def deep_pixels(png: Png) -> NDArray[np.uint16] | None:
    """The pixels of a PNG of 16 bits, shape (height, width, 1 to 4), its transparent colour applied; None if it is
    damaged. Pillow reads 8 of the 16 bits, and compares the transparent colour with those.
    """
    import av

    decoder: Any = av.CodecContext.create("png", "r")
    try:
        frame = (decoder.decode(av.Packet(png.data)) + decoder.decode(None))[0]
    except (av.error.FFmpegError, IndexError):
        return None
    channels = {"gray16be": 1, "ya16be": 2, "rgb48be": 3, "rgba64be": 4}.get(frame.format.name)
    if channels is None:
        return None
    plane = frame.planes[0]
    rows = np.frombuffer(plane, ">u2").reshape(frame.height, plane.line_size // 2)
    return rows[:, : frame.width * channels].reshape(frame.height, frame.width, channels).astype(np.uint16)


def decoded_share(png: Png) -> float:
    """How much of its pixels a PNG holds, 0 to 1, by the bytes that its data unpack to."""
    width, height, bits, colour_type, *_, interlaced = struct.unpack_from(">IIBBBBB", png.data, 16)
    pixel_bits = bits * CHANNELS.get(colour_type, 4)
    whole = 0
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -((left - width) // across), -((top - height) // down)
        whole += rows * (1 + (columns * pixel_bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return min(1.0, _unpacked_bytes(png.data, whole) / whole)


def _unpacked_bytes(data: bytes, most: int) -> int:
    unpacker, count = zlib.decompressobj(), 0
    for name, part, *_ in _chunks(memoryview(data)):
        packed = bytes(part) if name == b"IDAT" else b""
        unpacked = PIECE_BYTES if packed else 0
        while (packed or unpacked == PIECE_BYTES) and count < most and not unpacker.eof:
            try:
                unpacked = len(unpacker.decompress(packed, PIECE_BYTES))
            except zlib.error:
                return count
            packed = unpacker.unconsumed_tail
            count += unpacked
    return count


def _chunks(raw: memoryview) -> Iterator[tuple[bytes, memoryview, bool, memoryview]]:
    """Name, data, whether the checksum is right, and the whole chunk; what is cut off comes as it is."""
    at = len(SIGNATURE)
    while at + 8 <= len(raw):
        (length,) = struct.unpack_from(">I", raw, at)
        name, data, end = bytes(raw[at + 4 : at + 8]), raw[at + 8 : at + 8 + length], at + 12 + length
        checked = name in KEPT | COLOURS and end <= len(raw)
        whole = checked and zlib.crc32(raw[at + 4 : end - 4]) == struct.unpack_from(">I", raw, end - 4)[0]
        yield name, data, whole, raw[at:end]
        if name == b"IEND":
            return
        at = end


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _as_decoded(transparent: memoryview, raw: bytes) -> bytes:
    """The transparent grey of 2 or 4 bits at 8, to which Pillow takes the samples but not this."""
    bits, colour_type = raw[24:26]
    if colour_type != GREY or bits not in (2, 4) or len(transparent) != 2:
        return bytes(transparent)
    (grey,) = struct.unpack(">H", transparent)
    return struct.pack(">H", (grey & (2**bits - 1)) * 255 // (2**bits - 1))


def _is_profile(data: memoryview) -> bool:
    _, _, rest = bytes(data[: PROFILE_BYTES + 100]).partition(b"\0")
    try:
        return bool(rest) and len(zlib.decompressobj().decompress(rest[1:], PROFILE_BYTES)) < PROFILE_BYTES
    except zlib.error:
        return False


def _space(found: dict[bytes, bytes]) -> ColourSpace | None:
    """What the chunks declare, in the specification's order of precedence: cICP, iCCP, sRGB, gAMA with cHRM.

    A cICP of narrow range or without primaries says nothing, as in browsers.
    """
    if len(coded := found.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, full_range = coded
        is_plain = matrix == 0 and full_range == FULL_RANGE and primaries != NO_PRIMARIES
        if is_plain and (space := coded_space(transfer, primaries)):
            return space
    if b"iCCP" in found or b"sRGB" in found or len(found.get(b"gAMA", b"")) != 4:
        return None
    gamma = struct.unpack(">I", found[b"gAMA"])[0] / 100_000
    chromaticities = _chromaticities(found.get(b"cHRM", b""))
    if not 0.01 < gamma < 10:
        return None
    if abs(gamma - USUAL_GAMMA) > 0.001:
        return ColourSpace(power(1 / gamma), chromaticities or CHROMATICITIES[BT709])
    return ColourSpace(power(2.2), chromaticities) if chromaticities else None


def _chromaticities(data: bytes) -> Chromaticities | None:
    """Of red, green, blue and white; None where they are missing, those of sRGB, or impossible."""
    if len(data) != 32:
        return None
    values = [value / 100_000 for value in struct.unpack(">8I", data)]
    white, *primaries = zip(values[::2], values[1::2], strict=True)
    chromaticities = (*primaries, white)
    if np.allclose(chromaticities, CHROMATICITIES[BT709], atol=0.002):
        return None
    try:
        to_bt709(chromaticities)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    return chromaticities
