"""Label Studio JSON: brush masks, bitmasks, polygons, rectangles and ellipses, as it exports and as it imports them.

    [{"id", "data": {"image": …}, "annotations": [{"completed_by", "updated_at", "was_cancelled", "result": […]}],
      "predictions": [{"model_version", "score", "result": […]}]}]
    result   {"type": "brushlabels", "id", "to_name", "item_index", "original_width", "original_height", "image_rotation",
              "value": {"format": "rle", "rle": [bytes], "brushlabels": [name]}}
             {"type": "bitmasklabels", …, "value": {"imageDataURL": "data:image/png;base64,…", "bitmasklabels": [name]}}
             {"type": "polygonlabels", …, "value": {"points": [[x, y], …] in percent, "closed", "polygonlabels": [name]}}
             {"type": "rectanglelabels", …, "value": {"x", "y", "width", "height" in percent, "rotation", "rectanglelabels": [name]}}
             {"type": "ellipselabels", …, "value": {"x", "y", "radiusX", "radiusY" in percent, "rotation", "ellipselabels": [name]}}

With <Labels> beside <Polygon> and the like, a region is several results with one id: its shape alone ("polygon"), and its shape with its
labels ("labels"). A rectangle is turned clockwise about its upper left corner, an ellipse about its centre. `to_name` is the tag of the
image, `item_index` the image's place if the tag shows a list. Of a brush or bitmask, all that is not fully transparent is drawn.

Source: Label Studio's documentation of its tags and of its JSON format.
"""

import binascii
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from pixeltrust.data.pictures import decode_alpha
from pixeltrust.formats import shapes
from pixeltrust.formats.addresses import other_names, path_in
from pixeltrust.formats.annotations import AnnotatedMask, Annotations, Picture, Region, Size, Tally, split_labels
from pixeltrust.formats.brushes import CHANNELS, pack, unpack
from pixeltrust.formats.coco import holds_results
from pixeltrust.formats.documents import checked_type, dump_json, shortened
from pixeltrust.formats.format import Encoded, Format, Output, Source
from pixeltrust.formats.names import ID_KEY, checked_id, checked_size, file_name, has_image_ending, id_of, writable
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.text import count, some

Place = tuple[str, int]
"""An image of a task: its column, and its number in the column's list."""


def read(source: Source) -> Annotations:
    """Read the pictures of a Label Studio file; `faults` lists the broken tasks.

    An annotator is a person (id or e-mail) or a model version; if none is given, a task's latest annotation is read.
    """
    file, annotator = source.path, source.annotator
    read = Annotations(file)
    tasks = checked_type(source.json, list, f"{file}: not a Label Studio file: it")
    by_people = any(_is_valid(annotation) for task in tasks for annotation in _annotations(task))
    tags = _tags_of_images(tasks)
    matched = 0
    for place, task in enumerate(tasks):
        where = f"task {task['id']!r}" if isinstance(task, dict) and "id" in task else f"task no. {place + 1}"
        with read.collect_fault(where):
            data = checked_type(task, dict, "it").get("data")
            if data is None:
                raise DataError("it has no data: export as JSON (not JSON-MIN)")
            checked_type(data, dict, "its data")
            annotation = _choose(read, task, annotator, by_people=by_people)
            matched += annotation is not None
            results = checked_type((annotation or {}).get("result", []), list, "its result")
            read.pictures += _pictures(read, data, results, where, tags, annotated=annotation is not None)
    if annotator is not None and not matched and read.pictures:
        raise DataError(f"{file}: nothing by the annotator {annotator!r} in any of {count(len(read.pictures), 'task')}")
    return read


def _pictures(
    read: Annotations, data: dict[str, Any], results: list[Any], where: str, tags: Sequence[str], *, annotated: bool
) -> list[Picture]:
    """Return the images of a task, each with its own regions."""
    columns = _columns(data)
    column_of = _columns_of_tags(tags, columns)
    identity, size_of_task = _id_and_size(data)
    places = [(column, number) for column in dict.fromkeys(column_of.values()) for number in range(len(columns[column]))]
    regions: dict[Place, list[Region]] = defaultdict(list)
    left_out: dict[Place, list[str | None]] = defaultdict(list)
    sizes: dict[Place, set[Size]] = defaultdict(set)
    for number, result, value, names in _regions_of(read, results, where):
        there = f"{where}, region no. {number}"
        with read.collect_fault(there):
            place = _place_of(result, column_of, columns)
            kind = _kind(result)
            if kind is None or value.get("closed") is False:
                words = result["type"] if isinstance(result.get("type"), str) else shortened(result.get("type"))
                is_open = " that is open" if value.get("closed") is False else ""
                read.tally[f"results of the kind {words}{is_open}, left out"] += 1
                if result.get("type") != "relation":  # which ties regions together
                    for affected in [place] if place else places:
                        left_out[affected].append(names[0] if names and isinstance(names[0], str) else None)
                continue
            if place is None:
                raise DataError(f"it is on {result.get('to_name')!r}, item {_item(result)}, and the task has no such image")
            size = checked_size(result.get("original_height"), result.get("original_width"))
            if result.get("image_rotation"):
                raise DataError(f"the image was turned by {result['image_rotation']!r} degrees while it was annotated; turn it back")
            if not names:
                raise DataError("it has no label")
            label = writable(names[0], "its label")
            read.tally["regions of several labels, of which the first was taken"] += len(names) > 1
            sizes[place].add(size)
            regions[place].append(Region(read.add_label(label), partial(_DECODE[kind], value), f"{read.file}, {there}"))
    pictures = []
    for place in places:
        if len(sizes[place]) > 1:
            raise DataError(f"its regions give different sizes of the image: {some(sorted(sizes[place]))}")
        name = file_name(path_in(columns[place[0]][place[1]]))
        case, otherwise = (identity, size_of_task) if len(places) == 1 else (None, None)
        of_image = next(iter(sizes[place]), otherwise)
        pictures.append(Picture(case or id_of(name), name, of_image, tuple(regions[place]), tuple(left_out[place]), annotated))
    return pictures


# --- which image ------------------------------------------------------------------------------------------------------


def _columns(data: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the columns of a task that hold images, with the addresses in each: `image`, and addresses that end as images do."""
    listed = {name: value if isinstance(value, list) and value else [value] for name, value in data.items()}
    texts = {name: values for name, values in listed.items() if all(isinstance(value, str) for value in values)}
    images = {name: values for name, values in texts.items() if all(map(_names_image, values))}
    if "image" in data:
        images["image"] = listed["image"]
    return images or dict(list(texts.items())[:1]) or {"image": [None]}


def _names_image(address: str) -> bool:
    try:
        return has_image_ending(file_name(path_in(address)))
    except DataError:
        return False


def _tags_of_images(tasks: list[Any]) -> list[str]:
    """Return the names of the tags that any region of the file is on."""
    results = [
        result
        for task in tasks
        if isinstance(task, dict)
        for made in [*_annotations(task), *_list_in(task, "predictions")]
        for result in _list_in(made, "result")
        if isinstance(result, dict) and _kind(result) and isinstance(result.get("to_name"), str)
    ]
    return list(dict.fromkeys(result["to_name"] for result in results))


def _columns_of_tags(tags: Sequence[str], columns: Mapping[str, list[Any]]) -> dict[str | None, str]:
    """Return the column that each tag shows; the file does not say. It is that of the tag's name, of a similar name, or the only one."""
    only = next(iter(columns)) if len(columns) == 1 else "image" if "image" in columns else None
    if not set(tags) & set(columns) and (len(columns) == 1 or len(tags) <= 1) and (only or not tags):
        return dict.fromkeys([None, *tags], only or next(iter(columns)))
    column_of: dict[str | None, str] = {}
    for tag in tags:
        alike = [tag] if tag in columns else [column for column in columns if _are_alike(tag, column)]
        if len(alike) == 1 and alike[0] not in column_of.values():
            column_of[tag] = alike[0]
    if len(columns) == 1:  # the task lacks the images of the other tags
        return column_of
    if len(column_of) < len(tags):
        raise DataError(
            f"regions are on {some(tags)}, its images in the columns {some(list(columns))}, and the file does not say which shows which; "
            f"give the columns the names of the tags ({some(tags)})"
        )
    return column_of


def _are_alike(tag: str, column: str) -> bool:
    """Return whether all words of one are in the other: img-left shows the column left."""
    words, others = (set(re.findall("[a-z0-9]+", name.lower())) for name in (tag, column))
    return bool(words and others) and (words <= others or others <= words)


def _item(result: dict[str, Any]) -> Any:
    index = result.get("item_index")
    return 0 if index is None else index


def _place_of(result: dict[str, Any], column_of: Mapping[str | None, str], columns: Mapping[str, list[Any]]) -> Place | None:
    """Return the image that a result is on; None if it is not on an image of the task."""
    tag, item = result.get("to_name"), _item(result)
    column = column_of.get(tag) if isinstance(tag, str) or tag is None else None
    if column is None or isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < len(columns[column]):
        return None
    return column, item


def _id_and_size(data: dict[str, Any]) -> tuple[str | None, Size | None]:
    """Return the id and size in files made here (a task without a region has no other size); others may use one of the names too."""
    if not {ID_KEY, "height", "width"} <= data.keys():
        return None, None
    return checked_id(data[ID_KEY]), checked_size(data["height"], data["width"])


# --- whose annotation -------------------------------------------------------------------------------------------------


def _list_in(holder: Any, name: str) -> list[Any]:
    """Return the list of this name, or an empty one if something else or nothing is there."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, list) else []


def _annotations(task: Any) -> list[Any]:
    return _list_in(task, "annotations" if isinstance(task, dict) and "annotations" in task else "completions")


def _is_valid(annotation: Any) -> bool:
    return isinstance(annotation, dict) and not (annotation.get("was_cancelled") or annotation.get("skipped"))


def _choose(read: Annotations, task: dict[str, Any], annotator: str | None, *, by_people: bool) -> dict[str, Any] | None:
    """Return the annotation of a task to read; if no person has annotated the file, or if it is asked for, the prediction."""
    checked_type(task.get("annotations", task.get("completions")) or [], list, "its annotations")
    made = [checked_type(annotation, dict, "an annotation") for annotation in _annotations(task)]
    valid = [annotation for annotation in made if _is_valid(annotation)]
    read.tally["annotations that were cancelled, left out"] += len(made) - len(valid)
    listed = checked_type(task.get("predictions") or [], list, "its predictions")
    predictions = [checked_type(prediction, dict, "a prediction") for prediction in listed]
    if annotator is not None:
        valid = [annotation for annotation in valid if annotator in _people(annotation)]
        predictions = [prediction for prediction in predictions if str(prediction.get("model_version")) == annotator]
    if valid:
        read.tally["further annotations of a task, left out (the latest was read; --annotator reads another)"] += len(valid) - 1
        by_time = sorted(valid, key=lambda annotation: str(annotation.get("updated_at") or annotation.get("created_at") or ""))
        return by_time[-1]  # ISO times compare as texts
    if predictions and annotator is None and (by_people or made):
        read.tally["tasks that only a model has annotated, left out (--annotator reads a model version)"] += 1
        return None
    if predictions:
        read.tally["tasks without an annotation, of which the last prediction was read"] += 1
        read.tally["further predictions of a task, left out"] += len(predictions) - 1
        return predictions[-1]
    return None


def _people(annotation: dict[str, Any]) -> set[str]:
    by = annotation.get("completed_by")
    return {str(value) for value in by.values()} if isinstance(by, dict) else {str(by)}


# --- regions ----------------------------------------------------------------------------------------------------------


_NumberedRegion = tuple[int, dict[str, Any], dict[str, Any], list[Any]]
"""The number of a region, its result, the result's value, and its labels."""


def _regions_of(read: Annotations, results: list[Any], where: str) -> list[_NumberedRegion]:
    """Return the regions of results: results with one id and one shape are one region."""
    regions: list[_NumberedRegion] = []
    by_id: dict[str, list[_NumberedRegion]] = defaultdict(list)
    for number, result in enumerate(results, 1):
        try:
            kind = _kind(checked_type(result, dict, "it"))
            value = checked_type(result.get("value"), dict, "its value") if kind else result.get("value")
            value = value if isinstance(value, dict) else {}
            names = _labels(result, value)
        except DataError as error:
            read.fault(f"{where}, region no. {number}", error)
            continue
        key = str((result.get("to_name"), result.get("item_index"), result["id"])) if result.get("id") is not None else ""
        labels_alone = result.get("type") == "labels" and kind is None
        same = [region for region in by_id[key] if labels_alone or (kind and _geometry(value) == _geometry(region[2]))] if key else []
        if same:
            labels = same[0][3]
            labels += [name for name in names if name not in labels]
            continue
        regions.append((number, result, value, names))
        if key and kind:
            by_id[key].append(regions[-1])
    return regions


def _labels(result: dict[str, Any], value: dict[str, Any]) -> list[Any]:
    kind = result.get("type")
    own = value.get(kind) if isinstance(kind, str) and kind.endswith("labels") else None
    return list(checked_type(own or value.get("labels") or [], list, f"its {kind}"))


def _geometry(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if not name.endswith("labels")}


def _kind(result: dict[str, Any]) -> str | None:
    """Return the shape of a result; None if it is not drawn."""
    kind, value = result.get("type"), result.get("value")
    if not isinstance(kind, str):
        return None
    if kind == "labels" and isinstance(value, dict):  # the shape is that of the tag beside <Labels>
        return next((shape for part, shape in _SHOWN_BY.items() if part in value), None)
    shape = "brush" if kind == "magicwand" else kind.removesuffix("labels")
    return shape if shape in _DECODE else None


def _percent(value: dict[str, Any], across: str, down: str, size: Size) -> tuple[float, float]:
    """Return two numbers, given in percent of the width and of the height, in pixels."""
    x, y = shapes.checked_numbers([value.get(across), value.get(down)], f"{across} and {down}", 2)
    return x * size[1] / 100, y * size[0] / 100


def _turned(value: dict[str, Any]) -> float:
    return shapes.checked_numbers([value.get("rotation") or 0], "its rotation", 1)[0]


def _decode_polygon(value: dict[str, Any], size: Size, tally: Tally) -> np.ndarray | None:
    return shapes.fill_polygon([checked_type(value.get("points"), list, "its points")], size, tally, whole=100)


def _decode_rectangle(value: dict[str, Any], size: Size, tally: Tally) -> np.ndarray | None:
    corner, sides = _percent(value, "x", "y", size), _percent(value, "width", "height", size)
    return shapes.fill_box(corner, sides, size, tally, degrees=_turned(value), pivot=0)


def _decode_ellipse(value: dict[str, Any], size: Size, tally: Tally) -> np.ndarray | None:
    centre, radii = _percent(value, "x", "y", size), _percent(value, "radiusX", "radiusY", size)
    return shapes.fill_ellipse(centre, radii, size, tally, degrees=_turned(value))


def _decode_brush(value: dict[str, Any], size: Size, _tally: Tally) -> np.ndarray:
    values = unpack(value.get("rle"), size[0] * size[1] * CHANNELS)
    return values.reshape(*size, CHANNELS)[..., 3] > 0  # as in Label Studio's own export to COCO


def _decode_bitmask(value: dict[str, Any], size: Size, _tally: Tally) -> np.ndarray:
    head, _, coded = checked_type(value.get("imageDataURL"), str, "its imageDataURL").partition(",")
    try:
        content = b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        head = ""
    if head != "data:image/png;base64":
        raise DataError(f"its imageDataURL {shortened(value['imageDataURL'])} is not a PNG in base64")
    try:
        return decode_alpha(content, size) > 0
    except DataError as error:
        raise DataError(f"its imageDataURL: {error}") from None


_DECODE: dict[str, Callable[[dict[str, Any], Size, Tally], np.ndarray | None]] = {
    "brush": _decode_brush,
    "bitmask": _decode_bitmask,
    "polygon": _decode_polygon,
    "rectangle": _decode_rectangle,
    "ellipse": _decode_ellipse,
}
_SHOWN_BY = {"rle": "brush", "imageDataURL": "bitmask", "points": "polygon", "radiusX": "ellipse", "height": "rectangle"}


def encode(mask: AnnotatedMask, output: Output) -> dict[str, Any]:
    """Encode a case as a task: the mask is an annotation; for an audit both masks are predictions, and the facts are columns."""
    height, width = mask.labels.shape
    task: dict[str, Any] = {"data": {ID_KEY: mask.id, "height": height, "width": width} | dict(mask.facts)}
    if mask.given is None:
        return task | {"annotations": [{"result": _results(mask.labels, output.names, mask.id)}]}
    score = {} if mask.score is None else {"score": mask.score}
    versions = {"given": mask.given, "proposed": mask.labels}
    return task | {
        "predictions": [
            {"model_version": version, **score, "result": _results(labels, output.names, f"{mask.id}-{version}")}
            for version, labels in versions.items()
        ]
    }


def _results(labels: np.ndarray, names: Mapping[int, str], key: str) -> list[dict[str, Any]]:
    height, width = labels.shape
    return [
        {
            "id": f"{key}-{place}",
            "type": "brushlabels",
            "from_name": "mask",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": pack(pixels), "brushlabels": [name]},
        }
        for place, (name, pixels) in enumerate(split_labels(labels, names))
    ]


def document(encoded: Encoded, _output: Output) -> str:
    """Return the file of encoded cases."""
    tasks = []
    for mask, task in encoded:
        place = "/".join(mask.image.absolute().parts[-2:]) if mask.image else mask.name
        address = f"/data/local-files/?d={quote(place)}"
        tasks.append(task | {"data": {"image": address} | task["data"]})
    return dump_json(tasks)


def _note_on_interface(_encoded: Encoded, output: Output) -> list[str]:
    values = "".join(f"<Label value={quoteattr(name)}/>" for name in output.names.values())
    view = f'<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">{values}</BrushLabels></View>'
    return [f"labelling interface: {view}"]


LABEL_STUDIO = Format(
    name="label-studio", title="Label Studio", looks="a .json file with a list of tasks",
    sources=("file",), recognises=lambda source: isinstance(source.named_json, list) and not holds_results(source.named_json),
    read=read, has_annotators=True, other_names=other_names,
    makes="file", encode=encode, document=document, notes=_note_on_interface,
)  # fmt: skip
