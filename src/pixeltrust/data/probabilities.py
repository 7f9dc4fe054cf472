"""Files of probabilities, as any program's softmax gives them: of every class, a file or several per case.

    DIR/<id>.npz                      the array `probabilities`, or the only one: (K, *S); nnU-Net's for a picture is (K, 1, H, W), for a
                                      volume (K, D, H, W)
    DIR/fold_*/validation/<id>.npz    the same, of all folds of a cross-validation by nnU-Net
    DIR/<id>.npy                      (K, *S), or *S for the foreground alone
    DIR/<id>.nii.gz  DIR/<id>.nii     a plane, or one per class along the last axis: (X, Y), (X, Y, K), (X, Y, 1, K); turned as masks are
    DIR/<id>.png                      grey of 8 or 16 bits: the foreground, where there is one class
    DIR/<label>/<id>.png, or DIR/<id>_<label>.png      the same for each of several classes; the former is what `predict` writes
    DIR/<id>.nii.gz, DIR/<label>/<id>.nii.gz           of volumes: the foreground, or a file for each class, as `predict` writes them

K    classes, the background first; where there is one class: the foreground alone, or background and foreground
*S   the shape of the mask, or another grid of its proportions: (H, W) or (D, H, W)

Of these formats the first that is there is read, for all cases: nnU-Net puts its masks beside its probabilities.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pixeltrust.data.cases import Case, CaseList
from pixeltrust.data.image_files import case_id, image_suffix, readable
from pixeltrust.data.images import read_header, read_values
from pixeltrust.data.nifti import Plane
from pixeltrust.data.pictures import read_grey
from pixeltrust.plumbing.errors import DataError, Fault, PixeltrustError
from pixeltrust.plumbing.files import retry_parsing
from pixeltrust.plumbing.text import count, some

_FORMATS = {".npz": "npz", ".npy": "npy", ".nii.gz": "NIfTI", ".nii": "NIfTI", ".png": "PNG"}
_ARRAYS = ("npz", "npy")
_OFF = 1e-2  # so far from 0 … 1 and from a sum of 1 may numbers of half precision be
_LOOKED_INTO = 20  # cases, to tell masks from probabilities


class ProbabilityFiles:
    """The probabilities in a folder, by the ids of their cases.

    Args:
        folder: see the top of this file.
        classes: as in `Config`: 1 for foreground and background, else the number of labels.

    Raises:
        DataError: there is no such folder, nothing of this kind in it, or two files for the same.

    Example:
        ProbabilityFiles(Path("fold_0/validation"), classes=1).read(case, (768, 1024))
    """

    def __init__(self, folder: Path, *, classes: int) -> None:
        self.folder, self._classes = folder, classes
        found = list(self._find())
        formats = {form for form, *_ in found}
        self._format = next((form for form in _FORMATS.values() if form in formats), "")
        if not self._format:
            raise DataError(f"{folder}: holds no probabilities ({', '.join(dict.fromkeys(_FORMATS.values()))} files){self._hint()}")
        by_label = self._format == "PNG" or any(label for form, _, label, _ in found if form == self._format)
        self._labels = range(classes if by_label else 1)
        """Of a case's files: one for each label, or one for all."""
        self._files: dict[str, dict[int, Path]] = defaultdict(dict)
        for form, identity, label, path in found:
            if form == self._format and (other := self._files[identity].setdefault(label, path)) != path:
                raise DataError(f"{path}: {other} is for the same case; keep the one that is meant")
        others = sum(form != self._format for form, *_ in found)
        self.notes = [f"{folder}: its {self._format} files are read, {count(others, 'other file')} not"] * bool(others)

    def files(self, identity: str) -> list[Path]:
        """Return the files of a case, in the order of their labels; none where one is missing."""
        found = self._files.get(identity, {})
        return [found[label] for label in self._labels] if found.keys() >= set(self._labels) else []

    def require(self, cases: CaseList, used: Iterable[str] = ()) -> None:
        """Check that all cases have their files, and that these are not masks.

        Args:
            used: ids of other cases whose files are used.

        Raises:
            DataError: names the cases without; or says that there is nothing between 0 and 1.
        """
        wanted = [str(identity) for identity in cases.texts("id")]
        missing = [identity for identity in wanted if not self.files(identity)]
        if missing:
            having = f"{len(wanted) - len(missing):,} of {count(len(wanted), 'noisy mask')} {'has' if len(wanted) == 1 else 'have'}"
            names = [path.name for planes in self._files.values() for path in planes.values()]
            named = f"; files are named <id>, after the cases; there are {some(sorted(names), 3)}" if len(missing) == len(wanted) else ""
            raise DataError(f"{self.folder}: {having} probabilities there{named}", [self._missing(identity) for identity in missing])
        if unused := len(self._files.keys() - set(wanted) - set(used)):
            self.notes.append(f"{self.folder}: the probabilities of {count(unused, 'case')} without a noisy mask are not used")
        self._refuse_masks(cases[:: -(-len(cases) // _LOOKED_INTO)])

    def read(self, case: Case, shape: tuple[int, ...]) -> np.ndarray:
        """Read the probabilities float32 (K, *S) of a case, K ≥ 2, on their own grid; they sum to 1.

        Args:
            case: its mask is in the orientation in which the probabilities are.
            shape: that of its mask.

        Raises:
            DataError: the files cannot be read, or hold something else.
        """
        first = self.files(case.id)[0]
        array, bits = self._read_array(case)
        planes = _classes_first(first, array, len(shape))
        self._check_number(len(planes), first)
        check_grid(first, planes.shape[1:], shape)
        if self._format == "NIfTI" and len(shape) == 3 and planes.shape[1:] == shape:
            grids = [read_header(file).grid for file in (first, case.mask)]
            if off := grids[0].difference(grids[1]) if grids[0] and grids[1] else "":
                kind = "probabilities that are not on the grid of their mask"
                raise DataError(Fault(f"{first}: not on the grid of {case.mask}: {off}", kind=kind, repair="resample them to that grid"))
        if self._format in _ARRAYS and len(shape) == 2 and image_suffix(case.mask) in (".nii", ".nii.gz"):
            with readable(case.mask):
                if not Plane(case.mask).is_in_order:
                    wrong = f"{first}: {case.mask} is turned when it is shown, and an array does not say which way its axes run"
                    kind, repair = "arrays for NIfTI masks that are turned", "save them as NIfTI, with the affine of the mask"
                    raise DataError(Fault(wrong, kind=kind, repair=repair))
        return _in_range(planes, bits, first)

    # --- what is there ----------------------------------------------------------------------------------------------

    def _find(self) -> Iterator[tuple[str, str, int, Path]]:
        """Yield format, id, label and path of every file that might be meant."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: {'not a folder' if self.folder.exists() else 'there is no such folder'}")
        of_labels = {label: self.folder / str(label) for label in range(self._classes)} if self._classes > 1 else {}
        if of_labels and all(place.is_dir() for place in of_labels.values()):
            places = list(of_labels.items())
        else:
            of_labels, places = {}, [(0, place) for place in sorted(self.folder.glob("fold_*/validation")) or [self.folder]]
        for label, place in places:
            try:
                entries = sorted(path for path in place.iterdir() if not path.name.startswith("."))
            except OSError as error:
                raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None
            for path in entries:
                form, identity, own = _FORMATS.get(image_suffix(path) or path.suffix.lower()), case_id(path), label
                if form == "PNG" and self._classes > 1 and not of_labels:
                    identity, _, ending = identity.rpartition("_")
                    if ending not in map(str, range(self._classes)):
                        continue  # a mask, say: where all are, nothing is found
                    own = int(ending)
                if form and path.is_file():
                    yield form, identity, own, path

    def _hint(self) -> str:
        if (self.folder / "probabilities").is_dir():
            return f"; is {self.folder / 'probabilities'} meant?"
        if self._classes > 1:
            return "; of several classes PNG files are <label>/<id>.png or <id>_<label>.png, for every label from 0 on"
        return "; set --classes, as there is a folder for each of several" if (self.folder / "1").is_dir() else ""

    def _missing(self, identity: str) -> Fault:
        absent = [label for label in self._labels if label not in self._files.get(identity, {})]
        labels = f" of label {some(absent)}" if len(self._labels) > 1 else ""
        repair = "predict these cases too (of a cross-validation all folds), or audit a table of cases without them"
        return Fault(f"{identity}: no {self._format} file{labels}", kind="noisy masks without probabilities", repair=repair)

    def _refuse_masks(self, cases: Sequence[Case]) -> None:
        """Raise DataError where these files hold 0, 1 and the numbers of labels alone."""
        looked_into = 0
        for case in cases:
            try:
                array, bits = self._read_array(case)
            except PixeltrustError:
                continue  # it will be named with all others
            last_label = (max(self._classes, 2) - 1) / 255 if bits == 8 else 0
            if ((array > last_label) & (array != 1) | ~(array >= 0)).any():
                return
            looked_into += 1
        if looked_into:
            repair = self._hint() or "; take what the softmax gives, before the most probable label is chosen"
            looked = f"{count(looked_into, 'case')} looked into, and nothing found between 0 and 1"
            raise DataError(f"{self.folder}: masks, not probabilities: {looked}{repair}")

    # --- the numbers ------------------------------------------------------------------------------------------------

    def _read_array(self, case: Case) -> tuple[np.ndarray, int]:
        """Return what the files of a case hold, float32, and the bits of a value; those of several files are stacked."""
        files = self.files(case.id)
        if self._format == "PNG":
            greys = [read_grey(file) for file in files]
            if len(shapes := sorted({grey.shares.shape for grey in greys})) > 1:
                raise DataError(f"{files[0]}: {' and '.join(map(_sides, shapes))} pixels in the files of one case")
            return np.stack([grey.shares for grey in greys]), min(grey.bits for grey in greys)
        if self._format == "NIfTI" and (len(files) > 1 or read_header(case.mask).grid):
            return np.stack([read_values(file) for file in files]), 16
        with readable(files[0]):
            array = retry_parsing(lambda: _load(files[0], self._format))
            if array.dtype.kind not in "biuf":
                raise DataError(f"{files[0]}: holds values of the type {array.dtype}; real numbers are needed")
            return array.astype(np.float32), 32

    def _check_number(self, found: int, path: Path) -> None:
        if found not in ((1, 2) if self._classes == 1 else (self._classes,)):
            needed = "1 (the foreground) or 2 (with the background)" if self._classes == 1 else str(self._classes)
            wrong = f"{path}: has {count(found, 'class', 'classes')} where {needed} are needed"
            repair = "set --classes to the number of labels; the background is one of them, class 0; axes are (classes, rows, columns)"
            raise DataError(Fault(wrong, kind="files of another number of classes", repair=repair))


def check_grid(path: Path, grid: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Check that the sides of a grid are in the proportions of a mask, up to a pixel, or raise DataError."""
    side = int(np.argmax(shape))
    scale = grid[side] / shape[side] if len(grid) == len(shape) else float("nan")
    if not all(abs(found - whole * scale) <= 1 for found, whole in zip(grid, shape, strict=False)):
        wrong = f"{path}: {_sides(grid)} pixels, its mask {_sides(shape)}: other proportions"
        repair = "resize it to the size of the mask, after any cropping, padding or turning is undone; rows come before columns"
        raise DataError(Fault(wrong, kind="files that do not fit the masks", repair=repair))


def _load(path: Path, form: str) -> np.ndarray:
    """Return the array of a file as it is, of a NIfTI file (K, H, W)."""
    if form == "NIfTI":
        return Plane(path, several=True).layers()
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if form == "npy":
            return np.asarray(loaded)
        names = loaded.files
        if "probabilities" not in names and len(names) != 1:
            raise DataError(f"{path}: has the arrays {some(names) or 'none'}; wanted is one of the name probabilities")
        return np.asarray(loaded["probabilities" if "probabilities" in names else names[0]])


def _classes_first(path: Path, array: np.ndarray, axes: int) -> np.ndarray:
    """Return an array as (K, *S): with an axis for one class where there is none, without axes of length 1 behind the classes."""
    if array.ndim == axes:
        return array[None]
    while array.ndim > axes + 1 and 1 in array.shape[1:]:
        array = array.squeeze(1 + array.shape[1:].index(1))
    if array.ndim != axes + 1 or not array.size:
        raise DataError(f"{path}: an array of shape {array.shape}; wanted is (classes, rows, columns)")
    return array


def _in_range(planes: np.ndarray, bits: int, path: Path) -> np.ndarray:
    """Return values (K, *S) as probabilities, K ≥ 2, that sum to 1."""
    kind, repair = (
        "files of other values than probabilities",
        "are these logits? Apply softmax over the classes (sigmoid where there is one)",
    )
    if not np.isfinite(planes).all():
        raise DataError(Fault(f"{path}: holds values that are not finite", kind="files with values that are not finite"))
    low, high = float(planes.min()), float(planes.max())
    if low < -_OFF or high > 1 + _OFF:
        raise DataError(Fault(f"{path}: values from {low:.4g} to {high:.4g} where 0 to 1 are probabilities", kind=kind, repair=repair))
    planes = planes.clip(0, 1)
    if len(planes) == 1:
        return np.concatenate([1 - planes, planes])
    sums = planes.sum(0)
    worst = float(sums.flat[np.abs(sums - 1).argmax()])
    if abs(worst - 1) > _OFF + len(planes) * 0.5 / (2**bits - 1):
        raise DataError(Fault(f"{path}: the classes of a pixel sum to {worst:.4g} where 1 is due", kind=kind, repair=repair))
    return planes / sums


def _sides(shape: tuple[int, ...]) -> str:
    """Return a size as it is read: width first."""
    return "x".join(map(str, shape[::-1]))
