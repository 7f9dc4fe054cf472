"""Pictures of one case, as bytes (PNG) that a page can hold: enlarged, with outlines, weights or doubt on them.

image    uint8 (H, W, 3)
mask     bool (H, W)
weights  float (H, W), in multiples of the average weight: 1 is average, 0 is left out
"""

import io
from base64 import b64encode
from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image
from scipy import ndimage
from skimage.segmentation import find_boundaries

PANEL_PIXELS = 320  # the longer side of a picture
MOST = 8.0  # the weight, in averages, at which the colours of `draw_heat` end
OUTLINES = {
    "noisy": (240, 228, 66),
    "true": (255, 255, 255),
    "predicted": (70, 180, 255),
}
HEAT = LinearSegmentedColormap.from_list(
    "weights", [(0.0, "#7f3b08"), (0.25, "#d0832c"), (0.5, "#f4f1ea"), (0.75, "#4c8fbd"), (1.0, "#08315e")]
)
_DASH = 7  # pixels of a picture


def draw_overlay(image: np.ndarray, masks: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Draw the image, enlarged, with the outlines of masks on it.

    Args:
        image: uint8 (H, W, 3).
        masks: bool (H, W), by a name of `OUTLINES`; later ones are drawn over earlier ones.
    """
    size = _picture_size(image.shape[0], image.shape[1])
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).copy()
    for name, mask in (masks or {}).items():
        line = find_boundaries(_enlarge(mask.astype(np.float32), size) > 0.5, mode="thick")
        picture[ndimage.binary_dilation(ndimage.binary_dilation(line))] = 20
        picture[ndimage.binary_dilation(line)] = OUTLINES[name]
    return _to_png(picture)


def draw_heat(
    weights: np.ndarray, mask: np.ndarray | None = None, *, true: np.ndarray | None = None, shape: tuple[int, int] | None = None
) -> bytes:
    """Draw weights as colours: brown below the average, blue above it, the outline of `mask` in black, that of `true` broken.

    The colours run evenly from 0 to 1 and by the logarithm from 1 to `MOST`.

    Args:
        weights: float (H, W), in multiples of the average.
        mask: bool, of any size; the mask whose pixels are weighed.
        true: bool, of any size; the true mask.
        shape: (height, width) whose proportions the picture has; those of `weights` where not given.
    """
    size = _picture_size(*(shape or weights.shape))
    places = heat_places(_enlarge(weights.astype(np.float32), size, Image.Resampling.NEAREST))
    picture = (HEAT(places)[..., :3] * 255).round().astype(np.uint8)
    if true is not None:
        rows, columns = np.indices(picture.shape[:2])
        picture[_inner_line(true, size) & ((rows + columns) // _DASH % 2 == 0)] = 0
    if mask is not None:
        picture[_inner_line(mask, size)] = 0
    return _to_png(picture)


def draw_doubt(doubt: np.ndarray, mask: np.ndarray | None = None, *, under: np.ndarray | None = None) -> bytes:
    """Draw doubt as colours: dark brown where a label is certainly wrong, pale at ½, nothing at 0; the outline of `mask` in black.

    Args:
        doubt: float (H, W), the probability that a label is wrong, 0 … 1.
        mask: bool (H, W).
        under: uint8 (H, W, 3), an image to show, in grey, where there is no doubt.
    """
    size = _picture_size(*doubt.shape)
    enlarged = _enlarge(doubt.astype(np.float32), size)
    ground = np.full((*enlarged.shape, 3), 255.0)
    if under is not None:
        grey = np.asarray(Image.fromarray(under).convert("L").resize(size, Image.Resampling.BICUBIC), np.float32)
        ground = np.repeat(128 + grey[..., None] / 2, 3, axis=2)
    cover = (enlarged.clip(0, 1) ** 0.7)[..., None]
    colours = HEAT((0.5 * (1 - enlarged)).clip(0, 0.5))[..., :3] * 255
    picture = (cover * colours + (1 - cover) * ground).round().astype(np.uint8)
    if mask is not None:
        picture[_inner_line(mask, size)] = 0
    return _to_png(picture)


def png_source(content: bytes) -> str:
    """Return a PNG as the source of an `<img>`."""
    return f"data:image/png;base64,{b64encode(content).decode()}"


def heat_places(weights: np.ndarray) -> np.ndarray:
    """Return the places of weights on the scale of `HEAT`, 0 to 1; the average is in the middle."""
    above = np.log(weights.clip(1, MOST)) / np.log(MOST)
    return 0.5 * (weights.clip(0, 1) + above)


def _picture_size(height: int, width: int) -> tuple[int, int]:
    """Return (width, height), as Pillow has it."""
    scale = PANEL_PIXELS / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _enlarge(values: np.ndarray, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size, how))


def _inner_line(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return ndimage.binary_dilation(find_boundaries(_enlarge(mask.astype(np.float32), size) > 0.5, mode="inner"))


def _to_png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()
