"""Names of images within the addresses that Label Studio writes: of the web, of cloud storage, and of its own uploads."""

import binascii
import re
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pixeltrust.formats.documents import shortened
from pixeltrust.formats.names import has_image_ending
from pixeltrust.plumbing.errors import DataError

_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the name of an uploaded file


def path_in(address: Any) -> Any:
    """Return the path or key within an address, which ends in the file's name.

    Keys of cloud storage are used as they are; addresses of the web are percent-encoded, and may hold another address.
    """
    if not isinstance(address, str):
        return address
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", address, re.IGNORECASE)
    if not address.startswith("/") and not (scheme and scheme[1].lower() in ("http", "https")):
        return _without_query(address) if scheme else address
    try:
        parts = urlsplit(_without_fragment(address), allow_fragments=False)  # a # belongs to the name unless an image's ending is before it
    except ValueError:
        raise DataError(f"the image's address {shortened(address)} is invalid") from None
    asked = parse_qs(parts.query)
    if "fileuri" in asked:
        return _without_query(_from_base64(asked["fileuri"][-1]))
    return asked["d"][-1] if "d" in asked else unquote(parts.path)


def _without_fragment(address: str) -> str:
    """Return an address without its fragment; a bare ? in the file's name is percent-encoded."""
    path, mark, rest = address.partition("?")
    before, hash_mark, _ = path.partition("#")
    if hash_mark and (has_image_ending(before) or not has_image_ending(path)):
        return before
    if mark and "=" not in rest and not has_image_ending(path) and has_image_ending(rest):
        path, mark, rest = f"{path}%3F{rest}", "", ""
    return path + mark + rest


def _without_query(key: str) -> str:
    """Return a key of cloud storage without a query after a name that ends as an image's does."""
    before = key.partition("?")[0]
    return before if has_image_ending(before) else key


def _from_base64(text: str) -> str:
    """Return the address that Label Studio has put in (URL-safe) base64; any other text as it is."""
    try:
        coded = text.replace(" ", "+").translate(str.maketrans("-_", "+/"))
        return b64decode(coded + "=" * (-len(coded) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError, ValueError):
        return text


def other_names(name: str) -> dict[str, str]:
    """Return names that an image may have if Label Studio calls it so, each with what to report then.

    Label Studio puts eight hexadecimal digits before the name of an uploaded file, and percent-encodes addresses.
    """
    upload, coded = "images whose name is longer by what Label Studio puts before that of an upload", "images whose name has signs in codes"
    plain = unquote(name)
    bare = {_UPLOADED.sub("", text, count=1): upload for text in (name, plain) if _UPLOADED.match(text)}
    return bare | ({plain: coded} if plain != name else {})
