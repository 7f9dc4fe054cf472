"""Draw docs/pictures/audit.png, what is doubtful in given masks: python docs/make/doubt.py AUDIT

AUDIT is a folder of `pixeltrust audit` or `mend` on pictures. A row for each of the masks with the most to change, among the worst tenth.
"""

import sys
from pathlib import Path

from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap

from drawing import add_legend, draw_mask, plt, save
from pixeltrust.auditing.folder import read_audit_cases
from pixeltrust.data.images import read_image, read_labels

ROWS = 3
DOUBT = LinearSegmentedColormap.from_list("doubt", ["#ffffff", "#f0dcc0", "#d0832c", "#7f3b08"])


def main(audit: Path) -> None:
    cases = read_audit_cases(audit)
    worst = cases.head(max(ROWS, len(cases) // 10)).sort_values("changed_pixels", ascending=False).head(ROWS)
    figure, axes = plt.subplots(ROWS, 4, figsize=(10.5, 2.75 * ROWS + 0.7), squeeze=False)
    for row, case in zip(axes, worst.to_dict("records"), strict=True):
        given, confidence = read_labels(Path(case["mask"])) > 0, read_labels(audit / "confidence" / f"{case['id']}.png") / 255
        for axis, title in zip(row, ("image", "given mask", "doubt", "proposed mask"), strict=True):
            axis.imshow(read_image(Path(case["image"]), 3))
            axis.set_title(title if row is axes[0] else "", fontsize=12)
            axis.set_axis_off()
        row[2].imshow(1 - confidence, cmap=DOUBT, vmin=0, vmax=1)
        draw_mask(row[1], given, "given")
        draw_mask(row[2], given, "given")
        draw_mask(row[3], read_labels(audit / "mended" / f"{case['id']}.png") > 0, "mended")
    figure.tight_layout(rect=(0, 0.08, 1, 1), pad=0.5)
    bar = figure.colorbar(ScalarMappable(cmap=DOUBT), cax=figure.add_axes((0.08, 0.05, 0.34, 0.018)), orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["doubt 0: surely right", "½", "1: surely wrong"])
    add_legend(figure, ["given", "mended"], place=(0.72, 0.01))
    save(figure, "audit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
