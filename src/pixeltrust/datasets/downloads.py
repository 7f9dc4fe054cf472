"""Files from the web: gone on with where they broke off, checked by their MD5 sum.

    FOLDER/  <name>                      a file that is whole and whose sum is right
             .unfinished/  <name>.part   what there is of another
                           <name>.json   what the server said of the file that this is a part of
                           lock          held while a process writes here

pooch checks the sums and gives the files their names; it cannot go on with half a file, so how it downloads is our own.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import pooch
import requests

from pixeltrust.plumbing.errors import FetchError, RunError
from pixeltrust.plumbing.files import exclusive_lock, write_file

UNFINISHED = ".unfinished"
Tell = Callable[[int, str], None]
"""Called with the bytes of the file that are on the disk, and with what is being done where that is not downloading."""
Result = TypeVar("Result")
_CHUNK = 1 << 16
_LONGEST_WAIT_S = 30.0
_PARTIAL, _NO_SUCH_RANGE = 206, 416
_HEAD_REFUSED = (403, 405, 501)  # by servers that may still give the file
_PASSING = (408, 425, 429)  # and all from 500: the server's trouble, not the question's
_PLAIN = {"Accept-Encoding": "identity"}  # bytes as they are stored: a part of a packed stream could not be gone on with


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to bear with a server."""

    tries: int = 6
    """Connections in a row that may break without bringing the file any further."""
    wait_s: float = 1.0
    """Before the second of them; twice as long before each further one."""
    timeout_s: float = 30.0
    """Of silence, after which a connection counts as broken."""


@dataclass(frozen=True, kw_only=True)
class _Version:
    """What a server said of a file: where any of it changes, so has the file."""

    url: str
    size: int | None
    etag: str
    modified: str


def _tell_nobody(_held: int, _doing: str) -> None:
    pass


def download(url: str, *, md5: str, folder: Path, patience: Patience | None = None, tell: Tell = _tell_nobody) -> Path:
    """The file in the folder, under the last part of its address; downloaded, or gone on with, where it is not there yet.

    Args:
        md5: its sum, in hexadecimal.
        folder: where `alone_in` holds.
        patience: with the server; the defaults where not given.
        tell: is told how far it is.

    Raises:
        FetchError: the server does not give the file; what there is of it is kept, and the next call goes on with it. Or it
            is another file than the sum says: then nothing is kept of a download, and what lay in the folder is left there.
        RunError: the folder cannot be written.
    """
    file = folder / _name(url)
    try:
        if file.exists():
            tell(file.stat().st_size, "checking")
            _check_sum(file, md5)
        else:
            _retrieve(url, md5, _Resuming(file, patience or Patience(), tell)).replace(file)
            forget(file)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return file


def remote_size(url: str, *, patience: Patience | None = None, tell: Tell = _tell_nobody) -> int | None:
    """The bytes of a file on the web, or None where its server does not say.

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

    return _persistently(ask, url, patience, tell=tell)


def held_bytes(url: str, folder: Path) -> int:
    """How much of the file is on the disk already."""
    file = folder / _name(url)
    return next((path.stat().st_size for path in (file, _part(file)) if path.exists()), 0)


def forget(file: Path) -> None:
    """Remove what there is of an unfinished download of the file."""
    for path in (_part(file), _record(file)):
        path.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While the block lasts no other process downloads into the folder, which is made where it is missing.

    What is unfinished when the block ends stays there; a folder with nothing in it does not.

    Raises:
        RunError: another does, or the folder cannot be written.
    """
    unfinished = folder / UNFINISHED
    with ExitStack() as held:
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            occupied = f"{folder}: another process is downloading into it; wait for its end, or choose another folder"
            held.enter_context(exclusive_lock(unfinished / "lock", occupied))
            for orphan in unfinished.glob("tmp*"):  # pooch's, of a process that was killed
                orphan.unlink()
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            held.close()
            with suppress(OSError):  # not empty, or another process was quick to come in
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


def _check_sum(file: Path, md5: str) -> None:
    found = pooch.file_hash(str(file), alg="md5")
    if found != md5.lower():
        raise FetchError(
            f"{file}: its MD5 sum is {found}, that of the published file {md5}; remove it (or choose another folder) and call again"
        )


def _retrieve(url: str, md5: str, downloader: "_Resuming") -> Path:
    """The whole file among the unfinished ones."""
    pooch.get_logger().setLevel(logging.WARNING)  # it tells every download on standard error, whoever asked for quiet
    file = downloader.file
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=file.name, path=(file.parent / UNFINISHED).resolve(), downloader=downloader))
    except ValueError as error:  # pooch's: the sum is another one; the text has both
        forget(file)
        raise FetchError(f"{url}: {error} Call again to fetch it anew; if this comes again, the server has another file") from None


@dataclass(frozen=True)
class _Resuming:
    """A downloader for pooch that goes on where an earlier connection, or an earlier process, broke off."""

    file: Path
    patience: Patience
    tell: Tell

    def __call__(self, url: str, output_file: str, _: object) -> None:
        """Fill `output_file`, once there is the whole of it."""
        part = _part(self.file)
        _persistently(lambda: self._go_on(url), url, self.patience, part, self.tell)
        self.tell(part.stat().st_size, "checking")
        _give(part, Path(output_file))

    def _go_on(self, url: str) -> None:
        """Receive what is missing over one connection (two, where the server has another file by now)."""
        known = _known(self.file, url)
        held = _part(self.file).stat().st_size if known else 0
        if known and held == known.size:
            return
        headers = {**_PLAIN, "Range": f"bytes={held}-"} if held else _PLAIN
        with requests.get(url, headers=headers, stream=True, timeout=self.patience.timeout_s) as response:
            is_stale = held and response.status_code in (_PARTIAL, _NO_SUCH_RANGE) and not _continues(response, held, known, url)
            if not is_stale:
                response.raise_for_status()
                if not held or response.status_code != _PARTIAL:  # a new file, or a server that knows no ranges
                    self._begin(_version(url, response))
                self._receive(response)
        if is_stale:
            forget(self.file)
            self._go_on(url)

    def _begin(self, version: _Version) -> None:
        # In this order: a kill in between must not leave old bytes with the new file's record.
        _part(self.file).write_bytes(b"")
        write_file(_record(self.file), json.dumps(asdict(version)))

    def _receive(self, response: requests.Response) -> None:
        with _part(self.file).open("ab") as part:
            self.tell(part.tell(), "")
            for chunk in response.iter_content(_CHUNK):
                part.write(chunk)
                self.tell(part.tell(), "")


def _known(file: Path, url: str) -> _Version | None:
    """What was said of the file of which there is a part; None where there is none, or one of another file."""
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


def _continues(response: requests.Response, held: int, known: _Version | None, url: str) -> bool:
    """Whether this is the rest of the same file."""
    starts_there = response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
    return response.status_code == _PARTIAL and starts_there and _version(url, response) == known


def _give(part: Path, to: Path) -> None:
    """Put the whole file there; under both names where the disk allows it, so that a kill while it is checked costs nothing."""
    to.unlink(missing_ok=True)
    try:
        to.hardlink_to(part)
    except OSError:
        part.replace(to)


# --- servers ------------------------------------------------------------------------------------------------------


def _persistently(
    attempt: Callable[[], Result], url: str, patience: Patience, part: Path | None = None, tell: Tell = _tell_nobody
) -> Result:
    """What the attempt gives, tried again after a wait while it fails in a way that may pass.

    Raises:
        FetchError: it will not pass, or `patience.tries` failed in a row without making the part any longer than it ever was.
    """
    failures, longest = 0, _size(part)
    while True:
        try:
            return attempt()
        except requests.RequestException as error:
            held, reason = _size(part), _reason(error, patience)
            failures = 1 if held > longest else failures + 1
            longest = max(longest, held)
            if not _may_pass(error):
                raise FetchError(f"{url}: {reason}; if it has moved, get the file elsewhere and put it where the archives are") from None
            if failures >= patience.tries:
                kept = f"what there is of it is kept in {part}, " if part and held else ""
                raise FetchError(
                    f"{url}: {reason}, {failures} times in a row; {kept}look at your connection and call again to go on"
                ) from None
            wait_s = min(patience.wait_s * 2 ** (failures - 1), _LONGEST_WAIT_S)
            tell(held, f"{reason}; again in {wait_s:g} s")
            time.sleep(wait_s)


def _size(part: Path | None) -> int:
    return part.stat().st_size if part and part.exists() else 0


def _may_pass(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in _PASSING or error.response.status_code >= 500
    return not isinstance(error, ValueError)  # which requests makes of an address that is none


def _reason(error: requests.RequestException, patience: Patience) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer for {patience.timeout_s:g} s"
    cause: Exception = error
    while cause.args and isinstance(cause.args[0], Exception):  # requests wraps what urllib3 says, and that the cause
        cause = cause.args[0]
    cause = getattr(cause, "reason", cause)
    return f"the connection failed ({' '.join(str(cause.args[0] if cause.args else cause).split())})"
