"""What the values of a mask file mean: labels 0 … max(classes, 2) − 1, and 255 for ignored."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pixeltrust.config import Config
from pixeltrust.errors import DataError, count, some
from pixeltrust.images import read_labels
from pixeltrust.losses import IGNORE

Meaning = Literal["foreground", "ignored", "absent"]


@dataclass(frozen=True)
class Kind:
    """What 255 means in one file of a binary folder."""

    path: Path
    meaning: Meaning


def decode_labels(path: Path, *, classes: int, ignore_label: int | None, may_ignore: bool = True) -> tuple[np.ndarray, Kind]:
    """A mask file as labels uint8 (H, W), and what 255 means in the file; see `labels_of`.

    Raises:
        DataError: the file cannot be read, or holds a value that no class has.
    """
    try:
        labels, meaning = labels_of(read_labels(path), classes=classes, ignore_label=ignore_label, may_ignore=may_ignore)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return labels, Kind(path, meaning)


def foreground(path: Path, config: Config) -> np.ndarray:
    """Where a mask file has foreground (of any class), bool (H, W).

    Raises:
        DataError: as `decode_labels`.
    """
    labels, _ = decode_labels(path, classes=config.classes, ignore_label=config.ignore_label)
    return (labels > 0) & (labels < IGNORE)


def labels_of(values: np.ndarray, *, classes: int, ignore_label: int | None = None, may_ignore: bool = True) -> tuple[np.ndarray, Meaning]:
    """A mask's values as labels 0 … max(classes, 2) − 1 and 255 for ignored, and what 255 means among the values.

    With one class there are 0 and at most one other value, which is the foreground (255 too); of exactly 0, 1 and 255
    the 255 is ignored. With more, 0 … classes − 1, and 255 is ignored. `ignore_label`, where given, is the ignored value instead.

    Args:
        values: uint8 (H, W), as the file has them.
        classes: 1 (binary) or 2 … 255 with the background.
        may_ignore: False where no value means ignored: a prediction ignores nothing.

    Raises:
        ValueError: a value that no class has.
    """
    present = frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    ignored = _ignored_value(present, classes, ignore_label) if may_ignore else None
    if classes > 1:
        strange = present - {*range(classes), ignored}
        if strange:
            also = f" and {ignored} for ignored" if may_ignore else ""
            raise ValueError(f"holds {_values(strange)} where classes = {classes} allows 0 to {classes - 1}{also}")
        labels = values.copy()
    else:
        if len(present - {0, ignored}) > 1:
            also = " (0, 1 and 255 with 255 ignored)" if may_ignore else ""
            raise ValueError(f"holds {_values(present)} where classes = 1 allows 0 and one other{also}")
        labels = (values != 0).astype(np.uint8)
    if ignored is not None:
        labels[values == ignored] = IGNORE
    if IGNORE not in present or ignore_label is not None:
        return labels, "absent"
    return labels, "foreground" if ignored is None else "ignored"


def _ignored_value(present: Collection[int], classes: int, ignore_label: int | None) -> int | None:
    if ignore_label is not None:
        return ignore_label
    return IGNORE if classes > 1 or present == {0, 1, IGNORE} else None


def mixture_faults(kinds: Iterable[Kind]) -> list[str]:
    """A fault if 255 is the foreground of some files and ignored in others: which one a file of 0 and 255 means is then unknown."""
    by_meaning = {kind.meaning: kind for kind in kinds}
    if "foreground" in by_meaning and "ignored" in by_meaning:
        return [
            f"{by_meaning['ignored'].path} holds 0, 1 and 255, and {by_meaning['foreground'].path} 0 and 255: is 255 foreground "
            "or ignored? Set ignore_label (255: ignored everywhere), or save the masks alike"
        ]
    return []


def _values(present: Collection[int]) -> str:
    return f"{count(len(present), 'value')} ({some(sorted(present))})"
