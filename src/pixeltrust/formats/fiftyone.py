"""FiftyOne's dataset on disk: a folder with samples.json and metadata.json, read by `fiftyone.types.FiftyOneDataset`.

    {"samples": [{"filepath", "tags", "metadata": {"_cls": "ImageMetadata", "width", "height"}, FIELD: …}]}
    FIELD    {"_cls": "Segmentation", "mask": {"$binary": {"base64", "subType"}} or "mask_path"}
             {"_cls": "Detections", "detections": [{"label", "bounding_box": [x, y, width, height], "mask" or "mask_path" or neither}]}
             {"_cls": "Polylines", "polylines": [{"label", "points": [[[x, y], …], …], "closed", "filled"}]}

Boxes and points are in shares of the image's sides. The mask of a detection fills its box. A field that is missing or null is one
that nobody has filled in. Detection and Polyline are fields of one shape. A mask is a numpy array file (.npy) in zlib, 0 for background.
What is written has no "version" in metadata.json: FiftyOne takes such a folder for one without its database's own ids and makes them
itself. Both kinds are read. Source: FiftyOne's documentation, "Loading datasets from disk" and "Using labels", and its
FiftyOneDatasetImporter.
"""

import binascii
import io
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.data.image_files import MAX_PIXELS
from pixeltrust.data.images import read_labels
from pixeltrust.formats import shapes
from pixeltrust.formats.annotations import IGNORED, AnnotatedMask, Annotations, Decode, Picture, Region, Size, Tally
from pixeltrust.formats.documents import checked_type, dump_json, read_json, shortened
from pixeltrust.formats.format import Encoded, Format, Output, Source
from pixeltrust.formats.names import ID_KEY, checked_id, checked_size, file_name, id_of, writable
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import retry_parsing
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import attempt_in_threads

SAMPLES = "samples.json"
_HEADER = 4096  # bytes that a .npy file may have beside its values
_SHAPES = {"Detections": "detections", "Polylines": "polylines", "Detection": "detections", "Polyline": "polylines"}
_KINDS = ("Segmentation", *_SHAPES, "Classification", "Classifications", "Keypoint", "Keypoints", "Heatmap")


@dataclass(frozen=True)
class _Sample:
    """A sample with its labels, not yet drawn."""

    id: str
    name: str
    size: Size | None
    field: dict[str, Any] | None
    values: frozenset[int] = frozenset()
    """The values of its mask, if the field is a Segmentation."""


def read(source: Source) -> Annotations:
    """Read the pictures of a folder or of its samples.json; `faults` lists the broken samples. An annotator is the name of a field.

    Segmentations are decoded here once, for their values.
    """
    file = source.path / SAMPLES if source.path.is_dir() else source.path
    content = read_json(file) if source.path.is_dir() else source.json
    read, field = Annotations(file), source.annotator
    entries = checked_type(checked_type(content, dict, f"{file}: not a FiftyOne file: it").get("samples"), list, f"{file}: samples")
    field_read = field or _only_field(file, entries)
    targets = _targets(file.parent / "metadata.json", field_read)
    work = partial(_sample, file, field_read)
    decoded = attempt_in_threads(work, list(enumerate(entries)), text="reading masks", shown=source.show_progress)
    samples: list[_Sample] = []
    for _, outcome in decoded:
        if isinstance(outcome, DataError):
            read.faults.append(str(outcome))
        elif not isinstance(outcome, Exception):
            samples.append(outcome[0])
            read.tally.update(outcome[1])
    if field is not None and samples and all(sample.field is None for sample in samples):
        raise DataError(f"{file}: no sample has a Segmentation field {field!r}, nor one of {' or '.join(_SHAPES)}")
    names = _names({value for sample in samples for value in sample.values} - {0}, targets)
    read.labels = list(dict.fromkeys(names[value] for value in sorted(names)))
    for sample in samples:
        left_out: list[str | None] = []
        if sample.field is None or sample.field.get("_cls") == "Segmentation":
            where = f"{file}, the sample {sample.name}"
            decoders = {value: partial(_decode_value, sample.field or {}, file.parent, value) for value in sorted(sample.values - {0})}
            regions = [Region(names[value], decode, where) for value, decode in decoders.items()]
        else:
            regions, left_out = _shapes(read, sample)
        annotated = sample.field is not None
        read.pictures.append(Picture(sample.id, sample.name, sample.size, tuple(regions), tuple(left_out), annotated))
    return read


def _only_field(file: Path, samples: list[Any]) -> str | None:
    """Return the name of the only Segmentation field; if there is none, that of the only field with other shapes."""
    for kinds in (("Segmentation",), tuple(_SHAPES)):
        fields = dict.fromkeys(
            name
            for sample in samples
            if isinstance(sample, dict)
            for name, value in sample.items()
            if isinstance(value, dict) and value.get("_cls") in kinds
        )
        if len(fields) > 1:
            raise DataError(f"{file}: several {' or '.join(kinds)} fields: {', '.join(fields)}; say which by --annotator NAME")
        if fields:
            return next(iter(fields))
    return None


def _targets(file: Path, field: str | None) -> dict[int, str]:
    """Return the names of values, if metadata.json has them."""
    if not file.is_file():
        return {}
    metadata = checked_type(read_json(file), dict, f"{file}: it")
    by_field, info = metadata.get("mask_targets"), metadata.get("info")
    places = (
        by_field.get(field) if isinstance(by_field, dict) else None,
        metadata.get("default_mask_targets"),
        info.get("mask_targets") if isinstance(info, dict) else None,
    )
    named = next((place for place in places if isinstance(place, dict) and place), {})
    try:
        return {int(value): writable(name, "a name") for value, name in named.items()}
    except (ValueError, DataError) as error:
        raise DataError(f"{file}: the mask targets {shortened(named)} are not numbers with names: {error}") from None


def _names(values: set[int], targets: Mapping[int, str]) -> dict[int, str]:
    """Return the label of every value but 0; 255 is ignored if nothing names it and there are other values."""
    names = dict(targets)
    names.pop(0, None)
    if IGNORE in values and IGNORE not in names and (values | set(names)) - {IGNORE}:
        names[IGNORE] = IGNORED
    return names | {value: str(value) for value in values - set(names)}


def _sample(file: Path, field: str | None, numbered: tuple[int, Any]) -> tuple[_Sample, Tally]:
    """Return a sample, and what was noticed."""
    place, entry = numbered
    tally = Tally()
    try:
        name = file_name(checked_type(entry, dict, "it").get("filepath"))
        identity = checked_id(entry[ID_KEY]) if ID_KEY in entry else id_of(name)
        others = [value for key, value in entry.items() if key != field and isinstance(value, dict)]
        for kind in _KINDS:
            beside = " beside the one that was read" if field else ""
            tally[f"fields of the kind {kind}{beside}, left out"] += sum(other.get("_cls") == kind for other in others)
        value = entry.get(field) if field else None
        metadata = entry.get("metadata")
        has_size = isinstance(metadata, dict) and {"height", "width"} <= metadata.keys()
        size = checked_size(metadata["height"], metadata["width"]) if has_size else None
        if value is None:
            return _Sample(identity, name, size, None), tally
        kind = checked_type(value, dict, f"the field {field}").get("_cls")
        if isinstance(kind, str) and kind in _SHAPES:
            return _Sample(identity, name, size, value), tally
        if kind != "Segmentation":
            raise DataError(f"the field {field} is of the kind {shortened(kind)}, not Segmentation or {' or '.join(_SHAPES)}")
        values = _array(value, file.parent)
    except DataError as error:
        raise DataError(f"{file}, sample no. {place + 1}: {error}") from None
    return _Sample(identity, name, (values.shape[0], values.shape[1]), value, frozenset(np.unique(values).tolist())), tally


def _shapes(read: Annotations, sample: _Sample) -> tuple[list[Region], list[str | None]]:
    """Return the regions of a field with shapes, and the labels of what is not drawn."""
    assert sample.field is not None
    kind = _SHAPES[sample.field["_cls"]]
    regions: list[Region] = []
    left_out: list[str | None] = []
    where = f"the sample {sample.name}, {kind}"
    entries: list[Any] = []
    with read.collect_fault(where):
        entries = checked_type(sample.field.get(kind), list, "it") if sample.field["_cls"].endswith("s") else [sample.field]
    for number, entry in enumerate(entries, 1):
        there = f"{where} no. {number}"
        with read.collect_fault(there):
            decode = _shape(checked_type(entry, dict, "it"), kind, read.file.parent)
            if isinstance(decode, str):
                read.tally[f"{decode}, left out"] += 1
                left_out.append(entry.get("label"))
                continue
            label = read.add_label(writable(entry.get("label"), "its label"))
            regions.append(Region(label, decode, f"{read.file}, {there}"))
    return regions, left_out


def _shape(entry: dict[str, Any], kind: str, folder: Path) -> Decode | str:
    """Return the decoding of a detection or polyline, or what to call one that is not drawn."""
    if kind == "polylines":
        if not entry.get("points") or not (entry.get("closed") or entry.get("filled")):
            return "polylines that are neither closed nor filled, or have three dimensions"
        return partial(_decode_polyline, checked_type(entry["points"], list, "its points"))
    if not entry.get("bounding_box"):
        return "detections without a bounding_box (in three dimensions)"
    return partial(_decode_detection, entry, folder)


def _decode_polyline(rings: list[Any], size: Size, tally: Tally) -> np.ndarray | None:
    return shapes.fill_polygon([checked_type(ring, list, "an outline") for ring in rings], size, tally, whole=1)


def _decode_detection(entry: dict[str, Any], folder: Path, size: Size, tally: Tally) -> np.ndarray | None:
    x, y, width, height = shapes.checked_numbers(entry["bounding_box"], "its bounding_box", 4)
    left, top, right, bottom = x * size[1], y * size[0], (x + width) * size[1], (y + height) * size[0]
    if entry.get("mask") is None and entry.get("mask_path") is None:
        return shapes.fill_box((left, top), (right - left, bottom - top), size, tally)
    mask = _array(entry, folder) > 0
    return shapes.place_bitmap(mask, (round(left), round(top), round(right), round(bottom)), size, tally)  # rounded as FiftyOne does


def _decode_value(segmentation: dict[str, Any], folder: Path, value: int, size: Size, _tally: Tally) -> np.ndarray:
    values = _array(segmentation, folder)
    if values.shape != size:
        raise DataError(f"its mask has {values.shape[1]}x{values.shape[0]} pixels, its image {size[1]}x{size[0]}")
    return values == value


def _array(segmentation: dict[str, Any], folder: Path) -> np.ndarray:
    """Return the mask uint8 (H, W) of a Segmentation or a Detection, from its text or from a file within the folder."""
    mask, path = segmentation.get("mask"), segmentation.get("mask_path")
    if mask is None and path is None:
        raise DataError(f"its {segmentation.get('_cls', 'label')} has neither mask nor mask_path")
    if mask is None:
        inside = folder / checked_type(path, str, "its mask_path")
        if "\0" in str(inside) or not inside.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"its mask_path {shortened(path)} leads out of the folder; export the dataset with its media")
        return read_labels(inside)
    if isinstance(mask, dict):
        mask = mask.get("$binary")
        mask = mask.get("base64") if isinstance(mask, dict) else mask
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(b64decode(checked_type(mask, str, "its mask"), validate=True), MAX_PIXELS + _HEADER)
        if unpacking.unconsumed_tail:
            raise DataError(f"its mask is larger than the {MAX_PIXELS:,} bytes of any mask that can be read")
        if not unpacking.eof:
            raise DataError("its mask ends too early")
        values = retry_parsing(lambda: np.load(io.BytesIO(content), allow_pickle=False))
    except (binascii.Error, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"its mask is not an array as FiftyOne writes it: {error}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biu" or not values.size:
        shape, kind = getattr(values, "shape", None), getattr(values, "dtype", None)
        raise DataError(f"its mask is an array of shape {shape} and type {kind}; whole numbers (H, W) are needed")
    if values.min() < 0 or values.max() > IGNORE:
        raise DataError(f"its mask holds {values.min()} to {values.max()}, where labels are 0 to 255")
    return values.astype(np.uint8)


def encode(mask: AnnotatedMask, _output: Output) -> dict[str, Any]:
    """Encode a case as a sample; a case of an audit with both masks, and its facts to sort by."""
    height, width = mask.labels.shape
    sample: dict[str, Any] = {
        "filepath": str(mask.image.absolute() if mask.image else mask.name),
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        ID_KEY: mask.id,
    }
    if mask.given is None:
        return sample | {"mask": _segmentation(mask.labels)}
    proposed = _segmentation(mask.labels) | ({} if mask.score is None else {"confidence": mask.score})
    return sample | dict(mask.facts) | {"given": _segmentation(mask.given), "proposed": proposed}


def _segmentation(labels: np.ndarray) -> dict[str, Any]:
    with io.BytesIO() as file:
        np.save(file, np.ascontiguousarray(labels), allow_pickle=False)
        content = zlib.compress(file.getvalue())
    return {"_cls": "Segmentation", "mask": {"$binary": {"base64": b64encode(content).decode("ascii"), "subType": "00"}}}


def document(encoded: Encoded, output: Output) -> dict[str, str]:
    """Return the files of the folder, by name."""
    metadata = {"media_type": "image", "info": {"mask_targets": {str(number): name for number, name in output.names.items()}}}
    return {SAMPLES: dump_json({"samples": [sample for _, sample in encoded]}), "metadata.json": dump_json(metadata)}


FIFTYONE = Format(
    name="fiftyone", title="FiftyOne", looks="a folder with samples.json, or this file",
    sources=("file", "folder"), recognises=lambda source: (source.path / SAMPLES).is_file() or source.has_key("samples"),
    read=read, has_annotators=True,
    makes="folder", encode=encode, document=document, needs_images=True,
)  # fmt: skip
