"""Pictures: recognised, decoded, turned upright, opaque, in sRGB."""

from __future__ import annotations

import io
import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backend.media import notes
from backend.media.colour import BT709, HDR_NAMES, SRGB, VIDEO, ColourSpace, coded_space, for_picture, rounded_to_8
from backend.media.containers import UNSPECIFIED, box_names, brands
from backend.media.jpeg import read_scans
from backend.media.png import SIGNATURE, decoded_share, deep_pixels, read_png
from backend.media.refusal import Refused, check_shape

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
MOVING = ("PNG", "WEBP", "GIF", "AVIF")  # formats that may hold a moving picture, which is a video
PIXELS = 50_000_000
LEAST_WHOLE = 7 / 8  # of a picture that lacks its last bytes
CODED_COLOURS = b"colrnclx"  # of an AVIF: ISO/IEC 14496-12, 12.1.5
NOISE = bytes(random.Random(0).randrange(0xFF) for _ in range(4096))  # 0xFF would begin a marker

APNG_DISPOSE_OP_BACKGROUND = 1
WIDTH, LENGTH, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262  # tags of TIFF
SAMPLES_PER_PIXEL, PLANAR, SAMPLE_FORMAT = 277, 284, 339
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are of files beyond 4 GiB
AVIF_BRANDS = {b"avif", b"avis"}
WHITE_IS_ZERO = 0

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
    """The picture in the file, still or moving, its size checked and nothing decoded yet; None if it is no picture.

    A PNG is given to the decoder without its texts and damaged side chunks; `info["png"]` is what is left.
    """
    with Path(path).open("rb") as file:
        begins = file.read(len(SIGNATURE))
    png = read_png(Path(path).read_bytes()) if begins == SIGNATURE else None
    image = _opened(io.BytesIO(png.data) if png else path)
    if image is None:
        if begins.startswith(TIFF_BEGINNINGS):
            raise _unread_tiff(path)
        if brands(path) & AVIF_BRANDS:
            how = "cut off" if box_names(path)[1] else "damaged, or of a kind that the studio does not read"
            raise Refused(f"is an AVIF picture that is {how}", "send the whole file, or save it as PNG.")
        return None
    check_shape(*image.size, PIXELS)
    if png:
        image.info["png"] = png
    return image


def _opened(source: str | io.BytesIO) -> Image | None:
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None  # `check_shape` is stricter, and refuses instead of warning
    try:
        return PIL.Image.open(source, formats=FORMATS)
    except (PIL.UnidentifiedImageError, KeyError):  # KeyError: a TIFF of an unknown compression
        return None


def _unread_tiff(path: str) -> Refused:
    """Why Pillow opens no TIFF of this kind, by its tags (TIFF 6.0)."""
    from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

    try:
        with Path(path).open("rb") as file:
            head = file.read(8)
            tags = ImageFileDirectory_v2(head + (file.read(8) if head[2:4] in (b"+\0", b"\0+") else b""))
            file.seek(tags.next)
            tags.load(file)
            bits, compression = tags.get(BITS_PER_SAMPLE, (1,)), tags.get(COMPRESSION, 1)
            channels, form = tags.get(SAMPLES_PER_PIXEL, 1), tags.get(SAMPLE_FORMAT, (1,))
            has_size = WIDTH in tags and LENGTH in tags
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        has_size = False
    if not has_size:
        return Refused("is a TIFF that is damaged or cut off", "send the whole file, or save it as PNG.")
    if compression not in COMPRESSION_INFO:
        return Refused(
            f"is a TIFF with compression {compression}, which the studio does not read",
            "save it without compression, or as PNG.",
        )
    kind = {2: " with a sign", 3: " of floating point"}.get(max(form), "")
    count = "1 channel" if channels == 1 else f"{channels} channels"
    return Refused(
        f"is a TIFF with {count} of {max(bits)} bits{kind}, which the studio does not read",
        "save it with 8 bits a channel, or as PNG.",
    )


def is_moving(image: Image) -> bool:
    moves = image.format in MOVING and bool(getattr(image, "is_animated", False))
    return moves and not (_has_other_still(image) and getattr(image, "n_frames", 1) == 2)


def seek(image: Image, frame: int) -> None:
    """Go to a frame, the next one or the first. The still that an animated PNG has for programs that know no moving
    ones, and that is no frame of it, is passed over. Raises EOFError behind the last frame.
    """
    other: Any = image
    if not _has_other_still(image):
        image.seek(frame)
        return
    if image.tell() == 0:  # nothing of it may be seen behind the first frame
        other.dispose_op, other.dispose_extent = APNG_DISPOSE_OP_BACKGROUND, (0, 0, *image.size)
    image.seek(frame + 1)


def _has_other_still(image: Image) -> bool:
    return image.format == "PNG" and bool(getattr(image, "default_image", False))


def read_picture(path: str) -> tuple[Image, list[str]]:
    """The picture, decoded: RGB, upright, opaque, in sRGB; and notes of what was done to it."""
    image = open_picture(path)
    if image is None or is_moving(image):
        raise Refused("is no picture that the studio reads", "use JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")
    remarks = []
    if image.format == "TIFF" and (count := getattr(image, "n_frames", 1)) > 1:
        remarks.append(notes.first_of(count))
    if image.format == "TIFF":
        _check_samples(image)
    seek(image, 0)
    png = image.info.get("png")
    if png and png.damaged:
        remarks.append(notes.without_chunk(png.damaged))
    whole = _decoded(image, path)
    if whole is not image:
        remarks.append(notes.CUT)
        image = whole
    turn = orientation(image)  # not earlier: Pillow turns a TIFF while it decodes
    space = space_of(image, path)
    deep = deep_pixels(png) if png and png.bits == 16 and image.tell() == 0 else None
    shown, was_transparent = as_shown(image, space, deep)
    return rotated(shown, turn), remarks + remarks_of(space, was_transparent)


def remarks_of(space: ColourSpace | None, was_transparent: bool) -> list[str]:
    remarks = [notes.TRANSPARENT] if was_transparent else []
    return [*remarks, notes.tone_mapped(HDR_NAMES[space.transfer])] if space and space.is_hdr else remarks


def _check_samples(image: Image) -> None:
    """Raise Refused for a TIFF whose samples Pillow would show wrong."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode in ("I", "F"):
        raise Refused(
            "has samples with a sign, of floating point or of 32 bits", "save it with 8 or 16 bits a channel."
        )
    if (tags.get(PLANAR), tags.get(COMPRESSION)) == (2, 1) and max(tags.get(BITS_PER_SAMPLE, (1,))) > 8:
        raise Refused("has 16 bits a channel in separate planes", "save it with its channels together, or as PNG.")


# --- decoding what is not whole ---


def _decoded(image: Image, path: str) -> Image:
    """`image` after decoding; another image if the file lacks its last bytes and nearly all of the picture is there.

    Raises OSError, SyntaxError and others, as Pillow does, for a file that is damaged or lacks more.
    """
    try:
        image.load()
    except OSError:
        png = image.info.get("png")
        if png:
            part = _what_is_there(png.data) if decoded_share(png) >= LEAST_WHOLE else None
        else:
            part = _jpeg_if_nearly_whole(Path(path).read_bytes()) if image.format == "JPEG" else None
        if part is None:
            raise
        return part
    return image


def _what_is_there(data: bytes) -> Image | None:
    from PIL import ImageFile

    part = _opened(io.BytesIO(data))
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        if part is not None:
            part.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return part


def _jpeg_if_nearly_whole(data: bytes) -> Image | None:
    """The JPEG if its scans have every coefficient, and the last one goes nearly to the end or only refines.

    The pixels that are there are those that stay the same whatever follows the last byte.
    """
    scans = read_scans(data)
    part = _what_is_there(data[: scans.end]) if scans.has_every_coefficient else None
    if part is None or scans.last_refines:
        return part
    other = _what_is_there(data[: scans.end].rstrip(b"\xff") + NOISE)
    differs = (np.asarray(part) != np.asarray(other)).reshape(part.height, part.width, -1).any(axis=2)
    if differs.any():
        row = int(differs.any(axis=1).argmax())
        column = int(differs[row : row + scans.unit_rows].any(axis=0).argmax())
        there = row + scans.unit_rows * column / part.width
        return part if there >= LEAST_WHOLE * part.height else None
    return part


# --- upright, opaque, sRGB ---


def orientation(image: Image) -> int:
    """EXIF's orientation, 1 to 8. One that only XMP gives says nothing, as in browsers."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)  # Pillow would look there
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, OSError, struct.error):
        return 1  # the picture itself may be whole although its EXIF block is not


def rotated(image: Image, exif_orientation: int) -> Image:
    from PIL.Image import Transpose

    name = UPRIGHT.get(exif_orientation)
    return image.transpose(Transpose[name]) if name else image


def as_shown(
    image: Image, space: ColourSpace | None = None, deep: NDArray[np.uint16] | None = None
) -> tuple[Image, bool]:
    """`image` as RGB of 8 bits in sRGB, on white where it lets anything through; and whether it does.

    Its colours are converted, by `space` or else by its profile, before they are blended. `deep` are its pixels where
    it has 16 bits, shape (height, width, 1 to 4).
    """
    profile = image.info.get("icc_profile")
    if deep is None:
        colours, alpha = _layers(image)
        shown = _in_space(colours, space) if space else _by_profile(colours, profile)
    else:
        shown, alpha = _deep_layers(deep, space, profile)
    if alpha is None or alpha.getextrema() == (255, 255):
        return shown, False
    return _on_white(shown, alpha), True


def _layers(image: Image) -> tuple[Image, Image | None]:
    """Colours (L, RGB or CMYK) and alpha, 8 bits each."""
    if image.mode.startswith("I"):
        image = _grey_of_eight_bits(image)
    is_grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return (image if image.mode == "CMYK" else image.convert("L" if is_grey else "RGB")), None
    layer = image.convert("RGBA")
    return layer.getchannel("R") if is_grey else layer.convert("RGB"), layer.getchannel("A")


def _grey_of_eight_bits(image: Image) -> Image:
    """Grey of 16 bits (of a TIFF also 12, or with white as 0) as 8. Pillow alone would clip it."""
    import PIL.Image

    tags: Any = getattr(image, "tag_v2", {})
    (bits,) = tags.get(BITS_PER_SAMPLE, (16,))
    values = np.asarray(image).astype(np.uint16)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 2**bits - 1 - values
    return PIL.Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def _deep_layers(
    pixels: NDArray[np.uint16], space: ColourSpace | None, profile: bytes | None
) -> tuple[Image, Image | None]:
    """Colours in sRGB, and alpha, 8 bits each."""
    import PIL.Image

    channels = pixels.shape[2]
    alpha = PIL.Image.fromarray(rounded_to_8(pixels[..., -1])) if channels in (2, 4) else None
    colours = pixels[..., :3] if channels > 2 else pixels[..., 0]
    if not space:
        return _by_profile(PIL.Image.fromarray(rounded_to_8(colours)), profile), alpha
    rgb = colours if channels > 2 else np.broadcast_to(pixels[..., :1], (*colours.shape, 3))
    return PIL.Image.fromarray(for_picture(rgb, space)), alpha


def _on_white(image: Image, alpha: Image) -> Image:
    import PIL.Image

    layer = image.convert("RGBA")
    layer.putalpha(alpha)
    white = PIL.Image.new("RGBA", image.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def _in_space(image: Image, space: ColourSpace) -> Image:
    import PIL.Image

    return PIL.Image.fromarray(for_picture(np.asarray(image.convert("RGB")), space))


def space_of(image: Image, path: str) -> ColourSpace | None:
    """The colour space of a picture, still or moving, that does not go by its profile; None for sRGB."""
    png = image.info.get("png")
    return png.space if png else _coded_colours(image, path)


def _coded_colours(image: Image, path: str) -> ColourSpace | None:
    """The colour space of an AVIF by its code numbers, the curves of cameras read as sRGB, as browsers do; None where
    that is sRGB, or where a profile says more.
    """
    if image.format != "AVIF" or image.info.get("icc_profile"):
        return None
    data = Path(path).read_bytes()
    at = data.find(CODED_COLOURS) + len(CODED_COLOURS)
    if at >= len(CODED_COLOURS) and at + 4 <= len(data):
        primaries, transfer = struct.unpack_from(">HH", data, at)
    else:
        primaries, transfer = _colours_of_bitstream(path)
    transfer = SRGB if transfer in VIDEO else transfer
    return None if (transfer, primaries) == (SRGB, BT709) else coded_space(transfer, primaries)


def _colours_of_bitstream(path: str) -> tuple[int, int]:
    """Primaries and transfer characteristics that the AV1 of an AVIF states; UNSPECIFIED where it cannot be read."""
    import av

    options = {"format_whitelist": "mov", "protocol_whitelist": "file", "codec_whitelist": "libdav1d,av1"}
    with suppress(av.error.FFmpegError, IndexError), av.open(f"file:{path}", options=options) as container:
        codec = container.streams.video[0].codec_context
        return int(codec.color_primaries), int(codec.color_trc)
    return UNSPECIFIED, UNSPECIFIED


def _by_profile(image: Image, profile: bytes | None) -> Image:
    """RGB as a screen expects it. Phones save wider colours with a profile, and look pale without it."""
    from PIL import ImageCms

    converted = None
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "L" and source.profile.xcolor_space == "RGB ":  # browsers apply it to grey too
                image = image.convert("RGB")
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile that is damaged or for other pixels says nothing
    return converted or image.convert("RGB")
