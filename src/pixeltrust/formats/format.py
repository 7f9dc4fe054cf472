"""The description of a format, and the inputs of its functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pixeltrust.formats.annotations import AnnotatedMask, Annotations, MaskFolder
from pixeltrust.formats.documents import read_json

Kind = Literal["file", "folder"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file or folder to read, with the settings that say how."""

    path: Path
    annotator: str | None = None
    """Which annotator to read when an image has several; only for formats with `has_annotators`."""
    classes: int | None = None
    ignore_label: int | None = None
    """These two only for formats of `masks`."""
    show_progress: bool = True

    @cached_property
    def json(self) -> Any:
        """The content of a JSON file.

        Raises:
            DataError: it is missing or not JSON.
        """
        return read_json(self.path)

    @property
    def named_json(self) -> Any:
        """The content of a file whose name ends in .json; None of others. What `recognises` looks at."""
        return self.json if self.path.suffix.lower() == ".json" and self.path.is_file() else None

    def has_key(self, key: str) -> bool:
        """Return whether this is a .json file that holds an object with this key."""
        return isinstance(self.named_json, dict) and key in self.named_json


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is known about all masks when they are written."""

    names: Mapping[int, str]
    """The label of every number; 255 is there while encoding, and afterwards if pixels are ignored."""
    classes: int
    binary: bool
    """Whether foreground is the only label, and none is named `ignored`."""
    ignores: bool = False
    """Whether any pixel of any mask is ignored; known once all are encoded."""
    folder: Path | None = None
    """The unfinished folder of a format that makes a folder: `encode` and `document` may write into it."""


Encoded = Sequence[tuple[AnnotatedMask, Any]]
"""Every mask, its pixels already freed, with what `encode` made of it."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of masks. One that cannot be read has no `read`, one that cannot be written no `encode`."""

    name: str
    title: str
    """The name shown to users."""
    looks: str = ""
    """What it looks like, for people whose file is not recognised."""
    masks: bool = False
    """Whether it is made of mask files, which have numbers of classes instead of names of labels."""

    sources: tuple[Kind, ...] = ()
    """What it can be read from."""
    recognises: Callable[[Source], bool] = lambda _source: False
    """Return whether a source is of this format; must not raise for those of others."""
    read: Callable[[Source], Annotations | MaskFolder] | None = None
    """Read everything but the pixels; raise DataError if that is not possible, and list the faults of single entries."""
    has_annotators: bool = False
    """Whether one image may have annotations by several people, models or in several fields."""
    other_names: Callable[[str], Mapping[str, str]] = lambda _name: {}
    """Return names that an image may have if the file calls it so, each with what to report then."""

    makes: Kind | None = None
    """What it is written as."""
    encode: Callable[[AnnotatedMask, Output], Any] | None = None
    """Encode one mask; called in threads."""
    document: Callable[[Encoded, Output], str | Mapping[str, str]] | None = None
    """Return the text of the file, or the texts of the folder's files by name."""
    needs_images: bool = False
    """Whether it shows the images, and so can only be written if they are known."""
    notes: Callable[[Encoded, Output], list[str]] = lambda _encoded, _output: []
    """Return what to report in addition."""
