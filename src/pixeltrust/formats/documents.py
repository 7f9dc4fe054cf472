"""JSON and XML files of others: read whole, with the mistakes and the traps that such files may hold."""

import json
from pathlib import Path
from typing import Any

from pixeltrust.plumbing.errors import DataError


def needs_extra(path: Path | str, error: ImportError) -> DataError:
    """What to say where a library of the extra [formats] is missing."""
    return DataError(f"{path}: reading or writing it needs an extra: pip install 'pixeltrust[formats]' ({error})")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        DataError: it is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: no whole JSON file: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply for an annotation file") from None
    except ValueError as error:  # no UTF-8, or a number of thousands of digits
        raise DataError(f"{path}: no JSON file that can be read: {error}") from None


def dump_json(content: Any) -> str:
    """The text of a JSON file; names stay as they are written."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def read_xml(path: Path) -> Any:
    """The root element of an XML file; entities and document types, which can grow without end or reach elsewhere, are refused.

    Raises:
        DataError: it is missing, no XML, or has entities.
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
        raise DataError(f"{path}: no whole XML file: {error}") from None


def of_type(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of the type.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, kind):
        names: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
        raise DataError(f"{what} is {shortened(value)}, not {names[kind]}")
    return value


def shortened(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + " …"
