"""Where the pixels of a batch come from: addresses, which pass through anybody's augmentation as one more label map.

    B images of a batch   *S spatial axes of the batch   *G the grid of a case, (H, W) or (D, H, W), which may differ from case to case

The address of a pixel is its number on the grid of its case, 0 … N − 1 in the order of rows; −1 is no pixel of it. `address_map` makes
the map of a case, the user crops, flips, rotates and warps it together with the mask, and `Where` says what came out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

OUTSIDE = -1
Shape: TypeAlias = Sequence[int]
_INSIDE = 0.999  # of the channel of ones, which rounding may lower


def address_map(shape: Shape) -> Tensor:
    """Return the number of every pixel of a case, int64 of this shape: 0 … N − 1, row by row.

    Send it through your augmentation as a label map: nearest neighbour, and −1 where nothing is. A map of float32, as some frameworks
    make of it, holds addresses up to 2²⁴ = 16,777,216; larger volumes need float64, or a `coordinate_map`.

    Args:
        shape: the grid of the case, (H, W) or (D, H, W).

    Example:
        addresses = address_map((512, 768))  # crop, flip and rotate it as the mask
    """
    return torch.arange(math.prod(shape)).view(*shape)


def coordinate_map(shape: Shape) -> Tensor:
    """Return the coordinates of every pixel of a case, float32 (1 + D, *shape), for frameworks that interpolate linearly.

    The first channel is 1 everywhere, so that after the augmentation, padded with 0, it tells what lies outside. The others are the place
    along each of the D axes. `Where.from_coordinates` rounds what comes out.

    Args:
        shape: the grid of the case, (H, W) or (D, H, W); at most 2²⁴ along an axis.

    Example:
        coordinates = coordinate_map((40, 56, 40))  # (4, 40, 56, 40)
    """
    axes = torch.meshgrid(*(torch.arange(length, dtype=torch.float32) for length in shape), indexing="ij")
    return torch.stack([torch.ones(tuple(shape)), *axes])


@dataclass(frozen=True, eq=False)  # == on tensors does not give a single bool
class Where:
    """Where the pixels of a batch come from.

    Args:
        ids: the ids of the B cases, texts or whole numbers; the same one may stand twice, say for two crops.
        addresses: (B, *S) or (B, 1, *S), whole numbers of any dtype: for every pixel of the batch that of its own case that it shows (see
            `address_map`), −1 for none. Several pixels may have one address.
        shapes: the grid of the cases: one for all, or one for each of the B images. Where it is left out it is the *S of the batch.

    Raises:
        TypeError: ids are not names.
        ValueError: the numbers of ids, addresses and shapes do not agree; addresses are not whole numbers.

    Example:
        where = Where(["a", "b"], addresses, shapes=[(512, 768), (600, 800)])  # addresses (2, 96, 96) after a random crop
    """

    ids: Sequence[str]
    addresses: Tensor
    shapes: Sequence[Shape] | Shape | None = None

    def __post_init__(self) -> None:
        ids, addresses = _names(self.ids), _whole(self.addresses)
        if addresses.ndim < 3 or len(addresses) != len(ids):
            raise ValueError(f"addresses (B, *S) and ids do not agree: addresses {tuple(addresses.shape)}, {len(ids)} ids")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "addresses", addresses)
        if self.shapes is not None:
            object.__setattr__(self, "shapes", shapes_of(self.shapes, len(ids)))

    @classmethod
    def of(
        cls, ids: Sequence[str], shape: Sequence[Shape] | Shape, *, crops: Sequence[Sequence[tuple[int, int]]] | None = None,
        flips: Sequence[Sequence[int]] | None = None, turns: Sequence[int] | None = None,
    ) -> "Where":  # fmt: skip
        """Return where the pixels of whole or cropped images come from that were flipped and turned, in this order.

        Args:
            ids: as above.
            shape: the grid of the cases, one for all or one for each image.
            crops: for each image what it shows along each axis, from the first index to the one after the last. Beyond the grid is −1.
            flips: for each image the spatial axes that are mirrored: 0 is the first one.
            turns: for each image the number of quarter turns of its last two axes, as by `torch.rot90(image, turns, (-2, -1))`.

        Raises:
            ValueError: the images do not have one size; the numbers of ids and of anything else do not agree.

        Example:
            where = Where.of(["a", "b"], (512, 768), crops=[((0, 96), (40, 136)), ((200, 296), (9, 105))], turns=[0, 3])
        """
        names = _names(ids)
        shapes = shapes_of(shape, len(names))
        for name, values in (("crops", crops), ("flips", flips), ("turns", turns)):
            if values is not None and len(values) != len(names):
                raise ValueError(f"{len(names)} ids, but {len(values)} {name}")
        maps = []
        for place, grid in enumerate(shapes):
            shown = address_map(grid)
            if crops is not None:
                shown = _crop(shown, crops[place])
            shown = shown.flip([int(axis) for axis in flips[place]]) if flips is not None and len(flips[place]) else shown
            maps.append(torch.rot90(shown, int(turns[place]), (-2, -1)) if turns is not None else shown)
        if len({tuple(shown.shape) for shown in maps}) > 1:
            raise ValueError(f"the images of a batch have one size, these have {', '.join(str(tuple(shown.shape)) for shown in maps)}")
        return cls(names, torch.stack(maps), shapes)

    @classmethod
    def from_coordinates(cls, ids: Sequence[str], coordinates: Tensor, shapes: Sequence[Shape] | Shape) -> "Where":
        """Return where the pixels come from by their interpolated coordinates, which are rounded.

        Args:
            ids: as above.
            shapes: as above.
            coordinates: (B, 1 + D, *S) of floats: what the augmentation has made of a `coordinate_map`. A pixel into which something from
                outside was mixed is outside.

        Raises:
            ValueError: coordinates and shapes do not agree.
        """
        names, coordinates = _names(ids), torch.as_tensor(coordinates)
        grids = shapes_of(shapes, len(names))
        axes = coordinates.shape[1] - 1 if coordinates.ndim > 2 else 0
        if len(coordinates) != len(names) or any(len(grid) != axes for grid in grids):
            raise ValueError(
                f"coordinates (B, 1 + D, *S) do not agree with {len(names)} ids and grids {grids[:3]}: "
                f"coordinates {tuple(coordinates.shape)}"
            )
        inside = coordinates[:, 0] >= _INSIDE
        addresses = torch.zeros_like(inside, dtype=torch.int64)
        lengths = torch.tensor(grids, device=coordinates.device)  # (B, D)
        for axis in range(axes):
            length = lengths[:, axis].view(-1, *(1,) * (inside.ndim - 1))
            index = coordinates[:, 1 + axis].nan_to_num(OUTSIDE).round().long()
            inside &= (index >= 0) & (index < length)
            addresses = addresses * length + index
        return cls(names, torch.where(inside, addresses, OUTSIDE), grids)

    def on(self, size: torch.Size) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Return the addresses as (B, *S) of a batch of this size, and the grid of each image.

        Raises:
            ValueError: the sizes do not agree, or an address is beyond its grid: names the case.
        """
        if self.addresses.shape not in (size, (size[0], 1, *size[1:])):
            raise ValueError(f"addresses {tuple(self.addresses.shape)} do not fit a batch of {tuple(size)}")
        addresses = self.addresses.reshape(size)
        shapes = [tuple(size[1:])] * size[0] if self.shapes is None else list(shapes_of(self.shapes, size[0]))
        if size[0] == 0:
            return addresses, shapes
        numbers = torch.tensor([math.prod(shape) for shape in shapes], device=addresses.device)
        flat = addresses.flatten(1)
        wrong = (flat.amax(1) >= numbers) | (flat.amin(1) < OUTSIDE)
        if wrong.any():
            place = int(wrong.nonzero()[0])
            given = "" if self.shapes else " (that of the batch: is the case larger? then give shapes=)"
            raise ValueError(
                f"addresses of case {self.ids[place]!r} are {int(flat[place].min())} … {int(flat[place].max())}, but its grid "
                f"{shapes[place]} has 0 … {int(numbers[place]) - 1}, and {OUTSIDE} is outside{given}"
            )
        return addresses, shapes


def addresses_in_cases(addresses: Tensor, size: Shape, corners: Sequence[Shape], shapes: Sequence[Shape]) -> Tensor:
    """Return which pixel of its case each pixel of a patch shows, from which one of the patch it does.

    Args:
        addresses: int64 (B, *S), each that of a pixel of a patch before it was flipped or warped; −1 for none.
        size: of the patches.
        corners: the first pixel of each of the B patches in its case.
        shapes: the grid of each case.
    """
    result = torch.zeros_like(addresses)
    rest, ones = addresses.clamp(min=0), (1,) * (addresses.ndim - 1)
    firsts, lengths = (torch.tensor(values, dtype=torch.int64, device=addresses.device).view(-1, len(size)) for values in (corners, shapes))
    step = torch.ones(len(addresses), dtype=torch.int64, device=addresses.device)
    for axis in reversed(range(len(size))):
        result += (rest % size[axis] + firsts[:, axis].view(-1, *ones)) * step.view(-1, *ones)
        rest, step = rest // size[axis], step * lengths[:, axis]
    return torch.where(addresses >= 0, result, OUTSIDE)


def _names(ids: Any) -> tuple[str, ...]:
    listed = [ids] if isinstance(ids, (str, bytes)) else ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(ids)
    if isinstance(ids, (str, bytes)) or not all(isinstance(name, (str, int)) for name in listed):
        raise TypeError(f"ids must be a list of texts or whole numbers, one for each image, not {ids!r:.80}")
    return tuple(str(name) for name in listed)


def _whole(addresses: Any) -> Tensor:
    """Return addresses as int64 of a plain tensor."""
    given = torch.as_tensor(addresses).as_subclass(Tensor).detach()
    if given.is_complex() or given.dtype == torch.bool:
        raise ValueError(f"addresses are whole numbers, not {given.dtype}")
    if given.is_floating_point():
        most = 2 / torch.finfo(given.dtype).eps
        if not bool((given == given.round()).all()):  # NaN too
            raise ValueError("addresses are not whole numbers: augment them by nearest neighbour, as a label map (or see coordinate_map)")
        if given.numel() and float(given.max()) >= most:
            raise ValueError(f"{given.dtype} holds whole numbers up to {most:,.0f} only, and addresses are larger: see coordinate_map")
    return given.long()


def shapes_of(shapes: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """Return the grid of each of `count` cases, from one for all or one for each."""
    listed = list(shapes)
    each = [listed] * count if all(isinstance(length, (int, np.integer)) for length in listed) else listed
    if len(each) != count:
        raise ValueError(f"{count} ids, but {len(each)} shapes")
    return tuple(tuple(int(length) for length in shape) for shape in each)


def _crop(addresses: Tensor, crop: Sequence[tuple[int, int]]) -> Tensor:
    if len(crop) != addresses.ndim or any(stop <= start for start, stop in crop):
        raise ValueError(f"a crop is a first index and the one after the last for each of the {addresses.ndim} axes, not {crop}")
    shown = torch.full([stop - start for start, stop in crop], OUTSIDE)
    inside = [slice(max(0, start), max(0, min(length, stop))) for (start, stop), length in zip(crop, addresses.shape, strict=True)]
    placed = [slice(part.start - start, part.stop - start) for part, (start, _) in zip(inside, crop, strict=True)]
    if all(part.stop > part.start for part in inside):
        shown[tuple(placed)] = addresses[tuple(inside)]
    return shown
