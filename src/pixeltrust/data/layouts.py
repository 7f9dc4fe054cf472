"""Data folders with another layout: folders of other names, and masks whose names end in more than those of their images.

Layout      what the user asks for
Folders     the same, looked up: where images and masks are, and what is taken off their names
propose_…   what the user might ask for, from what is there
"""

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pixeltrust.data.image_files import image_suffix
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.text import count

PARTS = ("images", "noisy", "clean", "test")
_OTHER_NAMES = {
    "images": ("images", "image", "imgs", "img", "pictures", "photos", "inputs", "input", "imagestr"),
    "noisy": ("noisy", "noise", "weak", "crowd", "coarse", "masks", "labels", "annotations", "labelstr"),
    "clean": ("clean", "corrected", "corrections", "expert", "experts", "gold", "truth", "gt", "ground_truth", "groundtruth", "fine"),
    "test": ("test", "tests", "testing", "test_masks"),
}
_MOST_ENDINGS = 3  # to propose


class Layout(TypedDict, total=False):
    """What differs in a data folder from images/, noisy/, clean/ and test/ with masks that are named like their images."""

    images: Path | str | None
    """The folder of the images, relative to the data folder or absolute; so are `noisy`, `clean` and `test`."""
    noisy: Path | str | None
    clean: Path | str | None
    test: Path | str | None
    mask_suffix: str | Sequence[str]
    """An ending (or several) that is taken off the names of masks which have it: `_segmentation`."""
    image_suffix: str | Sequence[str]
    """The same for images: `_0000`."""


@dataclass(frozen=True)
class Folders:
    """Where the parts of a data folder are, and the endings that are taken off the names in them."""

    paths: Mapping[str, Path]
    """By the names of `PARTS`."""
    layout_options: frozenset[str]
    """The parts that the user has named."""
    endings: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, data: Path, layout: Layout) -> "Folders":
        """Look up the parts of this data folder.

        Raises:
            DataError: a folder that was named is missing, or named for two parts.
        """
        paths = {part: data / (layout.get(part) or part) for part in PARTS}  # type: ignore[operator]
        layout_options = frozenset(part for part in PARTS if layout.get(part))
        real: dict[str, str] = {}
        for part, path in paths.items():
            if part in layout_options and not path.is_dir():
                raise DataError(f"{path}: there is no such folder; --{part} counts from {data} (or is absolute){_listing_text(data)}")
            other = real.setdefault(os.path.realpath(path), part)
            if other != part:
                raise DataError(f"{path}: the folder of {other} cannot be that of {part} too")
        masks, images = (as_endings(layout.get(name, ())) for name in ("mask_suffix", "image_suffix"))  # type: ignore[arg-type]
        return cls(paths, layout_options, {part: images if part == "images" else masks for part in PARTS})


def layout_options(layout: Layout) -> list[str]:
    """Return the layout as options of the command line; none for the usual layout."""
    values = {name: as_endings(value) if name.endswith("suffix") else [str(value)] for name, value in layout.items() if value}  # type: ignore[arg-type]
    return [suffix_option(f"--{name.replace('_', '-')}", value) for name, each in values.items() for value in each]


def as_endings(endings: str | Iterable[str]) -> tuple[str, ...]:
    """Return one ending or several as a tuple."""
    return tuple(ending for ending in ([endings] if isinstance(endings, str) else endings) if ending)


def without_ending(identity: str, endings: Iterable[str]) -> str:
    """Return the id without the longest of the endings that it has, unless nothing would be left."""
    fitting = [ending for ending in endings if identity.endswith(ending) and identity != ending]
    return identity.removesuffix(max(fitting, key=len)) if fitting else identity


@dataclass(frozen=True)
class Proposal:
    """Endings to take off, and the masks that match an image then."""

    masks: list[str]
    words: str


def propose_endings(masks: Collection[str], images: Collection[str]) -> list[Proposal]:
    """Propose endings with which masks without an image have one, by the ids of both."""
    unpaired, proposals = set(masks), []
    for _ in range(_MOST_ENDINGS):
        ending, matched = find_best_ending(unpaired, images)
        if ending:
            words = f"{_match(len(matched))} once `{ending}` is taken off: use {suffix_option('--mask-suffix', ending)}"
            proposals.append(Proposal(matched, words))
            unpaired -= set(matched)
    ending, longer = find_best_ending(images, unpaired)
    if ending:
        words = f"{_match(len(longer))} once `{ending}` is taken off the images' names: use {suffix_option('--image-suffix', ending)}"
        proposals.append(Proposal([image.removesuffix(ending) for image in longer], words))
    both = None if proposals else _endings_of_both(unpaired, images)
    return [both] if both else proposals


def _endings_of_both(masks: Collection[str], images: Collection[str]) -> Proposal | None:
    ends = [_common_ending(ids) for ids in (masks, images)]
    if not all(ends):
        return None
    stems = {image.removesuffix(ends[1]) for image in images}
    matched = [mask for mask in masks if mask.removesuffix(ends[0]) in stems]
    if not matched:
        return None
    options = f"{suffix_option('--mask-suffix', ends[0])} {suffix_option('--image-suffix', ends[1])}"
    words = f"{_match(len(matched))} once `{ends[0]}` is taken off the masks' names and `{ends[1]}` off the images': use {options}"
    return Proposal(matched, words)


def find_best_ending(longer: Iterable[str], shorter: Collection[str]) -> tuple[str, list[str]]:
    """Return the ending without which most of the longer ids are one of the shorter ones, and those ids; digits alone are a number."""
    known, matched = set(shorter), defaultdict(list)
    for identity in sorted(longer):
        for cut in range(1, len(identity)):
            if identity[:cut] in known and not identity[cut:].isdigit():
                matched[identity[cut:]].append(identity)
    return min(matched.items(), key=lambda item: (-len(item[1]), item[0]), default=("", []))


def _common_ending(ids: Iterable[str]) -> str:
    """Return the longest ending of all ids that begins with something other than a letter or digit."""
    ending = os.path.commonprefix([identity[::-1] for identity in ids])[::-1]  # noqa: RUF071 (signs are compared, no paths)
    begins = re.search(r"[\W_]", ending)
    return ending[begins.start() :] if begins else ""


def _match(number: int) -> str:
    return f"{count(number, 'mask')} {'matches' if number == 1 else 'match'} an image"


def suffix_option(name: str, ending: str) -> str:
    """Return the option as it is typed on the command line."""
    return f"{name}{'=' if ending.startswith('-') else ' '}{shlex.quote(ending)}"


def propose_folders(data: Path, folders: Folders, missing: Collection[str]) -> str:
    """Return what is in the data folder instead of the missing parts, and the options that name it; empty if nothing is."""
    others = other_folders(data, folders)
    if not others:
        return ""
    options = []
    for part in [part for part in PARTS if part in missing]:
        fitting = [name for other in _OTHER_NAMES[part] for name in others if name.lower() == other]
        if fitting:
            options.append(suffix_option(f"--{part}", fitting[0]))
        elif part != "test":
            options.append(f"--{part} DIR")
    return f"{_listing_text(data, others)}; if these are meant, name them: {' '.join(options)}"


def other_folders(data: Path, folders: Folders) -> list[str]:
    """Return the folders with image files in the data folder that are not one of its parts."""
    parts = {os.path.realpath(path) for path in folders.paths.values()}
    return [name for name in _folders_with_images(data) if os.path.realpath(data / name) not in parts]


def _listing_text(data: Path, names: Sequence[str] | None = None) -> str:
    names = _folders_with_images(data) if names is None else names
    counted = [f"{name}/ ({count(len(list(_images_in(data / name))), 'file')})" for name in names]
    return f"; found there: {', '.join(counted)}" if counted else ""


def _folders_with_images(data: Path) -> list[str]:
    try:
        inside = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    return [path.name for path in inside if any(True for _ in _images_in(path))]


def _images_in(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if image_suffix(path) and not path.name.startswith("."))
    except OSError:
        return
