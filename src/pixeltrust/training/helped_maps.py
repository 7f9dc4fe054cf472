"""Helped maps: what a run has learned about every noisy mask, for the audit and for people.

The value of a pixel is the share of visits in which it helped (`Trust.helped`), 0 to 255 for 0 to 1. Of a picture it is
RUN/helped/<id>.png, on the grid of training; of a volume RUN/helped/<id>.nii.gz, on that of its mask. The file also holds a fingerprint of
the mask on that grid, so that a mask that was changed since is not judged by what was learned about another.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pixeltrust.data.batches import Streams
from pixeltrust.data.fitting import read_spacing, restore
from pixeltrust.data.image_files import image_suffix, readable
from pixeltrust.data.images import map_name, read_labels
from pixeltrust.data.masks import read_mask
from pixeltrust.data.pictures import read_grey, write_png
from pixeltrust.data.volumes import NIFTI, read_note, write_volume
from pixeltrust.method.trust import Trust
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import make_folder, naming_write_errors, retry_parsing
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.training.run_folder import Run

FOLDER = "helped"
FORMER_FOLDER = "trust"  # in runs of earlier versions
FULL = 255  # a share of 1 in the file
_MASK = "mask"  # the PNG text that holds the fingerprint


def write_helped_maps(run: Run, streams: Streams, trust: Trust, *, show_progress: bool) -> None:
    """Write the helped map of every noisy case.

    Raises:
        RunError: one cannot be written.
    """
    folder, cases = run.folder / FOLDER, streams.pixels.cases

    def write(place: int) -> None:
        index = streams.noisy[[place]]
        case, config = cases[int(index[0])], streams.config
        shares = trust.helped(case.id).cpu().numpy()
        path = folder / map_name(case.id, shares.ndim)
        if shares.ndim == 2:
            labels = streams.pixels.batch(index).masks[0].numpy()
            write_png(path, _bytes(shares), text={_MASK: fingerprint(labels)})
        else:
            labels = read_mask(case.mask, config)
            shares = restore(shares[None], labels.shape, read_spacing(case, config), config)[0]
            write_volume(path, _bytes(shares), like=case.mask, note=fingerprint(labels))

    with naming_write_errors(run.folder):
        make_folder(folder)
        for _, fault in attempt_in_threads(write, range(len(streams.noisy)), text="writing helped maps", shown=show_progress):
            if fault is not None:
                raise fault


def read_helped_map(run: Run, case: str, labels: np.ndarray) -> np.ndarray | None:
    """Read the shares float32, 0 … 1, that the run learned for the mask of a case; None where it learned nothing about this mask.

    Args:
        case: its id.
        labels: the mask: of a picture uint8 (h, w) on the grid of training, of a volume (D, H, W) as in its file. The shares are on the
            same grid.

    Raises:
        DataError: the file is broken.
    """
    paths = [run.folder / folder / map_name(case, labels.ndim) for folder in (FOLDER, FORMER_FOLDER)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    learned = read_helped_file(path)
    return learned.shares if learned.mask == fingerprint(labels) and learned.shares.shape == labels.shape else None


class HelpedMap(NamedTuple):
    """A helped map."""

    shares: np.ndarray
    """float32 (h, w) or (D, H, W), 0 … 1."""
    mask: str | None
    """The fingerprint of the mask that it is of; None where none is known, as in a file of `Trust.write_maps` or of another program."""


def read_helped_file(path: Path) -> HelpedMap:
    """Read a helped map, of any grid and program.

    Raises:
        DataError: the file cannot be read, or is neither a PNG of grey nor NIfTI, nor an array of bytes.
    """
    if path.suffix == ".npy":
        with readable(path):
            values = retry_parsing(lambda: np.load(path, allow_pickle=False))
            if values.dtype != np.uint8:
                raise DataError(f"{path}: an array of {values.dtype}; a helped map is of bytes, 255 where a pixel has always helped")
            return HelpedMap(values.astype(np.float32) / FULL, None)
    if image_suffix(path) in NIFTI:
        return HelpedMap(read_labels(path).astype(np.float32) / FULL, read_note(path) or None)
    shares, _, text = read_grey(path)
    return HelpedMap(shares, text.get(_MASK))


def has_helped_maps(run: Run) -> bool:
    """Return whether the run has helped maps, as its method has gains."""
    return any((run.folder / folder).is_dir() for folder in (FOLDER, FORMER_FOLDER))


def _bytes(shares: np.ndarray) -> np.ndarray:
    return (shares * FULL).round().astype(np.uint8)


def fingerprint(labels: np.ndarray) -> str:
    """Return a fingerprint of a mask."""
    return hashlib.sha256(np.ascontiguousarray(labels, np.uint8).tobytes()).hexdigest()[:16]
