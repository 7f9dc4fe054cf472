"""AUDIT/.volumes: decoded volumes as files that are mapped, so that a slice of any of them is there at once; it may be removed at any time.

<case>-<what>-<stamp>.npy    uint16 (D, H, W) of an image, uint8 of masks and confidence
<case>-image-<stamp>.json    how the numbers of an image become its values: value = offset + slope × number
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from pixeltrust.data.images import read_values
from pixeltrust.data.pictures import STRETCH_PERCENTILES
from pixeltrust.plumbing.files import make_folder, retry_parsing, stamp, write_atomically, write_file

FOLDER = ".volumes"
MOST_BYTES = 8 << 30
_LARGEST = 65535
_SAMPLE = 2_000_000  # voxels by which the first window is chosen


@dataclass(frozen=True)
class Scale:
    """What the numbers of a decoded image mean, and the window that shows it at first."""

    offset: float
    slope: float
    low: float
    high: float


class Decoded:
    """The decoded volumes of an audit; those used least recently are removed where all take more than so many bytes."""

    def __init__(self, audit: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self._most = audit / FOLDER, most_bytes
        self._locks: dict[str, Lock] = {}
        self._lock = Lock()

    def image(self, identity: str, file: Path) -> tuple[np.ndarray, Scale]:
        """Return an image, mapped, uint16 (D, H, W), and its scale.

        Raises:
            DataError: it cannot be read.
        """
        about: list[Scale] = []
        place = self._place(identity, "image", (file,))

        def decode() -> np.ndarray:
            values = read_values(file)
            low, high = float(values.min()), float(values.max())
            whole = bool((values[:: max(1, len(values) // 8)] % 1 == 0).all()) and high - low <= _LARGEST
            slope = 1.0 if whole else (high - low) / _LARGEST or 1.0
            window = np.percentile(values.ravel()[:: max(1, values.size // _SAMPLE)], STRETCH_PERCENTILES)
            about.append(Scale(low, slope, float(window[0]), float(max(window[1], window[0] + slope))))
            write_file(place.with_suffix(".json"), json.dumps(asdict(about[0])))
            numbers = np.empty(values.shape, np.uint16)
            for part, plane in zip(numbers, values, strict=True):  # a plane at a time: no second volume of floats
                part[...] = ((plane - low) / slope).round()
            return numbers

        numbers = self._mapped(place, decode)
        return numbers, about[0] if about else Scale(**json.loads(place.with_suffix(".json").read_text(encoding="utf-8")))

    def labels(self, identity: str, what: str, files: tuple[Path, ...], read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a mask or another map of bytes, mapped, uint8 (D, H, W); it is read again where one of its files has changed."""
        return self._mapped(self._place(identity, what, files), read)

    def _place(self, identity: str, what: str, files: tuple[Path, ...]) -> Path:
        name = hashlib.sha256(os.fsencode(identity)).hexdigest()[:24]
        return self.folder / f"{name}-{what}-{stamp(*files)}.npy"

    def _mapped(self, place: Path, decode: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            own = self._locks.setdefault(place.name, Lock())
        with own:  # two pages may ask for one volume
            try:
                mapped = retry_parsing(lambda: np.load(place, mmap_mode="r"))
                os.utime(place)
            except (OSError, ValueError):
                make_folder(self.folder)
                volume = decode()
                with write_atomically(place) as unfinished, unfinished.open("wb") as file:
                    np.save(file, volume)
                self._remove_old(place)
                mapped = retry_parsing(lambda: np.load(place, mmap_mode="r"))
        return mapped

    def _remove_old(self, kept: Path) -> None:
        with self._lock, suppress(OSError):
            files = sorted(self.folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
            taken = 0
            for file in files:
                taken += file.stat().st_size
                if taken > self._most and file != kept:
                    file.unlink()
                    file.with_suffix(".json").unlink(missing_ok=True)
