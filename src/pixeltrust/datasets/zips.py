"""Zip archives of published data sets.

They are opened only after their published MD5 sum matched, and each member is saved under a name that the caller gives. So this
module protects from broken files, not from hostile ones.
"""

import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import write_atomically

_BROKEN = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)  # raised by zipfile for a broken file


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    archive: ZipFile
    info: ZipInfo

    @property
    def name(self) -> str:
        """The name without its folders."""
        return PurePosixPath(self.info.filename).name

    def __str__(self) -> str:
        return f"{Path(self.archive.filename or '').name}: {self.info.filename}"

    def save(self, to: Path) -> None:
        """Unpack the member into a file, whole or not at all.

        Raises:
            DataError: the member is broken.
        """
        try:
            with self._open() as packed, write_atomically(to) as unfinished, unfinished.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
                if file.tell() != self.info.file_size:
                    raise BadZipFile("it is shorter than the archive's list says")
        except _BROKEN as error:
            raise DataError(f"{self}: cannot be unpacked: {error}") from None

    def _open(self) -> IO[bytes]:
        if self.info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # when broken, other methods raise errors of their own
            raise BadZipFile(f"it is packed by the unusual method {self.info.compress_type}")
        try:
            return self.archive.open(self.info)
        except OSError as error:  # an offset outside of the file
            raise BadZipFile(str(error)) from None


def open_zip(file: Path) -> ZipFile:
    """Open an archive, which the caller closes.

    Raises:
        DataError: the file is missing, or not a whole zip file.
    """
    try:
        return ZipFile(file)
    except _BROKEN as error:
        raise DataError(f"{file.name}: not a whole zip file: {error}") from None
    except OSError as error:
        raise DataError(f"{file.name}: cannot be read: {error.strerror or error}") from None


def files_in(archive: ZipFile) -> list[Member]:
    """Return all members that are not folders."""
    return [Member(archive, info) for info in archive.infolist() if not info.is_dir()]
