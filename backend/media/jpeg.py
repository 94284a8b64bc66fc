"""The scans of a JPEG (ITU-T T.81, annex B): how much of the picture a file has that was cut off."""

from __future__ import annotations

import re
from dataclasses import dataclass

MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # in a scan, what is neither a stuffed byte nor a restart
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SCAN, END = 0xDA, 0xD9
COEFFICIENTS = 64
Scan = tuple[bytes, range, bool]  # components, coefficients, whether it refines what an earlier one gave


@dataclass(frozen=True, slots=True)
class Scans:
    """What a JPEG has. `end` is behind its last segment that is whole, or its last byte if that is in a scan."""

    components: bytes
    unit_rows: int  # of pixels, in which a scan goes through the picture
    scans: list[Scan]
    end: int

    @property
    def has_every_coefficient(self) -> bool:
        """Whether every coefficient of every component is in one of them, if roughly."""
        started = {(of, at) for components, coefficients, _ in self.scans for of in components for at in coefficients}
        return len(started) == COEFFICIENTS * len(set(self.components)) > 0

    @property
    def last_refines(self) -> bool:
        return bool(self.scans) and self.scans[-1][2]


def read_scans(data: bytes) -> Scans:
    components, unit_rows, progressive = b"", 8, False
    scans: list[Scan] = []
    at = 2
    while found := MARKER.search(data, at):
        start, body, marker = found.start(), found.end(), data[found.end() - 1]
        at = body + int.from_bytes(data[body : body + 2], "big")
        if marker == END or body + 2 > len(data) or at > len(data):
            return Scans(components, unit_rows, scans, start)
        content = data[body + 2 : at]
        if marker in FRAMES:
            components, progressive = content[6::3], marker % 4 == 2
            unit_rows = 8 * max(factors & 0xF for factors in content[7::3]) if len(components) > 1 else 8
        elif marker == SCAN:
            first, last, bits = content[-3:] if progressive else (0, COEFFICIENTS - 1, 0)
            scans.append((content[1:-3:2], range(first, last + 1), bits >> 4 > 0))
    return Scans(components, unit_rows, scans, len(data) if scans else at)
