"""The cases of a source, whatever its format: named, numbered, and ready to be decoded one by one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pixeltrust.data.cases import files_by_id
from pixeltrust.data.images import read_header, read_size
from pixeltrust.data.masks import MaskMeaning
from pixeltrust.formats import coco, cvat, fiftyone, folders, label_studio
from pixeltrust.formats.annotations import IGNORED, Annotations, Found, Masked, Picture, Size, doubles, draw, id_of, numbers_of, told
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.plumbing.text import count, some

MOST_LABELS = 253  # beside the background and the ignored


@dataclass
class Origin:
    """Cases that can be decoded one by one.

    `decode(case)` makes pixels of one: with what 255 means in its files, and what was noticed; no pixels (None) where
    every annotation was left out, so that there is no mask to write. It raises DataError.
    """

    format: str
    source: Path
    cases: list[Any]
    decode: Callable[[Any], tuple[Masked | None, list[MaskMeaning], Found]]
    labels: dict[str, int]
    classes: int
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    knows_images: bool = True


def annotations_of(kind: str, source: Path, content: Any, annotator: str | None, show_progress: bool) -> Annotations:
    """An annotation file of this format, read; `content` where that was read already."""
    if annotator is not None and kind not in ("label-studio", "fiftyone"):
        raise ConfigError(f"annotator: of Label Studio and FiftyOne only; {kind} tells of none")
    if kind == "coco":
        return coco.read(source, content)
    if kind == "cvat":
        return cvat.read(source)
    if kind == "label-studio":
        return label_studio.read(source, content, annotator=annotator)
    file = source / fiftyone.SAMPLES if source.is_dir() else source
    return fiftyone.read(file, content, field=annotator, show_progress=show_progress)


def annotation_origin(read: Annotations, kind: str, images: Path | None, labels: Sequence[str], classes: int | None) -> Origin:
    """The cases of an annotation file.

    Raises:
        ConfigError, DataError: what was asked does not fit the file, or there is no image in it. Its faults are kept with the cases.
    """
    listing = files_by_id(images) if images is not None else None
    files = listing.files if listing else {}
    notes = read.notes
    if files:
        notes += _paired_by_other_names(read, files, of_label_studio=kind in ("label-studio", "coco"))  # its COCO has its names, too
    if not read.pictures and not read.faults:
        raise DataError(f"{read.file}: no image in it")
    names = _chosen_labels(read, labels)
    drawn = [name for name in names if name != IGNORED]
    if classes is None:
        classes = 1 if len(drawn) <= 1 else len(drawn) + 1
    elif 1 < classes < len(drawn) + 1:
        raise ConfigError(f"classes: {classes} are the background and {classes - 1} more, but there are {len(drawn)} labels: {some(drawn)}")
    numbers = numbers_of(names, classes=classes)
    if listing is not None:
        absent = [picture.name for picture in read.pictures if picture.id not in files]
        if absent:
            notes.append(f"{count(len(absent), 'image')} of {read.file.name} not in {images}: {some(absent)}")
        if more := len(files.keys() - {picture.id for picture in read.pictures}):
            notes.append(f"{count(more, 'image')} of {images} not in {read.file.name}: no mask")
    for place, picture in enumerate(read.pictures):
        if labels:  # what is not drawn of labels that were not asked for leaves the mask as it is
            read.pictures[place] = replace(picture, left_out=tuple(label for label in picture.left_out if label in labels))
    judged = [picture for picture in read.pictures if picture.annotated]
    if unjudged := [picture.name for picture in read.pictures if not picture.annotated]:
        notes.append(f"images that nobody has annotated, which get no mask: {len(unjudged):,}: {some(unjudged)}")
    if without := sum(not picture.regions and not picture.left_out for picture in judged):
        notes.append(f"images without annotations, which get an empty mask: {without:,}")

    def decode(picture: Picture) -> tuple[Masked | None, list[MaskMeaning], Found]:
        if picture.left_out and not picture.regions:
            return None, [], Counter()
        image = files.get(picture.id)
        seen = read_size(image) if image else None
        size = picture.size or seen
        if size is None:
            raise DataError(f"{read.file}: the size of {picture.name} is not told; give the folder of the images (--images)")
        if image is not None and seen is not None and seen != size:
            raise DataError(_other_size(image, seen, read.file, size))
        drawing, found = draw(picture, size, numbers)
        if drawing is None:
            return None, [], found
        return Masked(picture.id, image.name if image else picture.name, image, drawing), [], found

    faults = [*read.faults, *doubles(read.file, judged), *(listing.faults if listing else [])]
    notes = [*notes, *told(read.found), *(listing.notes if listing else [])]
    return Origin(kind, read.file, judged, decode, numbers, classes, faults, notes, knows_images=listing is not None)


def _other_size(image: Path, seen: Size, file: Path, size: Size) -> str:
    wrong = f"{image}: {seen[1]}x{seen[0]} pixels, in {file} it has {size[1]}x{size[0]}"
    if seen != size[::-1] or not read_header(image).swaps_sides:
        return wrong
    return (
        f"{wrong}: its EXIF orientation turns it, and the file has the sides as they are before; if its coordinates are of the turned "
        f"picture, as those of Label Studio are, swap width and height of this image in the file, else annotate the turned picture"
    )


def _paired_by_other_names(read: Annotations, files: Mapping[str, Path], *, of_label_studio: bool) -> list[str]:
    """Give pictures whose name no image has the name of the image that differs by the ending, or by what Label Studio does to names."""
    renamed: Found = Counter()
    for place, picture in enumerate(read.pictures):
        if picture.id not in files and picture.id == id_of(picture.name):
            others = label_studio.other_names(picture.name) if of_label_studio else {}
            others |= {f"{Path(picture.name).stem}.png": "images whose name has another ending"}
            name = next((name for name in others if id_of(name) in files), None)
            if name is not None:
                read.pictures[place] = replace(picture, id=id_of(name), name=name)
                renamed[others[name]] += 1
    return told(renamed)


def _chosen_labels(read: Annotations, labels: Sequence[str]) -> list[str]:
    if labels and read.labels and not set(labels) & set(read.labels):
        raise ConfigError(f"label: none of {some(list(labels))} in {read.file}; it has {some(read.labels, 20)}")
    read.notes += [f"label {name}: nowhere in the file" for name in labels if name not in read.labels]
    names = list(labels) or read.labels
    if labels and IGNORED in read.labels and IGNORED not in names:
        names.append(IGNORED)
    if len(names) > MOST_LABELS:
        raise ConfigError(f"label: {len(names)} labels in {read.file}, more than the {MOST_LABELS} of a mask; choose some by --label")
    return names


def mask_origin(
    source: Path, kind: str, images: Path | None, labels: Sequence[str], classes: int | None, ignore_label: int | None
) -> Origin:
    """The cases of a folder of masks, or of an audit.

    Raises:
        ConfigError, DataError: what was asked does not fit the folder, or it holds no masks. Its faults are kept with the cases.
    """
    if kind == "audit":
        masks = folders.read_audit(source)
        if (classes or masks.classes) != masks.classes or ignore_label is not None:
            raise ConfigError(f"classes, ignore_label: the audit itself tells them ({masks.classes} and {masks.ignore_label})")
    else:
        masks = folders.read_masks(source, classes=classes or 1, ignore_label=ignore_label)
        beside = source.resolve().parent / "images"
        images = images or (beside if beside.is_dir() else None)
    listing = files_by_id(images) if images is not None else None
    drawn = max(masks.classes, 2) - 1
    if labels and len(labels) != drawn:
        raise ConfigError(f"label: the masks have {count(drawn, 'label')}, {len(labels)} names were given")
    names = labels or (["foreground"] if drawn == 1 else [f"class-{number}" for number in range(1, drawn + 1)])
    notes = list(masks.notes)
    if listing is None and kind != "audit":
        notes.append("the names of the images are not known (--images): those of the masks stand for them")

    def decode(file: folders.MaskFile) -> tuple[Masked, list[MaskMeaning], Found]:
        image = listing.files.get(file.id) if listing else file.image
        if listing and image is None:
            raise DataError(f"{file.mask}: a mask without an image: no {images}/{file.id}.*")
        masked, kinds = masks.decode(file, folders.name_of(file, image), image)
        if image is not None and (seen := read_size(image)) != masked.labels.shape:
            height, width = masked.labels.shape
            raise DataError(f"{file.mask}: {width}x{height} pixels, its image {image} has {seen[1]}x{seen[0]}")
        return masked, kinds, Counter()

    faults = [*masks.faults, *(listing.faults if listing else [])]
    numbers = {name: number for number, name in enumerate(names, 1)}
    knows_images = listing is not None or kind == "audit"
    return Origin(kind, source, masks.files, decode, numbers, masks.classes, faults, notes, knows_images=knows_images)
