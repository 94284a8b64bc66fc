"""P19: of whatever is sent, the verdict comes in time, names the reason, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from backend.core.errors import UploadRefused
from backend.core.schema import Fit
from backend.media.reader import read_frames, read_image
from backend.media.uploads import Upload, Uploads
from tests.media.conftest import png_of

HLG, BT2020 = 18, 9
SIZES = {"dvvideo": (720, 576), "dnxhd": (256, 120)}
VIDEOS = [
    ("a.mp4", "libx264", "yuv420p", {}),
    ("b.mkv", "libx264", "yuv420p", {}),
    ("c.avi", "mjpeg", "yuvj420p", {}),
    ("d.ts", "libx264", "yuv420p", {"x264-params": "tff=1"}),
    ("e.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme"}),
    ("f.mkv", "ffv1", "yuv420p", {}),
    ("g.mkv", "ffv1", "bgra", {}),
    ("h.mov", "dnxhd", "yuv422p", {"profile": "dnxhr_lb"}),
    ("i.dv", "dvvideo", "yuv420p", {}),
    ("j.mov", "prores_ks", "yuva444p10le", {}),
    ("k.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    ("l.webm", "libvpx-vp9", "yuva420p", {}),
    ("m.mov", "qtrle", "argb", {}),
    ("n.mov", "png", "rgba", {}),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> list[Path]:
    """One small file of every kind that is taken."""
    import av
    from PIL import Image

    folder = tmp_path_factory.mktemp("good")
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    files = []
    for name, codec, pixels, options in VIDEOS:
        files.append(folder / name)
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            width, height = SIZES.get(codec, (64, 48))
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            if "10le" in pixels:
                stream.codec_context.color_trc, stream.codec_context.color_primaries = HLG, BT2020
            for picture in noise:
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(width, height, pixels)
                if "10le" in pixels:
                    frame.color_trc, frame.color_primaries = HLG, BT2020
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    pictures = [Image.fromarray(picture) for picture in noise]
    for name in ("d.png", "e.jpg", "f.webp", "g.tif", "h.bmp", "i.avif", "j.gif"):
        files.append(folder / name)
        pictures[0].save(files[-1])
    for name in ("k.gif", "l.webp", "m.png", "n.avif"):
        files.append(folder / name)
        pictures[0].save(files[-1], save_all=True, append_images=pictures[1:], duration=80)
    files.append(folder / "o.png")
    files[-1].write_bytes(png_of(noise[0].astype(np.uint16) * 257, (b"cICP", bytes([BT2020, HLG, 0, 1]))))
    return files


def mutate(data: bytes, chance: random.Random) -> bytes:
    raw = bytearray(data)
    way = chance.randrange(5)
    if way == 0:
        del raw[chance.randrange(len(raw)) :]
    elif way == 1:
        at = chance.randrange(len(raw))
        raw[at:at] = chance.randbytes(chance.randrange(1, 400))
    elif way == 2:
        at = chance.randrange(len(raw))
        del raw[at : at + chance.randrange(1, 400)]
    else:
        for _ in range(chance.choice((1, 4, 40))):
            at = chance.randrange(min(len(raw), 600) if way == 3 else len(raw))
            raw[at] = chance.choice((0, 255, chance.randrange(256)))
    return bytes(raw)


def send(uploads: Uploads, name: str, data: bytes) -> Upload:
    with uploads.receive(name) as incoming:
        incoming.write(data)
        return incoming.accept()


def use(uploads: Uploads, upload: Upload) -> None:
    """What a render would do with it."""
    if upload.kind == "image":
        read_image(uploads.file(upload.id), 64, 48, Fit.CROP)
        return
    for _ in read_frames(uploads.file(upload.id), fps=12, width=64, height=48, fit=Fit.CROP):
        pass


def try_mutants(settings, good: list[Path], count: int) -> None:
    uploads, chance = Uploads(settings), random.Random(7)
    verdicts = {"accepted": 0, "refused": 0}
    slowest = 0.0
    for number in range(count):
        file = good[number % len(good)]
        began = time.monotonic()
        refused = None
        try:
            upload = send(uploads, file.name, mutate(file.read_bytes(), chance))
            verdicts["accepted"] += 1
            use(uploads, upload)
        except UploadRefused as error:
            refused = error
        if refused is not None:
            assert refused.message.startswith((file.name, "media")), refused
            assert refused.hint
            verdicts["refused"] += 1
        slowest = max(slowest, time.monotonic() - began)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{verdicts}, slowest {slowest:.1f} s, largest child {peak:.0f} MiB")
    assert slowest < 20
    assert peak < 1024
    assert [child for child in psutil.Process().children() if "decoder" in " ".join(child.cmdline())] == []
    assert not list((settings.uploads / ".parts").glob("*"))


def test_good_files_are_taken(settings, good):
    uploads = Uploads(settings)
    for file in good:
        use(uploads, send(uploads, file.name, file.read_bytes()))


def try_apart(*arguments: object) -> None:
    """In a process of its own, whose children are the decoders of these mutants and no others."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        apart.submit(try_mutants, *arguments).result()


def test_sixty_mutants(settings, good):
    try_apart(settings, good, 60)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_mutants(settings, good):
    try_apart(settings, good, 1000)
