"""A folder of made-up cases."""

from pathlib import Path

import numpy as np

from pixeltrust.data.pictures import write_png
from pixeltrust.demonstration.synthetic.picture import dermoscopy
from pixeltrust.plumbing.files import fill_folder_atomically, write_file
from pixeltrust.plumbing.progress import map_in_threads


def write_source(folder: Path, *, cases: int, seed: int = 0, size: int = 128, test_share: float = 0.25, show_progress: bool = True) -> None:
    """Write a SOURCE folder of made-up cases: images/<id>.png, masks/<id>.png of 0 and 255, split.csv (id, split).

    Case i depends on the seed and on i alone, not on how many are made; so does its split. The folder appears only when
    it is complete; a run that fails or is stopped leaves nothing behind.

    Args:
        folder: must not exist yet, or be empty.
        cases: how many, at least 1.
        test_share: share of the cases whose split is `test`, 0 to 1; they are spread evenly.

    Raises:
        RunError: the folder has something in it or cannot be written.
    """
    if cases < 1 or not 0 <= test_share <= 1:
        raise ValueError(f"cases is {cases} and test_share {test_share}; they must be 1 or more and 0 to 1")
    ids = [f"made-up-{i:05d}" for i in range(cases)]
    with fill_folder_atomically(folder) as unfinished:
        (unfinished / "images").mkdir()
        (unfinished / "masks").mkdir()

        def draw(i: int) -> None:
            image, mask = dermoscopy(np.random.default_rng((seed, i)), size)
            write_png(unfinished / "images" / f"{ids[i]}.png", image)
            write_png(unfinished / "masks" / f"{ids[i]}.png", mask * np.uint8(255))

        map_in_threads(draw, range(cases), text="drawing", complaint=f"{folder}: cannot be drawn", shown=show_progress)
        lines = ["id,split", *(f"{name},{'test' if _is_test(i, test_share) else 'train'}" for i, name in enumerate(ids))]
        write_file(unfinished / "split.csv", "\n".join(lines) + "\n")


def _is_test(i: int, test_share: float) -> bool:
    return round((i + 1) * test_share) > round(i * test_share)
