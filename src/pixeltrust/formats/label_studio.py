"""Label Studio JSON: brush masks and polygons, as it exports them and as it imports annotations and predictions.

    [{"id", "data": {"image": …}, "annotations": [{"completed_by", "updated_at", "was_cancelled", "result": […]}],
      "predictions": [{"model_version", "score", "result": […]}]}]
    result   {"type": "brushlabels", "original_width", "original_height", "image_rotation",
              "value": {"format": "rle", "rle": [bytes], "brushlabels": [name]}}
             {"type": "polygonlabels", …, "value": {"points": [[x, y], …] in percent, "polygonlabels": [name]}}

The bytes hold bits: 32 for the number of values (4 per pixel: red, green, blue, alpha), 5 for the bits of a value less 1, four
times 4 for the bits of a length less 1; then parts: 1 bit (all values alike or each its own), 2 bits (which length), the length
less 1, and the value or values. Source: Label Studio's documentation of BrushLabels; the packing is that of thi.ng/rle-pack.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from pixeltrust.errors import DataError, count, some
from pixeltrust.formats import polygons
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
    id_of,
    layers,
    told_id,
    writable,
)
from pixeltrust.formats.documents import dump_json, of_type, shortened
from pixeltrust.images import image_suffix

_LENGTHS = (3, 4, 8, 16)  # bits, as Label Studio itself chooses them
_WORD = 8
_CHANNELS = 4
_HALF = 128  # alpha from which a pixel is in
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the name of an uploaded file
_KINDS = ("brushlabels", "polygonlabels")


def read(file: Path, content: Any, *, annotator: str | None = None) -> Annotations:
    """The pictures of a Label Studio file; what is wrong with tasks is in its `faults`.

    Args:
        annotator: of several annotations of a task the one of this person (id or e-mail) or model version; else the latest.
    """
    read = Annotations(file)
    matched = 0
    for place, task in enumerate(of_type(content, list, f"{file}: no Label Studio file: it")):
        where = f"task {task['id']!r}" if isinstance(task, dict) and "id" in task else f"task no. {place + 1}"
        try:
            name = _image_name(task)
            chosen = _chosen(read, task, annotator)
            matched += chosen is not None
            results = of_type((chosen or {}).get("result", []), list, "its result")
            identity, told = _told(task["data"])
        except DataError as error:
            read.fault(where, error)
            continue
        sizes: set[Size] = set()
        regions = []
        for number, result in enumerate(results, 1):
            try:
                region = _region(read, result, f"{file}, {where}, region no. {number}", sizes)
            except DataError as error:
                read.fault(f"{where}, region no. {number}", error)
            else:
                regions += [region] if region else []
        if len(sizes) > 1:
            read.fault(where, f"its regions tell different sizes of the image: {some(sorted(sizes))}")
            continue
        read.pictures.append(Picture(identity or id_of(name), name, next(iter(sizes), None) or told, tuple(regions)))
    if annotator is not None and not matched and read.pictures:
        raise DataError(f"{file}: nothing by the annotator {annotator!r} in any of {count(len(read.pictures), 'task')}")
    return read


def _image_name(task: Any) -> str:
    data = of_type(task, dict, "it").get("data")
    if data is None:
        raise DataError("it has no data: export as JSON (not JSON-MIN)")
    texts = [text for text in of_type(data, dict, "its data").values() if isinstance(text, str)]
    pictures = [text for text in texts if image_suffix(Path(text.split("?")[0])) or image_suffix(Path(text))]
    text = data.get("image", next(iter(pictures or texts), None))
    if isinstance(text, str) and ("://" in text or text.startswith("/")):
        try:
            address = urlsplit(text)
            text = parse_qs(address.query).get("d", [unquote(address.path)])[-1]
        except ValueError:
            raise DataError(f"the image's address {shortened(text)} is none") from None
    return file_name(text)


def _told(data: dict[str, Any]) -> tuple[str | None, Size | None]:
    """The id, and the size for tasks without a region, that files made here tell; columns of others may have such names too."""
    if not {CASE, "height", "width"} <= data.keys():
        return None, None
    return told_id(data[CASE]), checked_size(data["height"], data["width"])


def without_upload_prefix(name: str) -> str:
    """The name that an uploaded file had before Label Studio put eight hexadecimal digits before it."""
    return _UPLOADED.sub("", name, count=1) if _UPLOADED.match(name) else name


def _chosen(read: Annotations, task: dict[str, Any], annotator: str | None) -> dict[str, Any] | None:
    """The annotation of a task to take; where it has none, the prediction."""
    listed = task.get("annotations", task.get("completions")) or []
    made = [of_type(one, dict, "an annotation") for one in of_type(listed, list, "its annotations")]
    kept = [one for one in made if not (one.get("was_cancelled") or one.get("skipped"))]
    read.found["annotations that were cancelled, left out"] += len(made) - len(kept)
    guesses = [of_type(one, dict, "a prediction") for one in of_type(task.get("predictions") or [], list, "its predictions")]
    if annotator is not None:
        kept = [one for one in kept if annotator in _people(one)]
        guesses = [one for one in guesses if str(one.get("model_version")) == annotator]
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


def _region(read: Annotations, result: Any, where: str, sizes: set[Size]) -> Region | None:
    kind = of_type(result, dict, "it").get("type")
    value = result.get("value")
    if kind in ("brush", "polygon", "labels") and isinstance(value, dict):  # with <Labels> beside <Brush> or <Polygon>
        kind = "brushlabels" if "rle" in value else "polygonlabels" if "points" in value else kind
    if kind not in _KINDS:
        read.found[f"results of the kind {shortened(kind) if not isinstance(kind, str) else kind}, left out"] += 1
        return None
    size = checked_size(result.get("original_height"), result.get("original_width"))
    if result.get("image_rotation"):
        raise DataError(f"the image was turned by {result['image_rotation']!r} degrees while it was annotated; turn it back")
    of_type(value, dict, "its value")
    names = of_type(value.get(kind) or value.get("labels") or [], list, f"its {kind}")
    if not names:
        raise DataError("it has no label")
    label = writable(names[0], "its label")
    read.found["regions of several labels, of which the first was taken"] += len(names) > 1
    sizes.add(size)
    decode = partial(_decode_brush, value.get("rle")) if kind == "brushlabels" else partial(_decode_polygon, value.get("points"))
    return Region(read.add_label(label), partial(_located, decode, where))


def _located(decode: Any, where: str, size: Size, found: Found) -> np.ndarray:
    try:
        return decode(size, found)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _decode_polygon(points: Any, size: Size, found: Found) -> np.ndarray:
    of_type(points, list, "its points")
    ring = polygons.checked_ring(points, (100, 100), found)  # percent
    if ring is None:
        return np.zeros(size, bool)
    scaled = polygons.checked_ring(ring * np.array([size[1], size[0]]) / 100, size, found=Found())
    assert scaled is not None
    return polygons.fill([scaled], size)


def _decode_brush(packed: Any, size: Size, _found: Found) -> np.ndarray:
    values = unpacked(packed, size[0] * size[1] * _CHANNELS)
    return values.reshape(*size, _CHANNELS)[..., 3] >= _HALF


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
