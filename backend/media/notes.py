"""What is done to an upload without being asked, in sentences for the user. All of them are here."""

from __future__ import annotations

TRANSPARENT = "Its transparent parts are shown on white."
MATRIX = "Its display matrix is no turn by quarters and no mirror image, and is ignored."
CUT = "It lacks its last bytes; what they held is filled in."


def tone_mapped(transfer: str) -> str:
    return f"Its HDR colours ({transfer}) are tone-mapped to the normal range (BT.709)."


def narrowed(primaries: str) -> str:
    return f"Its wide colours ({primaries}) are converted to BT.709."


def varying_rate(fps: float) -> str:
    return f"Its frame rate varies; {fps:.5g} frames a second, the rate of its moving parts, is used."


def deinterlaced(fps: float) -> str:
    return (
        f"It is interlaced and is deinterlaced; each field becomes a frame, so its rate is {fps:.5g} frames a second."
    )


def ends_early(stated_s: float, there_s: float) -> str:
    return (
        f"It states a length of {stated_s:.4g} seconds, and its video ends after {there_s:.4g}; the end may be missing."
    )


def one_of_tracks(count: int, width: int, height: int) -> str:
    return f"It has {count} video tracks; the one of {width}x{height} pixels is used."


def first_of(pictures: int) -> str:
    return f"It holds {pictures} pictures; the first is used."


def without_chunk(names: list[str]) -> str:
    return f"Damaged data beside its pixels ({', '.join(names)}) is ignored."
