"""Augmentation: how the images of a batch are shown to the network, and the way back for what is learned of their pixels.

B images   C channels   (H, W) the size of training   values (B, …, H, W)
upright: as in the files   shown: as the network gets it

Flips and quarter turns move pixels and lose nothing. A lens (zoom, shift, rotation) interpolates: an upright pixel may be between shown
ones, or outside of the view; a shown pixel outside of its image is ignored.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixeltrust.config import Config
from pixeltrust.method.addresses import OUTSIDE, address_map
from pixeltrust.method.batch import Batch
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.seeds import generator

TURNS = 8  # the symmetries of a square: number % 4 quarter turns, then mirrored if number ≥ 4
INVERSE = np.array([0, 3, 2, 1, 4, 5, 6, 7])  # the symmetry that undoes each; a mirrored one undoes itself
_FLIPPED = ((), (-1,), (-2, -1), (-2,), (-1,), (-2, -1), (-2,), ())  # axes, by symmetry; the odd ones are then transposed

ZOOM = (0.75, 1.25)  # of what a shown side spans, over the image's
SHIFT = 0.075  # of the side, at most, either way
ROTATION = 15.0  # degrees, at most, either way
CONTRAST = (0.75, 1.25)
TINT = 0.1  # at most, either way, added to a channel of 0 … 1


@dataclass(frozen=True, eq=False)  # == on arrays does not give a single bool
class Views:
    """The views of B images: turned, then through a lens, then tinted."""

    turns: np.ndarray
    """Symmetries (B,), 0 … 7."""
    lenses: Tensor | None = None
    """(B, 2, 3), float64: the position of a shown point (x, y) in the turned image, both in −1 … 1; None: nothing is interpolated."""
    tints: Tensor | None = None
    """(B, 1 + C): the contrast, where 1 changes nothing, and what is added to each channel."""

    def __getitem__(self, chosen: slice) -> "Views":
        """Return the views of a slice of the batch; those of an empty slice interpolate nothing."""
        turns = self.turns[chosen]
        lenses, tints = (values[chosen] if values is not None and len(turns) else None for values in (self.lenses, self.tints))
        return Views(turns, lenses, tints)

    def show(self, batch: Batch) -> Batch:
        """Show the upright batch; outside of an image is its reflection, which is ignored."""
        images, masks = self._turned(batch.images, self.turns), self.show_masks(batch.masks)
        if self.lenses is not None:
            grid = _grid(self.lenses, images)
            images = _sample(images, 1 - ((grid + 1).remainder(4) - 2).abs(), "bilinear")  # reflected at −1 and 1
        if self.tints is not None:
            contrast, tint = to_device(self.tints.to(images.dtype), images.device)[:, :, None, None].split((1, images.shape[1]), 1)
            mean = images.mean((2, 3), keepdim=True)
            images = ((images - mean) * contrast + mean + tint).clamp(0, 1)
        return batch if images is batch.images else Batch(images, masks, batch.ignore_label)

    def show_masks(self, masks: Tensor) -> Tensor:
        """Show upright labels (B, H, W); outside of an image they are ignored."""
        return self._show_labels(masks, outside=IGNORE)

    def show_addresses(self, size: tuple[int, ...]) -> Tensor:
        """Return for every shown pixel the address (see `address_map`) of the pixel of its image of this size, int64 (B, H, W)."""
        return self._show_labels(address_map(size).expand(len(self.turns), *size), outside=OUTSIDE)

    def _show_labels(self, labels: Tensor, *, outside: int) -> Tensor:
        labels = self._turned(labels, self.turns)
        if self.lenses is None:
            return labels
        grid = _grid(self.lenses, labels)
        inside = (grid.abs() <= 1).all(-1)
        return torch.where(inside, _sample(labels[:, None], grid, "nearest")[:, 0], outside).to(labels.dtype)

    def _turned(self, values: Tensor, turns: np.ndarray) -> Tensor:
        return turn_images(values, turns) if turns.any() else values


def draw_views(count: int, config: Config, update: int, stream: str) -> Views:
    """Draw how an update shows the `count` images of a stream; that depends on seed, stream and update alone."""
    draws = generator(config.seed, "augment", stream, update)
    turns = np.zeros(count, int) if config.augment == "none" else draw_turns(count, config.size, draws)
    if config.jitter == "none" or (config.jitter == "clean" and stream not in ("clean", "pairs")):
        return Views(turns)
    return Views(turns, draw_lenses(count, config.size, draws), draw_tints(count, config.channels, draws))


def draw_turns(count: int, size: tuple[int, ...], draws: np.random.Generator) -> np.ndarray:
    """Draw a symmetry (0 … 7) for each of `count` images, without quarter turns where height and width differ."""
    turns = draws.integers(0, TURNS, count)
    return turns if size[0] == size[1] else turns - turns % 2


def draw_lenses(count: int, size: tuple[int, ...], draws: np.random.Generator) -> Tensor:
    """Draw a zoom, rotation and shift for each of `count` images of (H, W) pixels, (count, 2, 3)."""
    zoom, angle = draws.uniform(*ZOOM, count), np.radians(draws.uniform(-ROTATION, ROTATION, count))
    aspect = size[0] / size[1]
    across, along = zoom * np.cos(angle), zoom * np.sin(angle)
    rows = [np.stack([across, -along * aspect]), np.stack([along / aspect, across])]
    shift = 2 * draws.uniform(-SHIFT, SHIFT, (2, count))  # −1 … 1 spans the side
    return torch.from_numpy(np.concatenate([np.stack(rows), shift[:, None]], 1).transpose(2, 0, 1).copy())


def draw_tints(count: int, channels: int, draws: np.random.Generator) -> Tensor:
    """Draw a contrast and tint for each of `count` images, (count, 1 + channels)."""
    return torch.from_numpy(np.hstack([draws.uniform(*CONTRAST, (count, 1)), draws.uniform(-TINT, TINT, (count, channels))]))


def turn_images(values: Tensor, turns: np.ndarray) -> Tensor:
    """Turn each of (B, …, H, W) by its own symmetry: quarter turns, then a mirror."""
    result = torch.empty_like(values)
    order = to_device(torch.from_numpy(np.argsort(turns, kind="stable")), values.device)
    distinct, counts = np.unique(turns, return_counts=True)
    for turn, chosen in zip(distinct, order.split(counts.tolist()), strict=True):
        part = values[chosen]
        if _FLIPPED[turn]:
            part = part.flip(_FLIPPED[turn])
        result[chosen] = part.transpose(-2, -1) if turn % 2 else part
    return result


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Move the tensor to the device, without waiting for the device's work."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _grid(lenses: Tensor, values: Tensor) -> Tensor:
    """Return the position of each shown pixel in its turned image, (B, H, W, 2), x and y in −1 … 1, on the device of the values."""
    dtype = values.dtype if values.is_floating_point() else torch.float32
    height, width = values.shape[-2:]
    return functional.affine_grid(to_device(lenses.to(dtype), values.device), [len(values), 1, height, width], align_corners=False)


def _sample(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Sample values (B, …, H, W) at the points of the grid."""
    planes = values.reshape(len(values), -1, *values.shape[-2:]).to(grid.dtype)
    return functional.grid_sample(planes, grid, mode, "border", align_corners=False).view(values.shape)
