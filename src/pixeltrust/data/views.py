"""Augmentation: how the images of a batch are shown to the network, and the way back for what is learned of their pixels.

B images   C channels   *S the size of training: (H, W) of pictures, (D, H, W) of patches of volumes   values (B, …, *S)
upright: as in the files   shown: as the network gets it

A patch is cut out of a volume at a place that is drawn. Flips and quarter turns move pixels and lose nothing; a quarter turn exchanges only
axes of one extent and spacing. A lens (zoom, shift, rotation) interpolates: an upright pixel may be between shown ones, or outside of the
view; a shown pixel outside of its image is ignored. In volumes of thick slices a lens does not turn slices out of their plane.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pixeltrust.config import Config
from pixeltrust.method.addresses import OUTSIDE, address_map
from pixeltrust.method.batch import Batch, to_device
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.seeds import generator


def _symmetries() -> dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Return the symmetries of a square and of a cube: the axes to flip, counted from the end, then the order of the axes.

    Of a square: number % 4 quarter turns, then mirrored if number ≥ 4; the odd ones exchange its axes.
    """
    square = ((), (-1,), (-2, -1), (-2,), (-1,), (-2, -1), (-2,), ())
    flips = [tuple(axis - 3 for axis in range(3) if number >> axis & 1) for number in range(8)]
    return {
        2: [(flipped, (1, 0) if number % 2 else (0, 1)) for number, flipped in enumerate(square)],
        3: [(flipped, order) for order in itertools.permutations(range(3)) for flipped in flips],
    }


SYMMETRIES = _symmetries()
"""By the number of axes."""


def _inverses(axes: int) -> np.ndarray:
    """Return the number of the symmetry that undoes each."""
    matrices = np.zeros((len(SYMMETRIES[axes]), axes, axes), int)
    for matrix, (flipped, order) in zip(matrices, SYMMETRIES[axes], strict=True):
        matrix[range(axes), order] = [-1 if axis - axes in flipped else 1 for axis in order]
    numbers = {matrix.tobytes(): number for number, matrix in enumerate(matrices)}
    return np.array([numbers[matrix.T.tobytes()] for matrix in matrices])


INVERSES = {axes: _inverses(axes) for axes in SYMMETRIES}
"""By the number of axes, the symmetry that undoes each."""

ZOOM = (0.75, 1.25)  # of what a shown side spans, over the image's
SHIFT = 0.075  # of the side, at most, either way
ROTATION = 15.0  # degrees, at most, either way
COLOUR_OF_VOLUMES = 0.25, 0.25  # how far contrast, about 1, and a channel, whose unit is about a deviation, change at most, either way
TINT = 0.4  # what is added to a channel of a picture, over how far its contrast changes
THICK = 3.0  # from this ratio of spacings on, a lens does not turn one axis into the other
FOREGROUND_SHARE = 1 / 3  # of patches, which surely show foreground


@dataclass(frozen=True, eq=False)  # == on arrays does not give a single bool
class Views:
    """The views of B images: cut out of volumes, turned, then through a lens, then tinted, then some without their colours."""

    turns: np.ndarray
    """Symmetries (B,), by their numbers."""
    lenses: Tensor | None = None
    """(B, 2, 3) or (B, 3, 4), float64: the position of a shown point (x, y, z) in the turned image, all in −1 … 1; None: nothing is
    interpolated."""
    tints: Tensor | None = None
    """(B, 1 + C): the contrast, where 1 changes nothing, and what is added to each channel."""
    grey: Tensor | None = None
    """(B,) bool: whose channels all show their mean."""
    axes: int = 2
    """2 for pictures, 3 for volumes."""
    cuts: np.ndarray | None = None
    """(B, 3 + axes), of 0 … 1: where patches are cut (see `cut_corner`); None: images are shown whole."""

    def __getitem__(self, chosen: slice) -> "Views":
        """Return the views of a slice of the batch; those of an empty slice interpolate nothing."""
        turns, drawn = self.turns[chosen], (self.lenses, self.tints, self.grey)
        lenses, tints, grey = (values[chosen] if values is not None and len(turns) else None for values in drawn)
        return Views(turns, lenses, tints, grey, self.axes, None if self.cuts is None else self.cuts[chosen])

    def show(self, batch: Batch) -> Batch:
        """Show the upright batch; outside of an image is its reflection, which is ignored."""
        images, masks = self._turned(batch.images, self.turns), self.show_masks(batch.masks)
        if self.lenses is not None:
            grid = _grid(self.lenses, images)
            images = _sample(images, 1 - ((grid + 1).remainder(4) - 2).abs(), "bilinear")  # reflected at −1 and 1
        if self.tints is not None:
            tints = to_device(self.tints.to(images.dtype), images.device).view(len(images), -1, *(1,) * self.axes)
            contrast, tint = tints.split((1, images.shape[1]), 1)
            mean = images.mean(tuple(range(2, images.ndim)), keepdim=True)
            images = (images - mean) * contrast + mean + tint
            images = images.clamp(0, 1) if self.axes == 2 else images  # pictures are 0 … 1
        if self.grey is not None:
            grey = to_device(self.grey, images.device).view(-1, *(1,) * (images.ndim - 1))
            images = torch.where(grey, images.mean(1, keepdim=True), images)
        return batch if images is batch.images else Batch(images, masks, batch.ignore_label)

    def show_masks(self, masks: Tensor) -> Tensor:
        """Show upright labels (B, *S); outside of an image they are ignored."""
        return self._show_labels(masks, outside=IGNORE)

    def show_addresses(self, size: tuple[int, ...]) -> Tensor:
        """Return for every shown pixel the address (see `address_map`) of the pixel of its image or patch of this size, int64 (B, *S)."""
        return self._show_labels(address_map(size).expand(len(self.turns), *size), outside=OUTSIDE)

    def _show_labels(self, labels: Tensor, *, outside: int) -> Tensor:
        labels = self._turned(labels, self.turns)
        if self.lenses is None:
            return labels
        grid = _grid(self.lenses, labels)
        inside = (grid.abs() <= 1).all(-1)
        return torch.where(inside, _sample(labels[:, None], grid, "nearest")[:, 0], outside).to(labels.dtype)

    def _turned(self, values: Tensor, turns: np.ndarray) -> Tensor:
        return turn_images(values, turns, self.axes) if turns.any() else values


def draw_views(count: int, config: Config, update: int, stream: str) -> Views:
    """Draw how an update shows the `count` images of a stream; that depends on seed, stream and update alone."""
    draws, axes = generator(config.seed, "augment", stream, update), len(config.size)
    turns = draw_turns(count, config.size, draws, spacing=config.spacing) if config.flips else np.zeros(count, int)
    cuts = generator(config.seed, "patches", stream, update).random((count, 3 + axes)) if axes == 3 else None
    if config.jittered == "none" or (config.jittered == "clean" and stream not in ("clean", "pairs")):
        return Views(turns, axes=axes, cuts=cuts)
    lenses = draw_lenses(count, config.size, draws, spacing=config.spacing)
    contrast, tint = (config.colour_jitter, TINT * config.colour_jitter) if axes == 2 else COLOUR_OF_VOLUMES
    tints = draw_tints(count, config.channels, draws, contrast=contrast, tint=tint)
    has_colours = axes == 2 and config.channels == 3  # the channels of volumes are different measurements
    grey = torch.from_numpy(draws.random(count) < config.grey_share) if has_colours and config.grey_share else None
    return Views(turns, lenses, tints, grey, axes, cuts)


def cut_corner(cut: np.ndarray, shape: Sequence[int], size: Sequence[int], foreground: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Return the first voxel of the patch that is cut out of a case.

    Args:
        cut: (3 + axes,) of 0 … 1: whether to show foreground, which class, which voxel of it, and the place along each axis.
        shape: of the case, nowhere smaller than the patch.
        size: of the patch.
        foreground: addresses of voxels of each class that it has.
    """
    room, place = np.subtract(shape, size), cut[3:]
    if cut[0] < FOREGROUND_SHARE and len(foreground):
        of_class = foreground[int(cut[1] * len(foreground))]
        voxel = np.unravel_index(of_class[int(cut[2] * len(of_class))], tuple(shape))
        corner = (np.array(voxel) - (place * size).astype(int)).clip(0, room)
    else:
        corner = (place * (room + 1)).astype(int)
    return tuple(corner.tolist())


def find_symmetries(size: Sequence[int], spacing: Sequence[float] | None = None) -> list[int]:
    """Return the numbers of the symmetries that exchange only axes of one extent and one spacing."""
    axes, spacing = len(size), spacing or (1.0,) * len(size)

    def is_same(one: int, other: int) -> bool:
        return size[one] == size[other] and bool(np.isclose(spacing[one], spacing[other], rtol=0.05))

    return [number for number, (_, order) in enumerate(SYMMETRIES[axes]) if all(map(is_same, range(axes), order))]


def draw_turns(count: int, size: tuple[int, ...], draws: np.random.Generator, *, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Draw a symmetry for each of `count` images, of those that `find_symmetries` allows."""
    allowed = np.array(find_symmetries(size, spacing))
    return allowed[draws.integers(0, len(allowed), count)]


def draw_lenses(count: int, size: tuple[int, ...], draws: np.random.Generator, *, spacing: Sequence[float] | None = None) -> Tensor:
    """Draw a zoom, rotations and a shift for each of `count` images, (count, axes, axes + 1), of (x, y) or (x, y, z)."""
    axes, apart = len(size), np.array(spacing or (1.0,) * len(size))[::-1]
    planes = list(itertools.combinations(range(axes), 2))
    zoom, angles = draws.uniform(*ZOOM, count), np.radians(draws.uniform(-ROTATION, ROTATION, (len(planes), count)))
    matrices = zoom[:, None, None] * np.eye(axes)
    for (one, other), angle in zip(planes, angles, strict=True):
        if max(apart[one], apart[other]) >= THICK * min(apart[one], apart[other]):
            continue
        rotations = np.tile(np.eye(axes), (count, 1, 1))
        rotations[:, one, one] = rotations[:, other, other] = np.cos(angle)
        rotations[:, one, other], rotations[:, other, one] = -np.sin(angle), np.sin(angle)
        matrices = rotations @ matrices
    extents = apart * size[::-1]  # −1 … 1 spans the side, whatever its length
    shift = 2 * draws.uniform(-SHIFT, SHIFT, (axes, count)).T
    return torch.from_numpy(np.concatenate([matrices * extents / extents[:, None], shift[:, :, None]], 2))


def draw_tints(count: int, channels: int, draws: np.random.Generator, *, contrast: float, tint: float) -> Tensor:
    """Draw a contrast, 1 ± `contrast`, and what is added to each channel, ± `tint`, for each of `count` images: (count, 1 + channels)."""
    tints = draws.uniform(1 - contrast, 1 + contrast, (count, 1)), draws.uniform(-tint, tint, (count, channels))
    return torch.from_numpy(np.hstack(tints))


def turn_images(values: Tensor, turns: np.ndarray, axes: int = 2) -> Tensor:
    """Turn each of (B, …, *S) by its own symmetry of its last axes."""
    result = torch.empty_like(values)
    order = to_device(torch.from_numpy(np.argsort(turns, kind="stable")), values.device)
    distinct, counts = np.unique(turns, return_counts=True)
    first = values.ndim - axes
    for turn, chosen in zip(distinct, order.split(counts.tolist()), strict=True):
        flipped, exchanged = SYMMETRIES[axes][turn]
        part = values[chosen]
        part = part.flip(flipped) if flipped else part
        result[chosen] = part.permute(*range(first), *(first + axis for axis in exchanged))
    return result


def _grid(lenses: Tensor, values: Tensor) -> Tensor:
    """Return the position of each shown pixel in its turned image, (B, *S, axes), all in −1 … 1, on the device of the values."""
    dtype = values.dtype if values.is_floating_point() else torch.float32
    size = values.shape[values.ndim - lenses.shape[1] :]
    return functional.affine_grid(to_device(lenses.to(dtype), values.device), [len(values), 1, *size], align_corners=False)


def _sample(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Sample values (B, …, *S) at the points of the grid."""
    planes = values.reshape(len(values), -1, *grid.shape[1:-1]).to(grid.dtype)
    return functional.grid_sample(planes, grid, mode, "border", align_corners=False).view(values.shape)
