"""The sandboxed decoder process: the one place where files from outside are decoded.

Run by `guard.py` as `python -m backend.media.decoder JOB PATH ...`, with limits on its time, memory and files:

    probe PATH LONGEST_S                       JSON: kind, width, height, frames, fps, comment, notes
    picture PATH WIDTH HEIGHT FIT              raw RGB of one picture, fitted
    normalise PATH                             a PNG of the picture, upright, opaque, sRGB, without its metadata
    frames PATH WIDTH HEIGHT FIT FPS START     frames and fps of the source (`HEADER`), then raw RGB frames, fitted,
                                               from number START on at FPS; after the end the last one again and
                                               again, until the reader stops

A file is recognised by decoding it, never by its name. A refusal is one JSON line on standard error (`reason`, `hint`,
`detail`) and exit status 3. Still pictures are read by `pictures.py`, moving ones by `animation.py`, videos by
`videos.py`. What is done to a file unasked is one of the sentences of `notes.py`; not said are these: of a JPEG that
holds several photographs the first is read, pictures are turned as EXIF says and videos as their display matrix says,
colour profiles are applied, and sound is ignored.
"""

from __future__ import annotations

import bisect
import json
import os
import resource
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from backend.media import videos
from backend.media.animation import AnimationReader
from backend.media.fitting import fit_picture
from backend.media.pictures import is_moving, open_picture, read_picture
from backend.media.refusal import SECONDS, Refused
from backend.media.videos import VideoReader

HEADER = struct.Struct("<Id")  # frames and fps of the source
REFUSED = 3

CPU_S = {"probe": 15, "picture": 15, "normalise": 20, "frames": 3 * 3600}
MEMORY_BYTES = 4 * 2**30
PNG_BYTES = 2**28  # what `normalise` may write; the other jobs may write no file at all


def open_video(path: str, longest_s: float) -> VideoReader | AnimationReader | None:
    """The video or moving picture in the file; None if it holds a still picture."""
    image = open_picture(path)
    if image is None:
        return VideoReader(path, longest_s)
    return AnimationReader(path, longest_s, videos.PIXELS, videos.FRAMES) if is_moving(image) else None


# --- jobs ---


def probe(out: BinaryIO, path: str, longest_s: str) -> None:
    details: dict[str, Any]
    if video := open_video(path, float(longest_s)):
        width, height = video.size
        details = {"kind": "video", "frames": video.frames, "fps": video.fps, "comment": video.comment}
        details["notes"] = video.notes
    else:
        image, remarks = read_picture(path)
        width, height = image.size
        details = {"kind": "image", "frames": 1, "fps": 0.0, "comment": "", "notes": remarks}
    out.write(json.dumps({"width": width, "height": height, **details}).encode())


def picture(out: BinaryIO, path: str, width: str, height: str, fit: str, position: str) -> None:
    image, _ = read_picture(path)
    out.write(fit_picture(np.asarray(image), int(width), int(height), fit, float(position)).tobytes())


def normalise(out: BinaryIO, path: str) -> None:
    image, _ = read_picture(path)
    image.info = {}
    image.save(out, "PNG", compress_level=1)  # 50 megapixels take seconds at the default level


def frames(out: BinaryIO, path: str, width: str, height: str, fit: str, position: str, fps: str, start: str) -> None:
    video = open_video(path, SECONDS)
    if video is None:
        raise Refused("is a picture, not a video", "use MP4, MOV, MKV, WebM, AVI, MPEG or GIF.")
    number, rate = int(start), float(fps)
    out.write(HEADER.pack(video.frames, video.fps))

    def moment(number: int) -> float:
        """The time in the middle of frame `number`, in seconds: half a frame of jitter changes nothing."""
        return (number + 0.5) / rate

    def raw(frame: Any) -> bytes:
        return fit_picture(video.picture(frame), int(width), int(height), fit, float(position)).tobytes()

    current: Any = None
    first = max(0, bisect.bisect_right(video.times, moment(number)) - 1)
    for place, frame in video.decoded(first):
        shown = None
        while current is not None and moment(number) < video.times[place]:
            shown = shown or raw(current)
            out.write(shown)
            out.flush()
            number += 1
        current = frame
    if current is None:
        raise Refused("cannot be decoded", "convert it to MP4 with H.264.")
    shown = raw(current)
    while True:  # the reader counts the frames it needs and stops this process
        out.write(shown)
        out.flush()


JOBS: dict[str, Callable[..., None]] = {"probe": probe, "picture": picture, "normalise": normalise, "frames": frames}


def bound(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    """Limit CPU time, address space and the size of written files of this process."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Duplicates of standard output and error; what libraries print on the original ones is dropped."""
    out, err = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(2), "wb")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    return out, err


def run(job: str, out: BinaryIO, *arguments: str) -> dict[str, str] | None:
    """Do a job; None once all of its output is in `out`, or why the file is refused."""
    try:
        JOBS[job](out, *arguments)
        out.flush()
    except Refused as error:
        cause = error.__cause__
        return {"reason": error.reason, "hint": error.hint, "detail": repr(cause) if cause else ""}
    except BrokenPipeError:
        raise
    except MemoryError as error:
        return {"reason": "needs too much memory", "hint": "make it smaller.", "detail": repr(error)}
    except Exception as error:  # whatever a decoder raises for a bad file is a refusal
        return {"reason": "is damaged", "hint": "export it again and send that.", "detail": repr(error)}
    return None


def main(job: str, *arguments: str) -> int:
    out, err = private_streams()
    bound(CPU_S[job], MEMORY_BYTES, PNG_BYTES if job == "normalise" else 0)  # before it has seen a byte of the file
    try:
        refusal = run(job, out, *arguments)
    except BrokenPipeError:
        os._exit(0)  # the reader has closed the pipe
    if refusal is None:
        return 0
    err.write(json.dumps(refusal).encode() + b"\n")
    err.flush()
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
