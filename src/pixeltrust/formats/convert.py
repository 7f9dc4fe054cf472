"""From one format to another: read, decode every case, encode it, write all of it or nothing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from pixeltrust.data.images import read_labels, write_png
from pixeltrust.data.masks import MaskMeaning, mixture_faults
from pixeltrust.formats import coco, cvat, fiftyone, folders, label_studio
from pixeltrust.formats.annotations import IGNORED, Found, Masked, told, writable
from pixeltrust.formats.documents import read_json
from pixeltrust.formats.origins import MOST_LABELS, Origin, annotation_origin, annotations_of, mask_origin
from pixeltrust.plumbing.errors import ConfigError, DataError, PixeltrustError, RunError
from pixeltrust.plumbing.files import fill_folder_atomically, make_folder, require_free, write_file
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import attempt_in_threads, faults_of
from pixeltrust.plumbing.text import count, some

READ = ("png", "audit", "coco", "label-studio", "cvat", "fiftyone")
FORMATS = ("png", "coco", "coco-polygons", "label-studio", "cvat", "fiftyone")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What a conversion did; `str` of it is what a person wants to read at its end."""

    out: Path
    to: str
    source_format: str
    masks: int
    empty: int
    """Masks without any labelled pixel."""
    labels: Mapping[str, int]
    """The number of every label; 255 is ignored."""
    binary: bool
    """Whether the mask files hold 0 and 255."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        empty = f", {self.empty:,} of them empty" if self.empty else ""
        if self.to == "png" and self.binary:
            named = f"{', '.join(self.labels) or 'no label'} = 255 in the files"
        else:
            named = ", ".join(f"{name} = {number}" for name, number in self.labels.items())
        head = f"{self.out}: {count(self.masks, 'mask')}{empty}, from {self.source_format}, as {self.to}"
        return "\n".join([head, f"labels: {named}", *self.notes])


@dataclass
class _Done:
    """What is known when all cases are encoded."""

    cases: list[tuple[Masked, Any]] = field(default_factory=list)
    found: Found = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kinds: list[MaskMeaning] = field(default_factory=list)
    empty: int = 0
    ignores: bool = False
    without_mask: list[str] = field(default_factory=list)
    """The names of images whose every annotation was left out."""


def convert(
    source: Path,
    out: Path,
    *,
    to: str | None = None,
    source_format: str | None = None,
    images: Path | None = None,
    labels: Sequence[str] = (),
    classes: int | None = None,
    ignore_label: int | None = None,
    annotator: str | None = None,
    show_progress: bool = True,
) -> Converted:
    """Write the masks of `source` in another format, all or nothing.

    Args:
        source: an annotation file, a folder of masks, the folder of an audit, or a FiftyOne folder.
        out: what to make: a folder (png, fiftyone) or a file.
        to: one of `FORMATS`; png where not given and the source is none of masks already.
        source_format: one of `READ`; told by the source itself where not given.
        images: the folder of the images, for their names and sizes. Of data/clean, data/noisy and the like it is data/images, of an audit
            what its table names, where not given.
        labels: names of labels in the order of their numbers, from 1; others are left out and counted. Where not given: all, as the
            file declares them. Of a folder of masks: the names of its labels.
        classes: 1 makes all labels one foreground; 2 or more are labels 0 … classes − 1. Where not given: 1 for one label, else
            one more than there are labels; of a folder of masks 1.
        ignore_label: of a folder of masks, the value of ignored pixels, if not 255.
        annotator: of several annotations of one image those of this person, model version (Label Studio) or field (FiftyOne).
        show_progress: a progress bar on standard error.

    Raises:
        ConfigError: a setting that is unknown or does not fit the source.
        DataError: every fault of the source, in one go.
        RunError: `out` exists or cannot be written.
    """
    source, out = Path(source), Path(out)
    found_format, content = _recognised(source, source_format)
    to = _target(to, found_format, source)
    _check_out(out, to)
    _check_labels(labels, classes)
    if found_format in ("png", "audit"):
        if annotator is not None:
            raise ConfigError("annotator: of Label Studio and FiftyOne only")
        ready = mask_origin(source, found_format, images, labels, classes, ignore_label)
    else:
        if ignore_label is not None:
            raise ConfigError("ignore_label: of a folder of masks only")
        read = annotations_of(found_format, source, content, annotator, show_progress)
        ready = annotation_origin(read, found_format, images, labels, classes)
    return _written(ready, out, to, show_progress=show_progress)


# --- what is asked ------------------------------------------------------------------------------------------------


def _recognised(source: Path, asked: str | None) -> tuple[str, Any]:
    """The format of a source, and its content where that was read to know it."""
    if asked is not None and asked not in READ:
        raise ConfigError(f"from: {asked!r} is none of {', '.join(READ)}")
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    if source.is_dir():
        told_by_file = {folders.AUDIT: "audit", fiftyone.SAMPLES: "fiftyone"}
        name = asked or next((name for file, name in told_by_file.items() if (source / file).is_file()), "png")
        if name in ("coco", "label-studio", "cvat"):
            raise ConfigError(f"from: {name} is a file, {source} is a folder")
        return name, read_json(source / fiftyone.SAMPLES) if name == "fiftyone" else None
    if asked in ("png", "audit"):
        raise ConfigError(f"from: {asked} is a folder, {source} is a file")
    if asked == "cvat" or (asked is None and source.suffix.lower() == ".xml"):
        return "cvat", None
    if asked is None and source.suffix.lower() != ".json":
        raise DataError(f"{source}: neither a folder nor a .json or .xml file (an archive: unpack it); --from says what it is")
    content = read_json(source)
    return asked or _kind_of_json(source, content), content


def _kind_of_json(source: Path, content: Any) -> str:
    if isinstance(content, list):
        if content and isinstance(content[0], dict) and "image_id" in content[0]:
            raise DataError(f"{source}: COCO results, which do not tell the images; put them in a COCO file with images and categories")
        return "label-studio"
    if isinstance(content, dict) and "samples" in content:
        return "fiftyone"
    if isinstance(content, dict) and "images" in content:
        return "coco"
    raise DataError(f"{source}: neither COCO (images, annotations, categories), Label Studio (a list of tasks) nor FiftyOne (samples)")


def _target(to: str | None, source_format: str, source: Path) -> str:
    if to is None:
        if source_format == "png":
            raise ConfigError(f"to: {source} is a folder of masks already; say one of {', '.join(FORMATS[1:])}")
        return "png"
    if to not in FORMATS:
        raise ConfigError(f"to: {to!r} is none of {', '.join(FORMATS)}")
    return to


def _check_out(out: Path, to: str) -> None:
    if to in ("png", "fiftyone"):
        require_free(out)
    elif out.exists() or out.is_symlink():
        raise RunError(f"{out}: exists; choose another name or remove it")


def _check_labels(labels: Sequence[str], classes: int | None) -> None:
    try:
        for name in labels:
            writable(name, "label")
    except DataError as error:
        raise ConfigError(str(error)) from None
    if len(set(labels)) < len(labels):
        raise ConfigError(f"label: each name once, not {list(labels)}")
    if classes is not None and not 1 <= classes <= MOST_LABELS + 1:
        raise ConfigError(f"classes: 1 to {MOST_LABELS + 1}, not {classes}")


# --- where they go ------------------------------------------------------------------------------------------------


def _written(ready: Origin, out: Path, to: str, *, show_progress: bool) -> Converted:
    if to == "fiftyone" and not ready.knows_images:
        raise ConfigError("images: FiftyOne shows the images; say where they are (--images)")
    binary = ready.classes == 1 and IGNORED not in ready.labels
    names = {number: name for name, number in reversed(ready.labels.items())} | {IGNORE: IGNORED}  # of joined labels the first
    names = dict(sorted(names.items()))
    if to == "png":
        with fill_folder_atomically(out) as folder:

            def write(masked: Masked, _names: Mapping[int, str], _found: Found) -> bool:
                plain = binary and not (masked.labels == IGNORE).any()
                if not ready.faults:  # else nothing will stay, and two cases of one id would be one file
                    write_png(folder / f"{masked.id}.png", folders.file_values(masked.labels, binary=plain))
                return plain

            done = _encoded(ready, write, names, to, show_progress)
            if done.ignores:  # 255 cannot be foreground in some files and ignored in others
                for masked in (masked for masked, plain in done.cases if plain):
                    path = folder / f"{masked.id}.png"
                    write_png(path, read_labels(path) // 255)
    else:
        encode: Mapping[str, Callable[[Masked, Mapping[int, str], Found], Any]] = {
            "coco": partial(coco.encode, as_polygons=False),
            "coco-polygons": partial(coco.encode, as_polygons=True),
            "label-studio": label_studio.encode,
            "cvat": cvat.encode,
            "fiftyone": fiftyone.encode,
        }
        done = _encoded(ready, encode[to], names, to, show_progress)
        if not done.ignores:
            del names[IGNORE]
        _write_document(out, to, done, names)
    return _summary(ready, done, out, to, names, binary)


def _encoded(
    ready: Origin, encode: Callable[[Masked, Mapping[int, str], Found], Any], names: Mapping[int, str], to: str, shown: bool
) -> _Done:
    """Every case decoded and encoded; its pixels are let go then.

    Raises:
        DataError: every fault, those of reading among them.
    """
    done = _Done(faults=list(ready.faults))

    def work(case: Any) -> tuple[Masked, Any, list[MaskMeaning], Found, bool, bool] | tuple[str, Found]:
        masked, kinds, found = ready.decode(case)
        if masked is None:
            return case.name, found
        if to == "fiftyone" and masked.image is None:
            raise DataError(f"{masked.name}: FiftyOne shows the images, and this one is not among them")
        if to != "png":
            writable(masked.name, f"{masked.image}: the name")
        encoded = encode(masked, names, found)
        planes = [masked.labels] if masked.given is None else [masked.labels, masked.given]
        ignores = any((plane == IGNORE).any() for plane in planes)
        empty = not ((masked.labels != 0) & (masked.labels != IGNORE)).any()
        pixels = np.broadcast_to(np.zeros(1, np.uint8), masked.labels.shape)
        return replace(masked, labels=pixels, given=None), encoded, kinds, found, ignores, empty

    for _, outcome in attempt_in_threads(work, ready.cases, text="converting", shown=shown):
        if isinstance(outcome, PixeltrustError):
            done.faults += faults_of(outcome)
            continue
        if len(outcome) == 2:
            done.without_mask.append(outcome[0])
            done.found.update(outcome[1])
            continue
        masked, encoded, kinds, found, ignores, empty = outcome
        done.cases.append((masked, encoded))
        done.kinds += kinds
        done.found.update(found)
        done.ignores |= ignores
        done.empty += empty
    faults = list(dict.fromkeys([*done.faults, *mixture_faults(done.kinds)]))
    if faults:
        raise DataError(f"{count(len(faults), 'fault')}; nothing was written:", faults)
    if not done.cases:
        raise DataError(f"{ready.source}: none of its images gets a mask; nothing was written:", _notes(ready, done))
    return done


def _notes(ready: Origin, done: _Done) -> list[str]:
    unmasked = done.without_mask
    without_mask = f"images whose annotations were all left out, which get no mask: {len(unmasked):,}: {some(unmasked)}"
    return [*ready.notes, *told(done.found), *([without_mask] if unmasked else [])]


def _write_document(out: Path, to: str, done: _Done, names: Mapping[int, str]) -> None:
    if to == "fiftyone":
        with fill_folder_atomically(out) as folder:
            for name, text in fiftyone.documents(done.cases, names).items():
                write_file(folder / name, text)
        return
    documents: Mapping[str, Callable[[Any, Mapping[int, str]], str]] = {"label-studio": label_studio.document, "cvat": cvat.document}
    document = documents.get(to, coco.document)
    try:
        make_folder(out.parent)
        write_file(out, document(done.cases, names))
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from None


def _summary(ready: Origin, done: _Done, out: Path, to: str, names: Mapping[int, str], binary: bool) -> Converted:
    notes = _notes(ready, done)
    if to == "coco-polygons" and "pixels by which" not in "".join(notes):
        notes.append("the polygons, filled by pycocotools, are the masks to the pixel")
    if to == "png" and ready.classes > 1:
        notes.append(f"train with --set classes={ready.classes}")
    if to == "png" and done.ignores and ready.classes == 1:
        notes.append("255 is ignored in these files: train with --set ignore_label=255")
    if to == "label-studio":
        values = "".join(f"<Label value={quoteattr(name)}/>" for name in names.values())
        view = f'<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image">{values}</BrushLabels></View>'
        notes.append(f"labelling interface: {view}")
    return Converted(
        out=out,
        to=to,
        source_format=ready.format,
        masks=len(done.cases),
        empty=done.empty,
        labels=ready.labels | ({IGNORED: IGNORE} if done.ignores else {}),
        binary=binary and not done.ignores,
        notes=tuple(notes),
    )
