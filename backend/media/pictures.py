"""Pictures: recognised, decoded, turned upright, opaque, in sRGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.media import notes
from backend.media.colour import BT709, HDR_NAMES, SRGB, VIDEO, ColourSpace, coded_space, for_picture
from backend.media.png import SIGNATURE, Png, deep_pixels, read_png
from backend.media.refusal import Refused, check_shape

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
MOVING = ("PNG", "WEBP", "GIF", "AVIF")  # formats that may hold a moving picture, which is a video
PIXELS = 50_000_000
LEAST_WHOLE = 7 / 8  # of the rows of a picture that lacks its last bytes
CODED_COLOURS = b"colrnclx"  # of an AVIF: ISO/IEC 14496-12, 12.1.5
FILLED_WITH = {"JPEG": 128, "PNG": 0}  # what Pillow gives for pixels that are not in the file

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
    if image is not None:
        check_shape(*image.size, PIXELS)
        if png:
            image.info["png"] = png
    return image


def _opened(source: str | io.BytesIO) -> Image | None:
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None  # `check_shape` is stricter, and refuses instead of warning
    try:
        return PIL.Image.open(source, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        return None


def is_moving(image: Image) -> bool:
    return image.format in MOVING and bool(getattr(image, "is_animated", False))


def read_picture(path: str) -> tuple[Image, list[str]]:
    """The picture, decoded: RGB, upright, opaque, in sRGB; and notes of what was done to it."""
    image = open_picture(path)
    if image is None or is_moving(image):
        raise Refused("is no picture that the studio reads", "use JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF.")
    remarks = []
    if image.format == "TIFF" and (count := getattr(image, "n_frames", 1)) > 1:
        remarks.append(notes.first_of(count))
    png = image.info.get("png")
    if png and png.damaged:
        remarks.append(notes.without_chunk(png.damaged))
    whole = _decoded(image, path)
    if whole is not image:
        remarks.append(notes.CUT)
        image = whole
    turn = orientation(image)  # not earlier: Pillow turns a TIFF while it decodes
    space = png.space if png else _coded_colours(image, path)
    flat = (_deep(png, image.info) if png else None) or opaque(image, space)
    if flat.info.get("was_transparent"):
        remarks.append(notes.TRANSPARENT)
    if space and space.is_hdr:
        remarks.append(notes.tone_mapped(HDR_NAMES[space.transfer]))
    return rotated(in_srgb(flat), turn), remarks


# --- decoding what is not whole ---


def _decoded(image: Image, path: str) -> Image:
    """`image` after decoding; another image if the file lacks its last bytes and nearly all of the picture is there.

    Raises OSError, SyntaxError and others, as Pillow does, for a file that is damaged or lacks more.
    """
    try:
        image.load()
    except OSError:
        if image.format not in FILLED_WITH:
            raise
        part = _what_is_there(image, path)
        if part is None or not _is_nearly_whole(part, path):
            raise
        return part
    return image


def _what_is_there(image: Image, path: str) -> Image | None:
    from PIL import ImageFile

    png = image.info.get("png")
    part = _opened(io.BytesIO(png.data) if png else path)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        if part is not None:
            part.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return part


def _is_nearly_whole(part: Image, path: str) -> bool:
    """Whether a picture that was cut off lacks few rows, or only the last details of a progressive JPEG."""
    if part.info.get("progressive"):
        return _has_every_coefficient(Path(path).read_bytes())
    pixels = np.asarray(part).reshape(part.height, -1)
    is_decoded = (pixels != FILLED_WITH[str(part.format)]).any(axis=1)
    return int(np.flatnonzero(is_decoded).max(initial=-1)) + 1 >= LEAST_WHOLE * part.height


def _has_every_coefficient(data: bytes) -> bool:
    """Whether a progressive JPEG was cut off in a scan that refines: every coefficient is there, if roughly
    (ITU-T T.81, B.2.3: the high half of a scan header's last byte is the bit position of the scan before it).
    """
    at = data.rfind(b"\xff\xda")
    if at < 0 or at + 5 > len(data):
        return False
    last = at + 4 + 2 * data[at + 4] + 3
    return last < len(data) and data[last] >> 4 > 0


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


def opaque(image: Image, space: ColourSpace | None = None) -> Image:
    """`image` on white, where it lets anything through; 16 bits a pixel become 8. Its colours are converted from
    `space` before. `info["was_transparent"]` says whether there was anything to be seen through.
    """
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 256).convert("L")  # Pillow alone would clip, not scale
    if not image.has_transparency_data:
        return _in_space(image, space)
    layer = image.convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return _in_space(image.convert("RGB"), space)
    flat = on_white(_in_space(layer.convert("RGB"), space), alpha)
    flat.info = dict(image.info) | {"was_transparent": True}
    return flat


def on_white(image: Image, alpha: Image) -> Image:
    """RGB over white, by its alpha of 8 bits."""
    import PIL.Image

    layer = image.convert("RGBA")
    layer.putalpha(alpha)
    white = PIL.Image.new("RGBA", image.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def _in_space(image: Image, space: ColourSpace | None) -> Image:
    import PIL.Image

    if not space:
        return image
    return PIL.Image.fromarray(for_picture(np.asarray(image.convert("RGB")), space))


def _coded_colours(image: Image, path: str) -> ColourSpace | None:
    """The colour space of an AVIF by its code numbers, the curves of cameras read as sRGB, as browsers do; None where
    that is sRGB, or where a profile says more.
    """
    if image.format != "AVIF" or image.info.get("icc_profile"):
        return None
    data = Path(path).read_bytes()
    at = data.find(CODED_COLOURS) + len(CODED_COLOURS)
    if at < len(CODED_COLOURS) or at + 4 > len(data):
        return None
    primaries, transfer = struct.unpack_from(">HH", data, at)
    transfer = SRGB if transfer in VIDEO else transfer
    return None if (transfer, primaries) == (SRGB, BT709) else coded_space(transfer, primaries)


def _deep(png: Png, info: dict[Any, Any]) -> Image | None:
    """A PNG of 16 bits as RGB of 8, opaque; None for other PNGs, and where it is damaged."""
    import PIL.Image

    if png.bits != 16 or (pixels := deep_pixels(png)) is None:
        return None
    colours, alpha = (pixels[..., :-1], pixels[..., -1]) if pixels.shape[2] in (2, 4) else (pixels, None)
    colours = np.broadcast_to(colours, (*pixels.shape[:2], 3))
    image = PIL.Image.fromarray(for_picture(colours, png.space) if png.space else _eight_bits(colours))
    if alpha is not None and alpha.min() < np.iinfo(np.uint16).max:
        image = on_white(image, PIL.Image.fromarray(_eight_bits(alpha)))
        image.info["was_transparent"] = True
    image.info["icc_profile"] = info.get("icc_profile")
    return image


def _eight_bits(values: Any) -> Any:
    return ((values - (values >> 8) + 128) >> 8).astype(np.uint8)  # rounded, without leaving 16 bits


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
