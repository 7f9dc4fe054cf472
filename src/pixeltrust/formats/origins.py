"""The cases of a source in any format: named, numbered, and ready to be decoded one by one."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pixeltrust.data.images import read_header, read_size
from pixeltrust.data.listings import files_by_id
from pixeltrust.data.masks import MaskMeaning
from pixeltrust.formats.annotations import IGNORED, AnnotatedMask, Annotations, MaskFile, MaskFolder, Picture, Size, Tally, draw, notes_from
from pixeltrust.formats.folders import image_name
from pixeltrust.formats.names import id_of
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.text import count, some

MOST_LABELS = 253  # beside the background and the ignored


@dataclass
class Origin:
    """Cases that can be decoded one by one.

    `decode(case)` returns its mask, what 255 means in its files, and what was noticed. The mask is None if every annotation was
    left out: then nothing is to be written. It raises DataError.
    """

    source: Path
    cases: list[Any]
    decode: Callable[[Any], tuple[AnnotatedMask | None, list[MaskMeaning], Tally]]
    labels: dict[str, int]
    classes: int
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    knows_images: bool = True


def annotation_origin(
    read: Annotations, images: Path | None, labels: Sequence[str], classes: int | None, other_names: Callable[[str], Mapping[str, str]]
) -> Origin:
    """Return the cases of an annotation file; its faults are kept with them.

    Raises:
        ConfigError, DataError: a setting does not fit the file, or there is no image in it.
    """
    listing = files_by_id(images) if images is not None else None
    files = listing.files if listing else {}
    notes = read.notes
    if files:
        notes += _pair_by_other_names(read, files, other_names)
    if not read.pictures and not read.faults:
        raise DataError(f"{read.file}: no image in it")
    names = _choose_labels(read, labels)
    drawn = [name for name in names if name != IGNORED]
    if classes is None:
        classes = 1 if len(drawn) <= 1 else len(drawn) + 1
    elif 1 < classes < len(drawn) + 1:
        raise ConfigError(f"classes: {classes} are the background and {classes - 1} more, but there are {len(drawn)} labels: {some(drawn)}")
    numbers = {name: 1 if classes == 1 else place for place, name in enumerate(drawn, 1)}
    numbers |= {IGNORED: IGNORE} if IGNORED in names else {}
    if listing is not None:
        absent = [picture.name for picture in read.pictures if picture.id not in files]
        if absent:
            notes.append(f"{count(len(absent), 'image')} of {read.file.name} not in {images}: {some(absent)}")
        if more := len(files.keys() - {picture.id for picture in read.pictures}):
            notes.append(f"{count(more, 'image')} of {images} not in {read.file.name}: no mask")
    judged = [picture for picture in read.pictures if picture.annotated]
    if labels:  # other labels that are not drawn do not matter
        judged = [replace(picture, left_out=tuple(label for label in picture.left_out if label in labels)) for picture in judged]
    if unjudged := [picture.name for picture in read.pictures if not picture.annotated]:
        notes.append(f"images that nobody has annotated, which get no mask: {len(unjudged):,}: {some(unjudged)}")
    if without := sum(not picture.regions and not picture.left_out for picture in judged):
        notes.append(f"images without annotations, which get an empty mask: {without:,}")

    def decode(picture: Picture) -> tuple[AnnotatedMask | None, list[MaskMeaning], Tally]:
        if picture.left_out and not picture.regions:
            return None, [], Counter()
        image = files.get(picture.id)
        seen = read_size(image) if image else None
        size = picture.size or seen
        if size is None:
            raise DataError(f"{read.file}: has no size of {picture.name}; give the folder of the images (--images)")
        if image is not None and seen is not None and seen != size:
            raise DataError(_other_size(image, seen, read.file, size))
        drawing, tally = draw(picture, size, numbers)
        if drawing is None:
            return None, [], tally
        return AnnotatedMask(picture.id, image.name if image else picture.name, image, drawing), [], tally

    faults = [*read.faults, *_duplicate_ids(read.file, judged), *(listing.faults if listing else [])]
    notes = [*notes, *notes_from(read.tally), *(listing.notes if listing else [])]
    return Origin(read.file, judged, decode, numbers, classes, faults, notes, knows_images=listing is not None)


def _other_size(image: Path, seen: Size, file: Path, size: Size) -> str:
    wrong = f"{image}: {seen[1]}x{seen[0]} pixels, in {file} it has {size[1]}x{size[0]}"
    if seen != size[::-1] or not read_header(image).swaps_sides:
        return wrong
    return (
        f"{wrong}: its EXIF orientation turns it, and the file has width and height from before that; if its coordinates are those of the "
        f"turned picture, as in files of Label Studio, swap width and height of this image in the file, else annotate the turned picture"
    )


def _pair_by_other_names(read: Annotations, files: Mapping[str, Path], other_names: Callable[[str], Mapping[str, str]]) -> list[str]:
    """Rename pictures whose name no image has, if an image has the name with another ending, or one of the format's other names."""
    renamed: Tally = Counter()
    for place, picture in enumerate(read.pictures):
        if picture.id not in files and picture.id == id_of(picture.name):
            others = {**other_names(picture.name), f"{Path(picture.name).stem}.png": "images whose name has another ending"}
            name = next((name for name in others if id_of(name) in files), None)
            if name is not None:
                read.pictures[place] = replace(picture, id=id_of(name), name=name)
                renamed[others[name]] += 1
    return notes_from(renamed)


def _choose_labels(read: Annotations, labels: Sequence[str]) -> list[str]:
    if labels and read.labels and not set(labels) & set(read.labels):
        raise ConfigError(f"label: none of {some(list(labels))} in {read.file}; it has {some(read.labels, 20)}")
    read.notes += [f"label {name}: nowhere in the file" for name in labels if name not in read.labels]
    names = list(labels) or read.labels
    if labels and IGNORED in read.labels and IGNORED not in names:
        names.append(IGNORED)
    if len(names) > MOST_LABELS:
        raise ConfigError(f"label: {len(names)} labels in {read.file}, more than the {MOST_LABELS} of a mask; choose some by --label")
    return names


def _duplicate_ids(file: Path, pictures: Sequence[Picture]) -> list[str]:
    """Return a fault for every case that several images of the file share."""
    by_id: dict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        by_id[picture.id].append(picture.name)
    return [
        f"{file}: {len(names)} images of one id, {identity}: {some(names)}; a case has one mask: take out the others"
        for identity, names in by_id.items()
        if len(names) > 1
    ]


def mask_origin(source: Path, masks: MaskFolder, images: Path | None, labels: Sequence[str]) -> Origin:
    """Return the cases of a folder of mask files; its faults are kept with them.

    Raises:
        ConfigError, DataError: a setting does not fit the folder.
    """
    beside = source.resolve().parent / "images"
    if images is None and not masks.knows_images and beside.is_dir():
        images = beside
    listing = files_by_id(images) if images is not None else None
    drawn = max(masks.classes, 2) - 1
    if labels and len(labels) != drawn:
        raise ConfigError(f"label: the masks have {count(drawn, 'label')}, {len(labels)} names were given")
    names = labels or (["foreground"] if drawn == 1 else [f"class-{number}" for number in range(1, drawn + 1)])
    knows_images = listing is not None or masks.knows_images
    notes = list(masks.notes)
    if not knows_images:
        notes.append("the names of the images are not known (--images): those of the masks are used instead")

    def decode(file: MaskFile) -> tuple[AnnotatedMask, list[MaskMeaning], Tally]:
        image = listing.files.get(file.id) if listing else file.image
        if listing and image is None:
            raise DataError(f"{file.mask}: a mask without an image: {images}/{file.id}.* is missing")
        mask, meanings = masks.decode(file, image_name(file, image), image)
        if image is not None and (size := read_size(image)) != mask.labels.shape:
            height, width = mask.labels.shape
            raise DataError(f"{file.mask}: {width}x{height} pixels, its image {image} has {size[1]}x{size[0]}")
        return mask, meanings, Counter()

    faults = [*masks.faults, *(listing.faults if listing else [])]
    numbers = {name: number for number, name in enumerate(names, 1)}
    return Origin(source, masks.files, decode, numbers, masks.classes, faults, notes, knows_images=knows_images)
