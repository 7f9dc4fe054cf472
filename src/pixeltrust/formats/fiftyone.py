"""FiftyOne's dataset on disk: a folder with samples.json and metadata.json, read by `fiftyone.types.FiftyOneDataset`.

    {"samples": [{"filepath", "tags", "metadata": {"_cls": "ImageMetadata", "width", "height"},
                  FIELD: {"_cls": "Segmentation", "mask": {"$binary": {"base64", "subType"}} or "mask_path"}}]}

A mask is a numpy array file (.npy) in zlib, 0 for background. What is written has no "version" in metadata.json: FiftyOne takes
such a folder for one without its database's own ids and makes them itself. Both kinds are read. Source: FiftyOne's
documentation, "Loading datasets from disk", and its FiftyOneDatasetImporter.
"""

import binascii
import io
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.errors import DataError
from pixeltrust.formats.annotations import (
    CASE,
    IGNORED,
    Annotations,
    Found,
    Masked,
    Picture,
    Region,
    Size,
    checked_size,
    file_name,
    id_of,
    told_id,
    writable,
)
from pixeltrust.formats.documents import dump_json, of_type, read_json, shortened
from pixeltrust.images import MAX_PIXELS, read_labels
from pixeltrust.losses import IGNORE
from pixeltrust.progress import in_threads

SAMPLES = "samples.json"
_HEADER = 4096  # bytes that a .npy file may have beside its values


def read(file: Path, content: Any, *, field: str | None = None, show_progress: bool = True) -> Annotations:
    """The pictures of a samples.json; what is wrong with samples is in its `faults`. Masks are decoded once, for their values.

    Args:
        field: the name of the field to take, where samples have several Segmentation fields.
    """
    read = Annotations(file)
    samples = of_type(of_type(content, dict, f"{file}: no FiftyOne file: it").get("samples"), list, f"{file}: samples")
    chosen = field or _only_field(file, samples)
    targets = _targets(file.parent / "metadata.json", chosen)
    decoded = in_threads(partial(_decoded, file, chosen), list(enumerate(samples)), text="reading masks", shown=show_progress)
    pictures: list[tuple[str, str, Size | None, Any, frozenset[int]]] = []
    for _, outcome in decoded:
        if isinstance(outcome, DataError):
            read.faults.append(str(outcome))
        elif not isinstance(outcome, Exception):
            read.found.update(outcome[5])
            pictures.append(outcome[:5])
    if field is not None and pictures and all(segmentation is None for *_, segmentation, _ in pictures):
        raise DataError(f"{file}: no sample has a Segmentation field {field!r}")
    names = _names({value for *_, values in pictures for value in values} - {0}, targets)
    read.labels = list(dict.fromkeys(names[value] for value in sorted(names)))
    for identity, name, size, segmentation, values in pictures:
        regions = [
            Region(names[value], partial(_region, segmentation, file, f"the sample {name}", value)) for value in sorted(values - {0})
        ]
        read.pictures.append(Picture(identity, name, size, tuple(regions)))
    return read


def _only_field(file: Path, samples: list[Any]) -> str | None:
    fields = dict.fromkeys(name for sample in samples if isinstance(sample, dict) for name in _segmentations(sample))
    if len(fields) > 1:
        raise DataError(f"{file}: several Segmentation fields: {', '.join(fields)}; say which by --annotator NAME")
    return next(iter(fields), None)


def _segmentations(sample: dict[str, Any]) -> list[str]:
    return [name for name, value in sample.items() if isinstance(value, dict) and value.get("_cls") == "Segmentation"]


def _targets(file: Path, field: str | None) -> dict[int, str]:
    """The names of values, where metadata.json tells them."""
    if not file.is_file():
        return {}
    metadata = of_type(read_json(file), dict, f"{file}: it")
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
        raise DataError(f"{file}: the mask targets {shortened(named)} are no numbers with names: {error}") from None


def _names(values: set[int], targets: Mapping[int, str]) -> dict[int, str]:
    """The label of every value but 0; 255 is ignored where nothing names it and other values are there."""
    names = dict(targets)
    names.pop(0, None)
    if IGNORE in values and IGNORE not in names and (values | set(names)) - {IGNORE}:
        names[IGNORE] = IGNORED
    return names | {value: str(value) for value in values - set(names)}


def _decoded(file: Path, field: str | None, sample: tuple[int, Any]) -> tuple[str, str, Size | None, Any, frozenset[int], Found]:
    """(id, file name, size, segmentation, values, what was noticed) of a sample."""
    place, entry = sample
    found: Found = Found()
    try:
        name = file_name(of_type(entry, dict, "it").get("filepath"))
        identity = told_id(entry[CASE]) if CASE in entry else id_of(name)
        others = [value for key, value in entry.items() if key != field and isinstance(value, dict)]
        for kind in ("Segmentation", "Detections", "Polylines", "Heatmap"):
            found[f"fields of the kind {kind} beside the one that was taken, left out"] += sum(o.get("_cls") == kind for o in others)
        segmentation = entry.get(field) if field else None
        metadata = entry.get("metadata")
        if segmentation is None:
            told = isinstance(metadata, dict) and {"height", "width"} <= metadata.keys()
            size = checked_size(metadata["height"], metadata["width"]) if told else None
            return identity, name, size, None, frozenset(), found
        kind = of_type(segmentation, dict, f"the field {field}").get("_cls")
        if kind != "Segmentation":
            raise DataError(f"the field {field} is of the kind {shortened(kind)}, not Segmentation")
        values = _array(segmentation, file.parent)
    except DataError as error:
        raise DataError(f"{file}, sample no. {place + 1}: {error}") from None
    return identity, name, (values.shape[0], values.shape[1]), segmentation, frozenset(np.unique(values).tolist()), found


def _region(segmentation: dict[str, Any], file: Path, where: str, value: int, size: Size, _found: Found) -> np.ndarray:
    values = _array(segmentation, file.parent)
    if values.shape != size:
        raise DataError(f"{file}, {where}: its mask has {values.shape[1]}x{values.shape[0]} pixels, its image {size[1]}x{size[0]}")
    return values == value


def _array(segmentation: dict[str, Any], folder: Path) -> np.ndarray:
    """The values uint8 (H, W) of a Segmentation.

    Raises:
        DataError: it has none, they are no labels, or their file is not within the folder.
    """
    mask, path = segmentation.get("mask"), segmentation.get("mask_path")
    if mask is None and path is None:
        raise DataError("its Segmentation has neither mask nor mask_path")
    if mask is None:
        inside = folder / of_type(path, str, "its mask_path")
        if "\0" in str(inside) or not inside.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"its mask_path {shortened(path)} leads out of the folder; export the dataset with its media")
        return read_labels(inside)
    if isinstance(mask, dict):
        mask = mask.get("$binary")
        mask = mask.get("base64") if isinstance(mask, dict) else mask
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(b64decode(of_type(mask, str, "its mask"), validate=True), MAX_PIXELS + _HEADER)
        if unpacking.unconsumed_tail:
            raise DataError(f"its mask is larger than the {MAX_PIXELS:,} bytes of any that can be read")
        if not unpacking.eof:
            raise DataError("its mask ends too early")
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (binascii.Error, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"its mask is no array that FiftyOne writes: {error}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biu" or not values.size:
        shape, kind = getattr(values, "shape", None), getattr(values, "dtype", None)
        raise DataError(f"its mask is an array of shape {shape} and type {kind}; whole numbers (H, W) are needed")
    if values.min() < 0 or values.max() > IGNORE:
        raise DataError(f"its mask holds {values.min()} to {values.max()}, where labels are 0 to 255")
    return values.astype(np.uint8)


def encode(masked: Masked, _names: Mapping[int, str], _found: Found) -> dict[str, Any]:
    """The sample of a case; of an audit both masks and its facts, to sort by."""
    height, width = masked.labels.shape
    sample: dict[str, Any] = {
        "filepath": str(masked.image.absolute() if masked.image else masked.name),
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
        CASE: masked.id,
    }
    if masked.given is None:
        return sample | {"mask": _segmentation(masked.labels)}
    proposed = _segmentation(masked.labels) | ({} if masked.score is None else {"confidence": masked.score})
    return sample | dict(masked.facts) | {"given": _segmentation(masked.given), "proposed": proposed}


def _segmentation(labels: np.ndarray) -> dict[str, Any]:
    with io.BytesIO() as file:
        np.save(file, np.ascontiguousarray(labels), allow_pickle=False)
        content = zlib.compress(file.getvalue())
    return {"_cls": "Segmentation", "mask": {"$binary": {"base64": b64encode(content).decode("ascii"), "subType": "00"}}}


def documents(cases: Sequence[tuple[Masked, dict[str, Any]]], names: Mapping[int, str]) -> dict[str, str]:
    """The files of the folder, by name."""
    metadata = {"media_type": "image", "info": {"mask_targets": {str(number): name for number, name in names.items()}}}
    return {SAMPLES: dump_json({"samples": [sample for _, sample in cases]}), "metadata.json": dump_json(metadata)}
