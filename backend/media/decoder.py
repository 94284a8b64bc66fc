"""The sandboxed decoder process: the one place where files from outside are decoded.

Run by `guard.py` as `python -m backend.media.decoder JOB PATH ...`, with limits on its time, memory and files:

    probe PATH LONGEST_S                       JSON: kind, width, height, frames, fps, comment
    picture PATH WIDTH HEIGHT FIT              raw RGB of one picture, fitted
    normalise PATH                             a PNG of the picture, upright, opaque, sRGB, without its metadata
    frames PATH WIDTH HEIGHT FIT FPS START     frames and fps of the source (`HEADER`), then raw RGB frames, fitted,
                                               from number START on at FPS; after the end the last one again and
                                               again, until the reader stops

A file is recognised by decoding it, never by its name. A refusal is one JSON line on standard error (`reason`, `hint`,
`detail`) and exit status 3. Choices: animated pictures are refused, but of a
JPEG that holds several photographs the first is read; transparency becomes white, as a page shows it; pictures are
rotated as EXIF says, videos as their display matrix says; of a video the first video stream is read (a cover image is
none), sound is ignored.
"""

from __future__ import annotations

import bisect
import io
import json
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from backend.media.fitting import Picture, fit_picture

if TYPE_CHECKING:
    from PIL.Image import Image

HEADER = struct.Struct("<Id")  # frames and fps of the source
REFUSED = 3

CPU_S = {"probe": 15, "picture": 15, "normalise": 20, "frames": 3 * 3600}
MEMORY_BYTES = 4 * 2**30
PNG_BYTES = 2**28  # what `normalise` may write; the other jobs may write no file at all

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")
PICTURE_PIXELS = 50_000_000
LEAST_SIDE = 16
MOST_ASPECT = 32
VIDEO_FORMATS = "mov,matroska,avi"
VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores")
VIDEO_PIXELS = 3840 * 2160 * 2
VIDEO_SECONDS = 600
VIDEO_FRAMES = 20_000
COMMENT_LENGTH = 4 * 2**20
THREADS = min(4, os.cpu_count() or 1)

STILL_BRANDS = ("heic", "heix", "heim", "heis", "mif1", "msf1", "avif", "avis")
WAY_OUT = "use JPEG, PNG, WebP, MP4, MOV, MKV or AVI."


class Refused(Exception):
    """The file is not accepted. `reason` continues a sentence that begins with its name, `hint` is the way out."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def check_shape(width: int, height: int, most_pixels: int) -> None:
    size = f"{width}x{height} pixels"
    if width * height > most_pixels:
        raise Refused(f"has {size}, more than {most_pixels / 1e6:.1f} megapixels", "make it smaller.")
    if min(width, height) < LEAST_SIDE:
        raise Refused(f"has {size}", f"both sides need at least {LEAST_SIDE}.")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise Refused(f"has {size}, longer than {MOST_ASPECT} times its other side", "crop it.")


# --- pictures ---

# EXIF orientation -> the transposition that puts the picture upright, by the names of Pillow's Transpose
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
ORIENTATION = 0x0112


def open_picture(path: str) -> Image | None:
    """The picture in the file, its size checked and nothing decoded yet; None if the file is no picture."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None  # `check_shape` is stricter, and refuses instead of warning
    try:
        image = PIL.Image.open(path, formats=PICTURE_FORMATS)
    except PIL.UnidentifiedImageError:
        return None
    check_shape(*image.size, PICTURE_PIXELS)
    moving = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
    if moving > 1:
        raise Refused(f"is a moving picture of {moving} frames", "save one of them, or convert it to MP4.")
    return image


def read_picture(path: str) -> Image:
    """The picture, decoded: RGB, upright, opaque, in sRGB."""
    image = open_picture(path)
    if image is None:
        raise Refused("is no picture that the studio reads", "use JPEG, PNG or WebP.")
    return rotated(in_srgb(opaque(image)), orientation(image))


def orientation(image: Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):
        return 1  # the picture itself may be whole although its EXIF block is not


def rotated(image: Image, exif_orientation: int) -> Image:
    from PIL.Image import Transpose

    name = UPRIGHT.get(exif_orientation)
    return image.transpose(Transpose[name]) if name else image


def opaque(image: Image) -> Image:
    """`image` on white, where it lets anything through; 16 bits a pixel become 8."""
    import PIL.Image

    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value / 256).convert("L")  # Pillow alone would clip, not scale
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    white = PIL.Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    flat = white.convert("RGB")
    flat.info = dict(image.info)
    return flat


def in_srgb(image: Image) -> Image:
    """RGB as a screen expects it. Phones save wider colours with a profile, and look pale without it."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a profile that is damaged or for other pixels says nothing
        if converted is not None:
            return converted
    return image.convert("RGB")


# --- videos ---


class VideoReader:
    """A video file: its first video stream, and the time of every frame in display order."""

    def __init__(self, path: str, longest_s: float = VIDEO_SECONDS) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.longest_s = longest_s
        self._reformatter = VideoReformatter()
        try:
            with self._opened() as container:
                self._examine(container)
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            raise Refused("is neither a picture nor a video that the studio reads, or damaged", WAY_OUT) from error

    def _opened(self) -> Any:
        import av

        options = {
            "format_whitelist": VIDEO_FORMATS,
            "protocol_whitelist": "file",
            "codec_whitelist": ",".join(VIDEO_CODECS),
        }
        return av.open(f"file:{self.path}", options=options, metadata_errors="replace")

    def _examine(self, container: Any) -> None:
        if container.metadata.get("major_brand", "") in STILL_BRANDS:
            raise Refused("is a HEIC or AVIF picture", "save it as JPEG, PNG or WebP.")
        stream = self._stream(container)
        codec = stream.codec_context
        if codec is None or codec.name not in VIDEO_CODECS:
            name = codec.name if codec else "an unknown codec"
            raise Refused(f"is encoded with {name}", "convert it to H.264, H.265, VP9, AV1, MPEG-4 or ProRes.")
        check_shape(codec.width, codec.height, VIDEO_PIXELS)
        self.comment = next((v for k, v in container.metadata.items() if k.lower() == "comment"), "")[:COMMENT_LENGTH]
        self.aspect = float(stream.sample_aspect_ratio or 1)
        self._read_index(container, stream)

    def _stream(self, container: Any) -> Any:
        from av.stream import Disposition

        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        for stream in container.streams.video:
            if not stream.disposition & covers:
                return stream
        raise Refused("has no video in it", "use a file with moving pictures.")

    def _read_index(self, container: Any, stream: Any) -> None:
        """Count the frames by reading every packet without decoding any; headers may be wrong."""
        entries: list[tuple[int | None, bool]] = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise Refused(f"is cut off after {len(entries)} frames", "send the whole file.")
            if packet.size and not packet.is_discard:
                entries.append((packet.pts, packet.is_keyframe))
            if len(entries) > VIDEO_FRAMES:
                raise Refused(f"has more than {VIDEO_FRAMES:,} frames", "cut it shorter.")
        if not entries:
            raise Refused("has no frames in it", "send the whole file.")
        self.frames = len(entries)
        # AVI keeps no times: what its demuxer gives for them is a guess, wrong where frames are stored out of order.
        stamps = sorted(pts for pts, _ in entries if pts is not None and container.format.name != "avi")
        self.stamps = stamps if len(set(stamps)) == len(entries) else []  # empty: count the frames instead
        self.keys = sorted(pts for pts, key in entries if key and pts is not None)
        self.fps = self._rate(stream)
        self.times = self._display_times(float(stream.time_base))
        length = max(self.times[-1], self.frames / self.fps)
        if length > self.longest_s:
            raise Refused(f"is {length:,.0f} seconds long", f"cut it to {self.longest_s:g} seconds.")

    def _rate(self, stream: Any) -> float:
        """Frames per second by the header, or by the time stamps where these differ by more than half a frame."""
        stated = float(stream.average_rate or stream.guessed_rate or 0)
        span = float((self.stamps[-1] - self.stamps[0]) * stream.time_base) if self.stamps else 0.0
        steps = self.frames - 1
        if span > 0 and not (stated and abs(span - steps / stated) <= 0.5 / stated):
            return steps / span
        if not stated:
            raise Refused("does not say how fast it runs", "convert it to MP4.")
        return stated

    def _display_times(self, unit_s: float) -> list[float]:
        """Presentation time of each frame in seconds, counted from the first."""
        even = [place / self.fps for place in range(self.frames)]
        stamped = [(stamp - self.stamps[0]) * unit_s for stamp in self.stamps]
        # Less than half a frame of unevenness is rounding or a phone's jitter; taken for even, no frame is left out.
        uneven = any(abs(a - b) >= 0.5 / self.fps for a, b in zip(even, stamped, strict=False))
        return stamped if uneven else even

    def decoded(self, first: int = 0) -> Iterator[tuple[int, Any]]:
        """Frames with their place in display order, beginning at or before place `first`, damaged ones left out."""
        key = None
        if self.stamps and first > 0:
            before = bisect.bisect_right(self.keys, self.stamps[first])
            key = self.keys[before - 1] if before else None
        if key is not None:
            frames = self._decoded_from(key)
            head = next(frames, None)
            if head is not None and head[0] <= first:
                yield head
                yield from frames
                return
        yield from self._decoded_from(None)

    def _decoded_from(self, key: int | None) -> Iterator[tuple[int, Any]]:
        import av

        places = {pts: place for place, pts in enumerate(self.stamps)}
        with self._opened() as container:
            stream = self._stream(container)
            stream.codec_context.thread_type = "AUTO"
            stream.codec_context.thread_count = THREADS
            if key is not None:
                container.seek(key, stream=stream)
            count = 0
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    count += 1  # the frame before it stands in its place
                    continue
                for frame in frames:
                    place = places.get(frame.pts) if places else count
                    count += 1
                    if place is not None and place < self.frames:
                        yield place, frame

    def picture(self, frame: Any) -> Picture:
        """One frame as RGB, upright, with square pixels."""
        from av.video.reformatter import ColorRange, Colorspace, Interpolation

        check_shape(frame.width, frame.height, VIDEO_PIXELS)
        # Untagged video is BT.601 below 720 lines and BT.709 from there on: what players assume.
        guessed = Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601
        tagged = {1: Colorspace.ITU709, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 9: Colorspace.BT2020}
        rgb = self._reformatter.reformat(
            frame,
            width=max(LEAST_SIDE, round(frame.width * self.aspect)),
            format="rgb24",
            src_colorspace=tagged.get(frame.colorspace, guessed),
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            threads=THREADS,
        )
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))  # counter-clockwise

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height as shown, from the first frame. Raises Refused unless it and the last one can be decoded."""
        first = next(self.decoded(), None)
        last = next(self.decoded(self.frames - 1), None)
        if first is None or last is None:
            raise Refused("cannot be decoded", "convert it to MP4 with H.264.")
        height, width = self.picture(first[1]).shape[:2]
        check_shape(width, height, VIDEO_PIXELS)
        return width, height


# --- jobs ---


def probe(out: BinaryIO, path: str, longest_s: str) -> None:
    if open_picture(path) is not None:
        width, height = read_picture(path).size
        details: dict[str, Any] = {"kind": "image", "frames": 1, "fps": 0.0, "comment": ""}
    else:
        video = VideoReader(path, float(longest_s))
        width, height = video.size
        details = {"kind": "video", "frames": video.frames, "fps": video.fps, "comment": video.comment}
    out.write(json.dumps({"width": width, "height": height, **details}).encode())


def picture(out: BinaryIO, path: str, width: str, height: str, fit: str) -> None:
    out.write(fit_picture(np.asarray(read_picture(path)), int(width), int(height), fit).tobytes())


def normalise(out: BinaryIO, path: str) -> None:
    image = read_picture(path)
    image.info = {}
    image.save(out, "PNG", compress_level=1)  # 50 megapixels take seconds at the default level


def frames(out: BinaryIO, path: str, width: str, height: str, fit: str, fps: str, start: str) -> None:
    video = VideoReader(path)
    number, rate = int(start), float(fps)
    out.write(HEADER.pack(video.frames, video.fps))

    def moment(number: int) -> float:
        """The time in the middle of frame `number`, in seconds: half a frame of jitter changes nothing."""
        return (number + 0.5) / rate

    def raw(frame: Any) -> bytes:
        return fit_picture(video.picture(frame), int(width), int(height), fit).tobytes()

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


def main(job: str, *arguments: str) -> int:
    out, err = private_streams()
    bound(CPU_S[job], MEMORY_BYTES, PNG_BYTES if job == "normalise" else 0)  # before it has seen a byte of the file
    try:
        JOBS[job](out, *arguments)
        out.flush()
    except Refused as error:
        cause = error.__cause__
        answer = {"reason": error.reason, "hint": error.hint, "detail": repr(cause) if cause else ""}
    except BrokenPipeError:
        os._exit(0)  # the reader has closed the pipe
    except MemoryError as error:
        answer = {"reason": "needs too much memory", "hint": "make it smaller.", "detail": repr(error)}
    except Exception as error:  # whatever a decoder raises for a bad file is a refusal
        answer = {"reason": "is damaged", "hint": "export it again and send that.", "detail": repr(error)}
    else:
        return 0
    err.write(json.dumps(answer).encode() + b"\n")
    err.flush()
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
