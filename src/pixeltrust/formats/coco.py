"""COCO JSON: segmentations as runs, compressed or not, and as polygons.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score"}]}

Source: the data format of COCO and its results, cocodataset.org; pycocotools 2.0.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.errors import DataError
from pixeltrust.formats import polygons, rle
from pixeltrust.formats.annotations import (
    Annotations,
    Found,
    Masked,
    Picture,
    Region,
    Size,
    checked_size,
    file_name,
    id_of,
    layers,
    writable,
)
from pixeltrust.formats.documents import dump_json, of_type, shortened


def read(file: Path, content: Any) -> Annotations:
    """The pictures of a COCO file; what is wrong with entries is in its `faults`."""
    read = Annotations(file)
    try:
        of_type(content, dict, "it")
        parts = {part: of_type(content.get(part), list, part) for part in ("images", "annotations", "categories")}
    except DataError as error:
        raise DataError(f"{file}: no COCO file: {error}") from None
    names = _categories(read, parts["categories"])
    images = _images(read, parts["images"])
    regions: dict[Any, list[Region]] = defaultdict(list)
    for place, entry in enumerate(parts["annotations"]):
        try:
            _add_region(read, entry, f"annotation {_named(entry, place)}", names, images, regions)
        except DataError as error:
            read.fault(f"annotation {_named(entry, place)}", error)
    read.pictures = [Picture(id_of(name), name, size, tuple(regions[key])) for key, (name, size) in images.items()]
    return read


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


def _add_region(
    read: Annotations,
    entry: Any,
    where: str,
    names: Mapping[Any, str],
    images: Mapping[Any, tuple[str, Size]],
    regions: dict[Any, list[Region]],
) -> None:
    of_type(entry, dict, "it")
    image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
    if category not in names:
        raise DataError(f"category_id {category!r} is the id of no category")
    if image not in images:
        raise DataError(f"image_id {image!r} is the id of no image")
    segmentation = entry.get("segmentation")
    if segmentation is None or segmentation == []:
        read.found["annotations without a segmentation (boxes, keypoints), left out"] += 1
        return
    if not isinstance(segmentation, list | dict):
        raise DataError(f"its segmentation is {shortened(segmentation)}: polygons or runs are needed")
    regions[image].append(Region(names[category], partial(_decode, segmentation, f"{read.file}, {where}")))


def _decode(segmentation: list[Any] | dict[str, Any], where: str, size: Size, found: Found) -> np.ndarray:
    try:
        if isinstance(segmentation, list):
            rings = [polygons.checked_ring(of_type(ring, list, "a polygon"), size, found) for ring in segmentation]
            return polygons.fill([ring for ring in rings if ring is not None], size)
        if segmentation.get("size") != list(size):
            raise DataError(f"its runs are of the size {shortened(segmentation.get('size'))}, the image of [height, width] {list(size)}")
        runs = segmentation.get("counts")
        counts = rle.checked_counts(rle.counts_of_text(runs) if isinstance(runs, str) else runs, size[0] * size[1])
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
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
