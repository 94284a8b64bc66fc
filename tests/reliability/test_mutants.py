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


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> list[Path]:
    """One small file of every kind that is taken."""
    import av
    from PIL import Image

    folder = tmp_path_factory.mktemp("good")
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    files = []
    for name, codec, pixels in (
        ("a.mp4", "libx264", "yuv420p"),
        ("b.mkv", "libx264", "yuv420p"),
        ("c.avi", "mjpeg", "yuvj420p"),
    ):
        files.append(folder / name)
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream(codec, rate=12)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            for picture in noise:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode(None))
    for name in ("d.png", "e.jpg", "f.webp"):
        files.append(folder / name)
        Image.fromarray(noise[0]).save(files[-1])
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


def test_thirty_mutants(settings, good):
    try_apart(settings, good, 30)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_mutants(settings, good):
    try_apart(settings, good, 1000)
