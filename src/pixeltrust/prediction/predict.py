"""Predict a mask for every image of a folder, by the network of a run.

K classes   (h, w) the size the network works at: that of training, or with sliding windows the image's own   (H, W) the image's own
probabilities float32 (K, h, w), then one plane (H, W) after the other: of the foreground when K = 1, else of each class

Decoding, network and writing overlap, each a bounded number of images ahead of the next, so memory does not grow with the folder.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pixeltrust.config import Config
from pixeltrust.data.images import SUFFIXES, case_id, image_suffix, read_image, refuse_volumes, resize_image, resize_plane, write_png
from pixeltrust.data.listings import files_by_id
from pixeltrust.data.volumes import SUFFIXES as VOLUME_SUFFIXES
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.files import make_folder, naming_write_errors
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.plumbing.progress import THREADS, map_in_order, progress_bar
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.network import Network, choose_device, holds_window, read_network
from pixeltrust.training.run_folder import Run

FULL_SCALE = 65535  # a probability of 1 in a 16-bit file


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
    """Write out/<id>.png for every image, a mask at the image's own size.

    The image is resized to the size of training, the probabilities are resized back, and then a pixel is foreground where its
    probability is above ½, or of the most probable class (at equal probabilities the lowest). Ctrl-C leaves whole files only. Under
    `torchrun` every process makes this call and takes its share of the images; all must see `out`.

    Args:
        run: a run folder whose training has finished (or has best weights so far).
        images: a folder of images, without its subfolders, or one image file.
        out: a folder that does not exist or is empty. Masks are 0 and 255 when classes = 1, else the labels' numbers.
        weights: `last`, or `best` by the held-out clean cases.
        probabilities: also write out/probabilities/<id>.png when classes = 1, else out/probabilities/<class>/<id>.png: 16-bit
            grey, 0 to 65535 for 0 to 1.
        sliding_window: images larger than the size of training are not shrunk: windows of that size cover them at their own
            resolution, half overlapping, their probabilities blended with Gaussian weights. Images smaller than a window in
            height or width are resized as without it.
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
    files, left_out = _files(Path(images))
    _check_out(out, Path(images), resume)
    device, ranks, moved = choose_device(config)
    network = Network(device, model, config, batch_size)
    todo = {identity: path for identity, path in files.items() if not (resume and _is_done(identity, out, config, probabilities))}
    ranks.barrier()  # until every rank has seen what is there
    with naming_write_errors(out):
        make_folder(out)
        for path in _probability_files("", out, config.classes) if probabilities else []:
            make_folder(path.parent)
    start = time.perf_counter()
    share = dict(ranks.share(list(todo.items())))
    tally = _predict_all(network, share, out, probabilities, sliding_window, show_progress and ranks.rank == 0).sum_over(ranks)
    if tally.faults:
        others = len(files) - len(tally.faults)
        written = f"{count(others, 'other mask')} written, in {out}" if others else "nothing was written"
        raise DataError(f"{len(tally.faults):,} of {count(len(files), 'image')} cannot be read; {written}", list(tally.faults.values()))
    notes += [*left_out, *moved, *_window_notes(tally, config, sliding_window)]
    if probabilities:
        notes.append(f"probabilities, 16-bit grey with {FULL_SCALE} for 1, are in {out / 'probabilities'}")
    return Predicted(len(todo), len(files) - len(todo), time.perf_counter() - start, out, tuple(notes))


def _predict_all(
    network: Network, files: dict[str, Path], out: Path, with_probabilities: bool, sliding_window: bool, show_progress: bool
) -> _Tally:
    config, tally = network.config, _Tally()
    # What waits is of the training size, or with sliding windows as large as the files are.
    ahead = THREADS if sliding_window else max(THREADS, network.batch_size)

    def decode(case: tuple[str, Path]) -> _Decoded:
        try:
            pixels = read_image(case[1], config.channels)
        except DataError as error:
            return case[0], error
        size = pixels.shape[0], pixels.shape[1]
        return _Picture(case[0], pixels if sliding_window and holds_window(size, config) else resize_image(pixels, config.size), size)

    write = partial(_write, out=out, with_probabilities=with_probabilities)
    pool = ThreadPoolExecutor(THREADS)
    try:
        with progress_bar(show_progress) as bar:
            task = bar.add_task("predicting", total=len(files), note="")
            outcomes = _outcomes(network, map_in_order(pool, decode, files.items(), ahead=ahead), tally)
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


def _files(images: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the image files by id, in the order of the ids, and notes about other files there."""
    if images.is_file():
        if image_suffix(images) is None:
            raise DataError(f"{images}: the name is not that of an image; known endings: {', '.join(SUFFIXES)}")
        refuse_volumes([images])
        return {case_id(images): images}, []
    listing = files_by_id(images)
    if listing.faults:
        raise DataError(f"{images}: masks are named by id, so every image needs an id of its own", listing.faults)
    if not listing.files:
        hint = f"; is {images / 'images'} meant?" if (images / "images").is_dir() else ""
        raise DataError(f"{images}: there is no image in it{hint}")
    if all(image_suffix(path) in VOLUME_SUFFIXES for path in listing.files.values()):  # else each is named with what cannot be read
        refuse_volumes(listing.files.values())
    return dict(sorted(listing.files.items())), listing.notes


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


def _is_done(identity: str, out: Path, config: Config, with_probabilities: bool) -> bool:
    wanted = [out / f"{identity}.png", *(_probability_files(identity, out, config.classes) if with_probabilities else [])]
    return all(path.is_file() for path in wanted)
