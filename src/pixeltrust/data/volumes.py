"""Volumes: files of three axes, and where their voxels lie. Reading them needs the extra `medical`.

NIfTI is read by nibabel, which keeps both of its transforms to the bit, and takes those that ITK refuses (sheared ones); NRRD, MetaImage
and series of DICOM files by SimpleITK.

shape   (D, H, W): the axes of the file, the slowest first, as ITK's arrays and nnU-Net's have them. Nothing is turned
mm      world coordinates are those of DICOM and ITK: to the patient's left, back and head
"""

import gzip
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.data.nifti import decode_nifti
from pixeltrust.plumbing.errors import DataError, Fault
from pixeltrust.plumbing.files import write_atomically

NIFTI = (".nii.gz", ".nii")
_PAIR = ".hdr"  # of NIfTI in two files
HEADERS = {".nhdr": ".nrrd", ".mhd": ".mha", _PAIR: NIFTI[0]}
"""Endings of headers whose voxels lie in a file beside them, and those of the same in one file, as which they are written."""
SUFFIXES = (*NIFTI, ".nrrd", ".mha", *HEADERS)
MAX_VOXELS = 1_000_000_000  # beyond this a file is taken for a decompression bomb
NOT_YET = (
    "volumes can be checked, simulated, trained on, mended, audited, reviewed, predicted, evaluated and benchmarked; all else works on "
    "pictures so far"
)
FULL_SCALE = 65535  # a probability of 1 in a file of 16 bits
TOLERANCE_VOXELS = 0.1  # of the smallest spacing: headers of one grid differ by what programs round away
_SAME_SPACING = 1e-4  # as a share
_SAME_ANGLE = 0.01  # degrees
_UNEVEN = 0.01  # of the distance between slices
_LEFT_BACK_UP = np.diag([-1.0, -1.0, 1.0])  # from NIfTI's right, front and up
_COMPRESSION = 6  # of gzip
_DAMAGED = "its voxels are damaged, or cut off"
_SAVE_AGAIN = "save it again with a right one"


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume lie.

    Args:
        shape: (D, H, W).
        steps: float64 (3, 3); a row for each axis of `shape`: the way from one voxel's centre to the next, in mm.
        origin: float64 (3,), the centre of the first voxel in mm.

    Raises:
        ValueError: a step is zero or not finite, or the three lie in a plane.
    """

    shape: tuple[int, int, int]
    steps: np.ndarray
    origin: np.ndarray

    def __post_init__(self) -> None:
        if not (np.isfinite(self.steps).all() and np.isfinite(self.origin).all()):
            raise ValueError("its affine, which says where its voxels are, is not finite")
        if not all(self.spacing) or abs(np.linalg.det(self.steps)) < 1e-6 * np.prod(self.spacing):
            raise ValueError("its affine gives no direction to an axis")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance between voxel centres along each axis of `shape`, in mm."""
        along_d, along_h, along_w = np.linalg.norm(self.steps, axis=1).tolist()
        return along_d, along_h, along_w

    @property
    def orientation(self) -> str:
        """Where the axes of the file, the fastest first, point to, in NIfTI's letters: `RAS` is right, front and up."""
        import nibabel

        return "".join(nibabel.aff2axcodes(_affine(self)))

    def farthest_mm(self, other: "Grid") -> float:
        """Return how far a voxel may lie from that of the same address in another grid of this shape, in mm."""
        corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(self.shape) - 1)
        apart = corners @ (self.steps - other.steps) + self.origin - other.origin
        return float(np.linalg.norm(apart, axis=1).max())

    def difference(self, other: "Grid") -> str:
        """Say by how much another grid of this shape differs; empty where no voxel lies off by a tenth of the spacing."""
        farthest = self.farthest_mm(other)
        if farthest <= TOLERANCE_VOXELS * min(*self.spacing, *other.spacing):
            return ""
        parts = []
        if not np.allclose(self.spacing, other.spacing, rtol=_SAME_SPACING, atol=0):
            parts.append(f"spacing {in_order(self.spacing)} mm, not {in_order(other.spacing)}")
        cosines = (self.steps * other.steps).sum(axis=1) / np.multiply(self.spacing, other.spacing)
        if (angle := float(np.degrees(np.arccos(cosines.clip(-1, 1)).max()))) > _SAME_ANGLE:
            parts.append(f"axes turned by up to {angle:.3g} degrees")
        if (off := float(np.linalg.norm(self.origin - other.origin))) > TOLERANCE_VOXELS * min(self.spacing):
            parts.append(f"origin {off:.3g} mm off")
        return f"up to {farthest:.3g} mm off" + (f" ({'; '.join(parts)})" if parts else "")


@dataclass(frozen=True)
class Volume:
    """A volume whose header is read."""

    grid: Grid
    states_orientation: bool
    """Whether the file says where left, back and up are; NIfTI files may leave that out."""
    values: Callable[..., np.ndarray]
    """Decodes the values (D, H, W), of any type of real numbers, or of the floating type that is given as `dtype`."""


def in_order(extents: Sequence[float]) -> str:
    """Return extents along (D, H, W) as people and headers name them, the fastest axis first: `0.8 x 0.8 x 5`."""
    return " x ".join(f"{extent:.4g}" if isinstance(extent, float) else str(extent) for extent in reversed(extents))


def open_volume(path: Path) -> Volume | None:
    """Read the header of a volume: of a file, or of a folder with one DICOM series. A NIfTI file of one plane is a picture: None.

    Raises:
        DataError: it is a volume that cannot be used, in words.
        Exception: whatever its reader raises for a broken file.
    """
    try:
        if path.is_dir():
            return _open_series(path)
        return _open_nifti(path) if path.name.lower().endswith((*NIFTI, _PAIR)) else _open_by_itk(path)
    except ValueError as error:
        raise DataError(Fault(f"{path}: {error}", kind="files whose affine gives their voxels no place", repair=_SAVE_AGAIN)) from None


def _grid_of(path: Path) -> Grid:
    volume = open_volume(path)
    assert volume is not None
    return volume.grid


def _affine(grid: Grid) -> np.ndarray:
    """Return the affine of NIfTI (4, 4): from indices along (W, H, D) to mm to the right, front and up."""
    return np.vstack([_LEFT_BACK_UP @ np.column_stack([*grid.steps[::-1], grid.origin]), [0, 0, 0, 1]])


def _load_nifti(path: Path) -> Any:
    import nibabel

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it reports what it repairs in a header, but not of which file
    return nibabel.load(path, mmap=False)  # a mapped file that somebody shortens kills the process


def _open_nifti(path: Path) -> Volume | None:
    file = _load_nifti(path)
    if "sform_code" not in file.header:
        wrong = f"{path}: is in the format Analyze, which does not tell left from right"
        raise DataError(Fault(wrong, kind="files in the format Analyze, which does not tell left from right", repair="save it as NIfTI"))
    if len(file.shape) >= 2 and all(extent == 1 for extent in file.shape[2:]):
        return None
    _check_axes(path, file.shape)
    along = np.asarray(file.affine, np.float64)[:3] if np.isfinite(file.affine).all() else np.full((3, 4), np.nan)
    steps, origin = (_LEFT_BACK_UP @ along[:, :3]).T[::-1], _LEFT_BACK_UP @ along[:, 3]
    grid = Grid(_depth_first(file.shape), steps, origin)

    def values(dtype: Any = None) -> np.ndarray:
        return decode_nifti(path, file, dtype).reshape(file.shape[:3], order="F").transpose()

    return Volume(grid, bool(file.header["sform_code"] > 0 or file.header["qform_code"] > 0), values)


@contextmanager
def _itk(wrong: str = "") -> Iterator[Any]:
    """Give SimpleITK to the block, without its warnings; of its errors only what is wrong, in its words or in these."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # they go to standard error, and name no file
    try:
        yield SimpleITK
    except RuntimeError as error:
        raise OSError(wrong or str(error).rpartition("ERROR: ")[2]) from error


def _open_by_itk(path: Path) -> Volume:
    path.open("rb").close()  # where it may not be read, the system's own words are clearer
    with _itk() as itk:
        reader = itk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    _check_axes(path, reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        wrong = f"{reader.GetNumberOfComponents()} numbers per voxel; one real number per voxel is what can be read"
        raise DataError(Fault(f"{path}: {wrong}", kind="volumes of several numbers per voxel", repair=_one_file_each()))
    directions = np.reshape(reader.GetDirection(), (len(reader.GetSize()), -1))[:3, :3]
    steps = (directions * np.array(reader.GetSpacing())[:3]).T[::-1]
    grid = Grid(_depth_first(reader.GetSize()), steps, np.array(reader.GetOrigin())[:3])

    def values(dtype: Any = None) -> np.ndarray:
        with _itk(wrong=_DAMAGED) as itk:
            pixels = itk.GetArrayFromImage(itk.ReadImage(str(path)))
        return pixels.reshape(grid.shape).astype(dtype or pixels.dtype, copy=False)

    return Volume(grid, True, values)


def series_in(folder: Path) -> list[str]:
    """Return the ids of the DICOM series whose files lie in a folder itself."""
    with _itk() as itk:
        return list(itk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _open_series(folder: Path) -> Volume:
    series = series_in(folder)
    if not series:
        wrong = f"{folder}: a folder without a volume ({', '.join(SUFFIXES)}) or a DICOM series"
        raise DataError(Fault(wrong, kind="folders without a volume", repair="folders within it are not searched"))
    if len(series) > 1:
        wrong = f"{folder}: a folder with {len(series)} DICOM series, not a file"
        raise DataError(Fault(wrong, kind="folders with several DICOM series", repair="give each series a folder of its own"))
    slices = []
    with _itk() as itk:
        names = itk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        reader = itk.ImageFileReader()
        for name in names:
            reader.SetFileName(name)
            reader.ReadImageInformation()
            slices.append((reader.GetSize(), reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin()))
    (width, height, *_), spacing, direction, origin = slices[0]
    if any(each[0] != slices[0][0] or not np.allclose(each[2], direction, atol=1e-3) for each in slices):
        raise DataError(
            Fault(f"{folder}: a DICOM series whose slices differ in size or direction", repair="give each series its own folder")
        )
    columns = np.reshape(direction, (3, 3)).T
    gaps = np.diff([each[3] for each in slices], axis=0)
    step = gaps.mean(axis=0) if len(gaps) else columns[2] * spacing[2]
    uneven = np.abs(gaps - step).max(initial=0)
    if uneven > _UNEVEN * np.linalg.norm(step):
        wrong = f"a DICOM series whose slices do not lie evenly ({uneven:.3g} mm off)"
        raise DataError(Fault(f"{folder}: {wrong}", kind="DICOM series whose slices do not lie evenly", repair="is a slice missing?"))
    grid = Grid((len(names), height, width), np.stack([step, columns[1] * spacing[1], columns[0] * spacing[0]]), np.array(origin))

    def values(dtype: Any = None) -> np.ndarray:
        with _itk(wrong=_DAMAGED) as itk:
            pixels = itk.GetArrayFromImage(itk.ReadImage(names))
        if pixels.ndim != 3:
            raise DataError(f"{folder}: holds colours; one real number per voxel is what can be read")
        return pixels.astype(dtype or pixels.dtype, copy=False)

    return Volume(grid, True, values)


def _check_axes(path: Path, shape: Sequence[int]) -> None:
    if len(shape) < 3 or min(shape) < 1:
        raise DataError(
            Fault(f"{path}: an array of shape {tuple(shape)}, neither a plane nor a volume", kind="files of another number of axes")
        )
    if any(extent != 1 for extent in shape[3:]):
        wrong = f"{path}: {len(shape)} axes, of shape {tuple(shape)}; a volume has three"
        raise DataError(Fault(wrong, kind="files of more than three axes", repair=_one_file_each()))
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        wrong = f"more than {MAX_VOXELS:,} voxels, so taken for a decompression bomb"
        raise DataError(Fault(f"{path}: {wrong}", kind=f"volumes of more than {MAX_VOXELS:,} voxels, taken for decompression bombs"))


def _one_file_each() -> str:
    return "save each channel (or point in time) as a file of its own: <id>_0000.nii.gz, <id>_0001.nii.gz …"


def _depth_first(shape: Sequence[int]) -> tuple[int, int, int]:
    width, height, depth = (int(extent) for extent in shape[:3])
    return depth, height, width


def read_note(path: Path) -> str:
    """Read the note that `write_volume` has written into a NIfTI file."""
    return bytes(_load_nifti(path).header["descrip"]).rstrip(b"\0").decode(errors="replace")


def write_volume(path: Path, labels: np.ndarray, *, like: Path, note: str = "", synced: bool = True) -> None:
    """Write uint8 labels (D, H, W) with the geometry of another volume, in its format to the bit; whole or not at all.

    Args:
        path: is NIfTI, or has the ending of `like`, or of the same in one file (`HEADERS`).
        like: a file of the same shape, or the folder of a DICOM series.
        note: up to 79 bytes for the header of NIfTI.
        synced: as of `write_atomically`.
    """
    if path.name.lower().endswith(NIFTI):
        with write_atomically(path, synced=synced) as unfinished, _opened_as(path, unfinished) as file:
            _header_like(like, np.uint8, note).write_to(file)
            file.write(labels.tobytes())
        return
    with _itk() as itk:
        image, reader = itk.GetImageFromArray(labels), itk.ImageFileReader()
        reader.SetFileName(str(like))
        reader.ReadImageInformation()
        image.SetSpacing(reader.GetSpacing()[:3])
        image.SetOrigin(reader.GetOrigin()[:3])
        image.SetDirection(np.reshape(reader.GetDirection(), (reader.GetDimension(), -1))[:3, :3].ravel().tolist())
    _write_by_itk(image, path, synced=synced)


def join_files(path: Path, to: Path) -> None:
    """Write a volume that lies in two files, of which this is the header (`HEADERS`), as one, whole or not at all."""
    if path.name.lower().endswith(_PAIR):
        import nibabel

        pair = _load_nifti(path)
        values = pair.dataobj  # as they are stored; the header says by what to multiply them
        header = nibabel.Nifti1Header.from_header(pair.header)
        header.set_slope_inter(values.slope, values.inter)
        with write_atomically(to) as unfinished, _opened_as(to, unfinished) as file:
            header.write_to(file)
            file.write(values.get_unscaled().tobytes(order="F"))
        return
    with _itk(wrong=_DAMAGED) as itk:
        image = itk.ReadImage(str(path))
    _write_by_itk(image, to)


def _write_by_itk(image: Any, path: Path, *, synced: bool = True) -> None:
    with write_atomically(path, synced=synced) as unfinished, _itk() as itk:
        named = unfinished.with_name(unfinished.name + path.suffix)  # its format is that of its ending
        try:
            itk.WriteImage(image, str(named), useCompression=True)
            named.replace(unfinished)
        finally:
            named.unlink(missing_ok=True)


@contextmanager
def write_shares(path: Path, *, like: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Write shares of 0 … 1 as a NIfTI volume of 16 bits, a plane at a time, whole or not at all.

    Gives the block a function that writes the next plane, float (H, W). The file's scale makes 1 of 65535 for whoever reads it.

    Args:
        like: as for `write_volume`, whatever its format.
    """
    with write_atomically(path) as unfinished, _opened_as(path, unfinished) as file:
        header = _header_like(like, np.uint16)
        header.set_slope_inter(1 / FULL_SCALE, 0)
        header.write_to(file)
        kind = header.get_data_dtype()  # its byte order is that of `like`
        yield lambda plane: file.write((plane.clip(0, 1) * FULL_SCALE).round().astype(kind).tobytes())


def _opened_as(path: Path, unfinished: Path) -> Any:
    """Open an unfinished file for the content of a path, whose ending says whether it is compressed."""
    if not path.name.lower().endswith(".gz"):
        return unfinished.open("wb")
    return gzip.GzipFile(unfinished, "wb", compresslevel=_COMPRESSION, mtime=0)


def _header_like(like: Path, dtype: type, note: str = "") -> Any:
    """Return the NIfTI header of values of a type, with the geometry of another volume: its own header, where that is NIfTI."""
    import nibabel

    if like.name.lower().endswith(NIFTI):
        header = _load_nifti(like).header.copy()
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0  # of the image's intensities
        header["aux_file"] = b""
        header.extensions.clear()
        header["vox_offset"] = 0  # right after the header
    else:
        header, grid = nibabel.Nifti1Header(), _grid_of(like)
        header.set_data_shape(grid.shape[::-1])
        header.set_sform(_affine(grid), code="scanner")
        header.set_qform(_affine(grid), code="scanner")
        header.set_xyzt_units("mm")
    header["descrip"] = note.encode()
    header.set_data_dtype(dtype)
    return header
