"""What MP4, MOV, Matroska and transport streams say of their video that ffmpeg does not pass on.

Sources: ISO/IEC 14496-12 (boxes; `colr` is 12.1.5), the QuickTime File Format (`colr` of type `nclc`), RFC 8794 (EBML),
RFC 9559 (Matroska; Colour is 5.1.4.1.28.16, Duration 5.1.2.10), ISO/IEC 13818-1 (transport streams). Read are headers
alone, and of each level at most `MOST_PARTS` parts.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNSPECIFIED = 2
Colour = tuple[int, int, int]  # the code numbers of H.273: primaries, transfer characteristics, matrix coefficients
Data = bytes | mmap.mmap
Part = tuple[int | bytes, int, int]  # a box or an element: its name, where its content begins and where it ends

MOST_PARTS = 10_000
PACKET_BYTES = (188, 192, 204)  # of a transport stream: alone, with the time of M2TS, with the error correction of DVB
ENCRYPTED_ENTRIES = (b"encv", b"drmi", b"drmv")
VISUAL_ENTRY_BYTES = 78  # of a visual sample entry before its boxes
EBML, SEGMENT, INFO, TIME_SCALE, DURATION = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489
TRACKS, TRACK, KIND, VIDEO, COLOUR = 0x1654AE6B, 0xAE, 0x83, 0xE0, 0x55B0
MATRIX, TRANSFER, PRIMARIES = 0x55B1, 0x55BA, 0x55BB
VIDEO_KIND = 1
USUAL_SCALE_NS = 1_000_000  # of Matroska's times
UNKNOWN = sys.maxsize  # where an element of unknown size ends


def stated_colour(path: str, track: int) -> Colour:
    """The colour that the container states for its video track number `track`; UNSPECIFIED three times if none."""
    stated: Colour = (UNSPECIFIED,) * 3
    with _mapped(path) as data:
        is_matroska = data[:4] == EBML.to_bytes(4, "big")
        colours = _matroska_colours(data) if is_matroska else _mp4_colours(data)
        return next(itertools.islice(colours, track, None), stated)


def has_encrypted_track(path: str) -> bool:
    """Whether an MP4 has a sample entry (ISO/IEC 14496-12, 8.5.2) of protected video, which no decoder is for."""
    with _mapped(path) as data:
        return any(entry[0] in ENCRYPTED_ENTRIES for entries in _video_entries(data) for entry in entries)


def box_names(path: str) -> tuple[list[bytes], bool]:
    """The names of the outermost boxes of an MP4, MOV or AVIF, and whether the file ends before the last one does."""
    names: list[bytes] = []
    at = 0
    with _mapped(path) as data:
        while at + 8 <= len(data) and len(names) < MOST_PARTS:
            size, name = struct.unpack(">I4s", data[at : at + 8])
            names.append(name)
            if size == 1:
                size = int.from_bytes(data[at + 8 : at + 16], "big")
            if 0 < size < 8:
                break
            at += size or len(data) - at
        return names, at > len(data)


def brands(path: str) -> set[bytes]:
    """The brands of a file by its `ftyp` box (ISO/IEC 14496-12, 4.3); none of a file that does not begin with one."""
    with Path(path).open("rb") as file:
        size, name = int.from_bytes(file.read(4), "big"), file.read(4)
        listed = file.read(min(size - 8, MOST_PARTS)) if name == b"ftyp" and size > 8 else b""
    return {listed[at : at + 4] for at in range(0, len(listed), 4) if at != 4}  # the second is a version


def has_scrambled_packets(path: str, pid: int) -> bool:
    """Whether a packet `pid` at the beginning of a transport stream is scrambled (ISO/IEC 13818-1, 2.4.3.2)."""
    with _mapped(path) as data:
        for size in PACKET_BYTES:
            starts = [at for at in range(size) if data[at : at + 5 * size : size] == b"\x47" * 5]
            if starts:
                headers = (data[at : at + 4] for at in range(starts[0], len(data) - 3, size))
                packets = itertools.islice(headers, MOST_PARTS)
                return any((header[1] & 31) << 8 | header[2] == pid and header[3] & 0xC0 for header in packets)
    return False


def matroska_end(path: str) -> tuple[bool, float]:
    """Of a Matroska or WebM file: whether it is shorter than its Segment says, and the duration in seconds that it
    states, 0 if none. A live recording says neither.
    """
    with _mapped(path) as data:
        segment = next((part for part in _elements(data, 0, UNKNOWN) if part[0] == SEGMENT), None)
        if segment is None:
            return False, 0.0
        _, start, stop = segment
        is_cut = len(data) < stop < UNKNOWN
        info = next((part for part in _elements(data, start, len(data)) if part[0] == INFO), (0, 0, 0))
        found = next((data[at:end] for _, at, end in _inside(data, [info], DURATION)), b"")
        if len(found) not in (4, 8):
            return is_cut, 0.0
        (ticks,) = struct.unpack(">f" if len(found) == 4 else ">d", found)
        seconds = ticks * _number(data, info, TIME_SCALE, USUAL_SCALE_NS) / 1e9
        return is_cut, seconds if math.isfinite(seconds) else 0.0


@contextmanager
def _mapped(path: str) -> Iterator[Data]:
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


# --- MP4 and MOV ---


def _mp4_colours(data: Data) -> Iterator[Colour]:
    for entries in _video_entries(data):
        stated: Colour = (UNSPECIFIED,) * 3
        for _, start, end in entries[:1]:
            for name, at, stop in _boxes(data, start + VISUAL_ENTRY_BYTES, end):
                if name == b"colr" and data[at : at + 4] in (b"nclx", b"nclc") and stop - at >= 10:
                    stated = struct.unpack(">3H", data[at + 4 : at + 10])
        yield stated


def _video_entries(data: Data) -> Iterator[list[Part]]:
    """The sample entries of each video track."""
    for track in _within(data, [(b"", 0, len(data))], b"moov", b"trak"):
        handlers = _within(data, [track], b"mdia", b"hdlr")
        if any(data[start + 8 : start + 12] == b"vide" for _, start, _ in handlers):
            tables = _within(data, [track], b"mdia", b"minf", b"stbl", b"stsd")
            yield [entry for _, start, end in tables for entry in _boxes(data, start + 8, end)]


def _within(data: Data, parts: list[Part], *names: bytes) -> list[Part]:
    """The boxes of the last name, in those of the name before, and so on, in `parts`."""
    for wanted in names:
        parts = [part for _, start, end in parts for part in _boxes(data, start, end) if part[0] == wanted]
    return parts


def _boxes(data: Data, start: int, end: int) -> Iterator[Part]:
    for _ in range(MOST_PARTS):
        if start + 8 > end:
            return
        size, name = struct.unpack(">I4s", data[start : start + 8])
        content = start + 8
        if size == 1 and start + 16 <= end:
            size, content = int.from_bytes(data[content : content + 8], "big"), start + 16
        stop = min(end, start + size) if size else end
        if stop < content:
            return
        yield name, content, stop
        start = stop


# --- Matroska and WebM ---


def _matroska_colours(data: Data) -> Iterator[Colour]:
    tracks = _inside(data, [(0, 0, len(data))], SEGMENT)[:1]
    tracks = next(([part] for _, start, end in tracks for part in _elements(data, start, end) if part[0] == TRACKS), [])
    for track in _inside(data, tracks, TRACK):
        if _number(data, track, KIND, 0) == VIDEO_KIND:
            colour = next(iter(_inside(data, [track], VIDEO, COLOUR)), (0, 0, 0))
            primaries, transfer, matrix = (
                _number(data, colour, name, UNSPECIFIED) for name in (PRIMARIES, TRANSFER, MATRIX)
            )
            yield primaries, transfer, matrix


def _inside(data: Data, parts: list[Part], *names: int) -> list[Part]:
    for wanted in names:
        parts = [part for _, start, end in parts for part in _elements(data, start, end) if part[0] == wanted]
    return parts


def _number(data: Data, parent: Part, name: int, otherwise: int) -> int:
    """The value of an unsigned integer element in `parent`."""
    found = _inside(data, [parent], name)
    return int.from_bytes(data[found[0][1] : found[0][2]][:8], "big") if found else otherwise


def _elements(data: Data, start: int, end: int) -> Iterator[Part]:
    for _ in range(MOST_PARTS):
        if start >= end:
            return
        name, start = _vint(data, start, keep_marker=True)
        size, start = _vint(data, start, keep_marker=False)
        stop = end if size is None else min(end, start + size)
        if name is None or start > end:
            return
        yield name, start, stop
        start = stop


def _vint(data: Data, at: int, *, keep_marker: bool) -> tuple[int | None, int]:
    """A number of variable length (RFC 8794, 4) and where it ends; None where it is invalid or says "unknown"."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    if not first or (not keep_marker and value == (1 << 7 * length + 1) - 1):
        return None, at + length
    return value if keep_marker else value & (1 << 7 * length) - 1, at + length
