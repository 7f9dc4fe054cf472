"""Pictures and masks in the formats that Pillow reads, and PNG and JPEG that are written.

image   uint8 (H, W, C), C = 1 or 3
values  (H, W) or (H, W, C), as the file has them
"""

import io
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count as count_from
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from pixeltrust.data.image_files import one_at_a_time, readable, refusal
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.files import write_atomically

STRETCH_PERCENTILES = (0.5, 99.5)  # the range of a 16-bit or float image that becomes 0 … 255
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # whatever the ending is; Pillow knows others that run programs
_EXIF_ORIENTATION = 0x0112
_LUMA = np.array((0.299, 0.587, 0.114))
_SUBFILE_TYPE = 254  # the TIFF tag of a page's purpose
_REDUCED = 1  # its bit of a smaller copy of another page
_SAMPLES = {"L;2": 85, "L;4": 17}  # what Pillow multiplies the samples of 2 and 4 bits by
_STRETCHED_AT_ONCE = 1 << 22  # values
_SAVE_ONE = "save the one that is meant as a file of its own"


# --- what is read -----------------------------------------------------------------------------------------------------


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture that holds one picture and is read right; large ones wait for each other.

    Raises:
        DataError: it holds several, or is one that Pillow misreads.
    """
    # Given a name, Pillow 13 maps an uncompressed grey TIFF into memory, and scrambles it where it has an orientation.
    with path.open("rb") as file, Image.open(file, formats=_FORMATS) as opened:
        _refuse_several(opened, path)
        _refuse_misread_bmp(opened, path)
        with one_at_a_time(opened.size):
            yield opened


def read_picture(path: Path, channels: int) -> np.ndarray:
    """Read a picture as `images.read_image` does."""
    with open_picture(path) as opened:
        picture = ImageOps.exif_transpose(opened)
        picture.info.pop("transparency", None)  # a palette's would make `convert` warn, for every file
        if picture.mode.startswith(("I", "F")):
            return np.repeat(stretch(np.asarray(picture), path)[..., None], channels, axis=-1)
        pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_picture_values(path: Path) -> np.ndarray:
    """Read the values (H, W) or (H, W, C) of a mask that is a picture."""
    with open_picture(path) as opened:
        coding = _coding(opened)
        if ";16" in coding and not opened.mode.startswith("I"):
            wrong, kind = "16 bits in each of several channels, which are not read in full", "masks of 16 bits in several channels"
            raise refusal(path, wrong, kind=kind, repair="save it as grey of 8 bits")
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in ("LA", "PA", "RGBA"):
            _refuse_drawn_in_alpha(picture, path)
            picture = picture.convert({"LA": "L", "PA": "P", "RGBA": "RGB"}[picture.mode])
        values = np.asarray(picture) // _SAMPLES[coding[:3]] if coding[:3] in _SAMPLES else np.asarray(picture)
        brighter = _brighter_of_two(_palette(picture)) if picture.mode == "P" else None
        return values == brighter if brighter is not None and values.max(initial=0) <= 1 else values


def stretch(values: np.ndarray, path: Path) -> np.ndarray:
    """Return real numbers (H, W) as grey uint8 (H, W), so that their .5 and 99.5 percentiles become 0 and 255.

    Raises:
        DataError: not all are finite.
    """
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds values that are not finite")
    low, high = map(float, np.percentile(values, STRETCH_PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        rows = max(1, _STRETCHED_AT_ONCE // values.shape[1])
        for start in range(0, len(values), rows):
            scaled = (values[start : start + rows].astype(np.float64) - low) / (high - low)
            grey[start : start + rows] = (scaled.clip(0, 1) * 255).round()
    return grey


def read_orientation(opened: Image.Image, path: Path) -> int:
    """Return the EXIF orientation of an opened picture, 1 where it is missing or invalid."""
    # PngImageFile's own getexif decodes the pixels, to look for an orientation behind them.
    header_is_complete = opened.format == "PNG" and not _has_chunks_behind_pixels(path)
    exif = Image.Image.getexif(opened) if header_is_complete else opened.getexif()
    orientation = exif.get(_EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def has_two_colours(opened: Image.Image) -> bool:
    """Return whether the palette of an opened picture has two colours, so that as a mask it counts by colour."""
    return opened.mode in ("P", "PA") and _brighter_of_two(_palette(opened)) is not None


class Grey(NamedTuple):
    """A PNG of grey whose white is 1."""

    shares: np.ndarray
    """float32 (H, W), 0 … 1."""
    bits: int
    """8 or 16."""
    text: dict[str, str]
    """What `write_png` has written beside the pixels."""


def read_grey(path: Path) -> Grey:
    """Read a PNG of 8 or 16 bits of grey as shares of white.

    Raises:
        DataError: the file cannot be read, or is not such a PNG.
    """
    with readable(path), Image.open(path, formats=["PNG"]) as picture:
        picture.load()
        values = np.asarray(picture)
        if picture.mode != "L" and values.dtype != np.uint16:
            wrong, kind = f"a PNG of the mode {picture.mode}", "PNG files of other modes than grey"
            raise refusal(path, wrong, kind=kind, repair="save it as grey of 8 or 16 bits, black for 0 and white for 1")
        text = {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
        return Grey(values.astype(np.float32) / np.iinfo(values.dtype).max, 8 * values.itemsize, text)


def _has_chunks_behind_pixels(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(len(b"\x89PNG\r\n\x1a\n"))
        pixels_seen = False
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if pixels_seen and name not in (b"IDAT", b"IEND"):
                return True
            pixels_seen |= name == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)
    return False


def _palette(picture: Any) -> np.ndarray:
    """Return the colours of a palette, (N, 3), in the order of their indices, without decoding a pixel."""
    palette = picture.palette
    if palette is None:
        return np.zeros((0, 3), np.uint8)
    probe = Image.new("P", (1, 1))
    probe.putpalette(palette.palette, palette.rawmode or palette.mode)
    return np.array(probe.getpalette("RGB"), np.uint8).reshape(-1, 3)


def _brighter_of_two(colours: np.ndarray) -> int | None:
    """Return the index of the brighter colour in a palette whose first two entries differ and that has no third colour; else None."""
    if len(colours) < 2 or (colours[0] == colours[1]).all():
        return None
    if not ((colours == colours[0]).all(axis=1) | (colours == colours[1]).all(axis=1)).all():
        return None
    first, second = colours[:2] @ _LUMA
    return int(second >= first)


def _coding(opened: Any) -> str:
    """Return how the file codes its samples, in Pillow's words: `L;2` is grey of two bits."""
    arguments = opened.tile[0].args if opened.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _refuse_several(opened: Any, path: Path) -> None:
    """Refuse several pictures, as nobody knows which one is meant; smaller copies in a TIFF or behind a JPEG (MPO) do not count."""
    if not getattr(opened, "is_animated", False) or opened.format == "MPO":
        return
    if opened.format == "TIFF":
        with suppress(EOFError):
            for page in count_from(1):
                opened.seek(page)
                if not opened.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:
                    raise refusal(path, "holds several pages", kind="files of several pages", repair=_SAVE_ONE)
        opened.seek(0)
    else:
        raise refusal(path, "holds several pictures (it is animated)", kind="files of several pictures", repair=_SAVE_ONE)


def _refuse_misread_bmp(opened: Any, path: Path) -> None:
    """Raise DataError for a BMP that Pillow 13 misreads: with a grey palette it takes pixels for 1 bit (of two colours) or 8, always."""
    if opened.format != "BMP" or opened.mode not in ("1", "L") or opened.tile[0].codec_name != "raw":
        return
    with path.open("rb") as file:
        header = file.read(30)
    (bits,) = struct.unpack_from("<H", header, 24 if header[14] == 12 else 28)
    if bits != (1 if opened.mode == "1" else 8):
        wrong = f"a BMP of {bits} bits a pixel with a grey palette of fewer, which is not read"
        raise refusal(path, wrong, kind="BMP files with a grey palette of fewer bits than their pixels", repair="save it as PNG")


def _refuse_drawn_in_alpha(picture: Image.Image, path: Path) -> None:
    ranges: Any = picture.getextrema()
    if all(low == high for low, high in ranges[:-1]) and ranges[-1][0] < ranges[-1][1]:
        wrong, kind = "its shape is in its transparency alone, which masks do not have", "masks whose shape is in their transparency alone"
        raise refusal(path, wrong, kind=kind, repair="save it as grey, one value per class")


# --- what is written, and pictures in memory --------------------------------------------------------------------------


def write_png(path: Path, pixels: np.ndarray, *, text: Mapping[str, str] | None = None, synced: bool = True) -> None:
    """Write uint8 (H, W) or (H, W, 3) as PNG, whole or not at all; `text` goes into the file beside the pixels, by its keys.

    Args:
        synced: as of `write_atomically`.
    """
    texts = PngInfo()
    for key, value in (text or {}).items():
        texts.add_text(key, value)
    with write_atomically(path, synced=synced) as unfinished:
        # compressed by 3, not by 6: half the time, a tenth more bytes
        Image.fromarray(pixels).save(unfinished, format="PNG", pnginfo=texts, compress_level=3)


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as JPEG of quality 95 with its colours at full resolution, whole or not at all."""
    with write_atomically(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="JPEG", quality=95, subsampling=0)


def encode_image(pixels: np.ndarray, form: str, **how: int) -> bytes:
    """Return uint8 (H, W) or (H, W, 3) as the bytes of a PNG or JPEG; `how` has the names of Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **how)
    return file.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG that `encode_image` made."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
        return np.array(opened)


def decode_alpha(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return the opacity uint8 (H, W) of a PNG in memory, which must be of this (height, width).

    Raises:
        DataError: the bytes are not such a PNG, or it has another size or no transparency.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            if opened.size != size[::-1]:
                raise DataError(f"it has {opened.width}x{opened.height} pixels, its image {size[1]}x{size[0]}")
            if not opened.has_transparency_data:
                raise DataError("it has no transparency, in which its shape is")
            return np.asarray(opened.convert("RGBA"))[..., 3]
    except PixeltrustError:
        raise
    except Exception as error:  # as in `readable`
        raise DataError(f"it is not a PNG that can be read: {' '.join(str(error).split()) or type(error).__name__}") from error
