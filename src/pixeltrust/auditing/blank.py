"""An audit folder without judgements, for a review that begins with nothing: the cases in an order to correct them in, every mask as given.

It is an audit folder like others (see `folder`), for all its readers: nothing is doubtful, nothing is changed, every confidence is ½,
and the evidence is "nothing yet". AUDIT/.begun.json keeps what it was made of.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import (
    CASE_COLUMNS,
    CASE_NUMBERS,
    DOUBTFUL_BELOW,
    NOTHING_YET,
    REGION_COLUMNS,
    AuditRecord,
    check_names,
    read_audit_record,
)
from pixeltrust.auditing.sampling import order_sample
from pixeltrust.auditing.writing import AuditWriter, describe_files
from pixeltrust.data.cases import Case, read_cases
from pixeltrust.data.images import map_name, read_labels, read_thumbnail, write_labels
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.data.nnunet import labels_of
from pixeltrust.data.pictures import write_png
from pixeltrust.data.resizing import resize_image
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.files import fill_folder_atomically, link_or_copy, write_file
from pixeltrust.plumbing.labels import is_foreground
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.text import one_line

BEGUN = ".begun.json"
_SIDE = 8  # of the pictures by which cases are compared


def find_audit(
    folder: Path,
    *,
    out: Path | None = None,
    classes: int | None = None,
    ignore_label: int | None = None,
    seed: int = 0,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Path:
    """Return the audit folder in which masks are reviewed; that of data is made without judgements, and found again the next time.

    Args:
        folder: an audit folder, which is returned; or a data folder or table of cases.
        out: the audit folder of the data; `<name>-review` beside them where not given.
        classes, ignore_label: of the data, as in `Config`; where not given those of dataset.json in a dataset of nnU-Net, else 1 and none.
        seed: of the order of the cases (see `order_sample`).
        show_progress: a progress bar on standard error.
        layout: how the data folder differs from the usual, as for `read_cases`.

    Raises:
        ConfigError: an audit folder, which knows its data, was given with something else.
        DataError: the data cannot be used; lists every fault.
        RunError: `out` is something else, or was begun with other data or other options.
    """
    folder = Path(folder)
    if (folder / "audit.json").is_file() or all((folder / name).is_dir() for name in ("confidence", "mended")):
        read_audit_record(folder)
        if out is not None or layout_options(layout) or (classes or 1, ignore_label, seed) != (1, None, 0):
            raise ConfigError(f"{folder}: an audit, which knows its data: leave out --out, --classes, and all that is for data")
        return folder
    data = Path(folder).resolve()
    out = data.with_name(f"{data.stem if data.is_file() else data.name}-review") if out is None else Path(out)
    if not (out / "audit.json").is_file():
        make_blank_audit(folder, out=out, classes=classes, ignore_label=ignore_label, seed=seed, show_progress=show_progress, **layout)
        return out
    classes, ignore_label = labels_of(folder, classes, ignore_label)
    before, now = _read_begun(out), _begun_with(folder, classes, ignore_label, seed, layout)
    if changed := [f"{name} was {before.get(name)}, now {value}" for name, value in now.items() if before.get(name) != value]:
        raise RunError(f"{out}: this review was begun with others ({'; '.join(changed)}); use the same, or another --out")
    return out


def _begun_with(data: Path, classes: int, ignore_label: int | None, seed: int, layout: Layout) -> dict[str, Any]:
    about = {"data": str(Path(data).resolve()), "layout": layout_options(layout)}
    return about | {"classes": classes, "ignore_label": ignore_label, "seed": seed}


def _read_begun(audit: Path) -> dict[str, Any]:
    file = audit / BEGUN
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")).items())
    except FileNotFoundError:
        otherwise = f"name it itself to go through it (pixeltrust review {audit}), or choose another --out"
        raise RunError(f"{audit}: an audit that no review of data has begun; {otherwise}") from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read: {one_line(error)}; choose another --out") from None


def make_blank_audit(
    data: Path,
    *,
    out: Path,
    classes: int | None = None,
    ignore_label: int | None = None,
    seed: int = 0,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> pd.DataFrame:
    """Make an audit folder that knows nothing of the noisy masks of these data, whole or not at all; return the rows of its cases.csv.

    Args:
        data: a data folder or table of cases.
        out: a folder that is absent or empty.
        classes, ignore_label, seed, show_progress, layout: as for `find_audit`. With a layout the folder keeps the table of cases, as
            given.csv.

    Raises:
        DataError: the data cannot be used; lists every fault.
        RunError: `out` is not free, or cannot be written.

    Example:
        make_blank_audit(Path("lesions"), out=Path("lesions-review"))["id"]
    """
    started, out = time.perf_counter(), Path(out).absolute()
    classes, ignore_label = labels_of(data, classes, ignore_label)
    cases = read_cases(data, needed=("noisy",), may_be_volumes=True, show_progress=show_progress, **layout)
    noisy = cases.of("noisy")
    check_names(noisy, data)
    complaint = f"{data}: cases that cannot be reviewed"
    with fill_folder_atomically(out) as unfinished:
        writer = AuditWriter(unfinished, classes=classes, ignore_label=ignore_label, place=out)
        writer.make_folders()

        def look(case: Case) -> tuple[dict[str, Any], list[np.ndarray], MaskMeaning]:
            labels, meaning = decode_labels(case.mask, classes=classes, ignore_label=ignore_label)
            if labels.ndim == 3:
                proposed = unfinished / "mended" / map_name(case.id, 3)
                if case.mask.name.endswith(".nii.gz"):
                    link_or_copy(case.mask, proposed)
                else:
                    write_labels(proposed, read_labels(case.mask), like=case.mask)
                write_labels(unfinished / "confidence" / map_name(case.id, 3), np.full_like(labels, DOUBTFUL_BELOW), like=case.mask)
            else:
                write_png(unfinished / "mended" / f"{case.id}.png", read_labels(case.mask))
            return _row(case, labels.shape), _describe(case, labels), meaning

        looked = map_in_threads(look, noisy, text="looking at masks", complaint=complaint, shown=show_progress)
        rows, parts, meanings = zip(*looked, strict=True)
        if faults := mixture_faults(meanings):
            raise DataError(complaint, faults)
        order = order_sample(_join(map(np.stack, zip(*parts, strict=True))), seed=seed)
        columns = [*CASE_COLUMNS, *(["depth"] if cases.volumes else [])]
        table = pd.DataFrame(rows, columns=columns).iloc[order].assign(rank=range(1, len(order) + 1)).reset_index(drop=True)
        if not cases.volumes:
            _write_confidence(unfinished / "confidence", rows)
        audited = writer.write_tables(table, pd.DataFrame(columns=list(REGION_COLUMNS)), cases, layout)
        write_file(unfinished / BEGUN, json.dumps(_begun_with(data, classes, ignore_label, seed, layout), indent=2) + "\n")
        record = AuditRecord(
            data=str(audited),
            run="",
            weights="",
            classes=classes,
            ignore_label=ignore_label,
            channels=1 if cases.volumes else 3,
            axes=3 if cases.volumes else 2,
            tilt=(0.0,) * max(classes, 2),
            seconds=round(time.perf_counter() - started, 1),
        )
        write_file(unfinished / "audit.json", record.text())
    return table


def _row(case: Case, size: tuple[int, ...]) -> dict[str, Any]:
    """Return the row of a case that nothing is known of: it agrees with its proposed mask, which is the given one."""
    numbers = dict.fromkeys(CASE_NUMBERS, 0) | {"agreement": 1.0, "doubtful_share": 0.0, "height": size[-2], "width": size[-1]}
    numbers |= {"depth": size[0]} if len(size) == 3 else {}
    return describe_files(case) | numbers | {"evidence": NOTHING_YET}


def _write_confidence(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a confidence of ½ for every row: one file for a size, which has the names of all cases of that size."""
    of_size: dict[tuple[int, int], Path] = {}
    for row in rows:
        size, file = (row["height"], row["width"]), folder / f"{row['id']}.png"
        if of_size.setdefault(size, file) is file:
            write_png(file, np.full(size, DOUBTFUL_BELOW, np.uint8))
        else:
            link_or_copy(of_size[size], file)


def _describe(case: Case, labels: np.ndarray) -> list[np.ndarray]:
    """Return what a case looks like, in three parts: its image, its mask, its sizes. Of a volume the image is not decoded."""
    foreground = is_foreground(labels)
    if labels.ndim == 3:
        seen = [foreground.mean(axis).astype(np.float32)[..., None] for axis in (0, 1)]
        shapes = [resize_image((255 * (each / max(each.max(), 1e-6))).astype(np.uint8), (_SIDE, _SIDE), by_area=True) for each in seen]
        sizes = [*labels.shape, max(float(foreground.mean()), 1e-6)]
        return [np.zeros(1, np.float32), np.concatenate([shape.ravel() for shape in shapes]).astype(np.float32), np.log(sizes)]
    picture = read_thumbnail(case.image, (_SIDE, _SIDE)).astype(np.float32)
    shape = resize_image(foreground[..., None].astype(np.uint8) * 255, (_SIDE, _SIDE), by_area=True).astype(np.float32)
    return [picture.ravel(), shape.ravel(), np.log([*labels.shape, max(foreground.mean(), 1e-4)])]


def _join(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Join parts (N, D) along their columns, so that cases differ as much in each of them as in the others."""
    centred = [part - part.mean(axis=0) for part in parts]
    return np.concatenate([part / (np.sqrt((part**2).sum(axis=1).mean()) or 1) for part in centred], axis=1)
