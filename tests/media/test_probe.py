"""What the guarded child accepts, what it refuses, and that it is guarded."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from backend.core.config import ROOT
from backend.core.errors import UploadRefused
from backend.media import guard
from backend.media.fitting import Picture
from backend.media.probe import MediaInfo, probe
from tests.media_files import real_media

FILM = Fraction(24000, 1001)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "rate"),
    [
        ("a.mp4", "libx264", "yuv420p", 24),
        ("a.mov", "prores_ks", "yuv422p10le", 30),
        ("a.mkv", "libx264", "yuv420p", FILM),
        ("b.mkv", "libvpx-vp9", "yuv420p", 30),
        ("b.mp4", "libx265", "yuv420p", 60),
        ("a.avi", "mpeg4", "yuv420p", 25),
        ("b.avi", "libx264", "yuv420p", 25),
        ("c.avi", "mjpeg", "yuvj420p", 12),
    ],
)
def test_videos_are_recognised(make_video, name: str, codec: str, pix_fmt: str, rate: Fraction):
    info = probe(make_video(name, 30, codec=codec, pix_fmt=pix_fmt, rate=rate))
    assert info == MediaInfo("video", 96, 64, 30, float(rate))


@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {}), ("a.png", {}), ("a.webp", {}), ("a.jpeg", {"progressive": True})]
)
def test_pictures_are_recognised(save, photo: Picture, name: str, options: dict[str, bool]):
    assert probe(save(name, photo[:, :300], **options)) == MediaInfo("image", 300, 512)


def test_the_name_says_nothing(make_video, save, photo: Picture):
    video, picture = make_video("really.mp4"), save("really.png", photo)
    assert probe(video.rename(video.with_name("video.jpg"))).kind == "video"
    assert probe(picture.rename(picture.with_name("-i picture.mp4"))).kind == "image"


def test_odd_sizes(make_video):
    pictures = [np.full((33, 51, 3), 90, np.uint8)] * 5
    assert probe(make_video("odd.mkv", pictures, pix_fmt="yuv444p")) == MediaInfo("video", 51, 33, 5, 24.0)


def test_turned_videos_and_photographs_are_measured_upright(make_video, save, photo: Picture):
    from tests.media.conftest import PHONE_MATRIX

    assert probe(make_video("phone.mov", matrix=PHONE_MATRIX)) == MediaInfo("video", 64, 96, 30, 24.0)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert probe(save("phone.jpg", photo[:, :300], exif=exif)) == MediaInfo("image", 512, 300)


def test_pixels_that_are_not_square(make_video):
    assert probe(make_video("dv.mkv", aspect=Fraction(4, 3))) == MediaInfo("video", 128, 64, 30, 24.0)


def test_a_real_film():
    assert probe(real_media("bigbuckbunny.mp4")) == MediaInfo("video", 1280, 720, 132, 25.0)


# --- refusals ---


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises `width` x `height` pixels and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


TEXTS = {
    "notes.txt": "Once upon a time",
    "empty.mp4": "",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "drawing.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>alert(1)</script></svg>',
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_pretend(tmp_path: Path, make_video, name: str):
    path = tmp_path / name
    path.write_text(TEXTS[name].format(secret=make_video("secret.mp4")))
    with pytest.raises(UploadRefused, match=name.replace(".", r"\.")) as refusal:
        probe(path)
    assert "MP4" in refusal.value.hint


@pytest.mark.parametrize(
    ("size", "reason"),
    [((20000, 20000), "50.0 megapixels"), ((15, 15), "at least 16"), ((4000, 100), "32 times")],
)
def test_pictures_of_impossible_shape(tmp_path: Path, size: tuple[int, int], reason: str):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(UploadRefused, match=f"{size[0]}x{size[1]} pixels.*{reason}"):
        probe(path)


def test_a_picture_that_is_cut_off(save, photo: Picture):
    path = save("cut.jpg", photo)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UploadRefused, match=r"cut\.jpg is damaged"):
        probe(path)


def test_a_video_that_is_cut_off(make_video):
    path = make_video("cut.mp4", 200, file_options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(UploadRefused, match=r"cut off after \d+ frames"):
        probe(path)


def test_a_video_of_too_many_pixels(make_video):
    path = make_video("wall.mp4", [np.zeros((4096, 4096, 3), np.uint8)], options={"preset": "ultrafast"})
    with pytest.raises(UploadRefused, match=r"4096x4096 pixels, more than 16\.6 megapixels"):
        probe(path)


def test_a_video_that_is_too_long(make_video):
    with pytest.raises(UploadRefused, match="seconds long"):
        probe(make_video("long.mkv", 2, stamps=[0, 601_000]))


def test_a_video_of_too_many_frames(make_video):
    pictures = [np.zeros((16, 16, 3), np.uint8)] * 20_001
    with pytest.raises(UploadRefused, match="more than 20,000 frames"):
        probe(make_video("many.avi", pictures, codec="mpeg4", rate=60))


@pytest.mark.parametrize(("name", "codec"), [("stream.nut", "libx264"), ("old.flv", "flv")])
def test_containers_that_are_not_read(make_video, name: str, codec: str):
    with pytest.raises(UploadRefused, match="neither a picture nor a video"):
        probe(make_video(name, codec=codec))


def test_codecs_that_are_not_read(make_video):
    with pytest.raises(UploadRefused, match=r"encoded with huffyuv; convert it to H\.264"):
        probe(make_video("archive.avi", codec="huffyuv", pix_fmt="yuv422p"))


def test_phones_still_pictures_say_what_they_are(make_video):
    path = make_video("IMG_1.heic", 1, container="mp4")
    path.write_bytes(path.read_bytes().replace(b"ftypisom", b"ftypheic"))
    with pytest.raises(UploadRefused, match="HEIC or AVIF"):
        probe(path)


def test_a_cover_is_no_video(tmp_path: Path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=8000)
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        output.mux(sound.encode(silence))
        output.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        output.mux(cover.encode())
        output.mux(sound.encode())
    with pytest.raises(UploadRefused, match="no video in it"):
        probe(path)


def test_the_refusal_uses_the_given_name(tmp_path: Path):
    path = tmp_path / "a1b2c3"
    path.write_text("nothing")
    with pytest.raises(UploadRefused, match=r"^holiday\.mp4 is neither") as refusal:
        probe(path, "holiday.mp4")
    assert str(tmp_path) not in str(refusal.value)
    assert refusal.value.field == "file"


# --- the guard ---


def fake_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(guard.sys, "executable", str(path))


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch, children: Callable[[], list[str]]):
    fake_child(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(UploadRefused, match="takes too long"):
        probe(tmp_path / "clip.mp4", timeout_s=0.2)
    assert not any("sleep" in line for line in children())


@pytest.mark.parametrize(
    ("script", "reason"),
    [("kill -SEGV $$", "cannot be decoded"), ("kill -XCPU $$", "takes too long"), ("echo {} >&2; exit 3", "cannot be")],
)
def test_a_child_that_dies_is_a_refusal(tmp_path: Path, monkeypatch, script: str, reason: str):
    fake_child(tmp_path, monkeypatch, script)
    with pytest.raises(UploadRefused, match=f"clip.mp4 {reason}"):
        probe(tmp_path / "clip.mp4")


def test_the_child_sees_no_secrets(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fake_child(tmp_path, monkeypatch, f"env > {tmp_path}/env; exit 1")
    with pytest.raises(UploadRefused):
        probe(tmp_path / "clip.mp4")
    seen = (tmp_path / "env").read_text()
    assert "PATH=" in seen
    assert "hf_secret" not in seen


def in_child(code: str) -> subprocess.CompletedProcess[str]:
    code = f"from backend.media import decoder; decoder.bound(decoder.CPU_S['probe'], decoder.MEMORY_BYTES, 0)\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_child_cannot_take_much_memory():
    assert "MemoryError" in in_child("bytearray(5 * 2**30)").stderr


def test_the_child_cannot_take_much_time():
    assert "15 16" in in_child("import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))").stdout


def test_the_child_cannot_write_files(tmp_path: Path):
    path = tmp_path / "written"
    assert "File too large" in in_child(f"open({str(path)!r}, 'wb', 0).write(b'x')").stderr
    assert path.stat().st_size == 0


def test_a_refusal_is_one_line_of_json_whatever_libraries_print(make_video):
    path = make_video("cut.mp4", 200)
    path.write_bytes(path.read_bytes()[:3000])
    command = [sys.executable, "-m", "backend.media.decoder", "probe", str(path), "600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={"PATH": os.defpath})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith('{"reason": ')


def test_what_libraries_print_goes_nowhere():
    noise = (
        "import os; out, err = decoder.private_streams(); os.write(1, b'x'); os.write(2, b'x'); out.write(b'answer')"
    )
    done = in_child(noise)
    assert (done.stdout, done.stderr) == ("answer", "")


def test_media_rooms_import_no_decoder():
    code = "import sys, backend.media.uploads, backend.media.outputs; print({'av', 'cv2', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"
