"""Make a source from a published data set: download its archives, unpack or reduce its cases.

    ARCHIVES/  <name>.zip …  (see `downloads.py`)
    OUT/       images/<id>.jpg  masks/<id>.png  split.csv (id, split)  fetched.json (what it was made of)

A stop at any moment leaves no half OUT: what was unpacked so far is lost, what was downloaded is kept.
"""

import glob
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from rich.filesize import decimal
from rich.progress import Progress

from pixeltrust.data.images import read_image
from pixeltrust.data.masks import read_binary
from pixeltrust.data.pictures import write_jpeg, write_png
from pixeltrust.data.resizing import resize_image, resize_labels
from pixeltrust.datasets.contents import Leftovers, PackedCase, packed_cases
from pixeltrust.datasets.downloads import Patience, bytes_on_disk, download, lock_folder, remote_size
from pixeltrust.datasets.published import DATASETS, Archive, Dataset
from pixeltrust.datasets.zips import Member
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.files import fill_folder_atomically, require_free, write_file
from pixeltrust.plumbing.progress import map_in_threads, progress_bar
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count

RECORD = "fetched.json"
_REDUCED_BYTES_PER_PIXEL = 2  # at most, of an image saved as JPEG and its mask
_MB = 10**6


@dataclass(frozen=True, kw_only=True, repr=False)
class Fetched(Summary):
    """The source that was made; `str` of it is for people."""

    out: Path
    dataset: str
    size: int | None
    """Pixels a side, or None for the sizes as published."""
    cases: Mapping[str, int]
    """The number of cases by split."""
    superpixels: int
    """Companions of the images that were left out."""
    others: int
    """Other files of the archives that were left out."""
    licence: str
    archives: Path | None
    """The folder of the archives, if they were kept."""
    earlier: bool = False
    """Whether the source had been made before."""

    def __str__(self) -> str:
        cases = ", ".join(f"{number:,} {split}" for split, number in self.cases.items())
        kept = f"the archives are in {self.archives}" if self.archives else "the archives were removed"
        lines = [
            f"{self.dataset}, {_size_text(self.size)}: {cases} cases; licence {self.licence}",
            f"left out {count(self.superpixels, 'superpixel file')} and {count(self.others, 'other file')}; {kept}",
            f"the source is in {self.out}{', fetched earlier' if self.earlier else ''}",
            f"next: pixeltrust simulate {quote(str(self.out))} lesions",
        ]
        return "\n".join(lines)


def fetch(
    dataset: str | Dataset,
    out: Path,
    *,
    size: int | None = None,
    archives: Path | None = None,
    keep_archives: bool = False,
    patience: Patience | None = None,
    show_progress: bool = True,
) -> Fetched:
    """Make a source of a published data set, whole or not at all. Call it again to resume what was stopped.

    Example:
        pixeltrust.fetch("isic2017", "isic2017", size=256)

    Args:
        dataset: a name of `DATASETS`, or a data set of your own.
        out: a folder that does not exist or is empty, or that this has made before: then nothing is done.
        size: pixels a side to which images and masks are reduced, whatever their proportions. Images become the means over
            the areas of the new pixels (JPEG of quality 95), masks are foreground where more than half of the area was.
            None: the files as published, byte for byte.
        archives: the folder of the archives; those that are there are used once their sum is right, and all stay there.
            None: `<out>.archives`, removed in the end.
        keep_archives: leave them there too.
        patience: with the server; the defaults where not given.
        show_progress: progress bars on standard error.

    Raises:
        ConfigError: a data set that is not known, or a size below 1.
        FetchError: an archive that cannot be had, or is not what was published; what was fetched so far is kept.
        DataError: an archive with something wrong in it; all its faults are named.
        RunError: `out` is something else, it or the archives cannot be written, or the disk is too full.
    """
    out = Path(out)
    folder = Path(archives) if archives is not None else _archives_beside(out)
    if isinstance(dataset, str) and dataset not in DATASETS:
        raise ConfigError(f"no data set of the name {dataset!r} is known; known: {', '.join(DATASETS)}")
    published = DATASETS[dataset] if isinstance(dataset, str) else dataset
    work = _Work(published, out, size, folder, keep_archives or archives is not None, show_progress)
    if size is not None and size < 1:
        raise ConfigError(f"size: pixels a side, 1 or more, not {size}")
    if earlier := _read_earlier(work):
        return earlier
    require_free(out)
    if folder.resolve().is_relative_to(out.resolve()):
        raise RunError(f"{folder}: is in {out}, which is to hold the source alone; choose another folder for the archives")
    with lock_folder(folder):
        _download_all(work, patience)
        fetched = _make(work)
        for archive in [] if work.keep else work.dataset.archives:
            (folder / archive.name).unlink()
    return fetched


@dataclass(frozen=True)
class _Work:
    """The arguments of `fetch`, checked."""

    dataset: Dataset
    out: Path
    size: int | None
    folder: Path
    """The folder of the archives."""
    keep: bool
    show_progress: bool


def _archives_beside(out: Path) -> Path:
    """Return the folder of the archives where none is given."""
    named = out if out.name not in ("", "..") else out.resolve()
    return named.parent / f"{named.name}.archives"


def _size_text(size: int | None) -> str:
    return f"{size}x{size} pixels" if size else "full size"


def _read_earlier(work: _Work) -> Fetched | None:
    """Return what an earlier call has finished."""
    try:
        record = json.loads((work.out / RECORD).read_text(encoding="utf-8"))
        has_archives = any((work.folder / archive.name).exists() for archive in work.dataset.archives)
        earlier = Fetched(**record, out=work.out, archives=work.folder if has_archives else None, earlier=True)
    except (OSError, ValueError, TypeError):
        return None
    if (earlier.dataset, earlier.size) != (work.dataset.name, work.size):
        raise RunError(
            f"{work.out}: holds {earlier.dataset} at {_size_text(earlier.size)}; choose another folder for {work.dataset.name} "
            f"at {_size_text(work.size)}"
        )
    return earlier


# --- the archives -------------------------------------------------------------------------------------------------


def _download_all(work: _Work, patience: Patience | None) -> None:
    """Download every archive that is not in the folder yet."""
    archives = work.dataset.archives
    received = {archive: bytes_on_disk(archive.url, work.folder) for archive in archives}
    with progress_bar(work.show_progress) as bar:
        sizes = _ask_sizes(archives, work.folder, patience, bar)
        _check_disk(work, received, sizes)
        known_sizes = [size for size in sizes.values() if size is not None]
        total = sum(known_sizes) / _MB if len(known_sizes) == len(archives) else None
        task = bar.add_task("downloading, MB", total=total, completed=sum(received.values()) // _MB, note="")

        def report(archive: Archive, received_bytes: int, doing: str) -> None:
            received[archive] = received_bytes
            bar.update(task, completed=sum(received.values()) / _MB, note=f"{archive.name} {doing}")

        for archive in archives:
            download(archive.url, md5=archive.md5, folder=work.folder, patience=patience, report=partial(report, archive))


def _ask_sizes(archives: list[Archive], folder: Path, patience: Patience | None, bar: Progress) -> dict[Archive, int | None]:
    """Return the bytes of every archive, or None where its server does not say."""
    task = bar.add_task("asking for sizes", total=len(archives), note="")
    sizes: dict[Archive, int | None] = {}
    for archive in archives:
        file = folder / archive.name
        bar.update(task, note=archive.name)
        ask = partial(remote_size, archive.url, patience=patience, report=lambda _, doing: bar.update(task, note=doing))
        sizes[archive] = file.stat().st_size if file.exists() else ask()
        bar.advance(task)
    bar.remove_task(task)
    return sizes


def _check_disk(work: _Work, received: Mapping[Archive, int], sizes: Mapping[Archive, int | None]) -> None:
    """Check the room for what is missing, and for the source: about as large as the archives, as images are compressed already."""
    missing = sum(max(0, (size or 0) - received[archive]) for archive, size in sizes.items())
    unpacked = sum(size or 0 for size in sizes.values())
    source = unpacked if work.size is None else _reduced_bytes(work.dataset.cases, work.size)
    _check_room({work.folder: missing, work.out: source})


def _reduced_bytes(cases: int, size: int) -> int:
    return cases * size * size * _REDUCED_BYTES_PER_PIXEL


def _check_room(needs: Mapping[Path, int]) -> None:
    """Raise RunError unless each place has so many bytes free; those on one disk together."""
    on_disk: dict[int, list[Path]] = {}
    for place in needs:
        on_disk.setdefault(_existing(place).stat().st_dev, []).append(place)
    for places in on_disk.values():
        need, free = sum(needs[place] for place in places), shutil.disk_usage(_existing(places[0])).free
        if need > free:
            raise RunError(
                f"{' and '.join(map(str, places))}: {decimal(need)} are needed, {decimal(free)} are free on that disk; "
                "make room, choose a folder on another disk, or a smaller size of the images"
            )


def _existing(place: Path) -> Path:
    place = place.resolve()
    return next(folder for folder in (place, *place.parents) if folder.exists())


# --- the source -----------------------------------------------------------------------------------------


def _make(work: _Work) -> Fetched:
    """Make the source from archives whose MD5 sums are right."""
    leftovers = Leftovers()
    with ExitStack() as opened:
        cases = packed_cases(work.dataset, work.folder, opened, leftovers)
        unpacked = sum(case.image.info.file_size + case.mask.info.file_size for case in cases)
        _check_room({work.out: unpacked if work.size is None else _reduced_bytes(len(cases), work.size)})
        target = work.out.resolve()
        for orphan in target.parent.glob(f".{glob.escape(target.name)}.unfinished-*"):  # of a process that was killed
            shutil.rmtree(orphan, ignore_errors=True)
        with fill_folder_atomically(work.out) as folder:
            _write(cases, folder, work)
            record: dict[str, Any] = {
                "dataset": work.dataset.name,
                "size": work.size,
                "cases": dict(Counter(case.split for case in cases)),
                "superpixels": leftovers.superpixels,
                "others": leftovers.others,
                "licence": work.dataset.licence,
            }
            write_file(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return Fetched(**record, out=work.out, archives=work.folder if work.keep else None)


def _write(cases: list[PackedCase], folder: Path, work: _Work) -> None:
    for name in ("images", "masks", "packed"):
        (folder / name).mkdir()
    write = _write_published if work.size is None else partial(_write_reduced, size=work.size)
    complaint = f"{work.dataset.name}: these files of the archives in {work.folder} cannot be used"
    map_in_threads(lambda case: write(case, folder), cases, text="unpacking", complaint=complaint, shown=work.show_progress)
    (folder / "packed").rmdir()
    lines = ["id,split", *(f"{case.id},{case.split}" for case in cases)]
    write_file(folder / "split.csv", "\n".join(lines) + "\n")


def _write_published(case: PackedCase, folder: Path) -> None:
    _unpack_pair(case, folder / "images" / f"{case.id}.jpg", folder / "masks" / f"{case.id}.png")


def _write_reduced(case: PackedCase, folder: Path, *, size: int) -> None:
    files = folder / "packed" / f"{case.id}.jpg", folder / "packed" / f"{case.id}.png"
    image, mask = _unpack_pair(case, *files)
    write_jpeg(folder / "images" / f"{case.id}.jpg", resize_image(image, (size, size), by_area=True))
    write_png(folder / "masks" / f"{case.id}.png", resize_labels(mask, (size, size), by_area=True) * np.uint8(255))
    for file in files:
        file.unlink()


def _unpack_pair(case: PackedCase, image_file: Path, mask_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unpack both into these files; return image uint8 (H, W, 3) and mask uint8 0/1 (H, W)."""
    faults: list[str] = []
    image = _unpack(case.image, image_file, read_image, faults)
    mask = _unpack(case.mask, mask_file, read_binary, faults)
    if image is not None and mask is not None and mask.shape != image.shape[:2]:
        faults.append(f"{case.mask}: of size {mask.shape}, its image of size {image.shape[:2]}")
    if image is None or mask is None or faults:
        raise DataError(f"{case.id}: cannot be used", faults)
    return image, mask


def _unpack(member: Member, file: Path, read: Callable[[Path], np.ndarray], faults: list[str]) -> np.ndarray | None:
    """Unpack and read a member, or add a fault: under the member's name, not that of a file which is about to vanish."""
    try:
        member.save(file)
        return read(file)
    except DataError as error:
        faults.append(str(error).replace(str(file), str(member)))
        return None
