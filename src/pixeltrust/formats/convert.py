"""From one format to another: read, decode every case, encode it, write all of it or nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrust.data.masks import MaskMeaning, mixture_faults
from pixeltrust.formats.annotations import IGNORED, AnnotatedMask, MaskFolder, Tally, notes_from
from pixeltrust.formats.coco import COCO, COCO_POLYGONS
from pixeltrust.formats.cvat import CVAT
from pixeltrust.formats.fiftyone import FIFTYONE
from pixeltrust.formats.folders import AUDIT, PNG
from pixeltrust.formats.format import Format, Output, Source
from pixeltrust.formats.label_studio import LABEL_STUDIO
from pixeltrust.formats.names import writable
from pixeltrust.formats.nnunet import NNUNET, write_dataset
from pixeltrust.formats.origins import MOST_LABELS, Origin, annotation_origin, mask_origin
from pixeltrust.plumbing.errors import ConfigError, DataError, PixeltrustError, RunError
from pixeltrust.plumbing.files import fill_folder_atomically, make_folder, require_free, write_file
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import attempt_in_threads, faults_of
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count, some

FORMATS = (PNG, AUDIT, COCO, COCO_POLYGONS, LABEL_STUDIO, CVAT, FIFTYONE)
"""All formats. A later one is asked first whether it recognises a source, so general ones come first."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Converted(Summary):
    """What a conversion did; `str` of it is the report for a person."""

    out: Path
    to: str
    source_format: str
    masks: int
    empty: int
    """Masks without any labelled pixel."""
    labels: Mapping[str, int]
    """The number of every label; 255 is ignored."""
    binary: bool
    """Whether mask files were written that hold 0 and 255."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        empty = f", {self.empty:,} of them empty" if self.empty else ""
        if self.binary:
            named = f"{', '.join(self.labels) or 'no label'} = 255 in the files"
        else:
            named = ", ".join(f"{name} = {number}" for name, number in self.labels.items())
        head = f"{self.out}: {count(self.masks, 'mask')}{empty}, from {self.source_format}, as {self.to}"
        return "\n".join([head, f"labels: {named}", *self.notes])


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
    formats: Sequence[Format] = FORMATS,
    show_progress: bool = True,
) -> Converted:
    """Write the masks of `source` in another format, all or nothing.

    Args:
        source: an annotation file, a folder of masks, the folder of an audit, or a FiftyOne folder; for nnunet a data folder or table.
        out: what to make: a folder (png, fiftyone, nnunet) or a file.
        to: the name of one of the `formats`, or nnunet: a whole dataset, of volumes too, which is read as a data folder again; png if
            not given, unless the source is a folder of masks already.
        source_format: the name of one of the `formats`; recognised by the source itself if not given.
        images: the folder of the images, for their names and sizes. If not given: for data/clean, data/noisy and the like data/images,
            for an audit the images that its table names.
        labels: names of labels in the order of their numbers, from 1; others are left out and counted. If not given: all, as the
            file declares them. For a folder of masks: the names of its labels.
        classes: 1 makes all labels one foreground; 2 or more are labels 0 … classes − 1. If not given: 1 for one label, else
            one more than there are labels; 1 for a folder of masks.
        ignore_label: for a folder of masks, the value of ignored pixels, if not 255.
        annotator: the person, model version (Label Studio) or field (FiftyOne) to read, if an image has several annotations.
        formats: the formats there are; `(*FORMATS, MINE)` adds one.
        show_progress: a progress bar on standard error.

    Raises:
        ConfigError: a setting that is unknown or does not fit the source.
        DataError: every fault of the source, in one go.
        RunError: `out` exists or cannot be written.

    Example:
        convert(Path("instances.json"), Path("lesions/noisy"), images=Path("lesions/images"))
    """
    if to == NNUNET:
        _check_labels(labels, classes)
        others = {"from": source_format, "images": images, "annotator": annotator}
        if given := [name for name, value in others.items() if value is not None]:
            raise ConfigError(f"{given[0]}: not for {NNUNET}, which takes a whole data folder or table")
        made = write_dataset(
            Path(source), Path(out), labels=labels, classes=classes or 1, ignore_label=ignore_label, show_progress=show_progress
        )
        return Converted(
            out=Path(out),
            to=to,
            source_format="a data folder",
            masks=made.masks,
            empty=made.empty,
            labels=made.labels,
            binary=False,
            notes=tuple(made.notes),
        )
    asked = Source(path=Path(source), annotator=annotator, classes=classes, ignore_label=ignore_label, show_progress=show_progress)
    out = Path(out)
    reader = _choose_reader(asked, source_format, formats)
    writer = _choose_writer(to, reader, asked.path, formats)
    if writer.makes == "folder":
        require_free(out)
    elif out.exists() or out.is_symlink():
        raise RunError(f"{out}: exists; choose another name or remove it")
    _check_labels(labels, classes)
    if annotator is not None and not reader.has_annotators:
        able = " and ".join(form.title for form in formats if form.has_annotators)
        raise ConfigError(f"annotator: only for {able}, not for {reader.title}")
    if ignore_label is not None and not reader.masks:
        raise ConfigError("ignore_label: only for a folder of masks")
    assert reader.read is not None
    content = reader.read(asked)
    if isinstance(content, MaskFolder):
        origin = mask_origin(asked.path, content, images, labels)
    else:
        origin = annotation_origin(content, images, labels, classes, reader.other_names)
    return _write(origin, reader, writer, out, show_progress=show_progress)


# --- settings ---------------------------------------------------------------------------------------------------------


def _named(name: str, formats: Sequence[Format], setting: str) -> Format:
    for form in formats:
        if form.name == name:
            return form
    raise ConfigError(f"{setting}: {name!r} is not one of {', '.join([*(form.name for form in formats), *[NNUNET] * (setting == 'to')])}")


def _choose_reader(source: Source, name: str | None, formats: Sequence[Format]) -> Format:
    """Return the format of a source: the named one, or the last that recognises it."""
    readers = [form for form in formats if form.read]
    named = None if name is None else _named(name, readers, "from")
    if not source.path.exists():
        raise DataError(f"{source.path}: there is no such file or folder")
    reader = named or next((form for form in reversed(readers) if form.recognises(source)), None)
    if reader is None:
        known = "; ".join(f"{form.title}: {form.looks}" for form in readers)
        raise DataError(f"{source.path}: of no known format; unpack an archive first, or say what it is (--from). {known}")
    kind = "folder" if source.path.is_dir() else "file"
    if kind not in reader.sources:
        raise ConfigError(f"from: {reader.name} is a {reader.sources[0]}, {source.path} is a {kind}")
    return reader


def _choose_writer(name: str | None, reader: Format, source: Path, formats: Sequence[Format]) -> Format:
    """Return the named format; by default the one of mask files, unless the source is in it already."""
    writers = [form for form in formats if form.encode]
    if name is not None:
        return _named(name, writers, "to")
    writer = next(form for form in writers if form.masks)
    if writer is reader:
        others = ", ".join(form.name for form in writers if form is not writer)
        raise ConfigError(f"to: {source} is a folder of masks already; say one of {others}")
    return writer


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


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """A case once it is encoded."""

    name: str
    tally: Tally
    mask: AnnotatedMask | None = None
    """Without its pixels; None if every annotation was left out."""
    encoded: Any = None
    meanings: Sequence[MaskMeaning] = ()
    ignores: bool = False
    empty: bool = False


def _write(origin: Origin, reader: Format, writer: Format, out: Path, *, show_progress: bool) -> Converted:
    if writer.needs_images and not origin.knows_images:
        raise ConfigError(f"images: {writer.title} shows the images; say where they are (--images)")
    assert writer.document is not None
    names = {number: name for name, number in reversed(origin.labels.items())} | {IGNORE: IGNORED}  # the first name of joined labels
    binary = origin.classes == 1 and IGNORED not in origin.labels
    output = Output(names=dict(sorted(names.items())), classes=origin.classes, binary=binary)
    with fill_folder_atomically(out) if writer.makes == "folder" else nullcontext() as folder:
        output = replace(output, folder=folder)
        cases = _encode(origin, writer, output, show_progress)
        encoded = [(case.mask, case.encoded) for case in cases if case.mask]
        if any(case.ignores for case in cases):
            output = replace(output, ignores=True)
        else:
            output = replace(output, names={number: name for number, name in output.names.items() if number != IGNORE})
        content = writer.document(encoded, output)
        try:
            if isinstance(content, str):
                make_folder(out.parent)
                write_file(out, content)
            elif folder is not None:
                for name, text in content.items():
                    write_file(folder / name, text)
        except OSError as error:
            raise RunError(f"{out}: cannot be written: {error.strerror or error}") from None
    return Converted(
        out=out,
        to=writer.name,
        source_format=reader.name,
        masks=len(encoded),
        empty=sum(case.empty for case in cases),
        labels=origin.labels | ({IGNORED: IGNORE} if output.ignores else {}),
        binary=writer.masks and binary and not output.ignores,
        notes=(*_notes(origin, cases), *writer.notes(encoded, output)),
    )


def _encode(origin: Origin, writer: Format, output: Output, show_progress: bool) -> list[_Case]:
    """Decode and encode every case, and keep none of its pixels; the faults of reading are raised with those found here."""

    def encode_case(case: Any) -> _Case:
        mask, meanings, tally = origin.decode(case)
        if mask is None:
            return _Case(case.name, tally)
        if writer.needs_images and mask.image is None:
            raise DataError(f"{mask.name}: {writer.title} shows the images, and this one is not among them")
        if not writer.masks:  # whose files are named by the id
            writable(mask.name, f"{mask.image}: the name")
        # Faulty sources are not written, and two of their cases may have one id: that would be one file.
        encoded = writer.encode(mask, output) if writer.encode and not origin.faults else None
        planes = [mask.labels] if mask.given is None else [mask.labels, mask.given]
        ignores = any((plane == IGNORE).any() for plane in planes)
        empty = not ((mask.labels != 0) & (mask.labels != IGNORE)).any()
        no_pixels = np.broadcast_to(np.zeros(1, np.uint8), mask.labels.shape)
        return _Case(mask.name, tally, replace(mask, labels=no_pixels, given=None), encoded, meanings, ignores, empty)

    faults = list(origin.faults)
    cases: list[_Case] = []
    for _, outcome in attempt_in_threads(encode_case, origin.cases, text="converting", shown=show_progress):
        if isinstance(outcome, PixeltrustError):
            faults += faults_of(outcome)
        else:
            cases.append(outcome)
    faults = list(dict.fromkeys([*faults, *mixture_faults(meaning for case in cases for meaning in case.meanings)]))
    if faults:
        raise DataError(f"{count(len(faults), 'fault')}; nothing was written:", faults)
    if not any(case.mask for case in cases):
        raise DataError(f"{origin.source}: none of its images gets a mask; nothing was written:", _notes(origin, cases))
    return cases


def _notes(origin: Origin, cases: Sequence[_Case]) -> list[str]:
    tally: Tally = Counter()
    for case in cases:
        tally.update(case.tally)
    notes = [*origin.notes, *notes_from(tally)]
    if unmasked := [case.name for case in cases if not case.mask]:
        notes.append(f"images whose annotations were all left out, which get no mask: {len(unmasked):,}: {some(unmasked)}")
    return notes
