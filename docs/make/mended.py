"""Draw docs/pictures/mended.png, real skin in the README: python docs/make/mended.py MENDED TRUTH

MENDED is a folder of `pixeltrust mend`, TRUTH one with the true masks, <id>.png. A row per case, at a fifth, half and four fifths of the
ranking by expected Dice.
"""

import io
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from pixeltrust.auditing.folder import read_audit_cases
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.mending.ways import dice_between
from pixeltrust.pages.pictures import draw_overlay

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLACES = (0.2, 0.5, 0.8)


def main(mended: Path, truth: Path) -> None:
    cases = read_audit_cases(mended)
    figure, axes = plt.subplots(len(PLACES), 4, figsize=(10.5, 2.75 * len(PLACES)), squeeze=False)
    for row, place in zip(axes, PLACES, strict=True):
        case = cases.iloc[round(place * (len(cases) - 1))]
        image, true = read_image(Path(case["image"])), read_labels(truth / f"{case['id']}.png") > 0
        given, made = (read_labels(file) > 0 for file in (Path(case["mask"]), mended / "mended" / f"{case['id']}.png"))
        before, after = (dice_between(mask.astype(np.uint8), true.astype(np.uint8), 1) for mask in (given, made))
        shown = {
            "image": draw_overlay(image),
            f"given, Dice {before:.2f}": draw_overlay(image, {"noisy": given}),
            f"mended, Dice {after:.2f}": draw_overlay(image, {"predicted": made}),
            "expert": draw_overlay(image, {"true": true}),
        }
        for axis, (title, picture) in zip(row, shown.items(), strict=True):
            axis.imshow(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))
            axis.set_axis_off()
            axis.set_title(title, fontsize=12)
    figure.tight_layout(pad=0.4, h_pad=1.2)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(256).save(Path(__file__).parents[1] / "pictures" / "mended.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
