"""Files and folders that are written whole or not at all, and survive a crash of the machine right after."""

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pixeltrust.plumbing.errors import RunError

Result = TypeVar("Result")
SYNCED_AT_ONCE = 8  # files: the disk writes its own journal once for all of them
LONGEST_NAME = 255  # bytes of a file name, on every usual system


@contextmanager
def write_atomically(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Write atomically: yield a temporary path that replaces `path` when the block succeeds and is deleted when it fails.

    The temporary path is free at first: through a link that somebody left there, another file would be written.

    Args:
        synced: make sure that the file is on the disk. Where very many are written, `sync_files` does that in far less time. Until it has,
            a crash of the machine may leave an empty file under the final name.
    """
    name = f".{path.name}.unfinished"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.unfinished"
    unfinished = path.with_name(name)
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        if synced:
            _sync(unfinished)
        unfinished.replace(path)
        if synced:
            sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk, where its file system supports that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, where folders cannot be opened, or a folder that may not be read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of network disks that do not support it
            raise
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Make sure that all files below a folder are on the disk. Those that another process has not finished are left to it."""

    def sync_if_there(file: Path) -> None:
        with suppress(FileNotFoundError):  # it got its final name meanwhile
            _sync(file)

    with ThreadPoolExecutor(SYNCED_AT_ONCE) as threads:
        for place, _, names in os.walk(folder):
            list(threads.map(sync_if_there, [Path(place, name) for name in names]))
            sync_folder(Path(place))


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and every missing folder above it, and make sure that their names are on the disk."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes atomically."""
    with write_atomically(path) as unfinished:
        if isinstance(content, bytes):
            unfinished.write_bytes(content)
        else:
            unfinished.write_text(content, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Append a text (UTF-8) to a file, which is made if it is missing; a kill may leave a part of the text."""
    made = not path.exists()
    with path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    if made:
        sync_folder(path.parent)


def stamp(*files: Path) -> str:
    """Return a text that changes when one of the files is modified or moved; for ETags and the names of saved pictures."""
    digest = hashlib.sha256()
    for file in files:
        try:
            state = file.stat()
            digest.update(f"{state.st_ino} {state.st_mtime_ns} {state.st_size} ".encode())
        except OSError:
            digest.update(b"absent ")
        digest.update(os.fsencode(file.absolute()) + b"\n")
    return digest.hexdigest()[:24]


@contextmanager
def naming_write_errors(to: Path) -> Iterator[None]:
    """Turn the write errors of the block into one that says what to do.

    Raises:
        RunError: something cannot be written; names the file, or the folder if the file is unknown.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or to
        raise RunError(f"{where}: cannot be written: {error.strerror or error}; choose another folder, or free the disk") from error


@contextmanager
def exclusive_lock(lock: Path, otherwise: str) -> Iterator[None]:
    """Hold an exclusive lock between processes for the block. The file stays; a process that dies frees its lock.

    Raises:
        RunError: another process holds the lock; its text is `otherwise`.
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0, thread_local=False)  # the block may end in another thread
    try:
        held.acquire()
    except Timeout:
        raise RunError(otherwise) from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def fill_folder_atomically(out: Path) -> Iterator[Path]:
    """Fill a folder atomically: yield a temporary folder that becomes `out` when the block succeeds and is deleted when it fails.

    Raises:
        RunError: `out` is not free (see `require_free`), or it or something in it cannot be written.
    """
    require_free(out)
    target = out.resolve()
    # A random name, so that two processes with the same `out` do not fill one folder; the slower of them fails.
    unfinished = target.with_name(f".{target.name}.unfinished-{token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for folder, _, _ in os.walk(unfinished):
            sync_folder(Path(folder))
        if target.exists():
            target.rmdir()  # it was empty when checked; if it no longer is, this fails
        unfinished.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def require_free(out: Path) -> None:
    """Raise unless `out` is absent or an empty folder.

    Raises:
        RunError: something is there, or it cannot be read.
    """
    try:
        if out.exists() and not out.is_dir():
            raise RunError(f"{out}: exists and is not a folder; choose another name")
        if out.exists() and any(out.iterdir()):
            raise RunError(f"{out}: exists and is not empty; choose another folder or remove it")
    except OSError as error:
        raise RunError(f"{out}: cannot be used: {error.strerror or error}") from None


def link_or_copy(file: Path, to: Path) -> None:
    """Give a file a second name: a hard link, or an atomic copy where the disk does not allow links."""
    try:
        to.hardlink_to(file.resolve())
    except OSError:  # another disk, or one without hard links
        with write_atomically(to) as unfinished:
            shutil.copy2(file, unfinished)


def retry_parsing(load: Callable[[], Result]) -> Result:
    """Return what `load` returns, which loads files of NumPy and may run in several threads at once.

    NumPy has `ast` parse their headers, and Python 3.11 before 3.11.8 counts the depth of that for all threads together: where another
    thread parses in between, a sound file raises SystemError.
    """
    for _ in range(9):
        with suppress(SystemError):
            return load()
    return load()


def mapped_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of zeros in a new file. Its space on the disk is reserved at once: a disk that fills up later kills the process.

    Raises:
        RunError: the space is missing, or the file cannot be made.
    """
    with naming_write_errors(file):
        make_folder(file.parent)
        file.unlink(missing_ok=True)  # a link would lead elsewhere, and a process that has mapped the old file keeps it
        with file.open("wb") as made:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            made.truncate(size)
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(made.fileno(), 0, size)
    return np.memmap(file, dtype, "r+", shape=shape)
