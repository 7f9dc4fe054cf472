"""Draw docs/pictures/demo.png from a demo: python docs/make/picture.py demo

The mended masks of typical cases, with which the page begins.
"""

import base64
import io
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from pixeltrust.demonstration.page import SHOWN

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = ("image", "given mask", "mended mask", "true mask")


def main(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    panels = re.findall(r'<figure class="panel">\s*<img src="data:image/png;base64,([^"]+)"[^>]*>\s*<figcaption>([^<]+)', page)
    rows = SHOWN[0]
    panels = panels[: rows * len(COLUMNS)]
    captions = [caption for _, caption in panels]
    assert captions == [*COLUMNS] * rows, captions
    figure, axes = plt.subplots(rows, len(COLUMNS), figsize=(10.5, 2.68 * rows + 0.3), squeeze=False)
    for axis, (panel, caption) in zip(axes.flat, panels, strict=True):
        axis.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(panel))).convert("RGB")))
        axis.set_axis_off()
        if axis in axes[0]:
            axis.set_title(caption, fontsize=12)
    figure.tight_layout(pad=0.4)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(256).save(Path(__file__).parents[1] / "pictures" / "demo.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
