"""Pictures and their masks in other sizes, without torch."""

import numpy as np
from PIL import Image


def resize_image(pixels: np.ndarray, size: tuple[int, ...], *, by_area: bool = False) -> np.ndarray:
    """Resize uint8 (H, W, C) to (height, width): linear, averaging over what falls into one pixel when it shrinks.

    Args:
        by_area: True for the plain mean over the area of each new pixel, where otherwise its surroundings count too.
    """
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    planes = [Image.fromarray(pixels[..., c]).resize((width, height), _filter(by_area)) for c in range(pixels.shape[2])]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def resize_plane(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float32 (h, w) to (H, W) by the filter of `resize_image`, so that it fits the image."""
    if plane.shape == size:
        return plane
    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_labels(labels: np.ndarray, size: tuple[int, ...], *, by_area: bool = False) -> np.ndarray:
    """Resize uint8 labels (H, W) to (height, width): every pixel gets the label with the largest share of it.

    Shares are weighed by the filter of `resize_image` (what is near a pixel's centre counts more than what is at its rim), so
    that a mask stays in register with its image. No label that is not in `labels` can appear (which interpolation of the
    numbers would bring about); at equal shares the lowest label wins.

    Args:
        by_area: as for `resize_image`. Labels of 0 and 1 are then 1 where more than half of the new pixel's area was.
    """
    height, width = size
    if labels.shape == size:
        return labels
    present = np.unique(labels)
    shares = [
        np.asarray(Image.fromarray((labels == label).astype(np.float32)).resize((width, height), _filter(by_area))) for label in present
    ]
    return present[np.argmax(shares, axis=0)]


def _filter(by_area: bool) -> Image.Resampling:
    return Image.Resampling.BOX if by_area else Image.Resampling.BILINEAR
