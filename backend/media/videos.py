"""Videos: one track, every frame with its time, in BT.709, upright, opaque, without combs."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from backend.media import notes
from backend.media.colour import (
    BT709,
    BT2020,
    HDR_NAMES,
    PRIMARIES_NAMES,
    YCGCO,
    ColourSpace,
    coded_space,
    for_video,
    rgb_of_ycgco,
    rounded_to_8,
)
from backend.media.containers import (
    UNSPECIFIED,
    Colour,
    box_names,
    has_encrypted_track,
    has_scrambled_packets,
    matroska_end,
    stated_colour,
)
from backend.media.fitting import Picture
from backend.media.refusal import LEAST_SIDE, SECONDS, Refused, check_shape
from backend.media.timing import even_times, is_even, moving_rate, spread

FORMATS = "mov,matroska,avi,mpegts,mpeg,dv"
CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"),
    *("mpeg1video", "mpeg2video", "ffv1", "dnxhd", "dvvideo", "qtrle", "png"),
)
MP4_BEGINNING = 4  # boxes of which one is known
NEVER_INTERLACED = ("vp8", "vp9", "av1", "libdav1d", "hevc", "qtrle", "png")
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # the decoders that read the alpha of WebM
PROGRESSIVE = 1  # AVFieldOrder
HD_LINES = 1088  # 1080, coded in blocks of 16
MOST_DELAY = 16  # frames that a decoder of H.264 may hold back to put them in order
SAMPLES = 15  # places of a video where two frames are asked whether they are interlaced
MATRIX_TOLERANCE = 0.01
DERIVED = 12  # matrix coefficients of H.273, table 4, and by primaries the code of the same matrix (clause 8.3)
DERIVED_FROM = {BT709: 1, 6: 7, 7: 7, BT2020: 9}
UNCONVERTED = {
    11: "Y'D'zD'x (SMPTE ST 2085)",
    DERIVED: "derived from its primaries",
    13: "derived from its primaries with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
APART_S = 1.0  # how far the tracks of a file may be from one another where it is cut off
PIXELS = 3840 * 2160 * 2
FRAMES = 20_000
COMMENT_LENGTH = 4 * 2**20
THREADS = min(4, os.cpu_count() or 1)

STILL_BRANDS = ("heic", "heix", "heim", "heis", "mif1", "msf1", "avif", "avis")
MATROSKA_KEY = "enc_key_id"  # where ffmpeg puts the key's name of an encrypted Matroska or WebM track
NEITHER = "is neither a picture nor a video that the studio reads, or damaged"
WAY_OUT = "use JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF, MP4, MOV, MKV, WebM, AVI, MPEG or DV."

# (a, b, c, d) of a display matrix, without its scale -> how to turn: (swap the axes, flip vertically, horizontally)
TURNS: dict[tuple[int, ...], tuple[bool, bool, bool]] = {
    (1, 0, 0, 1): (False, False, False),
    (-1, 0, 0, 1): (False, False, True),
    (1, 0, 0, -1): (False, True, False),
    (-1, 0, 0, -1): (False, True, True),
    (0, 1, 1, 0): (True, False, False),
    (0, 1, -1, 0): (True, False, True),
    (0, -1, 1, 0): (True, True, False),
    (0, -1, -1, 0): (True, True, True),
}
Turn = tuple[bool, bool, bool]


class VideoReader:
    """A video file: one video track, and the time of every frame in display order.

    `count` frames are in the file, and `times` says when each is shown; shown at `fps` they are `frames`, which is more
    where the rate varies and less where frames come faster than that. Of interlaced video each field is a frame.
    """

    def __init__(self, path: str, longest_s: float = SECONDS) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.longest_s = longest_s
        self._reformatter = VideoReformatter()
        try:
            with self._opened() as container:
                self._examine(container)
            if self.interlaced:
                self._show_fields()
        except Refused as error:
            raise without_index(path) or error from None
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            if has_encrypted_track(path):
                raise encrypted() from error
            raise without_index(path) or Refused(NEITHER, WAY_OUT) from error

    def _opened(self) -> Any:
        import av

        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "codec_whitelist": ",".join(CODECS)}
        return av.open(f"file:{self.path}", options=options, metadata_errors="replace")

    def _examine(self, container: Any) -> None:
        if container.metadata.get("major_brand", "") in STILL_BRANDS:
            raise Refused("is a HEIC or AVIF picture", "save it as JPEG, PNG or WebP.")
        stream, self.tracks = self._stream(container)
        codec = stream.codec_context
        if MATROSKA_KEY in stream.metadata or (codec is None and has_encrypted_track(self.path)):
            raise encrypted()
        if codec is None or codec.name not in CODECS:
            name = codec.name if codec else "an unknown codec"
            raise Refused(f"is encoded with {name}", "convert it to H.264, H.265, VP9, AV1, MPEG-4 or ProRes.")
        if not codec.width and container.format.name == "mpegts" and has_scrambled_packets(self.path, stream.id):
            raise encrypted()
        check_shape(codec.width, codec.height, PIXELS)
        self.track_size = (codec.width, codec.height)
        # What the codec says of its fields is true of the beginning alone; beyond HD nothing is interlaced.
        is_progressive = codec.field_order == PROGRESSIVE and codec.height > HD_LINES
        self.may_be_interlaced = codec.name not in NEVER_INTERLACED and not is_progressive
        self.comment = next((v for k, v in container.metadata.items() if k.lower() == "comment"), "")[:COMMENT_LENGTH]
        self.aspect = float(stream.sample_aspect_ratio or 1)
        self.codec_aspect = float(codec.sample_aspect_ratio or 1)
        self.stated = stated_colour(self.path, container.streams.video.index(stream))
        self._read_index(container, stream)

    def _stream(self, container: Any) -> tuple[Any, int]:
        """The video track to read, and how many there are: the largest, or the largest of those marked as default, of
        those that can be decoded and have more than one frame, if any.

        The mark counts unless the first track has it: muxers set it there unasked, and MP4 knows only "enabled".
        """
        from av.stream import Disposition

        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        tracks = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not tracks:
            raise Refused("has no video in it", "use a file with moving pictures.")
        count = len(tracks)
        readable = [track for track in tracks if track.codec_context and track.codec_context.name in CODECS]
        tracks = [track for track in readable if track.frames != 1] or readable or tracks
        marked = [stream for stream in tracks if stream.disposition & Disposition.default]
        candidates = tracks if tracks[0] in marked else marked or tracks
        return max(candidates, key=_pixels), count

    def _read_index(self, container: Any, stream: Any) -> None:
        """Count the frames by reading every packet without decoding any; headers may be wrong."""
        entries: list[tuple[int | None, bool]] = []
        self.key_packets: list[int] = []  # by their numbers among all packets, those before an edit included
        packets = 0
        is_avi = container.format.name == "avi"
        last, lasts = None, 0  # when the last frame begins, and for how long it stands
        broadcast = container.format.name in ("mpegts", "mpeg")  # where reception is disturbed and nothing says an end
        for packet in container.demux(stream):
            if packet.is_corrupt and not broadcast:
                raise Refused(f"is cut off after {len(entries)} frames", "send the whole file.")
            if packet.has_sidedata("encryption_info"):
                raise encrypted()
            if packet.size:
                if packet.is_keyframe:
                    self.key_packets.append(packets)
                packets += 1
            if is_frame(packet):
                # AVI keeps no times, but the number of a chunk, empty ones counted, is that of a frame in its order.
                stamp = packet.dts if is_avi else packet.pts
                entries.append((stamp, packet.is_keyframe))
                begins = packet.dts if packet.pts is None else packet.pts
                if begins is not None and (last is None or begins > last):
                    last, lasts = begins, packet.duration or 0
            if len(entries) > FRAMES:
                raise Refused(f"has more than {FRAMES:,} frames", "cut it shorter.")
        if not entries:
            raise Refused("has no frames in it", "send the whole file.")
        self.count = self.frames = len(entries)
        stamps = sorted(stamp for stamp, _ in entries if stamp is not None)
        moments = spread(stamps) if len(stamps) == len(entries) else []
        tells_frames = moments == stamps and not is_avi  # otherwise they are told by counting them
        self.stamps = stamps if tells_frames else []
        self.keys = sorted(stamp for stamp, key in entries if key and stamp is not None)
        unit_s = float(stream.time_base)
        times = [(moment - moments[0]) * unit_s for moment in moments]
        # One stamp that is there twice, as where a recording is cut, moves all that follow by a frame.
        tolerance = 0.5 if moments == stamps else 1.5
        span = float(Fraction(moments[-1] - moments[0]) * stream.time_base) if moments else 0.0
        self.fps = self._rate(stream, span, tolerance)
        self._place_in_time(times, lasts * unit_s, tolerance)
        self._check_end(container, ((last or 0) + lasts) * unit_s)
        length = max(self.times[-1], self.frames / self.fps)
        if length > self.longest_s:
            raise Refused(f"is {length:,.0f} seconds long", f"cut it to {self.longest_s:g} seconds.")

    def _check_end(self, container: Any, end_s: float) -> None:
        """Raise Refused for a Matroska or WebM that lacks frames at its end; where only its header says so, set
        `stated_s`, the length in seconds that it states. `end_s` is when the last frame that is there ends.
        """
        self.end_s, self.stated_s = end_s, 0.0
        if "matroska" not in container.format.name:
            return
        is_cut, stated_s = matroska_end(self.path)
        missing_s = stated_s - end_s if stated_s or not is_cut else math.inf
        if missing_s <= (1.5 / self.fps if is_cut else APART_S):
            return
        if self._last_packet_s() > end_s + APART_S:  # the sound goes on after the video
            return
        if is_cut:
            raise Refused(f"is cut off after {self.count} frames", "send the whole file.")
        self.stated_s = stated_s

    def _last_packet_s(self) -> float:
        """When the last packet of any track begins."""
        with self._opened() as container:
            stamped = ((packet, packet.dts if packet.pts is None else packet.pts) for packet in container.demux())
            return max((float(at * packet.time_base) for packet, at in stamped if at is not None), default=0.0)

    def _rate(self, stream: Any, span: float, tolerance: float) -> float:
        """Frames per second by the header, or by the time stamps where these differ by more than `tolerance` frames."""
        stated = float(stream.average_rate or stream.guessed_rate or 0)
        steps = self.count - 1
        if span > 0 and not (stated and abs(span - steps / stated) <= tolerance / stated):
            return steps / span
        if not stated:
            raise Refused("does not say how fast it runs", "convert it to MP4.")
        return stated

    def _place_in_time(self, stamped: list[float], last_s: float, tolerance: float) -> None:
        """Set `times`, each frame's in seconds from the first, and where they are uneven the rate of the moving parts.
        `last_s` is how long the last frame stands, 0 if the file does not say so.
        """
        self.varies = bool(stamped) and not is_even(stamped, self.fps, tolerance)
        self.times = stamped if self.varies else even_times(self.count, self.fps)
        if self.varies:
            self.fps = moving_rate(stamped)
            length = stamped[-1] + max(last_s, 1 / self.fps)
            self.frames = max(1, round(length * self.fps))

    def _show_fields(self) -> None:
        """Show both fields of a frame one after the other, at twice its rate."""
        middles = [(a + b) / 2 for a, b in itertools.pairwise([*self.times, self.times[-1] + 1 / self.fps])]
        self.fps *= 2
        uneven = [t for both in zip(self.times, middles, strict=True) for t in both]
        self.times = uneven if self.varies else even_times(2 * self.count, self.fps)
        self.frames *= 2

    # --- frames ---

    def decoded(self, first: int = 0) -> Iterator[tuple[int, Any]]:
        """Frames with their place in `times`, beginning at or before place `first`, damaged ones left out."""
        if not self.interlaced:
            yield from self._decoded_raw(first)
            return
        before = max(0, first // 2 - 2)  # because a field is compared with those of the frames before and after it
        yield from self._deinterlaced(self._decoded_raw(before))

    def _decoded_raw(self, first: int) -> Iterator[tuple[int, Any]]:
        key = None
        if self.stamps and first > 0:
            before = bisect.bisect_right(self.keys, self.stamps[first])
            key = self.keys[before - 1] if before else None
        if key is not None:
            frames = self._decoded_from(key)
            head = next(frames, None)
            if head is not None and head[0] <= bisect.bisect_left(self.stamps, key):
                yield head
                yield from frames
                return
        yield from self._decoded_from(None)

    def _decoded_from(self, key: int | None) -> Iterator[tuple[int, Any]]:
        import av

        places = {pts: place for place, pts in enumerate(self.stamps)}
        with self._opened() as container:
            stream, _ = self._stream(container)
            decoder = self._decoder(stream)
            if key is not None:
                container.seek(key, stream=stream)
            count = 0
            for packet in container.demux(stream):
                try:
                    frames = decoder.decode(packet)
                except av.error.InvalidDataError:
                    count += 1  # the frame before it stands in its place
                    continue
                for frame in frames:
                    place = places.get(frame.pts) if places else count
                    count += 1
                    if place is not None and place < self.count:
                        yield place, frame

    def _decoder(self, stream: Any) -> Any:
        import av

        decoder = stream.codec_context
        has_alpha_track = {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") == "1"
        if has_alpha_track and decoder.name in WITH_ALPHA:
            decoder = av.CodecContext.create(WITH_ALPHA[decoder.name], "r")
        decoder.thread_type = "AUTO"
        decoder.thread_count = THREADS
        return decoder

    @cached_property
    def interlaced(self) -> bool:
        """Whether one of the frames looked at consists of two fields."""
        return self.may_be_interlaced and any(frame.interlaced_frame for frame in self._sampled())

    def _sampled(self) -> Iterator[Any]:
        """At most 2 * SAMPLES frames, from key frames all over the video on, without decoding what is between them.

        Where an edit begins between two key frames, the frames before it are decoded and not shown.
        """
        import av

        starts = set(self.key_packets[:: -(-len(self.key_packets) // SAMPLES) or 1]) or {0}
        most = 2 * SAMPLES // len(starts)
        with self._opened() as container:
            stream, _ = self._stream(container)
            decoder = self._decoder(stream)
            decoder.thread_type = "SLICE"  # threads that decode frames ahead would decode more than are asked for
            wanted = fed = 0
            for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
                if number in starts:
                    decoder.flush_buffers()
                    wanted, fed = most, most + MOST_DELAY
                if wanted > 0 and fed > 0:
                    fed -= not packet.is_discard
                    with suppress(av.error.InvalidDataError):
                        for frame in decoder.decode(packet):
                            wanted -= 1
                            yield frame
                elif number > max(starts):
                    return
            with suppress(av.error.InvalidDataError):
                yield from decoder.decode(None)

    def _deinterlaced(self, frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Both fields of every interlaced frame as a frame each, and the other frames as they are."""
        for _, alike in itertools.groupby(
            frames, lambda found: (found[1].width, found[1].height, found[1].format.name)
        ):
            yield from self._deinterlaced_alike(alike)

    def _deinterlaced_alike(self, frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Frames of one size and format, by the filter bwdif: motion adaptive, after Weston's three fields."""
        import av

        head = list(itertools.islice(frames, 2))
        if not head:
            return
        graph = _bwdif(head[0][1])
        first, last = head[0][0], 0

        def mirrored() -> Iterator[tuple[int, Any]]:
            """Without a frame before or after it the filter takes one for still: its other neighbour shows the move."""
            nonlocal last
            yield first - 1, head[-1][1]
            before = after = None
            for last, frame in itertools.chain(head, frames):
                yield last, frame
                before, after = after, frame
            yield last + 1, before or after
            yield last + 2, None

        for place, frame in mirrored():
            if frame is not None:
                frame.pts = place  # the filter doubles it, and counts on for a second field
            graph.vpush(frame)
            with suppress(av.error.BlockingIOError, av.error.EOFError):
                while shown := graph.vpull():
                    if 2 * first <= shown.pts <= min(2 * last + 1, len(self.times) - 1):
                        yield shown.pts, shown

    # --- pictures ---

    def picture(self, frame: Any) -> Picture:
        """One frame as RGB, upright, with square pixels, on white where it is transparent."""
        check_shape(frame.width, frame.height, PIXELS)
        space, alpha = colour_space(frame, self.stated), has_alpha(frame)
        turn = turn_of(frame)
        aspect = self.codec_aspect if turn is None else self.aspect
        if colour_of(frame, self.stated)[2] == YCGCO and not frame.format.is_rgb:
            planes = self._reformatted(frame, aspect, f"yuv{'a' if alpha else ''}444p16le")
            pixels = np.dstack([rgb_of_ycgco(planes[..., :3]), planes[..., 3:]])
            pixels = pixels if space else rounded_to_8(pixels)
        else:
            depth = ("64le" if alpha else "48le") if space else ("" if alpha else "24")
            pixels = self._reformatted(frame, aspect, ("rgba" if alpha else "rgb") + depth)
        rgb = for_video(pixels[..., :3], space) if space else pixels[..., :3]
        if alpha:
            rgb = on_white(rgb, pixels[..., 3] >> 8 if space else pixels[..., 3])
        return turned(rgb, turn)

    def _reformatted(self, frame: Any, aspect: float, pixels: str) -> Any:
        """The pixels of a frame in another format, at full range: (height, width, channels). The matrix is that of the
        frame, so a format that is no RGB keeps its channels as they are.
        """
        from av.video.reformatter import ColorRange, Interpolation

        matrix = self._matrix(frame)
        return self._reformatter.reformat(
            frame,
            width=max(LEAST_SIDE, round(frame.width * aspect)),
            format=pixels,
            src_colorspace=matrix,
            dst_colorspace=None if pixels.startswith("rgb") else matrix,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            threads=THREADS,
        ).to_ndarray()

    def _matrix(self, frame: Any) -> int:
        """The matrix of a frame as swscale numbers it. Raises Refused for one that it does not convert."""
        from av.video.reformatter import Colorspace

        # Untagged video is BT.601 below 720 lines and BT.709 from there on: what players assume.
        guessed = Colorspace.ITU709 if frame.height >= 720 or frame.width >= 1280 else Colorspace.ITU601
        primaries, transfer, matrix = colour_of(frame, self.stated)
        if transfer in HDR_NAMES:
            guessed = Colorspace.BT2020
        if matrix == DERIVED:
            matrix = DERIVED_FROM.get(primaries, matrix)
        if matrix in UNCONVERTED and not frame.format.is_rgb:
            raise Refused(f"has the colour matrix {UNCONVERTED[matrix]}", "convert it to BT.709.")
        tagged = {
            1: Colorspace.ITU709,
            4: Colorspace.FCC,
            5: Colorspace.ITU601,
            6: Colorspace.ITU601,
            7: Colorspace.SMPTE240M,
            9: Colorspace.BT2020,
            10: Colorspace.BT2020,  # with constant luminance, which swscale and browsers read like the other
        }
        return tagged.get(matrix, guessed)

    @cached_property
    def _first(self) -> Any:
        return next((frame for _, frame in self.decoded()), None)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height as shown, from the first frame. Raises Refused unless it and the last one can be decoded."""
        last = next(self.decoded(len(self.times) - 1), None)
        if self._first is None or last is None:
            raise Refused("cannot be decoded", "convert it to MP4 with H.264.")
        height, width = self.picture(self._first).shape[:2]
        check_shape(width, height, PIXELS)
        return width, height

    @property
    def notes(self) -> list[str]:
        """What is done to the video, in sentences, by its headers and its first frame."""
        frame = self._first
        remarks = [notes.one_of_tracks(self.tracks, *self.track_size)] if self.tracks > 1 else []
        if self.stated_s:
            remarks.append(notes.ends_early(self.stated_s, self.end_s))
        if self.varies:
            remarks.append(notes.varying_rate(self.fps))
        if self.interlaced:
            remarks.append(notes.deinterlaced(self.fps))
        if space := colour_space(frame, self.stated):
            is_hdr = space.is_hdr
            wide = PRIMARIES_NAMES.get(colour_of(frame, self.stated)[0], "")
            remarks.append(notes.tone_mapped(HDR_NAMES[space.transfer]) if is_hdr else notes.narrowed(wide))
        if has_alpha(frame) and self._reformatted(frame, 1.0, "rgba")[..., 3].min() < 255:
            remarks.append(notes.TRANSPARENT)
        if turn_of(frame) is None:
            remarks.append(notes.MATRIX)
        return remarks


def encrypted() -> Refused:
    return Refused("is encrypted", "send a copy without copy protection.")


def without_index(path: str) -> Refused | None:
    """Why an MP4 or MOV cannot be read that lacks its index (`moov`), or the end of it; None for other files."""
    names, is_cut = box_names(path)
    if not {b"ftyp", b"moov", b"mdat", b"moof"} & {*names[:MP4_BEGINNING]} or b"meta" in names:
        return None
    if b"moov" in names:
        return Refused("is cut off", "send the whole file.") if is_cut and names[-1] == b"moov" else None
    if b"moof" in names:
        return Refused("is a part of a stream, without its beginning (moov)", "join it to its initialisation segment.")
    return Refused(
        "lacks the index that stands at its end (moov): the recording was not finished, or the file is cut off",
        "send the whole file; what a camera left unfinished, it mends itself, or a tool such as untrunc does.",
    )


def is_frame(packet: Any) -> bool:
    return bool(packet.size) and not packet.is_discard


def _pixels(stream: Any) -> int:
    codec = stream.codec_context
    return codec.width * codec.height if codec else 0


def _bwdif(template: Any) -> Any:
    import av.filter

    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=template.width, height=template.height, format=template.format, time_base=template.time_base
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_field:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def colour_of(frame: Any, stated: Colour) -> Colour:
    """The colour of a frame: what its bitstream says, or else its container. The matrix of HDR is what the container
    says (ISO/IEC 14496-12, 12.1.5: it counts; some decoders only guess), or else that of BT.2020 (BT.2100, table 6).
    """
    coded = (int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace))
    primaries, transfer, matrix = (b if a == UNSPECIFIED else a for a, b in zip(coded, stated, strict=True))
    if transfer in HDR_NAMES and stated[2] != UNSPECIFIED:
        matrix = stated[2]
    return primaries, transfer, matrix


def colour_space(frame: Any, stated: Colour) -> ColourSpace | None:
    """The colour space of a frame that is HDR, or of more than 8 bits with wide primaries; None for all others, whose
    colours stay as they are.
    """
    primaries, transfer, _ = colour_of(frame, stated)
    if transfer in HDR_NAMES:
        return coded_space(transfer, primaries if primaries != UNSPECIFIED else BT2020)
    deep = max(component.bits for component in frame.format.components) > 8
    return coded_space(1, primaries) if deep and primaries in PRIMARIES_NAMES else None


def on_white(rgb: Picture, alpha: Any) -> Picture:
    cover = alpha.astype(np.uint16)[..., None]
    return np.asarray((rgb * cover + 255 * (255 - cover) + 127) // 255, np.uint8)


def turn_of(frame: Any) -> Turn | None:
    """How the display matrix of a frame (ISO/IEC 14496-12, 6.2.2) turns it; None if not in one of the eight ways that
    keep pixels whole. Its scale says nothing here: the demuxer makes an aspect ratio of it.
    """
    raw = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if raw is None or len(raw) < 36:
        return TURNS[1, 0, 0, 1]
    a, b, _, c, d = struct.unpack("=5i", raw[:20])
    scales = (math.hypot(a, b), math.hypot(c, d))
    if not all(scales):
        return None
    exact = (a / scales[0], b / scales[0], c / scales[1], d / scales[1])
    nearest = tuple(round(value) for value in exact)
    is_one = all(abs(value - whole) < MATRIX_TOLERANCE for value, whole in zip(exact, nearest, strict=True))
    return TURNS.get(nearest) if is_one else None


def turned(picture: Picture, turn: Turn | None) -> Picture:
    """A point (x, y) of the picture goes to (a x + c y, b x + d y)."""
    transposed, vertically, horizontally = turn or TURNS[1, 0, 0, 1]
    if transposed:
        picture = picture.transpose(1, 0, 2)
    picture = picture[:: -1 if vertically else 1, :: -1 if horizontally else 1]
    return np.ascontiguousarray(picture)
