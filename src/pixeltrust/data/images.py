"""Image and mask files: the only module that knows formats of pictures (and `nifti` those of planes, `volumes` those of volumes).

A file is a picture or a volume, which its header says: `read_header(path).grid` is there or not. What reads any file takes both.

image   uint8 (H, W, C), C = 1 or 3: of pictures alone
values  what is in an image file: as `image`, or float32 (D, H, W) of a volume
labels  uint8 (H, W) or (D, H, W): the values as the file has them
size    (height, width) in pixels, after the EXIF orientation is applied, or (D, H, W) in voxels
"""

import io
import math
import os
import stat
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count as count_from
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from pixeltrust.data import volumes
from pixeltrust.data.nifti import Plane
from pixeltrust.data.volumes import Grid, Volume
from pixeltrust.plumbing.errors import DataError, Fault, PixeltrustError
from pixeltrust.plumbing.files import write_atomically
from pixeltrust.plumbing.text import count

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", *volumes.SUFFIXES)
STRETCH_PERCENTILES = (0.5, 99.5)  # the range of a 16-bit or float image that becomes 0 … 255
FIRST_SWAPPED = 5  # from this EXIF orientation on width and height change places
MAX_PIXELS = 300_000_000  # beyond this a file is taken for a decompression bomb
_SHOWN_BY_BROWSERS = {"JPEG": "image/jpeg", "PNG": "image/png"}
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")  # whatever the ending is; Pillow knows others that run programs
_EXIF_ORIENTATION = 0x0112
_LUMA = np.array((0.299, 0.587, 0.114))
_SUBFILE_TYPE = 254  # the TIFF tag of a page's purpose
_REDUCED = 1  # its bit of a smaller copy of another page
_SAMPLES = {"L;2": 85, "L;4": 17}  # what Pillow multiplies the samples of 2 and 4 bits by
_STRETCHED_AT_ONCE = 1 << 22  # values
_LARGE = 50_000_000  # pixels; above it one picture is decoded at a time, as a decoded one takes up to 11 bytes a pixel
_LARGE_ONE = Lock()
_SAVE_ONE = "save the one that is meant as a file of its own"

Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow itself raises at twice this
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # and warns in between


def image_suffix(path: Path) -> str | None:
    """Return the known image ending of a path in lower case, or None: `scan.v2.NII.GZ` has `.nii.gz`."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def case_id(path: Path) -> str:
    """Return the id of a file's case: its name without the image ending, as text that can be compared and written.

    That is in composed characters (macOS writes é as two), and with escapes for bytes that are not valid UTF-8.
    """
    suffix = image_suffix(path)
    name = path.name[: -len(suffix)] if suffix else path.stem
    return normalize("NFC", os.fsencode(name).decode("utf-8", errors="backslashreplace"))


def read_size(path: Path) -> tuple[int, int]:
    """Read (height, width) of a picture from the header alone, as `read_image` and `read_labels` will return it.

    Raises:
        DataError: the file is missing, is not an image, or is a volume.
    """
    header = read_header(path)
    if header.grid:
        raise _volume_refusal(path, header.grid)
    height, width = header.size
    return height, width


class Header(NamedTuple):
    """What is known of a file before its pixels are decoded."""

    size: tuple[int, ...]
    states_orientation: bool | None = None
    """Whether a NIfTI file states where right, front and up are (see `nifti.Plane`), as volumes in other formats do; None for pictures in
    other formats, which never do."""
    exif_orientation: int = 1
    """2 … 8 where the picture is turned or mirrored when it is read."""
    two_colours: bool = False
    """Whether its palette has two colours, so that as a mask it counts by colour (see `read_labels`)."""
    spacing_mm: tuple[float, ...] | None = None
    """The distance between pixel centres along each axis of the size in mm, where the file has it (NIfTI, volumes)."""
    grid: Grid | None = None
    """Where the voxels are; of a volume alone."""

    @property
    def swaps_sides(self) -> bool:
        """Whether the EXIF orientation makes its width the height."""
        return self.exif_orientation >= FIRST_SWAPPED


def read_header(path: Path) -> Header:
    """Read the header of an image or mask file, or of a folder with a DICOM series.

    Raises:
        DataError: as `read_size`.
    """
    with readable(path, or_series=True):
        if _is_medical(path):
            medical = _open_medical(path)
            if isinstance(medical, Plane):
                return Header(medical.size, medical.states_orientation, spacing_mm=medical.spacing_mm)
            grid = medical.grid
            return Header(grid.shape, medical.states_orientation, spacing_mm=grid.spacing, grid=grid)
        with _opened(path) as opened:
            width, height = opened.size
            orientation = _orientation(opened, path)
            # Pillow has turned the size of a TIFF already.
            turns = orientation >= FIRST_SWAPPED and opened.format != "TIFF"
            two_colours = opened.mode in ("P", "PA") and _brighter_of_two(_palette(opened)) is not None
            return Header((width, height) if turns else (height, width), None, orientation, two_colours)


def refuse_volumes(paths: Iterable[Path], *, repair: str = volumes.NOT_YET) -> None:
    """Raise if one of the files is a volume; only files that may be one by their names are looked into.

    Args:
        repair: what can be done instead, for the message.

    Raises:
        DataError: names the first one.
    """
    for path in paths:
        if image_suffix(path) in volumes.SUFFIXES:
            with suppress(DataError):  # a broken file is told by what reads it
                if grid := read_header(path).grid:
                    break
    else:
        return
    raise _volume_refusal(path, grid, repair)


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """Read an image as uint8 (H, W, channels).

    8-bit images keep their values. Grey images of 16 bits or of floats are stretched so that their .5 and
    99.5 percentiles become 0 and 255: their nominal range is seldom the one in use. Colours of 16 bits count by their upper 8.
    Grey becomes colour by repetition, colour becomes grey by the usual luma; alpha is dropped; EXIF orientation is applied, and the
    orientation of a NIfTI plane as `nifti.Plane` has it.

    Args:
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: the file is missing, broken, not an image, a volume, or holds several.
    """
    with readable(path):
        if _is_medical(path):
            return np.repeat(_stretch(_plane(path).values(), path)[..., None], channels, axis=-1)
        with _opened(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            picture.info.pop("transparency", None)  # a palette's would make `convert` warn, for every file
            if picture.mode.startswith(("I", "F")):
                return np.repeat(_stretch(np.asarray(picture), path)[..., None], channels, axis=-1)
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_values(path: Path) -> np.ndarray:
    """Read what is in an image file: as `read_image` a picture, float32 (D, H, W) a volume (also a folder with a DICOM series).

    Raises:
        DataError: as `read_image`; or a voxel's value is not finite.
    """
    with readable(path, or_series=True):
        if not _is_medical(path) or isinstance(medical := _open_medical(path), Plane):
            return read_image(path)
        with _one_at_a_time(medical.grid.shape):
            values = _real(medical.values(), path).astype(np.float32, copy=False)
            if not_finite := sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in values):
                kind = "volumes with voxels that are not finite"
                raise _refusal(
                    path, f"holds {count(not_finite, 'voxel')} whose value is not finite", kind=kind, repair="set them to a number"
                )
    return values


def draw_slice(values: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Return a slice of a volume, real numbers (H, W), as a grey picture uint8 (H, W, 3).

    Args:
        window: what becomes black and white; the .5 and 99.5 percentiles of the slice where not given.
    """
    low, high = map(float, np.percentile(values, STRETCH_PERCENTILES) if window is None else window)
    grey = ((values - low) / (high - low if high > low else 1)).clip(0, 1) * 255
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=-1)


def read_shown(path: Path, arrays: Sequence[np.ndarray], interest: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read what a page shows of an image, uint8 (H, W, 3), and of arrays on its grid: of a volume the slice that has most of interest.

    Args:
        arrays: (H, W), or (D, H, W) of a volume.
        interest: bool, likewise.

    Raises:
        DataError: as `read_values`.
    """
    if interest.ndim == 2:
        return read_image(path), list(arrays)
    place = int(interest.sum(axis=(1, 2)).argmax()) if interest.any() else len(interest) // 2
    return draw_slice(read_values(path)[place]), [array[place] for array in arrays]


def read_thumbnail(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read an image as uint8 (height, width, 3) of this small size; a large JPEG takes a fraction of the time of `read_image`.

    Raises:
        DataError: as `read_image`.
    """
    if image_suffix(path) in (".jpg", ".jpeg"):
        with readable(path), _opened(path) as opened:
            if opened.format == "JPEG":
                opened.draft("RGB", (2 * max(size),) * 2)  # decodes to an eighth of the sides at the least, and no less than this
                return resize_image(np.asarray(ImageOps.exif_transpose(opened).convert("RGB")), size)
    return resize_image(read_image(path), size)


def read_labels(path: Path) -> np.ndarray:
    """Read a mask file's own values as uint8 (H, W), or (D, H, W) of a volume.

    Palette files give their indices, but those of two colours 1 where the brighter one is (which index it has differs by program: the
    first colour is white in what GIMP, ImageMagick and writers of 1-bit BMP make). Files of 1, 2 or 4 bits give their samples, colour
    files their one value where all channels agree.

    Raises:
        DataError: the file is missing, broken, not a mask (its channels differ), holds several, or has a value other than a whole
            number of 0 … 255.
    """
    with readable(path):
        medical = _open_medical(path) if _is_medical(path) else None
        values = _picture_values(path) if medical is None else medical.values()
        if isinstance(medical, Volume):
            _real(values, path)
        elif values.ndim == 3:
            if (values != values[..., :1]).any():
                wrong, kind = "a colour picture, not a mask: its channels differ", "colour pictures in the place of masks"
                raise _refusal(path, wrong, kind=kind, repair="save it as grey, one value per class")
            values = values[..., 0]
        for part in values if values.dtype not in (bool, np.uint8) else ():
            invalid = part[~((part >= 0) & (part <= 255) & (part == np.floor(part)))]
            if invalid.size:
                wrong = f"a mask holds whole numbers from 0 to 255, this one has {invalid[0]}"
                raise _refusal(path, wrong, kind="masks with other values than whole numbers from 0 to 255")
    return np.require(values.astype(np.uint8, copy=False), requirements="W")


def _picture_values(path: Path) -> np.ndarray:
    """Read the values (H, W) or (H, W, C) of a mask that is a picture."""
    with _opened(path) as opened:
        coding = _coding(opened)
        if ";16" in coding and not opened.mode.startswith("I"):
            wrong, kind = "16 bits in each of several channels, which are not read in full", "masks of 16 bits in several channels"
            raise _refusal(path, wrong, kind=kind, repair="save it as grey of 8 bits")
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in ("LA", "PA", "RGBA"):
            _refuse_drawn_in_alpha(picture, path)
            picture = picture.convert({"LA": "L", "PA": "P", "RGBA": "RGB"}[picture.mode])
        values = np.asarray(picture) // _SAMPLES[coding[:3]] if coding[:3] in _SAMPLES else np.asarray(picture)
        brighter = _brighter_of_two(_palette(picture)) if picture.mode == "P" else None
        return values == brighter if brighter is not None and values.max(initial=0) <= 1 else values


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


def write_labels(path: Path, labels: np.ndarray, *, like: Path, synced: bool = True) -> None:
    """Write uint8 labels, whole or not at all: a picture as PNG, a volume with the geometry of `like` (see `mask_name`).

    Args:
        synced: as of `write_atomically`.
    """
    if labels.ndim == 2:
        write_png(path, labels, synced=synced)
    else:
        volumes.write_volume(path, labels, like=like, synced=synced)


def mask_name(identity: str, like: Path) -> str:
    """Return the name of the file in which `write_labels` puts a mask: PNG; that of a volume has its ending, of a DICOM series NIfTI's."""
    return f"{identity}{(image_suffix(like) or volumes.NIFTI[0]) if read_header(like).grid else '.png'}"


def map_name(identity: str, axes: int) -> str:
    """Return the name of the file of a map, or of a mask that a program makes: PNG for a picture, NIfTI for a volume."""
    return f"{identity}.png" if axes == 2 else f"{identity}.nii.gz"


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
            raise _refusal(path, wrong, kind=kind, repair="save it as grey of 8 or 16 bits, black for 0 and white for 1")
        text = {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
        return Grey(values.astype(np.float32) / np.iinfo(values.dtype).max, 8 * values.itemsize, text)


def media_type(path: Path) -> str | None:
    """Return `image/jpeg` or `image/png` for a file that a browser shows as `read_image` reads it; None for any other image.

    Raises:
        DataError: the file is missing, broken, or not an image.
    """
    if _is_medical(path):
        return None
    with readable(path), _opened(path) as opened:
        is_upright = _orientation(opened, path) == 1
        is_plain = opened.mode in ("L", "RGB") and "transparency" not in opened.info and is_upright
        return _SHOWN_BY_BROWSERS.get(opened.format or "") if is_plain else None


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


def encode_image(pixels: np.ndarray, form: str, **how: int) -> bytes:
    """Return uint8 (H, W) or (H, W, 3) as the bytes of a PNG or JPEG; `how` has the names of Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **how)
    return file.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG that `encode_image` made."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
        return np.array(opened)


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as JPEG of quality 95 with its colours at full resolution, whole or not at all."""
    with write_atomically(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="JPEG", quality=95, subsampling=0)


def resize_image(pixels: np.ndarray, size: tuple[int, ...], *, by_area: bool = False) -> np.ndarray:
    """Resize uint8 (H, W, C) to (height, width): linear, averaging over what falls into one pixel when it shrinks.

    Args:
        by_area: True for the plain mean over the area of each new pixel, where otherwise its surroundings count too.
    """
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    planes = [Image.fromarray(pixels[..., c]).resize((width, height), _filter(by_area)) for c in range(pixels.shape[2])]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def resize_plane(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float32 (h, w) to (H, W) by the filter of `resize_image`, so that it fits the image."""
    if plane.shape == size:
        return plane
    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_labels(labels: np.ndarray, size: tuple[int, ...], *, by_area: bool = False) -> np.ndarray:
    """Resize uint8 labels (H, W) to (height, width): every pixel gets the label with the largest share of it.

    Shares are weighed by the filter of `resize_image` (what is near a pixel's centre counts more than what is at its rim), so
    that a mask stays in register with its image. No label that is not in `labels` can appear (which interpolation of the
    numbers would bring about); at equal shares the lowest label wins.

    Args:
        by_area: as for `resize_image`. Labels of 0 and 1 are then 1 where more than half of the new pixel's area was.
    """
    height, width = size
    if labels.shape == size:
        return labels
    present = np.unique(labels)
    shares = [
        np.asarray(Image.fromarray((labels == label).astype(np.float32)).resize((width, height), _filter(by_area))) for label in present
    ]
    return present[np.argmax(shares, axis=0)]


def _filter(by_area: bool) -> Image.Resampling:
    return Image.Resampling.BOX if by_area else Image.Resampling.BILINEAR


@contextmanager
def readable(path: Path, *, or_series: bool = False) -> Iterator[None]:
    """Turn whatever the reader of a file (or, if so said, of a series of files in a folder) raises in the block into a DataError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not (or_series and path.is_dir()):  # opening a pipe would block
            raise DataError(f"{path}: {'a folder' if path.is_dir() else 'a pipe or device'}, not a file")
        yield
    except PixeltrustError:
        raise
    except FileNotFoundError:
        raise _refusal(path, "there is no such file", kind="files that do not exist") from None
    except UnidentifiedImageError:
        known = ", ".join(SUFFIXES)
        raise _refusal(path, f"not an image of a known format ({known})", kind="files that are not images of a known format") from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except EOFError:
        raise _unreadable(path, "it ends too early", repair="copy it again, as what was copied here was cut off") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or " ".join(str(error).split())) from error
    except ImportError as error:
        extra = "needs an extra: pip install 'pixeltrust[medical]'"
        raise _refusal(path, f"reading it {extra} ({error})", kind=f"files whose reading {extra}") from None
    except Exception as error:  # a broken file makes its reader raise anything: zlib.error, OverflowError, SyntaxError, …
        raise _unreadable(path, " ".join(str(error).split()) or type(error).__name__) from error


def _refusal(path: Path, wrong: str, *, kind: str, repair: str = "") -> DataError:
    return DataError(Fault(f"{path}: {wrong}", kind=kind, repair=repair))


def _unreadable(path: Path, wrong: str, *, repair: str = "") -> DataError:
    return _refusal(path, f"cannot be read: {wrong}", kind="files that cannot be read", repair=repair)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # Given a name, Pillow 13 maps an uncompressed grey TIFF into memory, and scrambles it where it has an orientation.
    with path.open("rb") as file, Image.open(file, formats=_FORMATS) as opened:
        _refuse_several(opened, path)
        _refuse_misread_bmp(opened, path)
        with _one_at_a_time(opened.size):
            yield opened


def _one_at_a_time(size: tuple[int, ...]) -> AbstractContextManager[object]:
    return _LARGE_ONE if math.prod(size) > _LARGE else nullcontext()


def _refuse_several(opened: Any, path: Path) -> None:
    """Refuse several pictures, as nobody knows which one is meant; smaller copies in a TIFF or behind a JPEG (MPO) do not count."""
    if not getattr(opened, "is_animated", False) or opened.format == "MPO":
        return
    if opened.format == "TIFF":
        with suppress(EOFError):
            for page in count_from(1):
                opened.seek(page)
                if not opened.tag_v2.get(_SUBFILE_TYPE, 0) & _REDUCED:
                    raise _refusal(path, "holds several pages", kind="files of several pages", repair=_SAVE_ONE)
        opened.seek(0)
    else:
        raise _refusal(path, "holds several pictures (it is animated)", kind="files of several pictures", repair=_SAVE_ONE)


def _refuse_misread_bmp(opened: Any, path: Path) -> None:
    """Raise DataError for a BMP that Pillow 13 misreads: with a grey palette it takes pixels for 1 bit (of two colours) or 8, always."""
    if opened.format != "BMP" or opened.mode not in ("1", "L") or opened.tile[0].codec_name != "raw":
        return
    with path.open("rb") as file:
        header = file.read(30)
    (bits,) = struct.unpack_from("<H", header, 24 if header[14] == 12 else 28)
    if bits != (1 if opened.mode == "1" else 8):
        wrong = f"a BMP of {bits} bits a pixel with a grey palette of fewer, which is not read"
        raise _refusal(path, wrong, kind="BMP files with a grey palette of fewer bits than their pixels", repair="save it as PNG")


def _refuse_drawn_in_alpha(picture: Image.Image, path: Path) -> None:
    ranges: Any = picture.getextrema()
    if all(low == high for low, high in ranges[:-1]) and ranges[-1][0] < ranges[-1][1]:
        wrong, kind = "its shape is in its transparency alone, which masks do not have", "masks whose shape is in their transparency alone"
        raise _refusal(path, wrong, kind=kind, repair="save it as grey, one value per class")


def _coding(opened: Any) -> str:
    """Return how the file codes its samples, in Pillow's words: `L;2` is grey of two bits."""
    arguments = opened.tile[0].args if opened.tile else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _open_medical(path: Path) -> Plane | Volume:
    """Read the header of a file that `_is_medical`: a NIfTI file of one plane is a picture."""
    if volume := volumes.open_volume(path):
        return volume
    plane = Plane(path)
    if math.prod(plane.size) > MAX_PIXELS:
        raise _too_large(path)
    return plane


def _plane(path: Path) -> Plane:
    medical = _open_medical(path)
    if isinstance(medical, Volume):
        raise _volume_refusal(path, medical.grid)
    return medical


def _volume_refusal(path: Path, grid: Grid, repair: str = volumes.NOT_YET) -> DataError:
    size = volumes.in_order(grid.shape)
    return _refusal(path, f"a volume of {size} voxels where a picture is read", kind="volumes", repair=repair)


def _real(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}: holds values of the type {values.dtype}; one real number per voxel is what can be read")
    return values


def _too_large(path: Path) -> DataError:
    wrong = f"more than {MAX_PIXELS:,} pixels, so taken for a decompression bomb"
    kind = f"files of more than {MAX_PIXELS:,} pixels, taken for decompression bombs"
    return _refusal(path, wrong, kind=kind, repair="shrink it, or cut it in parts")


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


def _orientation(opened: Image.Image, path: Path) -> int:
    """Return the EXIF orientation, 1 where it is missing or invalid."""
    # PngImageFile's own getexif decodes the pixels, to look for an orientation behind them.
    header_is_complete = opened.format == "PNG" and not _has_chunks_behind_pixels(path)
    exif = Image.Image.getexif(opened) if header_is_complete else opened.getexif()
    orientation = exif.get(_EXIF_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


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


def _stretch(values: np.ndarray, path: Path) -> np.ndarray:
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


def _is_medical(path: Path) -> bool:
    return image_suffix(path) in volumes.SUFFIXES or path.is_dir()
