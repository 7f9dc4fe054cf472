"""Folders of image files become files by id; files that are channels of one image come together."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pixeltrust.data import volumes
from pixeltrust.data.image_files import case_id, image_suffix
from pixeltrust.data.layouts import without_ending
from pixeltrust.plumbing.errors import DataError, Fault
from pixeltrust.plumbing.text import CONTROL, count, some

_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Listing:
    """The image files of a folder by the id of their case, the first of each, with faults and notes."""

    folder: Path
    files: dict[str, Path]
    faults: list[str]
    notes: list[str]
    others: list[Path] = field(default_factory=list)
    """Entries that are not images by their names."""


def files_by_id(folder: Path, endings: Sequence[str] = ()) -> Listing:
    """List the image files of a folder: two of one id are a fault, other entries a note, hidden files nothing.

    Args:
        folder: its own folders are not searched.
        endings: are taken off the ids that have one.

    Raises:
        DataError: the folder is missing, or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder" if folder.exists() else f"{folder}: there is no such folder")
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from None
    by_id: dict[str, list[Path]] = defaultdict(list)
    headed = {path.name[: -len(suffix)] for path in entries if (suffix := image_suffix(path)) in volumes.HEADERS}
    others = []
    for path in entries:
        if image_suffix(path) and not path.is_dir():  # so a link to nowhere is a fault, not an entry to leave out
            by_id[without_ending(case_id(path), endings)].append(path)
        elif path.is_dir() or headed.isdisjoint(_before_dots(path.name)):  # else it has the voxels of a header
            others.append(path)
    faults: list[str] = [
        Fault(
            f"{folder}: {len(paths)} files of one id, {identity}: {', '.join(path.name for path in paths)}",
            kind="ids of more than one file",
            repair="keep one of them",
        )
        for identity, paths in by_id.items()
        if len(paths) > 1
    ]
    for identity in [identity for identity in by_id if re.search(CONTROL, identity)]:
        faults += [
            Fault(f"{folder}: the name {path.name!r} has control characters", kind="names with control characters", repair="rename it")
            for path in by_id.pop(identity)
        ]
    notes = []
    if others:
        named = some([path.name for path in others])
        notes.append(f"{folder}: {count(len(others), 'entry', 'entries')} that are not images left out: {named}")
    return Listing(folder, {identity: paths[0] for identity, paths in by_id.items()}, faults, notes, others)


def _before_dots(name: str) -> list[str]:
    """Return what stands before each dot of a name: `a.raw` and `a` for `a.raw.gz`."""
    return [name[: dot.start()] for dot in re.finditer(r"\.", name)]


def join_channels(images: Listing, masks: Collection[str], *, suffixes: Sequence[str] = volumes.SUFFIXES) -> dict[str, int]:
    """Join the images `<id>_0000`, `<id>_0001` … of a listing, where there is a mask of this id and none of those: they are its channels.

    The listing then has the first one under the id. A channel that is missing between others is a fault.

    Args:
        suffixes: of the files that may be channels.

    Returns:
        The number of channels by id.
    """
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for identity in images.files.keys() - set(masks):
        named = _CHANNEL.fullmatch(identity)
        if named and named[1] in masks and named[1] not in images.files and image_suffix(images.files[identity]) in suffixes:
            found[named[1]][int(named[2])] = identity
    for identity, channels in found.items():
        files = [images.files.pop(channels[number]) for number in sorted(channels)]
        images.files[identity] = files[0]
        expected = channel_files(files[0], len(files)) if 0 in channels else []
        if files != expected:
            names = ", ".join(file.name for file in files)
            wrong, kind = f"{images.folder}: {identity} has the channels {names}", "images with a channel missing"
            images.faults.append(Fault(wrong, kind=kind, repair="channels are _0000, _0001 …, without a gap, and all have one ending"))
    return {identity: len(channels) for identity, channels in found.items()}


def channel_files(first: Path, channels: int) -> list[Path]:
    """Return the files of an image by that of its first channel: itself alone, where there is only one."""
    suffix = image_suffix(first) or first.suffix
    stem = first.name[: -len(suffix)].removesuffix("0000")
    return [first, *(first.with_name(f"{stem}{number:04}{first.name[-len(suffix) :]}") for number in range(1, channels))]
