"""Draw the README's picture from a demo: python docs/picture.py demo

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

ROWS, COLUMNS = 3, ("image", "noisy mask", "true mask", "weights of pixels", "plain training", "pixel weights")


def main(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    panels = re.findall(r'<figure class="panel">\s*<img[^>]*src="data:image/png;base64,([^"]+)"', page)
    figure, axes = plt.subplots(ROWS, len(COLUMNS), figsize=(12, 2.05 * ROWS + 0.3), squeeze=False)
    for place, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        axis.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(panel))).convert("RGB")))
        axis.set_axis_off()
        if place < len(COLUMNS):
            axis.set_title(COLUMNS[place], fontsize=12)
    figure.tight_layout(pad=0.4)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(256).save(Path(__file__).parent / "demo.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
