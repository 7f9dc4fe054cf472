"""What menders have seen of the masks, on the grid of their training, in files that a stopped mending finds again.

FOLDER/<way>/   planes.f16 (of each of the N masks (K or 1, *S), one after the other)   numbers.f32 (N, 3)   looked.u8 (N,)
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixeltrust.config import Config
from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.processes import Ranks


class SeenMasks:
    """The arrays of N masks. Every rank writes those of its own cases, and reads all.

    Args:
        folder: where the files are, those of each way in a folder of its own.
        shapes: *S of each of the N masks.
        way: what the masks are looked at for.
    """

    def __init__(self, folder: Path, shapes: Sequence[tuple[int, ...]], config: Config, way: str, ranks: Ranks) -> None:
        self._shapes = [(config.classes, *shape) for shape in shapes]
        self._ends = np.cumsum([math.prod(shape) for shape in self._shapes], dtype=np.int64)
        arrays = {
            "planes.f16": (np.float16, (int(self._ends[-1]) if len(shapes) else 0,)),
            "numbers.f32": (np.float32, (len(shapes), 3)),
            "looked.u8": (np.uint8, (len(shapes),)),
        }
        files = {name: folder / way / name for name in arrays}

        def make() -> None:
            for name, (dtype, shape) in arrays.items():
                if not files["looked.u8"].is_file():  # it is made last
                    mapped_array(files[name], dtype, shape)

        ranks.on_rank_0(make)
        self._planes, self.numbers, self.done = (
            np.memmap(files[name], dtype, "r+", shape=shape) for name, (dtype, shape) in arrays.items()
        )
        """Probabilities; soft Dice as given, after the way, how far the menders agree; 1 once looked at."""

    def planes(self, place: int) -> np.ndarray:
        """Return the probabilities (K or 1, *S) of a mask, to be read or written."""
        end = int(self._ends[place])
        return self._planes[end - math.prod(self._shapes[place]) : end].reshape(self._shapes[place])

    def keep(self, place: int, planes: np.ndarray, *numbers: float) -> None:
        """Keep what was seen of a mask."""
        self.planes(place)[...], self.numbers[place] = planes, numbers
        self.done[place] = 1
