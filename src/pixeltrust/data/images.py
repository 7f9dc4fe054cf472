"""Image and mask files of every format: pictures by `pictures`, volumes by `volumes`, planes in NIfTI by `nifti`.

A file is a picture or a volume, which its header says: `read_header(path).grid` is there or not. What reads any file takes both.

image   uint8 (H, W, C), C = 1 or 3: of pictures alone
values  what is in an image file: as `image`, or float32 (D, H, W) of a volume
labels  uint8 (H, W) or (D, H, W): the values as the file has them
size    (height, width) in pixels, after the EXIF orientation is applied, or (D, H, W) in voxels
"""

import math
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageOps

from pixeltrust.data import volumes
from pixeltrust.data.image_files import MAX_PIXELS, image_suffix, one_at_a_time, readable, refusal, too_large, written_suffix
from pixeltrust.data.nifti import Plane
from pixeltrust.data.pictures import (
    STRETCH_PERCENTILES,
    has_two_colours,
    open_picture,
    read_orientation,
    read_picture,
    read_picture_values,
    stretch,
    write_png,
)
from pixeltrust.data.resizing import resize_image
from pixeltrust.data.volumes import Grid, Volume
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import link_or_copy
from pixeltrust.plumbing.text import count

FIRST_SWAPPED = 5  # from this EXIF orientation on width and height change places
_MOST_REPEATED = 20  # times is a pixel of a slice repeated, at the most
_SHOWN_BY_BROWSERS = {"JPEG": "image/jpeg", "PNG": "image/png"}


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
        with open_picture(path) as opened:
            width, height = opened.size
            orientation = read_orientation(opened, path)
            # Pillow has turned the size of a TIFF already.
            turns = orientation >= FIRST_SWAPPED and opened.format != "TIFF"
            return Header((width, height) if turns else (height, width), None, orientation, has_two_colours(opened))


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


def media_type(path: Path) -> str | None:
    """Return `image/jpeg` or `image/png` for a file that a browser shows as `read_image` reads it; None for any other image.

    Raises:
        DataError: the file is missing, broken, or not an image.
    """
    if _is_medical(path):
        return None
    with readable(path), open_picture(path) as opened:
        is_upright = read_orientation(opened, path) == 1
        is_plain = opened.mode in ("L", "RGB") and "transparency" not in opened.info and is_upright
        return _SHOWN_BY_BROWSERS.get(opened.format or "") if is_plain else None


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
            return np.repeat(stretch(_plane(path).values(), path)[..., None], channels, axis=-1)
        return read_picture(path, channels)


def read_values(path: Path) -> np.ndarray:
    """Read what is in an image file: as `read_image` a picture, float32 (D, H, W) a volume (also a folder with a DICOM series).

    Raises:
        DataError: as `read_image`; or a voxel's value is not finite.
    """
    with readable(path, or_series=True):
        if not _is_medical(path) or isinstance(medical := _open_medical(path), Plane):
            return read_image(path)
        with one_at_a_time(medical.grid.shape):
            values = _real(medical.values(), path).astype(np.float32, copy=False)
            if not_finite := sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in values):
                kind = "volumes with voxels that are not finite"
                raise refusal(
                    path, f"holds {count(not_finite, 'voxel')} whose value is not finite", kind=kind, repair="set them to a number"
                )
    return values


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
        values = read_picture_values(path) if medical is None else medical.values()
        if isinstance(medical, Volume):
            _real(values, path)
        elif values.ndim == 3:
            if (values != values[..., :1]).any():
                wrong, kind = "a colour picture, not a mask: its channels differ", "colour pictures in the place of masks"
                raise refusal(path, wrong, kind=kind, repair="save it as grey, one value per class")
            values = values[..., 0]
        for part in values if values.dtype not in (bool, np.uint8) else ():
            invalid = part[~((part >= 0) & (part <= 255) & (part == np.floor(part)))]
            if invalid.size:
                wrong = f"a mask holds whole numbers from 0 to 255, this one has {invalid[0]}"
                raise refusal(path, wrong, kind="masks with other values than whole numbers from 0 to 255")
    return np.require(values.astype(np.uint8, copy=False), requirements="W")


def read_thumbnail(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read an image as uint8 (height, width, 3) of this small size; a large JPEG takes a fraction of the time of `read_image`.

    Raises:
        DataError: as `read_image`.
    """
    if image_suffix(path) in (".jpg", ".jpeg"):
        with readable(path), open_picture(path) as opened:
            if opened.format == "JPEG":
                opened.draft("RGB", (2 * max(size),) * 2)  # decodes to an eighth of the sides at the least, and no less than this
                return resize_image(np.asarray(ImageOps.exif_transpose(opened).convert("RGB")), size)
    return resize_image(read_image(path), size)


def read_shown(path: Path, arrays: Sequence[np.ndarray], interest: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read what a page shows of an image, uint8 (H, W, 3), and of arrays on its grid: of a volume the slice that has most of interest, with
    square pixels.

    Args:
        arrays: (H, W), or (D, H, W) of a volume.
        interest: bool, likewise.

    Raises:
        DataError: as `read_values`.
    """
    if interest.ndim == 2:
        return read_image(path), list(arrays)
    place = int(interest.sum(axis=(1, 2)).argmax()) if interest.any() else len(interest) // 2
    where = _square_pixels(interest.shape[1:], (read_header(path).spacing_mm or (1.0, 1.0, 1.0))[1:])
    return draw_slice(read_values(path)[place])[where], [array[place][where] for array in arrays]


def _square_pixels(shape: Sequence[int], spacing: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Return which pixels of a slice (H, W) to repeat so that it has its true proportions: places that numpy takes."""
    extents = [round(count * min(step / min(spacing), _MOST_REPEATED)) for count, step in zip(shape, spacing, strict=True)]
    places = [(np.arange(extent) * count // extent) for extent, count in zip(extents, shape, strict=True)]
    return np.ix_(*places)


def draw_slice(values: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Return a slice of a volume, real numbers (H, W), as a grey picture uint8 (H, W, 3).

    Args:
        window: what becomes black and white; the .5 and 99.5 percentiles of the slice where not given.
    """
    low, high = map(float, np.percentile(values, STRETCH_PERCENTILES) if window is None else window)
    grey = ((values - low) / (high - low if high > low else 1)).clip(0, 1) * 255
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=-1)


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
    return f"{identity}{written_suffix(like) if read_header(like).grid else '.png'}"


def link_image(file: Path, folder: Path, stem: str) -> Path:
    """Give the file of an image or mask another name in a folder, and return that: by a hard link, or a copy where those do not work.

    A volume whose voxels lie beside its header is written as one file; the folder of a DICOM series is copied.

    Raises:
        DataError: it has to be read, and cannot be.
    """
    if file.is_dir():
        shutil.copytree(file, to := folder / stem)
        return to
    to = folder / f"{stem}{written_suffix(file)}"
    if image_suffix(file) in volumes.HEADERS:
        with readable(file):
            volumes.join_files(file, to)
    else:
        link_or_copy(file, to)
    return to


def link_channels(files: Sequence[Path], folder: Path, identity: str) -> list[Path]:
    """Link the files of an image as `link_image`, and return them: by its id; <id>_0000, <id>_0001 … where there are several."""
    stems = [f"{identity}_{number:04}" for number in range(len(files))] if len(files) > 1 else [identity]
    return [link_image(file, folder, stem) for file, stem in zip(files, stems, strict=True)]


def map_name(identity: str, axes: int) -> str:
    """Return the name of the file of a map, or of a mask that a program makes: PNG for a picture, NIfTI for a volume."""
    return f"{identity}.png" if axes == 2 else f"{identity}.nii.gz"


def _is_medical(path: Path) -> bool:
    return image_suffix(path) in volumes.SUFFIXES or path.is_dir()


def _open_medical(path: Path) -> Plane | Volume:
    """Read the header of a file that `_is_medical`: a NIfTI file of one plane is a picture."""
    if volume := volumes.open_volume(path):
        return volume
    plane = Plane(path)
    if math.prod(plane.size) > MAX_PIXELS:
        raise too_large(path)
    return plane


def _plane(path: Path) -> Plane:
    medical = _open_medical(path)
    if isinstance(medical, Volume):
        raise _volume_refusal(path, medical.grid)
    return medical


def _volume_refusal(path: Path, grid: Grid, repair: str = volumes.NOT_YET) -> DataError:
    size = volumes.in_order(grid.shape)
    return refusal(path, f"a volume of {size} voxels where a picture is read", kind="volumes", repair=repair)


def _real(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        found = "colours" if values.dtype.names else f"values of the type {values.dtype}"
        raise DataError(f"{path}: holds {found}; one real number per voxel is what can be read")
    return values
