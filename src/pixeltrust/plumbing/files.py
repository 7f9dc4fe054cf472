"""Files and folders that appear whole or not at all, and stay when the machine goes down right after."""

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from pixeltrust.plumbing.errors import RunError

LONGEST_NAME = 255  # bytes, of a file on every usual system


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `path` when the block ends well, and vanishes when it does not.

    Nothing is there at first: through a link that somebody left there, another file would be written.
    """
    unfinished = path.with_name(_unfinished(path.name))
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """What a folder holds, by name, is on the disk, as far as its file system has a way to see to that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, where folders cannot be opened, or a folder that one may not look into
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of network disks that know no such thing
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """The folder exists, and every folder above it that had to be made; they are on the disk by name."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def _unfinished(name: str) -> str:
    longer = f".{name}.unfinished"
    if len(os.fsencode(longer)) <= LONGEST_NAME:
        return longer
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.unfinished"


def write_file(path: Path, content: str | bytes) -> None:
    """Write a text (UTF-8) or bytes; the file appears whole or not at all."""
    with write_atomically(path) as unfinished:
        if isinstance(content, bytes):
            unfinished.write_bytes(content)
        else:
            unfinished.write_text(content, encoding="utf-8")


def append_text(path: Path, text: str) -> None:
    """Add a text (UTF-8) to the end of a file, which is made where there is none; a kill on the way may leave a part of it."""
    made = not path.exists()
    with path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    if made:
        sync_folder(path.parent)


@contextmanager
def naming_write_errors(to: Path) -> Iterator[None]:
    """A block that writes to a folder.

    Raises:
        RunError: something cannot be written; names the file, or the folder where no file is known.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or to
        raise RunError(f"{where}: cannot be written: {error.strerror or error}; choose another folder, or free the disk") from error


@contextmanager
def exclusive_lock(lock: Path, otherwise: str) -> Iterator[None]:
    """While the block lasts no other process is in one with the same file as its lock. The file is left; a process that dies frees it.

    Raises:
        RunError: another is; `otherwise` is what to say then.
        OSError: the file cannot be made.
    """
    held = FileLock(lock, timeout=0)
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
    """A folder to fill that becomes `out` when the block ends well, and vanishes when it does not.

    Raises:
        RunError: `out` is in use already (see `require_free`), or it or something in it cannot be written.
    """
    require_free(out)
    target = out.resolve()
    # A name of its own, so that two processes with one `out` do not fill one folder; the slower of them fails.
    unfinished = target.with_name(f".{target.name}.unfinished-{token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        for folder, _, _ in os.walk(unfinished):
            sync_folder(Path(folder))
        if target.exists():
            target.rmdir()  # empty: it was checked; where it no longer is, this fails
        unfinished.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def require_free(out: Path) -> None:
    """Whether a new folder may appear at `out`: nothing is there, or an empty folder.

    Raises:
        RunError: something is there, or one cannot look.
    """
    try:
        if out.exists() and not out.is_dir():
            raise RunError(f"{out}: exists and is no folder; choose another name")
        if out.exists() and any(out.iterdir()):
            raise RunError(f"{out}: exists and is not empty; choose another folder or remove it")
    except OSError as error:
        raise RunError(f"{out}: cannot be used: {error.strerror or error}") from None


def link_or_copy(file: Path, to: Path) -> None:
    """The file under another name: a hard link, or a copy (whole or not at all) where the disk allows none."""
    try:
        to.hardlink_to(file.resolve())
    except OSError:  # another disk, or one without hard links
        with write_atomically(to) as unfinished:
            shutil.copy2(file, unfinished)


def mapped_array(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros that lives in a new file; its room on the disk is taken at once, as a disk that fills up later kills the process.

    Raises:
        RunError: there is no such room, or the file cannot be made.
    """
    with naming_write_errors(file):
        make_folder(file.parent)
        file.unlink(missing_ok=True)  # a link would lead elsewhere, and who has mapped the old file keeps it
        with file.open("wb") as made:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            made.truncate(size)
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(made.fileno(), 0, size)
    return np.memmap(file, dtype, "r+", shape=shape)
