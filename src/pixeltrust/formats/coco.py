"""COCO JSON: segmentations as runs, compressed or not, as polygons, and boxes where there are none.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name", "supercategory"}],
     "annotations": [{"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score"}]}

bbox    [x, y, width, height] of the upper left corner; CVAT's rotated boxes have `attributes.rotation`, degrees about the middle

Source: the data format of COCO and its results, cocodataset.org; pycocotools 2.0; exports of CVAT and Roboflow.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.formats import polygons, rle, shapes
from pixeltrust.formats.annotations import (
    Annotations,
    Decode,
    Found,
    Masked,
    Picture,
    Region,
    Size,
    checked_size,
    file_name,
    id_of,
    layers,
    located,
    writable,
)
from pixeltrust.formats.documents import dump_json, of_type, shortened
from pixeltrust.plumbing.errors import DataError


def read(file: Path, content: Any) -> Annotations:
    """The pictures of a COCO file; what is wrong with entries is in its `faults`."""
    read = Annotations(file)
    try:
        of_type(content, dict, "it")
        parts = {part: of_type(content.get(part), list, part) for part in ("images", "annotations", "categories")}
    except DataError as error:
        raise DataError(f"{file}: no COCO file: {error}") from None
    names = _categories(read, _without_root(read, parts["categories"], parts["annotations"]))
    images = _images(read, parts["images"])
    regions: dict[Any, list[Region]] = defaultdict(list)
    left_out: dict[Any, list[str]] = defaultdict(list)
    for place, entry in enumerate(parts["annotations"]):
        where = f"annotation {_named(entry, place)}"
        try:
            image, name, decode = _region(entry, names, images)
        except DataError as error:
            read.fault(where, error)
        else:
            if decode is None:
                read.found["annotations with neither a segmentation nor a box, left out"] += 1
                left_out[image].append(name)
            else:
                regions[image].append(Region(name, located(decode, f"{read.file}, {where}")))
    read.pictures = [Picture(id_of(name), name, size, tuple(regions[key]), tuple(left_out[key])) for key, (name, size) in images.items()]
    return read


def _without_root(read: Annotations, entries: list[Any], annotations: list[Any]) -> list[Any]:
    """Take out the category that Roboflow puts above the others, which has no annotation, and may have the name of one of them."""
    counted = Counter(str(entry.get("category_id")) for entry in annotations if isinstance(entry, dict))
    kept = []
    for entry in entries:
        if isinstance(entry, dict) and not counted[str(entry.get("id"))]:
            others = [other for other in entries if isinstance(other, dict) and other is not entry]
            above = others and entry.get("id") == 0 and entry.get("supercategory") == "none"
            if above or any(other.get("name") == entry.get("name") and counted[str(other.get("id"))] for other in others):
                read.found[f"categories without an annotation that take no label ({entry.get('name')}, id {entry.get('id')})"] += 1
                continue
        kept.append(entry)
    return kept


def _categories(read: Annotations, entries: list[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for place, entry in enumerate(entries):
        try:
            key, name = _key(of_type(entry, dict, "it").get("id")), writable(entry.get("name"), "its name")
            if key in names or name in names.values():
                raise DataError(f"id {key!r} and name {name!r}: one of them is there twice")
        except DataError as error:
            read.fault(f"category {_named(entry, place)}", error)
        else:
            names[key] = read.add_label(name)
    return names


def _images(read: Annotations, entries: list[Any]) -> dict[Any, tuple[str, Size]]:
    images: dict[Any, tuple[str, Size]] = {}
    for place, entry in enumerate(entries):
        try:
            key, name = _key(of_type(entry, dict, "it").get("id")), file_name(entry.get("file_name"))
            size = checked_size(entry.get("height"), entry.get("width"))
            if key in images:
                raise DataError(f"the id {key!r} is there twice")
        except DataError as error:
            read.fault(f"image {_named(entry, place)}", error)
        else:
            images[key] = name, size
    return images


def _region(entry: Any, names: Mapping[Any, str], images: Mapping[Any, tuple[str, Size]]) -> tuple[Any, str, Decode | None]:
    """Return the image's id, the label and the decoding of an annotation; None where it has nothing that can be drawn."""
    of_type(entry, dict, "it")
    image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
    if category not in names:
        raise DataError(f"category_id {category!r} is the id of no category")
    if image not in images:
        raise DataError(f"image_id {image!r} is the id of no image")
    segmentation, box = entry.get("segmentation"), entry.get("bbox")
    if segmentation and not isinstance(segmentation, list | dict):
        raise DataError(f"its segmentation is {shortened(segmentation)}: polygons or runs are needed")
    if isinstance(segmentation, dict) and segmentation:
        return image, names[category], partial(_decode_runs, segmentation)
    outlines = [ring for ring in segmentation or [] if ring != []]
    if not outlines and not box:
        return image, names[category], None
    attributes = entry.get("attributes")
    turned = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
    return image, names[category], partial(_decode_outlines, outlines, box, turned)


def _decode_outlines(outlines: list[Any], box: Any, turned: Any, size: Size, found: Found) -> np.ndarray | None:
    mask = shapes.polygon([of_type(ring, list, "a polygon") for ring in outlines], size, found)
    if mask is not None or not box:
        return mask
    found["annotations without an outline, whose box is drawn"] += 1
    x, y, width, height = shapes.checked_numbers(box, "its bbox", 4)
    (degrees,) = shapes.checked_numbers([turned], "its rotation", 1)
    return shapes.box((x, y), (width, height), size, found, degrees=degrees)


def _decode_runs(segmentation: dict[str, Any], size: Size, _found: Found) -> np.ndarray:
    if segmentation.get("size") != list(size):
        raise DataError(f"its runs are of the size {shortened(segmentation.get('size'))}, the image of [height, width] {list(size)}")
    runs = segmentation.get("counts")
    counts = rle.checked_counts(rle.counts_of_text(runs) if isinstance(runs, str) else runs, size[0] * size[1])
    return rle.mask_of(counts).reshape(size[::-1]).T


def encode(masked: Masked, names: Mapping[int, str], found: Found, *, as_polygons: bool) -> list[dict[str, Any]]:
    """The annotations of a case, one per label that has pixels; its image and ids are still to be set."""
    library = polygons.pycocotools_mask("COCO")
    size = masked.labels.shape
    entries = []
    for name, mask in layers(masked.labels, names):
        runs = library.encode(np.asfortranarray(mask, dtype=np.uint8))
        segmentation: Any = {"size": list(size), "counts": runs["counts"].decode("ascii")}
        if as_polygons:
            rings = polygons.trace(mask)
            segmentation = [ring.reshape(-1).tolist() for ring in rings]
            found["pixels by which the polygons, filled by pycocotools, differ from the masks"] += int(
                (polygons.fill(rings, (size[0], size[1])) ^ mask).sum()
            )
        entry = {
            "name": name,
            "segmentation": segmentation,
            "area": float(mask.sum()),
            "bbox": library.toBbox(runs).tolist(),
            "iscrowd": 0,
        }
        entries.append(entry if masked.score is None else entry | {"score": masked.score})
    return entries


def document(cases: Sequence[tuple[Masked, list[dict[str, Any]]]], names: Mapping[int, str]) -> str:
    """The COCO file of encoded cases, whose masks are no longer needed."""
    categories = {name: place for place, name in enumerate(names.values(), 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, (masked, entries) in enumerate(cases, 1):
        height, width = masked.labels.shape
        images.append({"id": place, "file_name": masked.name, "width": width, "height": height})
        for entry in entries:
            key = {"id": len(annotations) + 1, "image_id": place, "category_id": categories[entry["name"]]}
            annotations.append(key | {part: value for part, value in entry.items() if part != "name"})
    listed = [{"id": place, "name": name, "supercategory": ""} for name, place in categories.items()]
    return dump_json({"info": {"description": "pixeltrust"}, "images": images, "annotations": annotations, "categories": listed})


def _key(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"an id {shortened(value)}: a number or a text is needed")
    return value


def _named(entry: Any, place: int) -> str:
    """What to call an entry in a complaint: its id, or its place."""
    key = entry.get("id") if isinstance(entry, dict) else None
    return shortened(key) if key is not None else f"no. {place + 1}"
