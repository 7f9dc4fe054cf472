"""Predict volumes, one at a time: read, brought to the spacing of training, covered by windows, and brought back plane by plane.

What is held of a volume is its image (float32 while it is read, then 16 bits at the spacing of training), the probabilities of as many
planes as a window is deep, and its labels: the probabilities of K classes are never there as a whole.

K classes   (D, H, W) the grid of a volume's files
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pixeltrust.config import Config
from pixeltrust.data.cases import Case
from pixeltrust.data.fitting import fit_image, fitted_shape, restore_planes
from pixeltrust.data.image_files import SUFFIXES, case_id, image_suffix, readable, written_suffix
from pixeltrust.data.images import Header, read_header, write_labels
from pixeltrust.data.listings import Listing, files_by_id, join_channels
from pixeltrust.data.volumes import MAX_VOXELS, NIFTI, in_order, series_in, write_shares
from pixeltrust.plumbing.errors import DataError, Fault
from pixeltrust.plumbing.files import naming_write_errors
from pixeltrust.plumbing.labels import most_probable
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.plumbing.text import count, some
from pixeltrust.prediction.network import Network

_NUMBERED = re.compile(r"(.+)_(\d{4})")


def list_volumes(images: Path, channels: int) -> tuple[list[Case], list[str]]:
    """Return the volumes of a folder in the order of their ids, and notes about other files there.

    Args:
        images: a folder of volumes, of which `<id>_0000`, `<id>_0001` … are the channels of one; a folder of folders of DICOM files; the
            folder of one series; or the file of a volume, or of its first channel.
        channels: files of a volume.

    Raises:
        DataError: there is no volume, two files have one id, or a volume has another number of channels.
    """
    if images.is_file():
        if image_suffix(images) is None:
            raise DataError(f"{images}: the name is not that of an image; known endings: {', '.join(SUFFIXES)}")
        listing = Listing(images.parent, {case_id(images): images}, [], [])
        if channels > 1:
            siblings = files_by_id(images.parent).files
            stem = case_id(images).removesuffix("_0000")
            listing.files.update({name: path for name, path in siblings.items() if re.fullmatch(rf"{re.escape(stem)}_\d{{4}}", name)})
    else:
        listing = files_by_id(images)
        if not listing.files and not listing.faults:
            return _list_series(images, channels)
    numbered = {name: match for name in listing.files if (match := _NUMBERED.fullmatch(name))}
    joined: dict[str, int] = {}
    if len(numbered) == len(listing.files) and (channels > 1 or {match[2] for match in numbered.values()} == {"0000"}):
        joined = join_channels(listing, {match[1] for match in numbered.values()})
    if wrong := [listing.files[name] for name in listing.files if joined.get(name, 1) != channels]:
        names = "<id>_0000, <id>_0001 …, all of a volume" if channels > 1 else "<id>, or <id>_0000"
        found = f"{count(len(wrong), 'volume')} of another number (such as {some(wrong, 3)})"
        listing.faults.append(f"{images}: the network takes {count(channels, 'channel')}, one a file ({names}); {found}")
    elif several := sorted({match[1] for match in numbered.values() if f"{match[1]}_0000" in numbered and match[2] != "0000"}):
        as_channels = f"channels of {count(len(several), 'image')} by their names (such as {some(several, 3)})"
        listing.notes.append(f"{images}: {as_channels}; the network takes one channel, so each file is predicted as a volume of its own")
    if listing.faults:
        needed = "each needs an id of its own, and as many channels as the network"
        raise DataError(f"{images}: volumes that cannot be predicted; {needed}", listing.faults)
    return [Case(name, path, path, "test", channels=channels) for name, path in sorted(listing.files.items())], listing.notes


def _list_series(images: Path, channels: int) -> tuple[list[Case], list[str]]:
    """Return the DICOM series of a folder, itself or each of its folders, and a note of what else lies there."""
    entries = sorted(path for path in images.iterdir() if not path.name.startswith("."))
    if not entries:
        raise DataError(f"{images}: there is no volume in it ({', '.join(SUFFIXES)}, or a folder for each DICOM series)")
    if channels > 1:
        raise DataError(f"{images}: the network takes {channels} channels, and a DICOM series has one; save them as <id>_0000.nii.gz …")
    inner = [path for path in entries if path.is_dir()]
    with readable(images, or_series=True):
        is_one = bool(series_in(images)) or not inner
    folders, others = ([images], inner) if is_one else (inner, [path for path in entries if not path.is_dir()])
    notes = [f"{images}: {count(len(others), 'entry', 'entries')} beside DICOM series left out: {some([path.name for path in others])}"]
    return [Case(path.resolve().name, path, path, "test") for path in folders], notes if others else []


def predict_volumes(network: Network, cases: Sequence[Case], out: Path, *, probabilities: bool, show_progress: bool) -> dict[str, str]:
    """Write the masks of volumes, and their probabilities where asked for; return the faults of those that cannot be read, by id."""
    faults = {}
    with progress_bar(show_progress) as bar:
        task = bar.add_task("predicting", total=len(cases), note="")
        for case in cases:
            try:
                files = volume_files(case, out, network.config, probabilities)
                _predict_one(network, case, files, tell=lambda text: bar.update(task, note=text))
            except DataError as error:
                faults[case.id] = str(error)
            bar.advance(task)
    return faults


def _predict_one(network: Network, case: Case, files: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Predict a volume into its files, its mask last, and tell how far it is."""
    header = read_volume_header(case)
    labels = np.empty(header.size, np.uint8)
    *of_probabilities, mask = files
    with naming_write_errors(mask.parent):
        with ExitStack() as opened:
            writers = [opened.enter_context(write_shares(path, like=case.image)) for path in of_probabilities]
            for place, planes in enumerate(probability_planes(network, case, header)):
                labels[place] = most_probable(planes)
                for write, plane in zip(writers, planes, strict=False):
                    write(plane)
                tell(f"{case.id}: {place + 1} of {len(labels)} planes")
        write_labels(mask, labels, like=case.image)


def volume_files(case: Case, out: Path, config: Config, with_probabilities: bool) -> list[Path]:
    """Return the files of a predicted volume, its mask last: where that exists, the case is complete."""
    folders = [""] if config.classes == 1 else map(str, range(config.classes))
    probabilities = [out / "probabilities" / folder / f"{case.id}{NIFTI[0]}" for folder in folders] if with_probabilities else []
    return [*probabilities, out / f"{case.id}{written_suffix(case.image)}"]


def read_volume_header(case: Case) -> Header:
    """Read the header of a volume.

    Raises:
        DataError: it cannot be read, is that of a picture, or its channels differ.
    """
    header, *others = map(read_header, case.image_files)
    if header.grid is None:
        raise DataError(Fault(f"{case.image}: a picture, where the network takes volumes", kind="pictures"))
    for file, other in zip(case.image_files[1:], others, strict=True):
        if other.size != header.size or other.grid is None or (off := other.grid.difference(header.grid)):
            apart = f"{in_order(other.size)}, not {in_order(header.size)} voxels" if other.size != header.size else off
            raise DataError(f"{file}: not on the grid of its first channel: {apart}")
    return header


def probability_planes(network: Network, case: Case, header: Header) -> Iterator[np.ndarray]:
    """Yield the planes (K, H, W) of a volume's probabilities, of the foreground when K = 1, in the order of D.

    Raises:
        DataError: it cannot be read, or would be too large at the spacing of training.
    """
    fitted = fitted_shape(header.size, header.spacing_mm, network.config)
    if np.prod(fitted, dtype=float) > MAX_VOXELS:
        assert network.config.spacing is not None
        at = f"at the spacing of training, {in_order(network.config.spacing)} mm, it would have {in_order(fitted)} voxels"
        raise DataError(
            Fault(f"{case.image}: {at}; is its own spacing right?", kind="volumes that are too large at the spacing of training")
        )
    planes = network.probabilities_by_planes(fit_image(case, network.config))
    yield from restore_planes(planes, header.size, header.spacing_mm, network.config)
