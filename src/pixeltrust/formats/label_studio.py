"""Label Studio JSON: brush masks, bitmasks, polygons, rectangles and ellipses, as it exports and as it imports them.

    [{"id", "data": {"image": …}, "annotations": [{"completed_by", "updated_at", "was_cancelled", "result": […]}],
      "predictions": [{"model_version", "score", "result": […]}]}]
    result   {"type": "brushlabels", "id", "to_name", "item_index", "original_width", "original_height", "image_rotation",
              "value": {"format": "rle", "rle": [bytes], "brushlabels": [name]}}
             {"type": "bitmasklabels", …, "value": {"imageDataURL": "data:image/png;base64,…", "bitmasklabels": [name]}}
             {"type": "polygonlabels", …, "value": {"points": [[x, y], …] in percent, "closed", "polygonlabels": [name]}}
             {"type": "rectanglelabels", …, "value": {"x", "y", "width", "height" in percent, "rotation", "rectanglelabels": [name]}}
             {"type": "ellipselabels", …, "value": {"x", "y", "radiusX", "radiusY" in percent, "rotation", "ellipselabels": [name]}}

With <Labels> beside <Polygon> and the like, a region is several results of one id: its shape alone ("polygon"), and its shape with its
labels ("labels"). A rectangle is turned clockwise about its upper left corner, an ellipse about its centre. `to_name` is the tag of the
image, `item_index` its place where the tag shows a list. What is drawn of a brush or bitmask is what is not wholly transparent.

The bytes hold bits: 32 for the number of values (4 per pixel: red, green, blue, alpha), 5 for the bits of a value less 1, four
times 4 for the bits of a length less 1; then parts: 1 bit (all values alike or each its own), 2 bits (which length), the length
less 1, and the value or values. Source: Label Studio's documentation of BrushLabels; the packing is that of thi.ng/rle-pack.
"""

import binascii
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from pixeltrust.data.images import decode_alpha
from pixeltrust.formats import shapes
from pixeltrust.formats.annotations import (
    CASE,
    Annotations,
    Found,
    Masked,
    Picture,
    Region,
    Size,
    checked_size,
    file_name,
    has_image_ending,
    id_of,
    layers,
    located,
    told_id,
    writable,
)
from pixeltrust.formats.documents import dump_json, of_type, shortened
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.text import count, some

_LENGTHS = (3, 4, 8, 16)  # bits, as Label Studio itself chooses them
_WORD = 8
_CHANNELS = 4
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the name of an uploaded file


Place = tuple[str, int]
"""An image of a task: its column, and its number where the column holds a list."""


def read(file: Path, content: Any, *, annotator: str | None = None) -> Annotations:
    """Read the pictures of a Label Studio file; what is wrong with tasks is in its `faults`.

    Args:
        annotator: of several annotations of a task the one of this person (id or e-mail) or model version; else the latest.
    """
    read = Annotations(file)
    tasks = of_type(content, list, f"{file}: no Label Studio file: it")
    by_people = any(_not_cancelled(one) for task in tasks for one in _annotations(task))
    tags = _tags_of_images(tasks)
    matched = 0
    for place, task in enumerate(tasks):
        where = f"task {task['id']!r}" if isinstance(task, dict) and "id" in task else f"task no. {place + 1}"
        try:
            data = _data(task)
            chosen = _chosen(read, task, annotator, by_people=by_people)
            matched += chosen is not None
            results = of_type((chosen or {}).get("result", []), list, "its result")
            read.pictures += _pictures(read, data, results, where, tags, annotated=chosen is not None)
        except DataError as error:
            read.fault(where, error)
    if annotator is not None and not matched and read.pictures:
        raise DataError(f"{file}: nothing by the annotator {annotator!r} in any of {count(len(read.pictures), 'task')}")
    return read


def _pictures(
    read: Annotations, data: dict[str, Any], results: list[Any], where: str, tags: Sequence[str], *, annotated: bool
) -> list[Picture]:
    """Return the images of a task, each with its own regions."""
    columns = _columns(data)
    shown = _columns_of_tags(tags, columns)
    identity, told = _told(data)
    places = [(column, number) for column in dict.fromkeys(shown.values()) for number in range(len(columns[column]))]
    regions: dict[Place, list[Region]] = defaultdict(list)
    left_out: dict[Place, list[str | None]] = defaultdict(list)
    sizes: dict[Place, set[Size]] = defaultdict(set)
    for number, result, value, names in _regions_of(read, results, where):
        there = f"{where}, region no. {number}"
        try:
            place = _place_of(result, shown, columns)
            kind = _kind(result)
            if kind is None or value.get("closed") is False:
                read.found[f"results of the kind {_kind_in_words(result, value)}, left out"] += 1
                if result.get("type") != "relation":  # which ties regions together
                    for one in [place] if place else places:
                        left_out[one].append(names[0] if names and isinstance(names[0], str) else None)
                continue
            if place is None:
                raise DataError(f"it is on {result.get('to_name')!r}, item {_item(result)}, and the task has no such image")
            size = checked_size(result.get("original_height"), result.get("original_width"))
            if result.get("image_rotation"):
                raise DataError(f"the image was turned by {result['image_rotation']!r} degrees while it was annotated; turn it back")
            if not names:
                raise DataError("it has no label")
            label = writable(names[0], "its label")
            read.found["regions of several labels, of which the first was taken"] += len(names) > 1
            sizes[place].add(size)
            regions[place].append(Region(read.add_label(label), located(partial(_DECODE[kind], value), f"{read.file}, {there}")))
        except DataError as error:
            read.fault(there, error)
    pictures = []
    for place in places:
        if len(sizes[place]) > 1:
            raise DataError(f"its regions tell different sizes of the image: {some(sorted(sizes[place]))}")
        name = file_name(_path_in(columns[place[0]][place[1]]))
        case, size_told = (identity, told) if len(places) == 1 else (None, None)
        size_here = next(iter(sizes[place]), size_told)
        pictures.append(Picture(case or id_of(name), name, size_here, tuple(regions[place]), tuple(left_out[place]), annotated))
    return pictures


# --- which image ------------------------------------------------------------------------------------------------------


def _data(task: Any) -> dict[str, Any]:
    data = of_type(task, dict, "it").get("data")
    if data is None:
        raise DataError("it has no data: export as JSON (not JSON-MIN)")
    return of_type(data, dict, "its data")


def _columns(data: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the columns of a task that hold images, with the addresses in each: `image`, and those that end as images do."""
    listed = {name: value if isinstance(value, list) and value else [value] for name, value in data.items()}
    texts = {name: values for name, values in listed.items() if all(isinstance(value, str) for value in values)}
    images = {name: values for name, values in texts.items() if all(map(_names_image, values))}
    if "image" in data:
        images["image"] = listed["image"]
    return images or dict(list(texts.items())[:1]) or {"image": [None]}


def _names_image(address: str) -> bool:
    try:
        return has_image_ending(file_name(_path_in(address)))
    except DataError:
        return False


def _tags_of_images(tasks: list[Any]) -> list[str]:
    """Return the names of the tags that any region of the file is on."""
    results = [
        result
        for task in tasks
        if isinstance(task, dict)
        for one in [*_annotations(task), *_listed(task, "predictions")]
        for result in _listed(one, "result")
        if isinstance(result, dict) and _kind(result) and isinstance(result.get("to_name"), str)
    ]
    return list(dict.fromkeys(result["to_name"] for result in results))


def _columns_of_tags(tags: Sequence[str], columns: Mapping[str, list[Any]]) -> dict[str | None, str]:
    """Return the column that each tag shows, which the file does not say: that of its name, of a like name, or the only one.

    Raises:
        DataError: it cannot be told.
    """
    only = next(iter(columns)) if len(columns) == 1 else "image" if "image" in columns else None
    if not set(tags) & set(columns) and (len(columns) == 1 or len(tags) <= 1) and (only or not tags):
        return dict.fromkeys([None, *tags], only or next(iter(columns)))
    shown: dict[str | None, str] = {}
    for tag in tags:
        alike = [tag] if tag in columns else [column for column in columns if _are_alike(tag, column)]
        if len(alike) == 1 and alike[0] not in shown.values():
            shown[tag] = alike[0]
    if len(columns) == 1:  # the task lacks the images of the other tags
        return shown
    if len(shown) < len(tags):
        raise DataError(
            f"regions are on {some(tags)}, its images in the columns {some(list(columns))}, and the file does not tell which shows which; "
            f"give the columns the names of the tags ({some(tags)})"
        )
    return shown


def _are_alike(tag: str, column: str) -> bool:
    """Tell whether all words of one are in the other: img-left shows the column left."""
    words, others = (set(re.findall("[a-z0-9]+", name.lower())) for name in (tag, column))
    return bool(words and others) and (words <= others or others <= words)


def _item(result: dict[str, Any]) -> Any:
    index = result.get("item_index")
    return 0 if index is None else index


def _place_of(result: dict[str, Any], shown: Mapping[str | None, str], columns: Mapping[str, list[Any]]) -> Place | None:
    """Return the image that a result is on; None where it is on no image, or on none that is there."""
    tag, item = result.get("to_name"), _item(result)
    column = shown.get(tag) if isinstance(tag, str) or tag is None else None
    if column is None or isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < len(columns[column]):
        return None
    return column, item


def _path_in(address: Any) -> Any:
    """Return the path or key within an address, at whose end the file's name stands.

    Keys of cloud storage are names as they are; addresses of the web have signs in codes, and may hold another address.
    """
    if not isinstance(address, str):
        return address
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", address, re.IGNORECASE)
    if not address.startswith("/") and not (scheme and scheme[1].lower() in ("http", "https")):
        return _shortest(address) if scheme else address
    try:
        parts = urlsplit(_whole_name(address), allow_fragments=False)  # a # is in the name, where no image's ending stands before it
    except ValueError:
        raise DataError(f"the image's address {shortened(address)} is none") from None
    asked = parse_qs(parts.query)
    if "fileuri" in asked:
        return _shortest(_uncoded(asked["fileuri"][-1]))
    return asked["d"][-1] if "d" in asked else unquote(parts.path)


def _whole_name(address: str) -> str:
    """Return an address without its fragment; signs that stand uncoded in the file's name get their codes."""
    path, mark, rest = address.partition("?")
    before, hash_mark, _ = path.partition("#")
    if hash_mark and (has_image_ending(before) or not has_image_ending(path)):
        return before
    if mark and "=" not in rest and not has_image_ending(path) and has_image_ending(rest):
        path, mark, rest = f"{path}%3F{rest}", "", ""
    return path + mark + rest


def _shortest(key: str) -> str:
    """Return a key of cloud storage, without what may be asked behind a name that ends as an image's does."""
    before = key.partition("?")[0]
    return before if has_image_ending(before) else key


def _uncoded(text: str) -> str:
    """Return the address that Label Studio puts in base64 (that of addresses); another text as it is."""
    try:
        coded = text.replace(" ", "+").translate(str.maketrans("-_", "+/"))
        return b64decode(coded + "=" * (-len(coded) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError, ValueError):
        return text


def _told(data: dict[str, Any]) -> tuple[str | None, Size | None]:
    """The id, and the size for tasks without a region, that files made here tell; columns of others may have such names too."""
    if not {CASE, "height", "width"} <= data.keys():
        return None, None
    return told_id(data[CASE]), checked_size(data["height"], data["width"])


def other_names(name: str) -> dict[str, str]:
    """Return the names that an image may have where Label Studio calls it so, each with what to say of it.

    An uploaded file gets eight hexadecimal digits before its name, an address signs in codes.
    """
    upload, coded = "images whose name is longer by what Label Studio puts before that of an upload", "images whose name has signs in codes"
    plain = unquote(name)
    bare = {_UPLOADED.sub("", text, count=1): upload for text in (name, plain) if _UPLOADED.match(text)}
    return bare | ({plain: coded} if plain != name else {})


# --- whose annotation -------------------------------------------------------------------------------------------------


def _listed(holder: Any, name: str) -> list[Any]:
    """Return the list of this name, empty where there is none, whatever is there."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, list) else []


def _annotations(task: Any) -> list[Any]:
    return _listed(task, "annotations" if isinstance(task, dict) and "annotations" in task else "completions")


def _not_cancelled(annotation: Any) -> bool:
    return isinstance(annotation, dict) and not (annotation.get("was_cancelled") or annotation.get("skipped"))


def _chosen(read: Annotations, task: dict[str, Any], annotator: str | None, *, by_people: bool) -> dict[str, Any] | None:
    """Return the annotation of a task to take; in a file that no person has annotated, or where it is asked for, the prediction."""
    of_type(task.get("annotations", task.get("completions")) or [], list, "its annotations")
    made = [of_type(one, dict, "an annotation") for one in _annotations(task)]
    kept = [one for one in made if _not_cancelled(one)]
    read.found["annotations that were cancelled, left out"] += len(made) - len(kept)
    guesses = [of_type(one, dict, "a prediction") for one in of_type(task.get("predictions") or [], list, "its predictions")]
    if annotator is not None:
        kept = [one for one in kept if annotator in _people(one)]
        guesses = [one for one in guesses if str(one.get("model_version")) == annotator]
    if not kept and guesses and annotator is None and (by_people or made):
        read.found["tasks that only a model has annotated, left out (--annotator takes a model version)"] += 1
        return None
    if not kept and guesses:
        read.found["tasks without an annotation, of which the last prediction was taken"] += 1
        read.found["further predictions of a task, left out"] += len(guesses) - 1
        return guesses[-1]
    read.found["further annotations of a task, left out (the latest was taken; --annotator takes another)"] += max(len(kept) - 1, 0)
    return max(enumerate(kept), key=lambda one: (_time(one[1]), one[0]))[1] if kept else None


def _people(annotation: dict[str, Any]) -> set[str]:
    by = annotation.get("completed_by")
    return {str(value) for value in by.values()} if isinstance(by, dict) else {str(by)}


def _time(annotation: dict[str, Any]) -> str:
    """ISO times compare as texts."""
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


# --- regions ----------------------------------------------------------------------------------------------------------


_Shown = tuple[int, dict[str, Any], dict[str, Any], list[Any]]
"""The number of a region, its result, the value of that, and its labels."""


def _regions_of(read: Annotations, results: list[Any], where: str) -> list[_Shown]:
    """Return the regions of results: those of one id and one shape are one."""
    regions: list[_Shown] = []
    by_id: dict[str, list[_Shown]] = defaultdict(list)
    for number, result in enumerate(results, 1):
        try:
            kind = _kind(of_type(result, dict, "it"))
            value = of_type(result.get("value"), dict, "its value") if kind else result.get("value")
            value = value if isinstance(value, dict) else {}
            names = _labels(result, value)
        except DataError as error:
            read.fault(f"{where}, region no. {number}", error)
            continue
        key = str((result.get("to_name"), result.get("item_index"), result["id"])) if result.get("id") is not None else ""
        labels_alone = result.get("type") == "labels" and kind is None
        same = [shown for shown in by_id[key] if labels_alone or (kind and _geometry(value) == _geometry(shown[2]))] if key else []
        if same:
            known = same[0][3]
            known += [name for name in names if name not in known]
            continue
        regions.append((number, result, value, names))
        if key and kind:
            by_id[key].append(regions[-1])
    return regions


def _labels(result: dict[str, Any], value: dict[str, Any]) -> list[Any]:
    kind = result.get("type")
    own = value.get(kind) if isinstance(kind, str) and kind.endswith("labels") else None
    return list(of_type(own or value.get("labels") or [], list, f"its {kind}"))


def _geometry(value: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if not name.endswith("labels")}


def _kind(result: dict[str, Any]) -> str | None:
    """Return which shape a result has, of those that are drawn."""
    kind, value = result.get("type"), result.get("value")
    if not isinstance(kind, str):
        return None
    if kind == "labels" and isinstance(value, dict):  # the shape is that of the tag beside <Labels>
        return next((shape for part, shape in _TOLD_BY.items() if part in value), None)
    shape = "brush" if kind == "magicwand" else kind.removesuffix("labels")
    return shape if shape in _DECODE else None


def _kind_in_words(result: dict[str, Any], value: dict[str, Any]) -> str:
    kind = result.get("type")
    return f"{kind if isinstance(kind, str) else shortened(kind)}{' that is open' if value.get('closed') is False else ''}"


def _percent(value: dict[str, Any], across: str, down: str, size: Size) -> tuple[float, float]:
    """Return two numbers in percent of the width and of the height in pixels."""
    x, y = shapes.checked_numbers([value.get(across), value.get(down)], f"{across} and {down}", 2)
    return x * size[1] / 100, y * size[0] / 100


def _turned(value: dict[str, Any]) -> float:
    return shapes.checked_numbers([value.get("rotation") or 0], "its rotation", 1)[0]


def _decode_polygon(value: dict[str, Any], size: Size, found: Found) -> np.ndarray | None:
    return shapes.polygon([of_type(value.get("points"), list, "its points")], size, found, whole=100)


def _decode_rectangle(value: dict[str, Any], size: Size, found: Found) -> np.ndarray | None:
    corner, sides = _percent(value, "x", "y", size), _percent(value, "width", "height", size)
    return shapes.box(corner, sides, size, found, degrees=_turned(value), pivot=0)


def _decode_ellipse(value: dict[str, Any], size: Size, found: Found) -> np.ndarray | None:
    centre, radii = _percent(value, "x", "y", size), _percent(value, "radiusX", "radiusY", size)
    return shapes.ellipse(centre, radii, size, found, degrees=_turned(value))


def _decode_brush(value: dict[str, Any], size: Size, _found: Found) -> np.ndarray:
    values = unpacked(value.get("rle"), size[0] * size[1] * _CHANNELS)
    return values.reshape(*size, _CHANNELS)[..., 3] > 0  # as in Label Studio's own export to COCO


def _decode_bitmask(value: dict[str, Any], size: Size, _found: Found) -> np.ndarray:
    head, _, coded = of_type(value.get("imageDataURL"), str, "its imageDataURL").partition(",")
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


_DECODE: dict[str, Callable[[dict[str, Any], Size, Found], np.ndarray | None]] = {
    "brush": _decode_brush,
    "bitmask": _decode_bitmask,
    "polygon": _decode_polygon,
    "rectangle": _decode_rectangle,
    "ellipse": _decode_ellipse,
}
_TOLD_BY = {"rle": "brush", "imageDataURL": "bitmask", "points": "polygon", "radiusX": "ellipse", "height": "rectangle"}


def unpacked(packed: Any, length: int) -> np.ndarray:
    """The values uint8 (length,) that bytes hold.

    Raises:
        DataError: they hold another number of values, end too early, or are no bytes.
    """
    try:
        numbers = np.asarray(packed)
    except ValueError:
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or ((numbers < 0) | (numbers > 255)).any():
        raise DataError(f"the runs {shortened(packed)} are no list of whole numbers from 0 to 255")
    data = numbers.astype(np.uint8).tobytes()
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    place = 0

    def take(size: int) -> int:
        nonlocal place
        place += size
        if place > len(bits):
            raise DataError(f"the runs end before the {length:,} values that they announce")
        first = (place - size) // 8
        chunk = int.from_bytes(data[first : (place + 7) // 8], "big")
        return (chunk >> (-place % 8)) & ((1 << size) - 1)

    announced = take(32)
    if announced != length:
        raise DataError(f"the runs hold {announced:,} values, the image needs {length:,} (4 per pixel)")
    word = take(5) + 1
    if word > _WORD:
        raise DataError(f"values of {word} bits; 8 are what Label Studio writes")
    lengths = [take(4) + 1 for _ in range(4)]
    values = np.empty(length, np.uint8)
    filled = 0
    while filled < length:
        alike = take(1)
        until = filled + 1 + take(lengths[take(2)])
        if until > length:
            raise DataError(f"the runs hold more than the {length:,} values that they announce")
        if alike:
            values[filled:until] = take(word)
        else:
            start = place
            take(word * (until - filled))
            words = bits[start:place].reshape(-1, word)
            values[filled:until] = words @ (1 << np.arange(word - 1, -1, -1))
        filled = until
    return values


def packed(mask: np.ndarray) -> list[int]:
    """The bytes of a mask bool (H, W), as Label Studio's own converter makes them: 255 in all four values of a pixel that is in."""
    flat = mask.reshape(-1)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    parts = [f"{flat.size * _CHANNELS:032b}{_WORD - 1:05b}", *(f"{bits - 1:04b}" for bits in _LENGTHS)]
    for start, length in zip(edges[:-1].tolist(), (np.diff(edges) * _CHANNELS).tolist(), strict=True):
        value = "1" * _WORD if flat[start] else "0" * _WORD
        while length:
            which = next((which for which, bits in enumerate(_LENGTHS) if length <= 1 << bits), len(_LENGTHS) - 1)
            step = min(length, 1 << _LENGTHS[which])
            parts.append(f"1{which:02b}{step - 1:0{_LENGTHS[which]}b}{value}")
            length -= step
    text = np.frombuffer("".join(parts).encode("ascii"), np.uint8) - ord("0")
    return np.packbits(text).tolist()


def encode(masked: Masked, names: Mapping[int, str], _found: Found) -> dict[str, Any]:
    """The task of a case: its mask as an annotation; of an audit the given and the proposed mask as predictions, and its facts as data."""
    height, width = masked.labels.shape
    task: dict[str, Any] = {"data": {CASE: masked.id, "height": height, "width": width} | dict(masked.facts)}
    if masked.given is None:
        return task | {"annotations": [{"result": _results(masked.labels, names, masked.id)}]}
    guesses = {"given": masked.given, "proposed": masked.labels}
    score = {} if masked.score is None else {"score": masked.score}
    return task | {
        "predictions": [
            {"model_version": version, **score, "result": _results(labels, names, f"{masked.id}-{version}")}
            for version, labels in guesses.items()
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
            "value": {"format": "rle", "rle": packed(mask), "brushlabels": [name]},
        }
        for place, (name, mask) in enumerate(layers(labels, names))
    ]


def document(cases: Sequence[tuple[Masked, dict[str, Any]]], _names: Mapping[int, str]) -> str:
    """The file of encoded cases."""
    tasks = []
    for masked, task in cases:
        place = "/".join(masked.image.absolute().parts[-2:]) if masked.image else masked.name
        address = f"/data/local-files/?d={quote(place)}"
        tasks.append(task | {"data": {"image": address} | task["data"]})
    return dump_json(tasks)
