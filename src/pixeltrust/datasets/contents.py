"""The cases in a data set's archives: images and masks by id, and what is left out."""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pixeltrust.datasets.published import Dataset
from pixeltrust.datasets.zips import Member, files_in, open_zip
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.progress import faults_of
from pixeltrust.plumbing.text import count

_IMAGE = re.compile(r"(ISIC_\d{7})\.jpe?g", re.IGNORECASE)
_MASK = re.compile(r"(ISIC_\d{7})_segmentation\.png", re.IGNORECASE)
_SUPERPIXELS = re.compile(r"ISIC_\d{7}_superpixels\.png", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """An image and its mask, still packed."""

    id: str
    split: str
    image: Member
    mask: Member


@dataclass
class Listing:
    """What is found in the archives."""

    faults: list[str] = field(default_factory=list)
    superpixels: int = 0
    others: int = 0


def cases_in(dataset: Dataset, folder: Path, opened: ExitStack, listing: Listing) -> list[Case]:
    """All cases by split and id, from archives that stay open.

    Raises:
        DataError: lists everything that is wrong with what is in the archives.
    """
    cases: dict[str, Case] = {}
    for part in dataset.parts:
        images = _members(folder / part.images.name, _IMAGE, opened, listing)
        masks = _members(folder / part.masks.name, _MASK, opened, listing)
        listing.faults += [f"{images[one]}: has no mask in {part.masks.name}" for one in sorted(images.keys() - masks.keys())]
        listing.faults += [f"{masks[one]}: has no image in {part.images.name}" for one in sorted(masks.keys() - images.keys())]
        listing.faults += [f"{images[one]}: is in the split {cases[one].split} too" for one in sorted(images.keys() & cases.keys())]
        paired = sorted(images.keys() & masks.keys())
        if len(paired) != part.cases:
            listing.faults.append(f"{part.split}: {count(len(paired), 'image')} with a mask, {part.cases:,} were published")
        cases |= {one: Case(one, part.split, images[one], masks[one]) for one in paired}
    if listing.faults:
        raise DataError(f"{dataset.name}: the archives in {folder} cannot be used", listing.faults)
    return list(cases.values())


def _members(file: Path, wanted: re.Pattern[str], opened: ExitStack, listing: Listing) -> dict[str, Member]:
    """The wanted members by id; the others are counted. None of an archive that cannot be used."""
    try:
        archive = opened.enter_context(open_zip(file))
    except DataError as error:
        listing.faults += faults_of(error)
        return {}
    members: dict[str, Member] = {}
    for member in files_in(archive):
        if not (match := wanted.fullmatch(member.name)):
            listing.superpixels += bool(_SUPERPIXELS.fullmatch(member.name))
            listing.others += not _SUPERPIXELS.fullmatch(member.name)
        elif (one := match[1].upper()) in members:
            listing.faults.append(f"{member}: is there twice, as {members[one].path} too")
        else:
            members[one] = member
    return members
