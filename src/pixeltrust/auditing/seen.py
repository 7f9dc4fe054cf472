"""What the first pass of an audit has kept of every case, in AUDIT/.seen until the audit is done.

AUDIT/.seen/  of.json (what it is of: the source, the data, the numbers)  lock  <id>.npz: a source's arrays
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from pixeltrust.data.cases import Case
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import retry_parsing, write_atomically
from pixeltrust.plumbing.text import one_line

Arrays = dict[str, np.ndarray]
Kept = TypeVar("Kept")


class SeenFolder:
    """The folder AUDIT/.seen."""

    def __init__(self, audit: Path) -> None:
        self.folder = audit / ".seen"

    def file(self, case: Case) -> Path:
        """Return where a case is kept."""
        return self.folder / f"{case.id}.npz"

    def write(self, case: Case, arrays: Arrays) -> None:
        """Keep a case."""
        with write_atomically(self.file(case)) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def read(self, case: Case, parse: Callable[[Mapping[str, np.ndarray]], Kept]) -> Kept:
        """Return what `parse` makes of the arrays of a case that was kept.

        Raises:
            RunError: its file is broken, or `parse` raises a ValueError or KeyError.
        """
        file = self.file(case)
        try:
            return retry_parsing(lambda: self._parse(file, parse))
        except Exception as error:  # a broken file makes its reader raise anything
            raise RunError(f"{file}: cannot be read: {one_line(error)}; remove it, and continue with --resume") from None

    def _parse(self, file: Path, parse: Callable[[Mapping[str, np.ndarray]], Kept]) -> Kept:
        with np.load(file, allow_pickle=False) as arrays:
            return parse(arrays)
