"""Names of images, cases and labels in files of others, and the sizes beside them: checked before anything is made of them."""

import os
import re
from pathlib import Path
from typing import Any

from pixeltrust.data.image_files import MAX_PIXELS, case_id, image_suffix
from pixeltrust.plumbing.errors import DataError

ID_KEY = "pixeltrust_id"
"""The key of a case's id in a file of tasks or samples made here; the image's name need not contain the id."""
_UNWRITABLE = re.compile(r"[\x00-\x1f\ud800-\udfff\ufffe\uffff]")
_OTHER_ENDING = re.compile(r"\.(webp|gif|jfif|jp2|hei[cf]|avif|svg|p[pgn]m|tga|dcm|svs|ndpi|mrxs|nrrd|mha|npy)$", re.IGNORECASE)


def file_name(text: object) -> str:
    """Return the file name at the end of a path or address of any system.

    Raises:
        DataError: it has no file name that a case could be named by.
    """
    if not isinstance(text, str):
        raise DataError(f"the image's name is {text!r}, not a text")
    name = re.split(r"[/\\]", text)[-1]
    try:
        identity = id_of(name)
        os.fsencode(identity)
    except (UnicodeError, ValueError):
        identity = ""
    if identity in ("", ".", "..") or any(ord(sign) < 32 for sign in name):
        raise DataError(f"the image's name {text!r} is not the name of a file")
    return name


def checked_id(text: object) -> str:
    """Return the id that a file made here gives beside the image's name.

    Raises:
        DataError: it is not the name of a file.
    """
    if not isinstance(text, str) or not text or file_name(text) != text:
        raise DataError(f"its {ID_KEY} {text!r} is not the id of a case")
    return text


def writable(text: object, what: str) -> str:
    """Return a name that every format can hold.

    Raises:
        DataError: it is not a text, is empty, or has signs that no JSON or XML file may have.
    """
    if not isinstance(text, str) or not text or _UNWRITABLE.search(text):
        raise DataError(f"{what} {text!r}: a text without control characters is needed")
    return text


def id_of(name: str) -> str:
    """Return the id of the case whose image has this file name; a name without an image's ending (`img.v2`) is kept whole."""
    return case_id(Path(name if has_image_ending(name) else f"{name}.png"))


def has_image_ending(name: str) -> bool:
    """Return whether a name ends as an image's does, endings that are not read here included."""
    return bool(image_suffix(Path(name)) or _OTHER_ENDING.search(name))


def checked_size(height: object, width: object) -> tuple[int, int]:
    """Return the (height, width) of an image.

    Raises:
        DataError: they are not whole numbers from 1, or too large for an image.
    """
    sides: list[Any] = [int(side) if isinstance(side, float) and side.is_integer() else side for side in (height, width)]
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise DataError(f"width {width!r} and height {height!r}: whole numbers from 1 are needed")
    if sides[0] * sides[1] > MAX_PIXELS:
        raise DataError(f"{sides[1]}x{sides[0]} pixels: more than the {MAX_PIXELS:,} of any image that can be read")
    return sides[0], sides[1]
