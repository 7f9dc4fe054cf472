"""The cases in the archives of a data set: images and masks by id, and what is left out."""

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
class PackedCase:
    """An image and its mask in their archives."""

    id: str
    split: str
    image: Member
    mask: Member


@dataclass
class Leftovers:
    """What cannot be used of the archives, and how much of them is not wanted."""

    faults: list[str] = field(default_factory=list)
    superpixels: int = 0
    others: int = 0


def packed_cases(dataset: Dataset, folder: Path, opened: ExitStack, leftovers: Leftovers) -> list[PackedCase]:
    """Return all cases by split and id, from archives that stay open as long as `opened`.

    Raises:
        DataError: lists everything that is wrong with the contents of the archives.
    """
    cases: dict[str, PackedCase] = {}
    faults = leftovers.faults
    for part in dataset.parts:
        images = _members(folder / part.images.name, _IMAGE, opened, leftovers)
        masks = _members(folder / part.masks.name, _MASK, opened, leftovers)
        faults += [f"{images[identity]}: has no mask in {part.masks.name}" for identity in sorted(images.keys() - masks.keys())]
        faults += [f"{masks[identity]}: has no image in {part.images.name}" for identity in sorted(masks.keys() - images.keys())]
        repeated = sorted(images.keys() & cases.keys())
        faults += [f"{images[identity]}: is in the split {cases[identity].split} too" for identity in repeated]
        paired = sorted(images.keys() & masks.keys())
        if len(paired) != part.cases:
            faults.append(f"{part.split}: {count(len(paired), 'image')} with a mask, {part.cases:,} were published")
        cases |= {identity: PackedCase(identity, part.split, images[identity], masks[identity]) for identity in paired}
    if faults:
        raise DataError(f"{dataset.name}: the archives in {folder} cannot be used", faults)
    return list(cases.values())


def _members(file: Path, wanted: re.Pattern[str], opened: ExitStack, leftovers: Leftovers) -> dict[str, Member]:
    """Return the wanted members by id, and count the others; return none of an archive that cannot be used."""
    try:
        archive = opened.enter_context(open_zip(file))
    except DataError as error:
        leftovers.faults += faults_of(error)
        return {}
    members: dict[str, Member] = {}
    for member in files_in(archive):
        if not (match := wanted.fullmatch(member.name)):
            is_superpixels = bool(_SUPERPIXELS.fullmatch(member.name))
            leftovers.superpixels += is_superpixels
            leftovers.others += not is_superpixels
        elif (identity := match[1].upper()) in members:
            leftovers.faults.append(f"{member}: is there twice, as {members[identity].info.filename} too")
        else:
            members[identity] = member
    return members
