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
from backend.media.png import Png, decoded_share
from backend.media.probe import MediaInfo, probe
from backend.media.reader import read_image
from tests.media.conftest import png_of

pytestmark = pytest.mark.usefixtures("decoder_in_process")

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


def tiff(
    pixels: np.ndarray, photometric: int, bits: int, sample_format: int = 1, planar: int = 1, compression: int = 1
) -> bytes:
    """A TIFF without compression; `pixels` are (height, width) or (channels, height, width) in separate planes."""
    height, width = pixels.shape[-2:]
    count = pixels.shape[0] if pixels.ndim == 3 else 1
    data = pixels.tobytes()
    ends = struct.pack(f"<{count}H", *[bits] * count) + bytes(8)
    at, size = 8 + len(data), len(data) // count
    lists = data + ends + struct.pack(f"<{2 * count}I", *[8 + size * i for i in range(count)], *[size] * count)
    many = at + len(ends)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, count, {1: bits, 2: bits * 0x10001}.get(count, at)),
        (259, 3, 1, compression),
    ]
    tags += [(262, 3, 1, photometric), (273, 4, count, 8 if count == 1 else many), (277, 3, 1, count)]
    tags += [(278, 4, 1, height), (279, 4, count, size if count == 1 else many + 4 * count), (284, 3, 1, planar)]
    tags += [(339, 3, 1, sample_format)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(lists)) + lists + directory


@pytest.mark.parametrize(("photometric", "shown"), [(0, [255, 191, 127, 0]), (1, [0, 64, 128, 255])])
def test_a_tiff_of_sixteen_bits_with_white_as_zero(tmp_path: Path, photometric: int, shown: list[int]):
    """PhotometricInterpretation 0 (TIFF 6.0, section 8): 0 is imaged as white."""
    path = tmp_path / "a.tif"
    path.write_bytes(
        tiff(np.repeat(np.tile(np.array([0, 0x4000, 0x8000, 0xFFFF], "<u2"), (32, 1)), 16, 1), photometric, 16)
    )
    assert read(path)[9, 8::16, 0].tolist() == shown


@pytest.mark.parametrize(
    ("kind", "sample_format", "bits"), [("<f4", 3, 32), ("<u4", 1, 32), ("<i4", 2, 32), ("<i2", 2, 16)]
)
def test_a_tiff_of_samples_that_no_screen_has_is_refused(tmp_path: Path, kind: str, sample_format: int, bits: int):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.ones((32, 32), kind), 1, bits, sample_format))
    with pytest.raises(UploadRefused, match="save it with 8 or 16 bits a channel"):
        probe(path)


def test_a_tiff_of_sixteen_bits_in_separate_planes_is_refused(tmp_path: Path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.ones((3, 32, 32), "<u2"), 2, 16, planar=2))
    with pytest.raises(UploadRefused, match="16 bits a channel in separate planes"):
        probe(path)


UNREAD = {  # what TIFF 6.0 allows and Pillow does not open
    "grey and alpha of 16 bits": (tiff(np.ones((2, 32, 32), "<u2"), 1, 16), "with 2 channels of 16 bits, which"),
    "RGB of floating point": (tiff(np.ones((3, 32, 32), "<f4"), 2, 32, 3), "3 channels of 32 bits of floating point"),
    "RGB of 32 bits": (tiff(np.ones((3, 32, 32), "<u4"), 2, 32), "3 channels of 32 bits, which"),
    "RGB with a sign": (tiff(np.ones((3, 32, 32), "<i2"), 2, 16, 2), "3 channels of 16 bits with a sign"),
    "grey of 64 bits": (tiff(np.ones((32, 32), "<f8"), 1, 64, 3), "1 channel of 64 bits of floating point"),
    "JPEG 2000 inside": (tiff(np.ones((32, 32), "u1"), 1, 8, compression=34712), "compression 34712, which"),
    "no tags": (b"II*\0\x08\0\0\0", "damaged or cut off; send the whole file"),
    "no beginning": (b"MM\0*", "damaged or cut off; send the whole file"),
}


@pytest.mark.parametrize("what", UNREAD)
def test_a_tiff_that_is_not_read_says_what_it_holds(tmp_path: Path, what: str):
    data, reason = UNREAD[what]
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    with pytest.raises(UploadRefused, match=rf"a\.tif is a TIFF .*{reason}"):
        probe(path)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("frames", [1, 3])
def test_an_avif_that_is_cut_off_says_so(save, photo: Picture, share: float, frames: int):
    path = save(
        "a.avif", photo, **({"save_all": True, "append_images": [Image.fromarray(photo)] * 2} if frames > 1 else {})
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UploadRefused, match=r"a\.avif is (an AVIF picture that is cut off; send the whole|damaged)"):
        probe(path)


def test_an_avif_of_a_kind_that_is_not_read_is_not_called_cut_off(save, photo: Picture):
    path = save("a.avif", photo)
    path.write_bytes(path.read_bytes().replace(b"pict", b"none"))
    with pytest.raises(UploadRefused, match=r"a\.avif is an AVIF picture that is damaged, or of a kind that"):
        probe(path)


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


@pytest.mark.parametrize("missing", [2, 4])
@pytest.mark.parametrize("size", [(512, 512), (160, 128)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_whose_last_rows_are_mid_grey(
    save, photo: Picture, subsampling: int, size: tuple[int, int], missing: int
):
    """Mid-grey is also what a decoder gives for what is not there; Chromium shows these."""
    grey = Image.new("RGB", size, (128, 128, 128))
    grey.paste(Image.fromarray(photo).resize((size[0], size[1] // 2)))
    path = save("a.jpg", grey, quality=90, subsampling=subsampling)
    whole = read(path).astype(int)
    path.write_bytes(path.read_bytes()[:-missing])
    assert probe(path).notes == (CUT,)
    assert np.abs(read(path) - whole).mean() < 1


@pytest.mark.parametrize("lacks", ["little", "much"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (0, 0, 0, 0)], ids=["black", "transparent"])
def test_a_png_whose_last_rows_are_black_or_transparent(save, photo: Picture, colour: tuple[int, ...], lacks: str):
    """Black is also what a decoder gives for what is not there."""
    image = Image.new("RGB" if len(colour) == 3 else "RGBA", (512, 2000), colour)
    image.paste(Image.fromarray(photo), (0, 100))
    path = save("a.png", image)
    whole = read(path)
    data = path.read_bytes()
    path.write_bytes(data[:-26] if lacks == "little" else data[: len(data) // 2])
    if lacks == "much":
        with pytest.raises(UploadRefused, match=r"a\.png is damaged"):
            probe(path)
        return
    assert CUT in probe(path).notes
    np.testing.assert_array_equal(read(path)[:1700], whole[:1700])


def spectral_jpeg() -> bytes:
    """A progressive JPEG of 512x512 grey pixels in two scans that nothing refines: of every block the coefficient 0 in
    a bit ("0": nothing changes), and 1 to 63 in a byte ("10": the second is, "10000": 16, "0": no other).
    """

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    lengths = bytes([1, 1]) + bytes(14)
    tables = segment(0xDB, bytes([0]) + bytes([1] * 64)) + segment(
        0xC2, struct.pack(">BHHB3B", 8, 512, 512, 1, 1, 0x11, 0)
    )
    tables += segment(0xC4, b"\x00" + lengths + b"\x00\x05") + segment(0xC4, b"\x10" + lengths + b"\x00\x15")
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(512)
    return b"\xff\xd8" + tables + first + segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + bytes([0xA0] * 4096) + b"\xff\xd9"


@pytest.mark.parametrize("missing", [2, 300, 1000, 4100])
def test_a_progressive_jpeg_whose_scans_refine_nothing(tmp_path: Path, missing: int):
    path = tmp_path / "a.jpg"
    path.write_bytes(spectral_jpeg())
    whole = read(path)
    path.write_bytes(path.read_bytes()[:-missing])
    if missing < 512:
        assert probe(path).notes == (CUT,)
        np.testing.assert_array_equal(read(path)[:440], whole[:440])
    else:
        with pytest.raises(UploadRefused, match=r"a\.jpg is damaged"):
            probe(path)


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("bits", "colour_type", "pixel_bits"), [(1, 0, 1), (4, 3, 4), (8, 2, 24), (16, 6, 64)])
def test_how_much_a_png_holds(bits: int, colour_type: int, pixel_bits: int, interlaced: int):
    """By the bytes of its rows: of 8 x 8 pixels in Adam7 there are passes of 1, 1, 2, 4, 8, 16 and 32 pixels."""
    passes = [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)] if interlaced else [(8, 8)]
    size = sum(rows * (1 + -(-columns * pixel_bits // 8)) for rows, columns in passes)
    header = struct.pack(">IIBBBBB", 8, 8, bits, colour_type, 0, 0, interlaced)
    for there in (size, size // 2):
        chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(there)))
        assert decoded_share(Png(b"\x89PNG\r\n\x1a\n" + chunks, bits)) == there / size


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
