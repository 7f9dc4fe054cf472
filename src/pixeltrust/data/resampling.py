"""Resampling of volumes to a spacing and back, and the normalisation of their intensities.

C channels or classes   (D, H, W) a grid   spacing in mm, along (D, H, W)

A resampled grid spans the same space as the one that it is made of: its outer faces are the same, the numbers of voxels are rounded, and
nothing is turned. Along each axis by itself values are linear between voxel centres where the grid becomes finer, and means over what
falls into a voxel (by a triangle as wide as two new voxels, as pictures are shrunk) where it becomes coarser. So a volume of thick slices,
at a spacing of 5 x 0.5 x 0.5 mm, say, is resampled along each axis as that one needs it.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixeltrust.config import window_of

CLIPPED = (0.5, 99.5)  # percentiles beyond which a voxel is left out of mean and deviation
BACKGROUND = 0.25  # of the voxels: where more than these have the lowest value, they are the background, and left out too
MOST_DEVIATIONS = 100  # what is hotter is set to it: 16 bits hold no more than 65,504
_LOOKED_AT = 1_000_000  # about as many voxels as percentiles, mean and deviation are of


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], to: Sequence[float]) -> tuple[int, int, int]:
    """Return the shape (D, H, W) that a grid has at another spacing.

    Example:
        resampled_shape((40, 512, 512), (5.0, 0.7, 0.7), to=(5.0, 1.4, 1.4))  # (40, 256, 256)
    """
    depth, height, width = (max(1, round(count * old / new)) for count, old, new in zip(shape, spacing, to, strict=True))
    return depth, height, width


def resample(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample an image, or logits or probabilities back to the grid of their image, float32 (C, D, H, W) to (C, *shape).

    Values stay within their range, and probabilities that sum to 1 still do. One channel after the other needs the least memory.
    """
    return _resample(torch.from_numpy(np.ascontiguousarray(values, np.float32)), shape).numpy()


def resample_planes(planes: Iterable[np.ndarray], depth: int, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Resample an image that comes plane by plane: yield the planes (C, H, W) of what `resample` makes; no more are held than one needs.

    Args:
        planes: float32 (C, h, w), `depth` of them.
        shape: (D, H, W).
    """
    weights = _filter(torch.eye(depth)[None, None], (shape[0], depth))[0, 0]  # (D, depth)
    arriving, held = enumerate(planes), dict[int, Tensor]()
    for row in weights:
        needed = row.nonzero().flatten().tolist()
        while max(held, default=-1) < needed[-1]:
            place, plane = next(arriving)
            held[place] = _resample(torch.from_numpy(np.ascontiguousarray(plane, np.float32))[:, None], (1, *shape[1:]))[:, 0]
        held = {place: plane for place, plane in held.items() if place >= needed[0]}
        yield torch.stack([held[place] * row[place] for place in needed]).sum(0).numpy()


def resample_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample uint8 labels (D, H, W) to a shape: every voxel gets the label with the largest share of it.

    Shares are weighed as `resample` weighs values, so that a mask stays in register with its image. No label can appear that is not there.
    """
    if labels.shape == tuple(shape):
        return labels
    planes = ((label, labels == label) for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())
    return largest((label, resample(plane[None], shape)[0]) for label, plane in planes)


def largest(planes: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return the label of the largest of several planes, uint8 (*S), the first of equal ones; one plane is held at a time.

    Args:
        planes: labels, and shares or probabilities (*S).
    """
    labels = highest = None
    for label, plane in planes:
        if labels is None or highest is None:
            labels, highest = np.full(plane.shape, label, np.uint8), plane
        else:
            labels[plane > highest] = label
            highest = np.maximum(highest, plane)
    assert labels is not None
    return labels


def _resample(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, D, H, W): first along H and W, then along D, by torch's filter for planes, which works along each axis by itself."""
    channels, depth, height, width = values.shape
    if (height, width) != tuple(shape[1:]):
        values = _filter(values.transpose(0, 1), shape[1:]).transpose(0, 1)
    if depth != shape[0]:
        values = _filter(values.reshape(1, channels, depth, -1), (shape[0], shape[1] * shape[2]))
    return values.reshape(channels, *shape)


def _filter(planes: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(planes, tuple(size), mode="bilinear", antialias=True, align_corners=False)


def normalise(image: np.ndarray, how: Sequence[str]) -> np.ndarray:
    """Normalise the intensities of a volume, float32 (C, *S), to about −2 … 2; each channel as the setting `normalise` says.

    `image`: (v − mean) / deviation over the volume, without the background (where more than a quarter of the voxels have the lowest
    value) and without what lies beyond the .5 and 99.5 percentiles; at most 100. `ct:LOW,HIGH`: values are clipped to the window, which
    becomes −1 … 1.

    Args:
        how: one for each channel, or one for all.
    """
    ways = tuple(how) * len(image) if len(how) == 1 else how
    return np.stack([_normalise(channel, way) for channel, way in zip(image, ways, strict=True)])


def _normalise(channel: np.ndarray, how: str) -> np.ndarray:
    window = window_of(how)
    if window:
        low, high = window
        return (channel.clip(low, high) - low) * np.float32(2 / (high - low)) - 1
    voxels = channel.ravel()[:: max(1, channel.size // _LOOKED_AT)].astype(np.float64)
    background = voxels == voxels.min()
    voxels = voxels[~background] if BACKGROUND < background.mean() < 1 else voxels
    low, high = np.percentile(voxels, CLIPPED)
    voxels = voxels[(voxels >= low) & (voxels <= high)]
    mean, deviation = voxels.mean(), voxels.std()
    scaled = (channel - np.float32(mean)) / np.float32(deviation if deviation > 0 else 1)
    return scaled.clip(-MOST_DEVIATIONS, MOST_DEVIATIONS).astype(np.float32, copy=False)
