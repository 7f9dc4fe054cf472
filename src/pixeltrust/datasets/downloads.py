"""Resumable downloads, verified by MD5.

FOLDER/  <name>                      a whole file whose MD5 sum is right
         .unfinished/  <name>.part   the bytes received so far of another
                       <name>.json   what the server said of that file
                       lock          held while a process writes here
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import requests

from pixeltrust.plumbing.errors import FetchError, RunError
from pixeltrust.plumbing.files import exclusive_lock, write_file

UNFINISHED = ".unfinished"
Report = Callable[[int, str], None]
"""Called with the bytes of the file that are on the disk, and with the current activity, if that is not downloading."""
Result = TypeVar("Result")
_CHUNK = 1 << 16
_LONGEST_WAIT_S = 30.0
_PARTIAL, _NO_SUCH_RANGE = 206, 416
_HEAD_REFUSED = (403, 405, 501)  # by servers that may still give the file
_TEMPORARY = (408, 425, 429)  # and all from 500: trouble of the server, not of the request
_PLAIN = {"Accept-Encoding": "identity"}  # bytes as they are stored: a part of a packed stream could not be resumed


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Limits of the retries."""

    tries: int = 6
    """Connections in a row that may break without bringing the file any further."""
    wait_s: float = 1.0
    """The wait before the second of them; it doubles before each further one."""
    timeout_s: float = 30.0
    """Seconds of silence after which a connection counts as broken."""


@dataclass(frozen=True, kw_only=True)
class _Version:
    """What a server says of a file: where any of it changes, so has the file."""

    url: str
    size: int | None
    etag: str
    modified: str


def _report_nothing(_received: int, _doing: str) -> None:
    pass


def download(url: str, *, md5: str, folder: Path, patience: Patience | None = None, report: Report = _report_nothing) -> Path:
    """Return the file in the folder, under the last part of its address; download it, or resume that, where it is missing.

    Args:
        md5: its sum, in hexadecimal.
        folder: a folder that is locked by `lock_folder`.
        patience: with the server; the defaults where not given.
        report: is called with the progress.

    Raises:
        FetchError: the server does not give the file; what was received is kept, and the next call resumes it. Or the sum is
            wrong: then nothing of a download is kept, and a file that was in the folder stays.
        RunError: the folder cannot be written.
    """
    file = folder / _name(url)
    try:
        if file.exists():
            _verify(file, md5, report, file, "remove it (or choose another folder) and call again")
        else:
            part = _part(file)
            patience = patience or Patience()
            _retry(lambda: _resume(url, file, patience.timeout_s, report), url, patience, part, report)
            try:
                _verify(part, md5, report, url, "call again to fetch it anew; if this comes again, the server has another file")
            except FetchError:
                forget(file)
                raise
            part.replace(file)
        forget(file)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return file


def remote_size(url: str, *, patience: Patience | None = None, report: Report = _report_nothing) -> int | None:
    """Ask for the bytes of a file on the web; None where its server does not say.

    Raises:
        FetchError: it is not there, or the server cannot be reached.
    """
    patience = patience or Patience()

    def ask() -> int | None:
        with requests.head(url, headers=_PLAIN, allow_redirects=True, timeout=patience.timeout_s) as response:
            if response.status_code in _HEAD_REFUSED:
                return None
            response.raise_for_status()
            return _version(url, response).size

    return _retry(ask, url, patience, report=report)


def bytes_on_disk(url: str, folder: Path) -> int:
    """Return how much of the file has been received already."""
    file = folder / _name(url)
    return next((path.stat().st_size for path in (file, _part(file)) if path.exists()), 0)


def forget(file: Path) -> None:
    """Remove an unfinished download of the file."""
    for path in (_part(file), _record(file)):
        path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from downloading into the folder during the block; the folder is made where it is missing.

    What is unfinished when the block ends stays there; an empty folder does not.

    Raises:
        RunError: another process downloads into it, or the folder cannot be written.
    """
    unfinished = folder / UNFINISHED
    with ExitStack() as lock:
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            occupied = f"{folder}: another process is downloading into it; wait until it has finished, or choose another folder"
            lock.enter_context(exclusive_lock(unfinished / "lock", occupied))
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.close()
            with suppress(OSError):  # not empty, or another process has just come in
                (unfinished / "lock").unlink(missing_ok=True)
                unfinished.rmdir()
                folder.rmdir()


# --- one file -----------------------------------------------------------------------------------------------------


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _part(file: Path) -> Path:
    return file.parent / UNFINISHED / f"{file.name}.part"


def _record(file: Path) -> Path:
    return file.parent / UNFINISHED / f"{file.name}.json"


def _verify(file: Path, md5: str, report: Report, name: object, repair: str) -> None:
    """Raise FetchError unless the file has this MD5 sum."""
    report(file.stat().st_size, "checking")
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()
    if found != md5.lower():
        raise FetchError(f"{name}: its MD5 sum is {found}, that of the published file {md5}; {repair}")


def _resume(url: str, file: Path, timeout_s: float, report: Report) -> None:
    """Receive what is missing of the part over one connection (two, where the file has changed on the server)."""
    recorded = _recorded_version(file, url)
    received = _size(_part(file)) if recorded else 0
    if recorded and received == recorded.size:
        return
    headers = {**_PLAIN, "Range": f"bytes={received}-"} if received else _PLAIN
    with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
        is_answer_to_range = received and response.status_code in (_PARTIAL, _NO_SUCH_RANGE)
        if not is_answer_to_range:  # a new file, or a server that does not know ranges
            response.raise_for_status()
            # In this order: a kill in between must not leave old bytes with the new file's record.
            _part(file).write_bytes(b"")
            write_file(_record(file), json.dumps(asdict(_version(url, response))))
        if not is_answer_to_range or _is_the_rest(response, received, recorded, url):
            with _part(file).open("ab") as part:
                report(part.tell(), "")
                for chunk in response.iter_content(_CHUNK):
                    part.write(chunk)
                    report(part.tell(), "")
            return
    forget(file)
    _resume(url, file, timeout_s, report)


def _recorded_version(file: Path, url: str) -> _Version | None:
    """Return the version of the file that the part belongs to; None without a part, or where it belongs to another file."""
    try:
        version = _Version(**json.loads(_record(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.url == url and _part(file).exists() else None


def _version(url: str, response: requests.Response) -> _Version:
    headers = response.headers
    size = headers.get("Content-Range", "").rpartition("/")[2] if response.status_code == _PARTIAL else headers.get("Content-Length", "")
    return _Version(
        url=url, size=int(size) if size.isdecimal() else None, etag=headers.get("ETag", ""), modified=headers.get("Last-Modified", "")
    )


def _is_the_rest(response: requests.Response, received: int, recorded: _Version | None, url: str) -> bool:
    """Return whether the response continues the part, of the same version of the file."""
    starts_there = response.headers.get("Content-Range", "").startswith(f"bytes {received}-")
    return response.status_code == _PARTIAL and starts_there and _version(url, response) == recorded


# --- servers ------------------------------------------------------------------------------------------------------


def _retry(
    attempt: Callable[[], Result], url: str, patience: Patience, part: Path | None = None, report: Report = _report_nothing
) -> Result:
    """Return what the attempt gives, and repeat it after a wait while its failure may be temporary.

    Raises:
        FetchError: the failure is permanent, or `patience.tries` failed in a row without making the part longer than ever before.
    """
    failures, longest = 0, _size(part)
    while True:
        try:
            return attempt()
        except requests.RequestException as error:
            received, reason = _size(part), _reason(error, patience)
            failures = 1 if received > longest else failures + 1
            longest = max(longest, received)
            if not _is_temporary(error):
                raise FetchError(f"{url}: {reason}; if it has moved, get the file elsewhere and put it where the archives are") from None
            if failures >= patience.tries:
                kept = f"what was received is kept in {part}, " if part and received else ""
                raise FetchError(
                    f"{url}: {reason}, {failures} times in a row; {kept}check your connection and call again to resume"
                ) from None
            wait_s = min(patience.wait_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
            report(received, f"{reason}; again in {wait_s:g} s")
            time.sleep(wait_s)


def _size(part: Path | None) -> int:
    return part.stat().st_size if part and part.exists() else 0


def _is_temporary(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in _TEMPORARY or error.response.status_code >= 500
    return not isinstance(error, ValueError)  # raised by requests for an invalid address


def _reason(error: requests.RequestException, patience: Patience) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer for {patience.timeout_s:g} s"
    cause: Exception = error
    while cause.args and isinstance(cause.args[0], Exception):  # requests wraps urllib3's error, which wraps the cause
        cause = cause.args[0]
    cause = getattr(cause, "reason", cause)
    return f"the connection failed ({' '.join(str(cause.args[0] if cause.args else cause).split())})"
