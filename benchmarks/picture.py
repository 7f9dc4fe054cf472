"""Draw the README's picture from a demo: python benchmarks/picture.py demo

The first cases of the page's gallery, as the page shows them: image, noisy mask, true mask, weights, predictions.
"""

import base64
import io
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROWS = 3
COLUMNS = {  # the page's captions, and ours
    "image": "image",
    "noisy mask": "noisy mask",
    "true mask": "true mask",
    "weights": "weights of pixels",
    "plain": "plain training",
    "pixel": "pixel weights",
}


def main(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    panels = re.findall(r'<figure class="panel">\s*<img src="data:image/png;base64,([^"]+)"[^>]*>\s*<figcaption>([^<]+)', page)
    captions = [caption for _, caption in panels[: ROWS * len(COLUMNS)]]
    assert captions == [*COLUMNS] * ROWS, captions
    figure, axes = plt.subplots(ROWS, len(COLUMNS), figsize=(12, 2.05 * ROWS + 0.3), squeeze=False)
    for axis, (panel, caption) in zip(axes.flat, panels, strict=False):
        axis.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(panel))).convert("RGB")))
        axis.set_axis_off()
        if axis in axes[0]:
            axis.set_title(COLUMNS[caption], fontsize=12)
    figure.tight_layout(pad=0.4)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(256).save(Path(__file__).parents[1] / "docs" / "demo.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
