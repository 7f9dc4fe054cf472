"""Predict a mask for every image of a folder, by the network of a run; `volumes` does it for volumes.

K classes   (h, w) the size the network works at: that of training, or with sliding windows the image's own   (H, W) the image's own
probabilities float32 (K, h, w), then one plane (H, W) after the other: of the foreground when K = 1, else of each class

Decoding, network and writing overlap, each a bounded number of images ahead of the next, so memory does not grow with the folder.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pixeltrust.config import Config
from pixeltrust.data.cases import Case
from pixeltrust.data.fitting import describe_patches
from pixeltrust.data.image_files import SUFFIXES, case_id, image_suffix
from pixeltrust.data.images import read_image, refuse_volumes
from pixeltrust.data.listings import files_by_id
from pixeltrust.data.pictures import write_png
from pixeltrust.data.resizing import resize_image, resize_plane
from pixeltrust.data.volumes import FULL_SCALE
from pixeltrust.data.volumes import SUFFIXES as VOLUME_SUFFIXES
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.files import make_folder, naming_write_errors
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import THREADS, map_in_order, progress_bar
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.network import Network, choose_device, holds_window, read_network
from pixeltrust.prediction.volumes import list_volumes, predict_volumes, volume_files
from pixeltrust.training.run_folder import Run


@dataclass(frozen=True, repr=False)
class Predicted(Summary):
    """The result of a prediction; `str` gives the summary."""

    count: int
    """Images predicted now."""
    skipped: int
    """Images whose files were there already."""
    seconds: float
    """For decoding, network and writing."""
    out: Path
    notes: tuple[str, ...]

    def __str__(self) -> str:
        speed = f"{count(self.count, 'image')} in {self.seconds:,.1f} s, {self.count / max(self.seconds, 1e-9):,.3g} images/s"
        skipped = f"{count(self.skipped, 'image')} predicted earlier, left as they are" if self.skipped else ""
        done = "; ".join(part for part in (speed if self.count else "", skipped) if part)
        return "\n".join([*self.notes, done, f"the masks are in {self.out}"])


@dataclass(frozen=True)
class _Picture:
    """A decoded image: uint8 (h, w, C) as the network gets it, and the size (H, W) of its mask."""

    id: str
    pixels: np.ndarray
    size: tuple[int, int]


_Decoded: TypeAlias = _Picture | tuple[str, DataError]
"""A picture, or the id and the fault of one that cannot be read."""


@dataclass
class _Tally:
    """Counts over all images of a prediction."""

    faults: dict[str, str] = field(default_factory=dict)
    """Images that cannot be read, by id."""
    windowed: int = 0
    """Images covered by windows."""
    small: int = 0
    """Images smaller than a window."""

    def sum_over(self, ranks: Ranks) -> "_Tally":
        """Return the tally of all ranks."""
        tallies = ranks.all_gather_objects(self)
        faults = {identity: fault for tally in tallies for identity, fault in tally.faults.items()}
        return _Tally(dict(sorted(faults.items())), *ranks.sum_counts(self.windowed, self.small))


def predict(
    run: Path,
    images: Path,
    *,
    out: Path,
    weights: str = "last",
    probabilities: bool = False,
    sliding_window: bool = False,
    batch_size: int | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Predicted:
    """Write a mask for every image on its own grid: out/<id>.png, of a volume a file of its format (NIfTI for a DICOM series).

    A picture is resized to the size of training; a volume is resampled to the spacing of training, and covered by windows. The
    probabilities are brought back, and then a pixel is foreground where its probability is above ½, or of the most probable class
    (at equal probabilities the lowest). Ctrl-C leaves whole files only. Under `torchrun` every process makes this call and takes its
    share of the images; all must see `out`.

    Example:
        pixeltrust.predict("runs/mended", "lesions/images", out="predicted")

    Args:
        run: a run folder whose training has finished (or has best weights so far).
        images: a folder of images, without its subfolders, or one image file. Of volumes <id>_0000, <id>_0001 … are the channels of
            one, and the folder may be that of a DICOM series, or of folders of one each.
        out: a folder that does not exist or is empty. Masks hold the labels' numbers; those of pictures 0 and 255 when classes = 1.
        weights: `last`, or `best` by the held-out clean cases.
        probabilities: also write out/probabilities/<id>.png when classes = 1, else out/probabilities/<class>/<id>.png: 16-bit
            grey, 0 to 65535 for 0 to 1; for volumes <id>.nii.gz, with a scale that makes these 0 to 1 for whoever reads them.
        sliding_window: pictures larger than the size of training are not shrunk: windows of that size cover them at their own
            resolution, half overlapping, their probabilities blended with Gaussian weights, as they always cover volumes. Pictures
            smaller than a window in height or width are resized as without it.
        batch_size: images (or windows) in one pass; the run's where not given. Changes speed and memory only.
        resume: `out` may hold files: an image whose mask (and probabilities, where asked for) exists is skipped. Earlier files
            are taken to be of the same run and options.
        show_progress: a progress bar on standard error.

    Raises:
        DataError: `images` is missing, without images or with two files of one id; or images cannot be read: then after all
            others were written, and every one is named.
        RunError: `run` is not a run folder or has not finished, its weights do not fit its network, or `out` cannot be used.
        ConfigError: `weights` or `batch_size` is invalid, or the network does not fit the settings.
    """
    out = Path(out)
    config, model, notes = read_network(Run(Path(run)), weights)
    of_volumes = len(config.size) == 3
    cases, left_out = list_volumes(Path(images), config.channels) if of_volumes else _list_pictures(Path(images))
    _check_out(out, Path(images), resume)
    device, ranks, moved = choose_device(config)
    network = Network(device, model, config, batch_size)
    files_of = volume_files if of_volumes else _files
    todo = [case for case in cases if not (resume and all(path.is_file() for path in files_of(case, out, config, probabilities)))]
    ranks.barrier()  # until every rank has seen what is there
    with naming_write_errors(out):
        make_folder(out)
        for path in files_of(cases[0], out, config, probabilities)[:-1]:
            make_folder(path.parent)
    start = time.perf_counter()
    share, shown = ranks.share(todo), show_progress and ranks.rank == 0
    if of_volumes:
        tally = _Tally(predict_volumes(network, share, out, probabilities=probabilities, show_progress=shown))
    else:
        tally = _predict_all(network, share, out, probabilities, sliding_window, shown)
    tally = tally.sum_over(ranks)
    if tally.faults:
        others = len(cases) - len(tally.faults)
        written = f"{count(others, 'other mask')} written, in {out}" if others else "nothing was written"
        raise DataError(f"{len(tally.faults):,} of {count(len(cases), 'image')} cannot be read; {written}", list(tally.faults.values()))
    notes += [*left_out, *moved, *(describe_patches(config) if of_volumes else _window_notes(tally, config, sliding_window))]
    if probabilities:
        form = "NIfTI of 16 bits whose scale makes shares of them" if of_volumes else f"16-bit grey with {FULL_SCALE} for 1"
        notes.append(f"probabilities, {form}, are in {out / 'probabilities'}")
    return Predicted(len(todo), len(cases) - len(todo), time.perf_counter() - start, out, tuple(notes))


def _predict_all(
    network: Network, cases: Sequence[Case], out: Path, with_probabilities: bool, sliding_window: bool, show_progress: bool
) -> _Tally:
    config, tally = network.config, _Tally()
    # What waits is of the training size, or with sliding windows as large as the files are.
    ahead = THREADS if sliding_window else max(THREADS, network.batch_size)

    def decode(case: Case) -> _Decoded:
        try:
            pixels = read_image(case.image, config.channels)
        except DataError as error:
            return case.id, error
        size = pixels.shape[0], pixels.shape[1]
        return _Picture(case.id, pixels if sliding_window and holds_window(size, config) else resize_image(pixels, config.size), size)

    write = partial(_write, out=out, with_probabilities=with_probabilities)
    pool = ThreadPoolExecutor(THREADS)
    try:
        with progress_bar(show_progress) as bar:
            task = bar.add_task("predicting", total=len(cases), note="")
            outcomes = _outcomes(network, map_in_order(pool, decode, cases, ahead=ahead), tally)
            for written, _ in enumerate(map_in_order(pool, write, outcomes, ahead=ahead), start=1):
                bar.update(task, completed=written + len(tally.faults))
    finally:
        pool.shutdown(cancel_futures=True)  # and wait: what is being written becomes whole
    return tally


def _outcomes(network: Network, pictures: Iterable[_Decoded], tally: _Tally) -> Iterator[tuple[_Picture, np.ndarray]]:
    """Yield every picture that could be decoded, with its probabilities (K, h, w)."""
    batch: list[_Picture] = []

    def flush() -> Iterator[tuple[_Picture, np.ndarray]]:
        if batch:
            yield from zip(batch, network.probabilities([picture.pixels for picture in batch]), strict=True)
            batch.clear()

    for picture in pictures:
        if isinstance(picture, tuple):
            identity, fault = picture
            tally.faults[identity] = str(fault)
        elif picture.pixels.shape[:2] != network.config.size:
            tally.windowed += 1
            yield picture, network.probabilities_by_windows(picture.pixels)
        else:
            tally.small += not holds_window(picture.size, network.config)
            batch.append(picture)
            if len(batch) == network.batch_size:
                yield from flush()
    yield from flush()


def _write(outcome: tuple[_Picture, np.ndarray], *, out: Path, with_probabilities: bool) -> None:
    """Write the probabilities, where asked for, and then the mask: where that exists, the case is complete."""
    picture, probabilities = outcome
    classes = len(probabilities)
    mask, highest = np.zeros(picture.size, np.uint8), np.full(picture.size, 0.5 if classes == 1 else -1.0, np.float32)
    with naming_write_errors(out):
        for label in range(classes):  # a plane at a time: K planes of a large image would be much
            plane = resize_plane(probabilities[label], picture.size)
            if with_probabilities:
                path = _probability_files(picture.id, out, classes)[label]
                write_png(path, (plane.clip(0, 1) * FULL_SCALE).round().astype(np.uint16))
            above = plane > highest
            mask[above] = 255 if classes == 1 else label
            np.copyto(highest, plane, where=above)
        write_png(out / f"{picture.id}.png", mask)


def _window_notes(tally: _Tally, config: Config, sliding_window: bool) -> list[str]:
    if not sliding_window:
        return []
    height, width = config.size
    notes = [f"{count(tally.windowed, 'image')} covered by windows of {width}x{height} pixels"]
    if tally.small:
        notes.append(f"{count(tally.small, 'image')} smaller than a window in height or width: resized to {width}x{height} instead")
    return notes


# --- the files ----------------------------------------------------------------------------------------------------


def _list_pictures(images: Path) -> tuple[list[Case], list[str]]:
    """Return the pictures in the order of their ids, and notes about other files there."""
    if images.is_file():
        if image_suffix(images) is None:
            raise DataError(f"{images}: the name is not that of an image; known endings: {', '.join(SUFFIXES)}")
        _refuse_volumes(images, [images])
        return [Case(case_id(images), images, images, "test")], []
    listing = files_by_id(images)
    if listing.faults:
        raise DataError(f"{images}: masks are named by id, so every image needs an id of its own", listing.faults)
    if not listing.files:
        hint = f"; is {images / 'images'} meant?" if (images / "images").is_dir() else ""
        raise DataError(f"{images}: there is no image in it{hint}")
    if all(image_suffix(path) in VOLUME_SUFFIXES for path in listing.files.values()):  # else each is named with what cannot be read
        _refuse_volumes(images, listing.files.values())
    return [Case(name, path, path, "test") for name, path in sorted(listing.files.items())], listing.notes


def _refuse_volumes(images: Path, files: Iterable[Path]) -> None:
    try:
        refuse_volumes(files)
    except DataError:
        raise DataError(f"{images}: holds volumes, and this run was trained on pictures") from None


def _check_out(out: Path, images: Path, resume: bool) -> None:
    with naming_write_errors(out):
        if out.exists() and not out.is_dir():
            raise RunError(f"{out}: exists and is not a folder; choose another name")
        if out.resolve() == (images if images.is_dir() else images.parent).resolve():
            raise RunError(f"{out}: is where the images are, and masks have the images' names; choose another folder")
        if not resume and out.is_dir() and any(out.iterdir()):
            raise RunError(f"{out}: exists and is not empty; continue it with --resume, or choose another --out")


def _probability_files(identity: str, out: Path, classes: int) -> list[Path]:
    folder = out / "probabilities"
    return [folder / f"{identity}.png"] if classes == 1 else [folder / str(label) / f"{identity}.png" for label in range(classes)]


def _files(case: Case, out: Path, config: Config, with_probabilities: bool) -> list[Path]:
    """Return the files of a predicted picture, its mask last."""
    return [*(_probability_files(case.id, out, config.classes) if with_probabilities else []), out / f"{case.id}.png"]
