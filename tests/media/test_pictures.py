"""Pictures that other programs show although something about them is odd."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.core.errors import UploadRefused
from backend.core.schema import Fit
from backend.media.fitting import Picture
from backend.media.probe import MediaInfo, probe
from backend.media.reader import read_image
from tests.media.conftest import png_of

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)
CUT = "It lacks its last bytes; what they held is filled in."


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def read(path: Path) -> Picture:
    info = probe(path)
    return read_image(path, info.width, info.height, Fit.CROP)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {}),
        ("b.tif", {"compression": "tiff_lzw"}),
        ("a.bmp", {}),
        ("a.gif", {}),
        ("a.avif", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_formats_of_scanners_and_pages(save, corners: Picture, name: str, options: dict[str, str]):
    path = save(name, corners, **options)
    assert probe(path) == MediaInfo("image", 80, 48)
    assert np.abs(read(path).astype(int) - corners).max() <= 6


def test_a_tiff_is_turned_once_and_says_how_many_pages_it_has(save, corners: Picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(read(save("scan.tif", corners, exif=exif)), np.rot90(corners, -1))
    more = [Image.fromarray(255 - corners)] * 2
    path = save("fax.tif", corners, save_all=True, append_images=more)
    np.testing.assert_array_equal(read(path), corners)
    assert probe(path).notes == ("It holds 3 pictures; the first is used.",)


@pytest.mark.parametrize("name", ["iCCP", "tRNS", "gAMA", "cICP", "pHYs", "eXIf"])
def test_side_chunks_with_a_bad_checksum_are_left_out(tmp_path: Path, corners: Picture, turning_profile, name: str):
    data = {
        "iCCP": b"x\0\0" + zlib.compress(turning_profile),
        "tRNS": struct.pack(">3H", 255, 0, 0),
        "gAMA": struct.pack(">I", 100_000),
        "cICP": bytes([9, 16, 0, 1]),
    }
    path = tmp_path / "a.png"
    path.write_bytes(png_of(corners, (name.encode(), data.get(name, bytes(9))), bad_checksums=True))
    np.testing.assert_array_equal(read(path), corners)
    said = probe(path).notes
    assert said == (() if name == "pHYs" else (f"Damaged data beside its pixels ({name}) is ignored.",))


@pytest.mark.parametrize("name", [b"zTXt", b"tEXt"])
def test_long_texts_do_not_cost_the_picture(tmp_path: Path, corners: Picture, name: bytes):
    long = bytes(20_000_000)
    path = tmp_path / "a.png"
    path.write_bytes(png_of(corners, (name, b"k\0\0" + (zlib.compress(long) if name == b"zTXt" else long))))
    np.testing.assert_array_equal(read(path), corners)
    assert probe(path).notes == ()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [2, 20, 1000])
def test_a_jpeg_that_lacks_its_last_bytes(save, photo: Picture, progressive: bool, missing: int):
    path = save("a.jpg", photo, progressive=progressive, quality=90)
    whole = read(path).astype(int)
    path.write_bytes(path.read_bytes()[:-missing])
    assert probe(path).notes == (CUT,)
    cut = read(path)
    there = slice(None) if progressive else slice(448)
    assert np.abs(cut[there] - whole[there]).mean() < 2


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {}), ("b.jpg", {"progressive": True}), ("a.png", {})])
def test_a_picture_that_lacks_a_half_is_refused(save, photo: Picture, name: str, options: dict[str, bool]):
    path = save(name, photo, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // (8 if options else 2)])
    with pytest.raises(UploadRefused, match=f"{name} is damaged"):
        probe(path)


def test_a_png_that_lacks_its_last_bytes(save, photo: Picture):
    path = save("a.png", photo)
    path.write_bytes(path.read_bytes()[:-2000])
    assert probe(path).notes == (CUT,)
    np.testing.assert_array_equal(read(path)[:448], photo[:448])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_orientation_in_xmp_alone_says_nothing(tmp_path: Path, corners: Picture, name: str):
    """Chromium 156 shows all three as they are stored."""
    path = tmp_path / name
    if name == "a.png":
        path.write_bytes(png_of(corners, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)))
    else:
        options = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0}
        Image.fromarray(corners).save(path, xmp=XMP, **options)
    assert np.abs(read(path).astype(int) - corners).max() <= 8


def test_the_transparent_colour_of_sixteen_bits(tmp_path: Path):
    """All 16 bits are compared (PNG, third edition, 11.3.1.1): a colour that differs in the last one is opaque."""
    colours = [(0x1234, 0x5678, 0x9ABC), (0x1235, 0x5678, 0x9ABC), (0x8000, 0x8000, 0x8000)]
    pixels = np.repeat(np.repeat(np.array([colours], np.uint16), 32, axis=0), 32, axis=1)
    path = tmp_path / "a.png"
    path.write_bytes(png_of(pixels, (b"tRNS", struct.pack(">3H", *colours[0]))))
    assert read(path)[16, 16::32].tolist() == [[255] * 3, [18, 86, 154], [128] * 3]
    path.write_bytes(png_of(pixels[..., :1], (b"tRNS", struct.pack(">H", 0x1234))))
    assert read(path)[16, 16::32, 0].tolist() == [255, 18, 128]
    assert probe(path).notes == ("Its transparent parts are shown on white.",)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_grey_of_few_bits(tmp_path: Path, bits: int):
    greys = np.repeat(np.arange(2**bits, dtype=np.uint8), 32)
    row = b"\0" + np.packbits((greys[:, None] >> np.arange(bits)[::-1]) & 1).tobytes()
    header = struct.pack(">IIBBBBB", len(greys), 32, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", 1)), (b"IDAT", zlib.compress(row * 32)), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, *zip(*chunks, strict=True))))
    shown = np.arange(2**bits) * 255 // (2**bits - 1)
    shown[1] = 255
    assert read(path)[16, 16::32, 0].tolist() == shown.tolist()
    assert probe(path).notes == ("Its transparent parts are shown on white.",)


def test_sixteen_bits_with_alpha(tmp_path: Path):
    pixels = np.full((32, 32, 4), 65535, np.uint16)
    pixels[..., :3] = 0x4000
    pixels[:16, :, 3] = 0x8000
    path = tmp_path / "a.png"
    path.write_bytes(png_of(pixels))
    shown = read(path)
    assert abs(int(shown[4, 4, 0]) - (64 + 255) // 2) <= 1
    assert (shown[20] == 64).all()


def test_sixteen_bits_with_a_profile(tmp_path: Path, corners: Picture, turning_profile: bytes):
    path = tmp_path / "a.png"
    path.write_bytes(png_of(corners.astype(np.uint16) * 257, (b"iCCP", b"x\0\0" + zlib.compress(turning_profile))))
    assert np.abs(read(path).astype(int) - corners[..., [2, 0, 1]]).max() <= 12


def test_a_transparent_picture_says_that_it_is_shown_on_white(save):
    assert probe(save("a.png", Image.new("RGBA", (32, 32), (9, 9, 9, 100)))).notes == (
        "Its transparent parts are shown on white.",
    )
    assert probe(save("b.png", Image.new("RGBA", (32, 32), (9, 9, 9, 255)))).notes == ()
