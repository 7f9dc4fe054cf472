"""JSON and XML files of others, which may be broken or malicious: read safely, checked, and written."""

import json
from pathlib import Path
from typing import Any

from pixeltrust.plumbing.errors import DataError


def needs_extra(path: Path | str, error: ImportError) -> DataError:
    """Return the error for a missing library of the extra [formats]."""
    return DataError(f"{path}: reading or writing it needs an extra: pip install 'pixeltrust[formats]' ({error})")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8 or not JSON, a number of thousands of digits, nested too deeply
        raise DataError(f"{path}: not a whole JSON file that can be read: {error}") from None


def dump_json(content: Any) -> str:
    """Return the text of a JSON file; signs beyond ASCII stay readable."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def read_xml(path: Path) -> Any:
    """Return the root element of an XML file.

    Entities and document types are refused: they can expand without end, or read other files.

    Raises:
        DataError: it is missing, not XML, or has entities.
    """
    try:
        import defusedxml
        from defusedxml import ElementTree
    except ImportError as error:
        raise needs_extra(path, error) from None
    try:
        return ElementTree.parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except defusedxml.DefusedXmlException as error:
        raise DataError(f"{path}: has a document type or entities, which no annotation file needs: {error}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not a whole XML file: {error}") from None


def checked_type(value: Any, kind: type, what: str) -> Any:
    """Return the value if it has the type.

    Raises:
        DataError: it has another one.
    """
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
        raise DataError(f"{what} is {shortened(value)}, not {names[kind]}")
    return value


def shortened(value: Any, most: int = 60) -> str:
    """Return the value as a text of at most so many signs, for messages."""
    text = repr(value)
    return text if len(text) <= most else text[:most] + " …"
