"""What menders have seen of the masks, on the grid of their training, in files that a stopped mending finds again.

FOLDER/<way>/   planes.f16 (N, K or 1, h, w)   soft.f32 (N, 3)   done.u8 (N,)
"""

from pathlib import Path

import numpy as np

from pixeltrust.config import Config
from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.processes import Ranks


class SeenMasks:
    """The arrays of N masks. Every rank writes those of its own cases, and reads all.

    Args:
        folder: where the files are, those of each way in a folder of its own.
        count: N.
        way: what the masks are looked at for.
    """

    def __init__(self, folder: Path, count: int, config: Config, way: str, ranks: Ranks) -> None:
        shapes = {
            "planes.f16": (np.float16, (count, config.classes, *config.size)),
            "soft.f32": (np.float32, (count, 3)),
            "done.u8": (np.uint8, (count,)),
        }
        files = {name: folder / way / name for name in shapes}

        def make() -> None:
            for name, (dtype, shape) in shapes.items():
                if not files["done.u8"].is_file():  # it is made last
                    mapped_array(files[name], dtype, shape)

        ranks.on_rank_0(make)
        self.planes, self.soft, self.done = (np.memmap(files[name], dtype, "r+", shape=shape) for name, (dtype, shape) in shapes.items())
        """Probabilities; soft Dice as given, after the way, and what several menders add to it; 1 for a mask that was looked at."""

    def keep(self, place: int, planes: np.ndarray, *soft: float) -> None:
        """Keep what was seen of a mask."""
        self.planes[place], self.soft[place] = planes, soft
        self.done[place] = 1
