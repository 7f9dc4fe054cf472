"""Draw docs/pictures/noise-kinds.png, one mask wrong in eleven ways: python docs/make/noise_kinds.py SOURCE CASE

SOURCE is a folder with images/ and masks/, the truth; CASE the id of one of its cases. As `pixeltrust simulate` draws it, of seed 0.
"""

import sys
from pathlib import Path

import numpy as np

from drawing import add_legend, draw_mask, plt, save
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.noise.kinds import find_kind

KINDS = ["triangle", "heptagon", "axes", "box", "coarse", "unsupervised", "dilate", "erode", "shift", "drop", "human"]


def main(source: Path, case: str) -> None:
    image, true = read_image(source / "images" / f"{case}.jpg", 3), read_labels(source / "masks" / f"{case}.png") > 0
    figure, axes = plt.subplots(3, 4, figsize=(10.5, 8.9))
    for axis, name in zip(axes.flat, ["true", *KINDS], strict=True):
        axis.imshow(image)
        axis.set_title(name, fontsize=12)
        if name != "true":
            draw_mask(axis, find_kind(name)(true, np.random.default_rng(0), image=image) > 0, "given")
        draw_mask(axis, true, "true")
    figure.tight_layout(rect=(0, 0.045, 1, 1), pad=0.5)
    add_legend(figure, ["given", "true"])
    save(figure, "noise-kinds")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
