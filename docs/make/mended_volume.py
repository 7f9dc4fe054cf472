"""Draw docs/pictures/mended-volume.png, structures in MR volumes: python docs/make/mended_volume.py MENDED TRUTH

MENDED is a folder of `pixeltrust mend` on volumes, TRUTH one with the true masks. A row per case, at a fifth, half and four fifths of the
ranking by expected Dice; the slice in which the true structures are largest.
"""

import sys
from pathlib import Path

import numpy as np

from drawing import add_legend, draw_mask, plt, save
from pixeltrust.auditing.folder import read_audit_cases
from pixeltrust.data.images import read_labels, read_values
from pixeltrust.mending.ways import dice_between

PLACES = (0.2, 0.5, 0.8)


def main(mended: Path, truth: Path) -> None:
    cases = read_audit_cases(mended)
    figure, axes = plt.subplots(len(PLACES), 4, figsize=(10.5, 3.1 * len(PLACES)), squeeze=False)
    for row, place in zip(axes, PLACES, strict=True):
        case = cases.iloc[round(place * (len(cases) - 1))]
        given = Path(case["mask"])
        ending = given.name.removeprefix(case["id"])
        image = read_values(Path(case["image"]))
        masks = {name: read_labels(file) for name, file in files_of(case, mended, truth, ending).items()}
        classes = int(masks["true"].max()) + 1
        before, after = (dice_between(masks[name], masks["true"], classes) for name in ("given", "mended"))
        titles = {"image": "image", "given": f"given, Dice {before:.2f}", "mended": f"mended, Dice {after:.2f}", "true": "expert"}
        plane = int((masks["true"] > 0).sum((1, 2)).argmax())
        for axis, (name, title) in zip(row, titles.items(), strict=True):
            axis.imshow(image[plane], cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.5))
            axis.set_title(title, fontsize=12)
            axis.set_axis_off()
            for label in range(1, classes) if name in masks else ():
                draw_mask(axis, masks[name][plane] == label, name)
    figure.tight_layout(rect=(0, 0.035, 1, 1), pad=0.5)
    add_legend(figure, ["given", "mended", "true"])
    save(figure, "mended-volume")


def files_of(case, mended: Path, truth: Path, ending: str) -> dict[str, Path]:
    """Return the files of the masks of a case by what they are."""
    return {"given": Path(case["mask"]), "mended": mended / "mended" / f"{case['id']}{ending}", "true": truth / f"{case['id']}{ending}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
