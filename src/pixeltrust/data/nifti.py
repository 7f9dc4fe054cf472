"""One plane of a NIfTI file as a picture. Reading it needs nibabel, of the extra `medical`.

size    (height, width) in pixels
"""

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.plumbing.errors import DataError, Fault

_CHUNK = 1 << 20  # bytes


class Plane:
    """One plane of a NIfTI file, in the orientation in which it is shown.

    That is how radiologists see it, and how ITK's programs lay a picture over it: columns run to the patient's left (in a sagittal
    plane to the back), rows to the back (where there is no back, down). Where the file does not state its orientation, its first
    axis is the columns and its second the rows, as in every file that ITK makes of a picture.

    Args:
        several: the last axis may hold several values of each pixel: (X, Y, K) or (X, Y, 1, K).

    Raises:
        DataError: the file is a volume, or its affine is invalid.
    """

    def __init__(self, path: Path, *, several: bool = False) -> None:
        import nibabel

        logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it reports what it repairs in a header, but not of which file
        file: Any = nibabel.load(path)
        self._path, self._file = path, file
        shape, header = file.shape, file.header
        self._layers = int(shape[-1]) if several and len(shape) > 2 else 1
        if len(shape) < 2 or any(extent != 1 for extent in (shape[2:-1] if several else shape[2:])):
            repair = "one plane (H, W) per file is what can be trained on"
            raise DataError(Fault(f"{path}: a volume of shape {shape}", kind="volumes", repair=repair))
        is_transposed = True  # the second axis is the rows
        mirrored: tuple[int, ...] = ()  # axes that run the other way
        self.states_orientation = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
        if self.states_orientation:
            if not np.isfinite(file.affine).all():
                raise DataError(f"{path}: its affine, which states its orientation, is not finite; save it again with a right one")
            axes = nibabel.io_orientation(file.affine)[:2]  # which of right, front and up an axis follows, and whether against it
            if not np.isfinite(axes).all():
                raise DataError(f"{path}: its affine gives no direction to an axis; save it again with a right one")
            is_transposed = bool(axes[0, 0] < axes[1, 0])
            mirrored = tuple(np.flatnonzero(axes[:, 1] > 0).tolist())
        self._axes, self._mirrored = (1, 0) if is_transposed else (0, 1), mirrored

    @property
    def size(self) -> tuple[int, int]:
        """The size as the plane is shown."""
        rows, columns = (int(self._file.shape[axis]) for axis in self._axes)
        return rows, columns

    @property
    def is_in_order(self) -> bool:
        """Whether the second axis of the file is the rows, downwards, and the first the columns, to the right, as ITK has them."""
        return self._axes == (1, 0) and not self._mirrored

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """The (row, column) distance between pixel centres in mm."""
        rows, columns = (float(self._file.header.get_zooms()[axis]) for axis in self._axes)
        return rows, columns

    def values(self) -> np.ndarray:
        """Return the values (H, W), of any type of real numbers."""
        return self.layers()[0]

    def layers(self) -> np.ndarray:
        """Return all values of each pixel, (K, H, W), of any type of real numbers."""
        layers = decode_nifti(self._path, self._file).reshape(*self._file.shape[:2], self._layers)
        if layers.dtype.kind not in "biuf":
            raise DataError(f"{self._path}: holds values of the type {layers.dtype}; one real number per pixel is what can be read")
        return np.flip(layers, self._mirrored).transpose(2, *self._axes)


def decode_nifti(path: Path, file: Any, dtype: Any = None) -> np.ndarray:
    """Return the values of a NIfTI file whose header is read; a compressed one is read to its end, where its checksum is.

    Raises:
        BadGzipFile: the checksum is another. What somebody has put after the compressed values does not count.
    """
    if path.suffix.lower() != ".gz":
        return np.asarray(file.dataobj, dtype=dtype)
    import nibabel

    with gzip.open(path) as stream:
        values = np.asarray(type(file).from_file_map({"image": nibabel.FileHolder(fileobj=stream)}).dataobj, dtype=dtype)
        try:
            while stream.read(_CHUNK):
                pass
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):
                raise
    return values
