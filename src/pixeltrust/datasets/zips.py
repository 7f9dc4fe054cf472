"""Zip files that nobody need trust: single members are taken out, under names that the caller gives.

No path in an archive decides where anything is written. An archive that holds what no archive of images does is not used at all.
"""

import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from rich.filesize import decimal

from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import write_atomically

MAX_MEMBERS = 50_000  # of an archive
MAX_MEMBER_BYTES = 1 << 28  # unpacked
MAX_BYTES = 1 << 36  # unpacked, all members of an archive
_BROKEN = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)  # what a broken file makes zipfile raise


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    archive: ZipFile
    info: ZipInfo

    @property
    def name(self) -> str:
        """Without its folders."""
        return PurePosixPath(self.info.filename).name

    @property
    def path(self) -> str:
        """In the archive, as it can be shown."""
        return self.info.filename if self.info.filename.isprintable() else repr(self.info.filename)

    def __str__(self) -> str:
        return f"{Path(self.archive.filename or '').name}: {self.path}"

    def save(self, to: Path) -> None:
        """Unpack it, whole or not at all; never more bytes than the archive's list says.

        Raises:
            DataError: it is broken.
        """
        try:
            with self._opened() as packed, write_atomically(to) as unfinished, unfinished.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
                if file.tell() != self.info.file_size:
                    raise BadZipFile("it is shorter than the archive's list says")
        except _BROKEN as error:
            raise DataError(f"{self}: cannot be unpacked: {error}") from None

    def _opened(self) -> IO[bytes]:
        try:
            return self.archive.open(self.info)
        except OSError as error:  # its place in the archive is none
            raise BadZipFile(str(error)) from None


def open_zip(file: Path) -> ZipFile:
    """The archive, whose every member may be unpacked without danger. To be closed by the caller.

    Raises:
        DataError: it is none, or lists what is wrong with its members.
    """
    try:
        archive = ZipFile(file)
    except _BROKEN as error:
        raise DataError(f"{file.name}: no whole zip file: {error}") from None
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read: {error.strerror or error}") from None
    if faults := [f"{file.name}: {danger}" for danger in _dangers(archive.infolist())]:
        archive.close()
        raise DataError(f"{file}: holds what no archive of images does", faults)
    return archive


def files_in(archive: ZipFile) -> list[Member]:
    """All members that are no folders."""
    return [Member(archive, info) for info in archive.infolist() if not info.is_dir()]


def _dangers(infos: list[ZipInfo]) -> Iterator[str]:
    if len(infos) > MAX_MEMBERS:
        yield f"holds {len(infos):,} members, more than {MAX_MEMBERS:,}"
        return
    yield from (f"{info.orig_filename!r} {danger}" for info in infos if (danger := _danger(info)))
    unpacked = sum(info.file_size for info in infos)
    if unpacked > MAX_BYTES:
        yield f"would unpack to {decimal(unpacked)}, more than {decimal(MAX_BYTES)}"


def _danger(info: ZipInfo) -> str | None:
    name = info.orig_filename.replace("\\", "/")
    kind = stat.S_IFMT(info.external_attr >> 16)  # of a Unix file system; 0 where another wrote the archive
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name:
        return "leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return f"is packed by the unusual method {info.compress_type}"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"would unpack to {decimal(info.file_size)}, more than {decimal(MAX_MEMBER_BYTES)}"
    return None
