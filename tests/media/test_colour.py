"""HDR and wide colours become BT.709: against the formats' own numbers, ffmpeg's figures and a browser's."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image, ImageCms

from backend.core.schema import Fit
from backend.media.fitting import Picture
from backend.media.probe import probe
from backend.media.reader import read_frames, read_image
from tests.media.conftest import matrix_profile, png_of

pytestmark = pytest.mark.usefixtures("decoder_in_process")

PQ, HLG, BT2020 = 16, 18, 9
SRGB_PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]  # XYZ (D50)
SIGNALS = [
    *((0.75,) * 3, (0.58,) * 3, (0.5,) * 3, (0.38,) * 3, (0.2,) * 3),  # white and greys
    *((0.5, 0.4, 0.3), (0.55, 0.45, 0.40)),  # skin
    *((0.75, 0.75, 0), (0, 0.75, 0.75), (0, 0.75, 0), (0.75, 0, 0.75), (0.75, 0, 0), (0, 0, 0.75)),  # bars
    *((0.9,) * 3, (1.0,) * 3),
]

# ffmpeg -f rawvideo -pix_fmt rgb48le -s 960x64 -i SIGNALS -vf "format=gbrp16le,
#   setparams=color_primaries=bt2020:color_trc=TRC:colorspace=gbr:range=pc,zscale=t=linear:npl=203:agamma=0,
#   format=gbrpf32le,zscale=p=bt709:agamma=0,tonemap=tonemap=mobius:param=0.8:desat=0:peak=4.926,
#   zscale=t=bt709:r=pc:m=gbr:agamma=0,format=gbrp" (ffmpeg 9.0.2; agamma=0 asks for BT.2100's own OOTF)
FFMPEG = {
    HLG: [
        *((244, 244, 244), (169, 169, 169), (143, 143, 143), (109, 109, 109), (57, 57, 57)),
        *((153, 112, 87), (169, 127, 116)),
        *((246, 240, 0), (0, 246, 236), (0, 246, 0), (249, 0, 214), (249, 0, 0), (0, 0, 211)),
        *((254, 254, 254), (255, 255, 255)),
    ],
    PQ: [
        *((255, 255, 255), (244, 244, 244), (184, 184, 184), (108, 108, 108), (40, 40, 40)),
        *((214, 107, 60), (246, 126, 105)),
        *((255, 249, 0), (0, 255, 245), (0, 255, 0), (255, 0, 219), (255, 0, 0), (0, 0, 255)),
        *((255, 255, 255), (255, 255, 255)),
    ],
}

# Chromium 156, a PNG of 16 bits with cICP (primaries, transfer, 0, 1), on a screen without headroom
CHROMIUM = {
    (BT2020, PQ): {(0.58,) * 3: (187, 187, 187), (0.5, 0.4, 0.3): (155, 70, 33), (0.75,) * 3: (255, 255, 255)},
    (BT2020, HLG): {
        (0.75,) * 3: (188, 188, 188),
        (0.5, 0.4, 0.3): (107, 75, 54),
        (0.9,) * 3: (233, 234, 234),
        (0, 0.75, 0.75): (0, 192, 184),
        (0, 0, 0.75): (0, 0, 153),
    },
    (12, PQ): {(0.5, 0.4, 0.3): (140, 77, 34), (0.7, 0.3, 0.2): (255, 0, 0)},
    (1, PQ): {(0.5, 0.4, 0.3): (131, 80, 44), (0.7, 0.3, 0.2): (255, 37, 14)},
    (1, HLG): {(0.5, 0.4, 0.3): (96, 77, 58), (0.7, 0.3, 0.2): (148, 58, 38), (0, 0, 0.75): (0, 0, 148)},
    (12, 13): {(0.5, 0.4, 0.3): (133, 101, 72), (0, 0.75, 0): (0, 195, 0)},  # Display P3
    (BT2020, 14): {(0.5, 0.4, 0.3): (137, 90, 61), (0.75,) * 3: (187, 187, 188)},
    (1, 8): {(0.5, 0.4, 0.3): (188, 170, 148), (0.2,) * 3: (124, 124, 124)},  # linear light
    (1, 1): {(0.5, 0.4, 0.3): (121, 94, 66)},
}


def patches(signals: Sequence[Sequence[float]]) -> np.ndarray:
    """One 16x16 patch for each signal, side by side, uint16."""
    row = np.round(np.array(signals) * 65535).astype(np.uint16)
    return np.repeat(np.repeat(row[None], 16, axis=0), 16, axis=1)


def tagged_video(path: Path, pixels: np.ndarray, transfer: int, primaries: int, pix_fmt: str, codec: str) -> Path:
    space = Colorspace.BT2020 if primaries == BT2020 else Colorspace.ITU709
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(
            codec, rate=24, options={} if codec == "ffv1" else {"x265-params": "lossless=1:log-level=none"}
        )
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.color_trc = transfer
        stream.codec_context.color_primaries = primaries
        stream.codec_context.colorspace = int(space)
        stream.codec_context.color_range = 1
        for place in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(
                format=pix_fmt,
                dst_colorspace=space,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            )
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, primaries, int(space)
            frame.pts, frame.time_base = place, Fraction(1, 24)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def middles(path: Path, count: int, height: int = 16) -> np.ndarray:
    (frames,) = read_frames(path, fps=24, width=16 * count, height=height, fit=Fit.CROP)
    return frames[1, 8, 8::16].astype(int)


@pytest.mark.parametrize(("transfer", "name"), [(HLG, "HLG"), (PQ, "PQ")])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("ffv1", "yuv444p12le"), ("libx265", "yuv420p10le")])
def test_hdr_is_tone_mapped_as_ffmpeg_does(tmp_path: Path, transfer: int, name: str, codec: str, pix_fmt: str):
    path = tagged_video(tmp_path / "hdr.mkv", patches(SIGNALS), transfer, BT2020, pix_fmt, codec)
    assert probe(path).notes == (f"Its HDR colours ({name}) are tone-mapped to the normal range (BT.709).",)
    difference = np.abs(middles(path, len(SIGNALS)) - FFMPEG[transfer]).max(axis=1)
    assert difference.max() <= 12, difference


@pytest.mark.parametrize(("transfer", "signal"), [(HLG, 0.75), (PQ, 0.58)])
@pytest.mark.parametrize("name", ["phone.mp4", "phone.mov", "film.mkv"])
def test_paper_white_is_white(tmp_path: Path, transfer: int, signal: float, name: str):
    path = tagged_video(tmp_path / name, patches([(signal,) * 3] * 4), transfer, BT2020, "yuv420p10le", "libx265")
    white = middles(path, 4)
    assert white.min() >= 235
    assert np.ptp(white) <= 2


def test_wide_colours_without_hdr(tmp_path: Path):
    """BT.2020's red, green and blue in BT.709 by the matrix of BT.2087: beyond its gamut, so the full colour."""
    signals = [(0.5, 0.5, 0.5), (0.75, 0, 0), (0, 0.75, 0), (0.5, 0.4, 0.3)]
    path = tagged_video(tmp_path / "wide.mkv", patches(signals), 14, BT2020, "yuv444p10le", "ffv1")
    assert probe(path).notes == ("Its wide colours (BT.2020) are converted to BT.709.",)
    matrix = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
    light = np.clip(np.array(signals) ** 2.4 @ matrix.T, 0, 1)
    np.testing.assert_allclose(middles(path, 4), light ** (1 / 2.4) * 255, atol=2)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_ordinary_colours_are_left_to_the_scaler(tmp_path: Path, pix_fmt: str):
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 96, 3), np.uint16)
    path = tagged_video(tmp_path / "a.mkv", pixels, 1, 1, pix_fmt, "ffv1")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        quality = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        plain = frame.reformat(
            format="rgb24",
            src_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.JPEG,
            interpolation=quality,
        ).to_ndarray()
    (frames,) = read_frames(path, fps=24, width=96, height=64, fit=Fit.CROP)
    np.testing.assert_array_equal(frames[0], plain)
    assert probe(path).notes == ()


# --- pictures ---


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("code", CHROMIUM)
def test_coded_colours_of_a_png_are_shown_as_in_a_browser(tmp_path: Path, code: tuple[int, int], bits: int):
    path = tmp_path / "a.png"
    signals = patches(list(CHROMIUM[code]))
    pixels = signals if bits == 16 else (signals // 257).astype(np.uint8)
    path.write_bytes(png_of(pixels, (b"cICP", bytes([*code, 0, 1]))))
    shown = read_image(path, pixels.shape[1], 16, Fit.CROP)[8, 8::16].astype(int)
    np.testing.assert_allclose(shown, list(CHROMIUM[code].values()), atol=3)
    assert ("HDR colours" in " ".join(probe(path).notes)) == (code[1] in (PQ, HLG))


# Chromium 156, an AVIF of 8 bits, where it takes the curves of cameras for sRGB's
CHROMIUM_AVIF = CHROMIUM | {
    (BT2020, 14): {(0.5, 0.4, 0.3): (141, 100, 70), (0.75,) * 3: (191, 191, 191)},
    (1, 1): {(0.5, 0.4, 0.3): (127, 103, 75)},
}


@pytest.mark.parametrize("code", CHROMIUM_AVIF)
def test_coded_colours_of_an_avif_are_shown_as_in_a_browser(tmp_path: Path, code: tuple[int, int]):
    path = tmp_path / "a.avif"
    pixels = (patches(list(CHROMIUM_AVIF[code])) // 257).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=100, subsampling="4:4:4")
    before, box, after = path.read_bytes().partition(b"colrnclx")
    path.write_bytes(before + box + struct.pack(">HH", *code) + after[4:])
    shown = read_image(path, pixels.shape[1], 16, Fit.CROP)[8, 8::16].astype(int)
    np.testing.assert_allclose(shown, list(CHROMIUM_AVIF[code].values()), atol=4)
    assert ("HDR colours" in " ".join(probe(path).notes)) == (code[1] in (PQ, HLG))


def test_an_avif_whose_bitstream_alone_states_its_colours(tmp_path: Path):
    """As encoders of video write it; a still of AV1 with PQ, its `colr` box taken away."""
    png, path = tmp_path / "a.png", tmp_path / "a.avif"
    png.write_bytes(png_of(np.full((64, 64, 3), round(0.58 * 65535), np.uint16)))
    tags = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc:range=pc"
    convert = ["-vf", f"scale=out_color_matrix=bt2020:out_range=full,format=yuv444p10le,{tags}"]
    encode = ["-c:v", "libaom-av1", "-crf", "1", "-cpu-used", "8", "-still-picture", "1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(png), *convert, *encode, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    assert b"colrnclx" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"colrnclx", b"freenclx"))
    np.testing.assert_allclose(read_image(path, 64, 64, Fit.CROP), 187, atol=8)  # 148 as if it were sRGB
    assert "HDR colours (PQ)" in " ".join(probe(path).notes)


def test_the_profile_of_an_avif_counts_before_its_code_numbers(tmp_path: Path):
    path = tmp_path / "a.avif"
    pixels = np.full((16, 16, 3), 148, np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(path, quality=100, subsampling="4:4:4", icc_profile=profile)
    before, box, after = path.read_bytes().partition(b"colrnclx")
    assert box
    path.write_bytes(before + box + struct.pack(">HH", BT2020, PQ) + after[4:])
    np.testing.assert_allclose(read_image(path, 16, 16, Fit.CROP), pixels, atol=1)
    assert probe(path).notes == ()


# Chromium 156, of the grey signals 0.5 and 0.2
GAMMAS = {100_000: (188, 124), 180_000: (215, 171), 55_000: (146, 65), 50_000: (137, 56), 45_455: (128, 51)}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_gamma_of_a_png(tmp_path: Path, gamma: int, channels: int, bits: int):
    pixels = patches([(0.5,) * 3, (0.2,) * 3])[..., :channels]
    path = tmp_path / "linear.png"
    path.write_bytes(
        png_of(pixels if bits == 16 else (pixels // 257).astype(np.uint8), (b"gAMA", struct.pack(">I", gamma)))
    )
    shown = read_image(path, 32, 16, Fit.CROP)[8, 8::16, 1].astype(int)
    np.testing.assert_allclose(shown, GAMMAS[gamma], atol=2)


def test_the_order_in_which_chunks_count(tmp_path: Path, corners: Picture):
    """sRGB before gAMA, cICP before both (PNG, third edition, 4.3)."""
    gamma, srgb, coded = (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0"), (b"cICP", bytes([1, 8, 0, 1]))
    grey = np.full((32, 32, 3), 128, np.uint8)
    for chunks, shown in [([gamma, srgb], 128), ([coded, srgb], 188), ([gamma], 188)]:
        path = tmp_path / "a.png"
        path.write_bytes(png_of(grey, *chunks))
        assert abs(int(read_image(path, 32, 32, Fit.CROP)[9, 9, 0]) - shown) <= 1, chunks


@pytest.mark.parametrize("primaries", [bytes(32), b"\xff" * 32, bytes(31), struct.pack(">8I", *[31270, 32900] * 4)])
def test_primaries_that_are_impossible_say_nothing(tmp_path: Path, corners: Picture, primaries: bytes):
    path = tmp_path / "a.png"
    path.write_bytes(png_of(corners, (b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", primaries)))
    np.testing.assert_array_equal(read_image(path, 80, 48, Fit.CROP), corners)


def test_the_primaries_of_a_png(tmp_path: Path):
    """Display P3 as gAMA and cHRM; the figures are Chromium's."""
    p3 = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    path = tmp_path / "a.png"
    path.write_bytes(png_of(patches([(0.5, 0.4, 0.3), (0, 0.75, 0)]), (b"gAMA", struct.pack(">I", 45_455)), p3))
    shown = read_image(path, 32, 16, Fit.CROP)[8, 8::16].astype(int)
    np.testing.assert_allclose(shown, [(134, 101, 70), (0, 196, 0)], atol=2)


@pytest.mark.parametrize("name", ["iCCP", "gAMA", "cICP"])
def test_colours_behind_the_pixels_say_nothing(tmp_path: Path, corners: Picture, turning_profile: bytes, name: str):
    """PNG, third edition, table 7; Chromium ignores them too."""
    data = {"iCCP": b"x\0\0" + zlib.compress(turning_profile), "gAMA": struct.pack(">I", 100_000)}
    grey = (corners // 2 + 30).astype(np.uint8)
    late = png_of(grey, (name.encode(), data.get(name, bytes([9, 16, 0, 1]))))
    chunk = late[33 : late.index(b"IDAT") - 4]
    path = tmp_path / "a.png"
    path.write_bytes(late.replace(chunk, b"")[:-12] + chunk + late[-12:])
    np.testing.assert_array_equal(read_image(path, 80, 48, Fit.CROP), grey)
    assert probe(path).notes == ()


@pytest.mark.parametrize("code", [(BT2020, PQ, 0, 0), (2, PQ, 0, 1)], ids=["narrow range", "no primaries"])
def test_coded_colours_that_a_browser_does_not_apply(tmp_path: Path, corners: Picture, code: tuple[int, ...]):
    path = tmp_path / "a.png"
    path.write_bytes(png_of(corners // 2 + 30, (b"cICP", bytes(code))))
    np.testing.assert_array_equal(read_image(path, 80, 48, Fit.CROP), corners // 2 + 30)
    assert probe(path).notes == ()


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of a grey display."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 16)
    header = struct.pack(">I4sI4s4s4s", 192, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + white + curve


@pytest.mark.parametrize("of_profile", ["grey", "colours"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_profile_of_a_grey_png(tmp_path: Path, bits: int, channels: int, of_profile: str):
    """Light that is linear, by a profile: Chromium shows it as it does by gAMA, and on white only after that."""
    profile = grey_profile(1.0) if of_profile == "grey" else matrix_profile(SRGB_PRIMARIES, 1.0)
    pixels = patches([(0.5, 1, 0), (0.2, 1, 0), (0.2, 0.5, 0)])[..., :channels]
    shown = [GAMMAS[100_000][0], *[GAMMAS[100_000][1]] * 2]
    if channels == 2:
        shown[2] = (shown[2] + 255) // 2
    path = tmp_path / "a.png"
    path.write_bytes(
        png_of(pixels if bits == 16 else (pixels // 257).astype(np.uint8), (b"iCCP", b"x\0\0" + zlib.compress(profile)))
    )
    np.testing.assert_allclose(read_image(path, 48, 16, Fit.CROP)[8, 8::16, 1], shown, atol=2)


@pytest.mark.parametrize("name", ["grey.jpg", "palette.png", "palette and alpha.png", "a.png", "a.webp", "a.avif"])
def test_a_profile_is_applied_before_a_picture_is_laid_on_white(tmp_path: Path, name: str):
    """Linear light of 0.5 is 188 in sRGB; half of it on white is (188 + 255) / 2."""
    transparent = "a." in name or "alpha" in name
    image = Image.new("RGBA", (32, 32), (128, 128, 128, 128 if transparent else 255))
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {"quality": 100}
    if "palette" in name:
        image = image.convert("RGB").quantize(4)
        options = {"transparency": bytes([128] * 4)} if transparent else {}
    elif name == "grey.jpg":
        image = image.convert("L")
    path = tmp_path / name
    image.save(path, icc_profile=matrix_profile(SRGB_PRIMARIES, 1.0), **options)
    np.testing.assert_allclose(read_image(path, 32, 32, Fit.CROP)[9, 9], 221.5 if transparent else 188, atol=2)


def test_a_profile_for_other_pixels_says_nothing(save, corners: Picture):
    path = save("a.png", corners, icc_profile=grey_profile(1.0))
    np.testing.assert_array_equal(read_image(path, 80, 48, Fit.CROP), corners)


def test_a_profile_that_unpacks_to_a_bomb_is_left_out(tmp_path: Path, corners: Picture):
    bomb = (b"iCCP", b"x\0\0" + zlib.compress(bytes(50 * 2**20)))
    path = tmp_path / "a.png"
    path.write_bytes(png_of(corners, bomb))
    np.testing.assert_array_equal(read_image(path, 80, 48, Fit.CROP), corners)
    assert probe(path).notes == ("Damaged data beside its pixels (iCCP) is ignored.",)
