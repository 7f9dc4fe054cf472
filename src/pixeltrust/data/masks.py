"""Decode mask files: which of their values mean labels 0 … max(classes, 2) − 1, and which 255 for ignored."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from pixeltrust.config import Config
from pixeltrust.data.images import read_labels
from pixeltrust.plumbing.errors import DataError, Fault
from pixeltrust.plumbing.labels import IGNORE, is_foreground
from pixeltrust.plumbing.text import count, some

Meaning = Literal["foreground", "ignored", "absent"]
_MOST_LABELS = 20  # a file whose values are 0 … K holds labels, up to here
_SMEARED = 8  # from this many values on, up to above 200, they are grey levels


@dataclass(frozen=True)
class MaskMeaning:
    """What 255 means in a file."""

    path: Path
    meaning: Meaning
    labelled: bool = True
    """Whether a pixel that counts has a label other than 0."""
    foreground: int | None = None
    """The file's own value of label 1; None where it has none."""


def decode_labels(path: Path, *, classes: int, ignore_label: int | None, may_ignore: bool = True) -> tuple[np.ndarray, MaskMeaning]:
    """Decode a mask file to labels uint8 (H, W), and return what 255 means in the file; see `read_values`.

    Raises:
        DataError: the file cannot be read, or holds a value that no class has.
    """
    values = read_labels(path)
    try:
        labels, meaning = read_values(values, classes=classes, ignore_label=ignore_label, may_ignore=may_ignore)
    except ValueError as error:
        kind, repair = _diagnosis(np.unique(values).tolist(), classes=classes, may_ignore=may_ignore)
        raise DataError(Fault(f"{path}: {error}", kind=kind, repair=repair)) from None
    first = int((labels == 1).argmax())
    own = int(values.flat[first]) if labels.flat[first] == 1 else None
    return labels, MaskMeaning(path, meaning, bool(is_foreground(labels).any()), own)


def read_binary(path: Path) -> np.ndarray:
    """Read a mask file of 0 and at most one other value, in which nothing is ignored, as uint8 0/1 (H, W).

    Raises:
        DataError: the file cannot be read, or holds more values.
    """
    return decode_labels(path, classes=1, ignore_label=None, may_ignore=False)[0]


def read_mask(path: Path, config: Config) -> np.ndarray:
    """Decode a mask file to labels uint8 (*O), 255 ignored, by the classes and the ignored label of the settings.

    Raises:
        DataError: as `decode_labels`.
    """
    return decode_labels(path, classes=config.classes, ignore_label=config.ignore_label)[0]


def foreground(path: Path, config: Config) -> np.ndarray:
    """Decode where a mask file has foreground (of any class), bool (*O).

    Raises:
        DataError: as `decode_labels`.
    """
    return is_foreground(read_mask(path, config))


def read_values(
    values: np.ndarray, *, classes: int, ignore_label: int | None = None, may_ignore: bool = True
) -> tuple[np.ndarray, Meaning]:
    """Turn a mask's values into labels 0 … max(classes, 2) − 1 and 255 for ignored; return what 255 means among the values, too.

    With one class there are 0 and at most one other value, which is the foreground (255 too); of exactly 0, 1 and 255
    the 255 is ignored. With more, 0 … classes − 1, and 255 is ignored. `ignore_label`, where given, is the ignored value instead.

    Args:
        values: uint8 (H, W), as the file has them.
        classes: 1 (binary) or 2 … 255 with the background.
        may_ignore: False for predictions, which ignore nothing.

    Raises:
        ValueError: a value that no class has.
    """
    present = frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    ignored = ignore_label if may_ignore else None
    if may_ignore and ignore_label is None and (classes > 1 or present == {0, 1, IGNORE}):
        ignored = IGNORE
    if classes > 1:
        invalid = present - {*range(classes), ignored}
        if invalid:
            also = f" and {ignored} for ignored" if may_ignore else ""
            raise ValueError(f"holds {_values(invalid)} where classes = {classes} allows 0 to {classes - 1}{also}")
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


def mixture_faults(masks: Iterable[MaskMeaning]) -> list[Fault]:
    """Return a fault if files that belong together disagree about 255, or hold nothing but 0 and a 255 that is ignored."""
    masks = list(masks)
    return meaning_faults(masks) or _ignored_alone(masks, "masks")


def role_faults(masks: Mapping[str, Sequence[MaskMeaning]]) -> list[Fault]:
    """Return the faults of `mixture_faults`: of all masks together, else of those of each role."""
    together = meaning_faults(chain.from_iterable(masks.values()))
    return together or [fault for role, of_role in masks.items() for fault in _ignored_alone(of_role, f"{role} masks")]


def _ignored_alone(masks: Sequence[MaskMeaning], what: str) -> list[Fault]:
    ignored = [mask.path for mask in masks if mask.meaning == "ignored"]
    if not ignored or any(mask.labelled for mask in masks):
        return []
    return [
        Fault(
            f"{ignored[0]}: holds 0 and 255 alone, and no other of the {what} holds a label: with two classes or more 255 is ignored, so "
            "nothing but 0 would count",
            repair="if 255 is the foreground, set classes = 1 (--classes 1), or save it as 1; if it is to be ignored, set "
            "ignore_label = 255 (--ignore-label 255)",
        )
    ]


def _diagnosis(present: Sequence[int], *, classes: int, may_ignore: bool) -> tuple[str, str]:
    """Return the kind of a file that holds values of no class, and what repairs it."""
    largest = max(value for value in present if value < IGNORE or len(present) == 1)
    if not may_ignore and classes > 1 and set(present) <= {0, IGNORE}:
        return "masks of 0 and 255, in which nothing may be ignored", (
            "if 255 is the foreground, measure with classes = 1 (--classes 1), or save it as 1"
        )
    if not may_ignore and set(present) <= {0, 1, IGNORE}:
        return "predicted masks with 255 beside 0 and 1", "a prediction ignores nothing: save 0 and 1"
    if largest > 200 and (len(present) >= _SMEARED or all(value < 64 or value > 191 for value in present)):
        smears = "masks with many values between 0 and 255, as JPEG and smooth scaling make them"
        if classes == 1:
            return smears, "cut them at 128 (foreground above) and save them as PNG"
        return smears, "save the labels as PNG, and scale them without smoothing (nearest neighbour)"
    if largest < _MOST_LABELS and largest >= max(classes, 2):
        ignored = " (255 is then ignored)" if IGNORE in present and may_ignore else ""
        return f"masks with labels up to {largest}", f"set classes = {largest + 1} (--classes {largest + 1}){ignored}"
    return "masks with values that no class has", (
        "number the labels 0, 1, 2 … and set classes to how many there are; or name the value of ignored pixels (--ignore-label)"
    )


def meaning_faults(masks: Iterable[MaskMeaning]) -> list[Fault]:
    """Return a fault if 255 is the foreground of some files and ignored in others: a file of 0 and 255 is then ambiguous."""
    by_meaning = {mask.meaning: mask for mask in masks}
    if "foreground" in by_meaning and "ignored" in by_meaning:
        return [
            Fault(
                f"{by_meaning['ignored'].path} holds 0, 1 and 255, and {by_meaning['foreground'].path} 0 and 255: is 255 foreground "
                "or ignored? Set ignore_label (255: ignored everywhere), or save the masks alike"
            )
        ]
    return []


def _values(present: Collection[int]) -> str:
    return f"{count(len(present), 'value')} ({some(sorted(present))})"
