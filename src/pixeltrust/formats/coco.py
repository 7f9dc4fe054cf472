"""COCO JSON: segmentations as runs, compressed or not, as polygons, and boxes where there are none.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name", "supercategory"}],
     "annotations": [{"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score"}]}

bbox    [x, y, width, height] of the upper left corner; CVAT's rotated boxes have `attributes.rotation`, degrees about the middle

Source: the data format of COCO and its results, cocodataset.org; pycocotools 2.0; exports of CVAT and Roboflow.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pixeltrust.formats import polygons, rle, shapes
from pixeltrust.formats.addresses import other_names
from pixeltrust.formats.annotations import AnnotatedMask, Annotations, Decode, Picture, Region, Size, Tally, split_labels
from pixeltrust.formats.documents import checked_type, dump_json, shortened
from pixeltrust.formats.format import Encoded, Format, Output, Source
from pixeltrust.formats.names import checked_size, file_name, id_of, writable
from pixeltrust.plumbing.errors import DataError


def holds_results(content: Any) -> bool:
    """Return whether this is a list of COCO results, which lacks the images' names."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "image_id" in content[0]


def read(source: Source) -> Annotations:
    """Read the pictures of a COCO file; `faults` lists the broken entries."""
    read = Annotations(source.path)
    if holds_results(source.json):
        raise DataError(f"{source.path}: COCO results, which do not name the images; put them in a COCO file with images and categories")
    try:
        content = checked_type(source.json, dict, "it")
        parts = {part: checked_type(content.get(part), list, part) for part in ("images", "annotations", "categories")}
    except DataError as error:
        raise DataError(f"{source.path}: not a COCO file: {error}") from None
    names = _categories(read, _without_root(read, parts["categories"], parts["annotations"]))
    images = _images(read, parts["images"])
    regions: dict[Any, list[Region]] = defaultdict(list)
    left_out: dict[Any, list[str]] = defaultdict(list)
    for place, entry in enumerate(parts["annotations"]):
        where = f"annotation {_named(entry, place)}"
        with read.collect_fault(where):
            image, name, decode = _region(entry, names, images)
            if decode is None:
                read.tally["annotations with neither a segmentation nor a box, left out"] += 1
                left_out[image].append(name)
            else:
                regions[image].append(Region(name, decode, f"{read.file}, {where}"))
    read.pictures = [Picture(id_of(name), name, size, tuple(regions[key]), tuple(left_out[key])) for key, (name, size) in images.items()]
    return read


def _without_root(read: Annotations, entries: list[Any], annotations: list[Any]) -> list[Any]:
    """Take out the category that Roboflow puts above the others, which has no annotation, and may have the name of one of them."""
    counted = Counter(str(entry.get("category_id")) for entry in annotations if isinstance(entry, dict))
    without = []
    for entry in entries:
        if isinstance(entry, dict) and not counted[str(entry.get("id"))]:
            others = [other for other in entries if isinstance(other, dict) and other is not entry]
            above = others and entry.get("id") == 0 and entry.get("supercategory") == "none"
            if above or any(other.get("name") == entry.get("name") and counted[str(other.get("id"))] for other in others):
                read.tally[f"categories without an annotation that take no label ({entry.get('name')}, id {entry.get('id')})"] += 1
                continue
        without.append(entry)
    return without


def _categories(read: Annotations, entries: list[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for place, entry in enumerate(entries):
        with read.collect_fault(f"category {_named(entry, place)}"):
            key, name = _key(checked_type(entry, dict, "it").get("id")), writable(entry.get("name"), "its name")
            if key in names or name in names.values():
                raise DataError(f"id {key!r} and name {name!r}: one of them is there twice")
            names[key] = read.add_label(name)
    return names


def _images(read: Annotations, entries: list[Any]) -> dict[Any, tuple[str, Size]]:
    images: dict[Any, tuple[str, Size]] = {}
    for place, entry in enumerate(entries):
        with read.collect_fault(f"image {_named(entry, place)}"):
            key, name = _key(checked_type(entry, dict, "it").get("id")), file_name(entry.get("file_name"))
            size = checked_size(entry.get("height"), entry.get("width"))
            if key in images:
                raise DataError(f"the id {key!r} is there twice")
            images[key] = name, size
    return images


def _region(entry: Any, names: Mapping[Any, str], images: Mapping[Any, tuple[str, Size]]) -> tuple[Any, str, Decode | None]:
    """Return the image's id, the label and the decoding of an annotation; None where it has nothing that can be drawn."""
    checked_type(entry, dict, "it")
    image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
    if category not in names:
        raise DataError(f"category_id {category!r} is not the id of a category")
    if image not in images:
        raise DataError(f"image_id {image!r} is not the id of an image")
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


def _decode_outlines(outlines: list[Any], box: Any, turned: Any, size: Size, tally: Tally) -> np.ndarray | None:
    mask = shapes.fill_polygon([checked_type(ring, list, "a polygon") for ring in outlines], size, tally)
    if mask is not None or not box:
        return mask
    tally["annotations without an outline, whose box is drawn"] += 1
    x, y, width, height = shapes.checked_numbers(box, "its bbox", 4)
    (degrees,) = shapes.checked_numbers([turned], "its rotation", 1)
    return shapes.fill_box((x, y), (width, height), size, tally, degrees=degrees)


def _decode_runs(segmentation: dict[str, Any], size: Size, _tally: Tally) -> np.ndarray:
    if segmentation.get("size") != list(size):
        raise DataError(f"its runs have the size {shortened(segmentation.get('size'))}, the image has [height, width] {list(size)}")
    runs = segmentation.get("counts")
    runs = rle.parse_compressed(runs) if isinstance(runs, str) else runs
    return rle.decode_runs(rle.checked_runs(runs, size[0] * size[1])).reshape(size[::-1]).T


_Entry = tuple[str, dict[str, Any], int]
"""A label, its annotation without the ids, and the pixels by which its polygons, filled by pycocotools, differ from the mask."""


def encode(mask: AnnotatedMask, output: Output, *, as_polygons: bool) -> list[_Entry]:
    """Encode a case as one annotation per label that has pixels."""
    library = polygons.pycocotools_mask("COCO")
    height, width = mask.labels.shape
    entries: list[_Entry] = []
    for label, pixels in split_labels(mask.labels, output.names):
        runs = library.encode(np.asfortranarray(pixels, dtype=np.uint8))
        segmentation: Any = {"size": [height, width], "counts": runs["counts"].decode("ascii")}
        differing = 0
        if as_polygons:
            rings = polygons.trace(pixels)
            segmentation = [ring.reshape(-1).tolist() for ring in rings]
            differing = int((polygons.fill(rings, (height, width)) ^ pixels).sum())
        content = {"segmentation": segmentation, "area": float(pixels.sum()), "bbox": library.toBbox(runs).tolist(), "iscrowd": 0}
        entries.append((label, content if mask.score is None else content | {"score": mask.score}, differing))
    return entries


def document(encoded: Encoded, output: Output) -> str:
    """Return the COCO file of encoded cases."""
    categories = {name: place for place, name in enumerate(output.names.values(), 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, (mask, entries) in enumerate(encoded, 1):
        height, width = mask.labels.shape
        images.append({"id": place, "file_name": mask.name, "width": width, "height": height})
        for label, content, _ in entries:
            annotations.append({"id": len(annotations) + 1, "image_id": place, "category_id": categories[label]} | content)
    listed = [{"id": place, "name": name, "supercategory": ""} for name, place in categories.items()]
    return dump_json({"info": {"description": "pixeltrust"}, "images": images, "annotations": annotations, "categories": listed})


def _notes_on_polygons(encoded: Encoded, _output: Output) -> list[str]:
    if differing := sum(differing for _, entries in encoded for _, _, differing in entries):
        return [f"pixels by which the polygons, filled by pycocotools, differ from the masks: {differing:,}"]
    return ["the polygons, filled by pycocotools, are the masks to the pixel"]


def _key(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(f"an id {shortened(value)}: a number or a text is needed")
    return value


def _named(entry: Any, place: int) -> str:
    """Return what to call an entry in a complaint: its id, or its place."""
    key = entry.get("id") if isinstance(entry, dict) else None
    return shortened(key) if key is not None else f"no. {place + 1}"


COCO = Format(
    name="coco", title="COCO", looks="a .json file with images, annotations and categories",
    sources=("file",), recognises=lambda source: source.has_key("images") or holds_results(source.named_json), read=read,
    other_names=other_names,  # Label Studio's COCO files have its names too
    makes="file", encode=partial(encode, as_polygons=False), document=document,
)  # fmt: skip
COCO_POLYGONS = Format(
    name="coco-polygons", title="COCO, polygons",
    makes="file", encode=partial(encode, as_polygons=True), document=document, notes=_notes_on_polygons,
)  # fmt: skip
