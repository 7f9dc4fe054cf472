"""The grid of training, and how cases are brought to it and back: the one place where pictures and volumes part.

Pictures are resized to one size. Volumes are resampled to one spacing, and keep sizes of their own; where one is smaller than the patch, it
is padded on both sides: its image by its outermost voxels, its mask by 255, which is ignored.

C channels   K classes   *S a shape on the grid of training   *O the shape of the files: (H, W) or (D, H, W)
image   of pictures uint8, 0 … 255 for 0 … 1; of volumes float16, normalised (see `resampling.normalise`)
spacing that of a case's files in mm; None for pictures
crop    the part of a picture that is brought to the grid; None for all of it
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pixeltrust.config import Config, batch_of_patches
from pixeltrust.data.cases import Case, CaseList, Cases
from pixeltrust.data.images import read_header, read_image, read_values
from pixeltrust.data.resampling import normalise, resample, resample_labels, resample_planes, resampled_shape
from pixeltrust.data.resizing import resize_image, resize_labels, resize_plane
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.plumbing.labels import IGNORE, is_foreground
from pixeltrust.plumbing.progress import THREADS, map_in_threads

if TYPE_CHECKING:
    from pixeltrust.data.images import Header

Spacing: TypeAlias = tuple[float, ...] | None
Crop: TypeAlias = tuple[slice, slice] | None
SMALLEST_CROP = 1 / 8  # of the sides of a picture
HELD = 2**28  # numbers of float32, 1 GiB: what probabilities of all cases in work may have together, on the grid of their files
PROPOSED = 16  # a proposed patch has multiples of it, as U-Nets halve their images four times
MOST_PROPOSED = 96  # voxels a side


def propose_patch(cases: Cases) -> list[int]:
    """Return a size for the patches of volumes, (D, H, W): about the median size at the median spacing, in multiples of `PROPOSED`.

    Raises:
        DataError: a header cannot be read any more.
    """
    headers = _read_headers(cases.of("noisy") + cases.of("clean"))
    return _propose_patch(headers, tuple(np.median([_spacing(header) for header in headers], axis=0).tolist()))


def _propose_patch(headers: Sequence["Header"], spacing: Sequence[float]) -> list[int]:
    shapes = [resampled_shape(header.size, _spacing(header), spacing) for header in headers]
    return np.clip(np.median(shapes, axis=0) // PROPOSED * PROPOSED, PROPOSED, MOST_PROPOSED).astype(int).tolist()


def settle(config: Config, cases: Cases) -> Config:
    """Return the settings with what the data decide: of volumes the spacing, where it is unset, and the channels.

    Raises:
        ConfigError: `image_size` has not as many numbers as an image of these cases has axes, or `normalise` not one for each channel.
        DataError: a header cannot be read any more.
    """
    volumes = len(config.size) == 3
    if not cases.volumes:
        if volumes:
            raise ConfigError(f"image_size = {list(config.size)} is for volumes, and {cases.data} holds pictures: set one number or two")
        return config
    trained = cases.of("noisy") + cases.of("clean")
    headers = _read_headers(trained)
    spacing = config.spacing or tuple(np.median([_spacing(header) for header in headers], axis=0).round(6).tolist())
    if not volumes:
        patch = _propose_patch(headers, spacing)
        raise ConfigError(
            f"image_size = {config.image_size} is for pictures, and {cases.data} holds volumes, which are trained on in patches: "
            f"set image_size = [depth, height, width], such as {patch}, and batch_size and clean_batch_size, such as "
            f"{batch_of_patches(patch)}"
        )
    channels = int(trained.numbers("channels").max())
    if len(config.normalisation) not in (1, channels):
        raise ConfigError(f"normalise has {len(config.normalisation)} texts, and the volumes of {cases.data} have {channels} channels")
    return replace(config, spacing=spacing, channels=channels)


def describe_patches(config: Config) -> list[str]:
    """Return a note of the patches and the spacing of volumes; nothing of pictures."""
    if config.spacing is None or len(config.size) == 2:
        return []
    return [f"patches of {list(config.size)} voxels at a spacing of {list(config.spacing)} mm (depth, height, width)"]


def channels_of(config: Config) -> int:
    """Return in how many files an image is."""
    return config.channels if len(config.size) == 3 else 1


def read_spacing(case: Case, config: Config) -> Spacing:
    """Read the spacing of a case's files; None for a picture, of which nothing is read.

    Raises:
        DataError: the header cannot be read.
    """
    return None if len(config.size) == 2 else _spacing(read_header(case.image))


def fitted_shapes(cases: CaseList, config: Config) -> list[tuple[int, ...]]:
    """Return the shapes *S of cases; headers of volumes are read.

    Raises:
        DataError: lists the headers that cannot be read.
    """
    if len(config.size) == 2:
        return [config.size] * len(cases)
    return [fitted_shape(header.size, _spacing(header), config) for header in _read_headers(cases)]


def threads_for(cases: Sequence[Case], classes: int) -> int:
    """Return how many of these cases may be in work at once, each in a thread: of large volumes one.

    A header that cannot be read is left to the work to complain about.
    """
    largest = 1
    for case in cases:
        with suppress(DataError):
            size = read_header(case.image).size
            if len(size) == 2:
                break
            largest = max(largest, math.prod(size))
    return int(np.clip(HELD // (max(classes, 2) * largest), 1, THREADS))


def fitted_shape(shape: Sequence[int], spacing: Spacing, config: Config) -> tuple[int, ...]:
    """Return the shape *S of a case whose files have the shape *O."""
    if spacing is None:
        return config.size
    return tuple(map(max, _resampled(shape, spacing, config), config.size))


def crops_of(config: Config) -> bool:
    """Return whether a network sees pictures cropped around their given masks."""
    return bool(config.planes and config.crop_around_given) and len(config.size) == 2


def crop_around(given: np.ndarray, config: Config) -> Crop:
    """Return the part of a picture around the foreground of its given mask, labels uint8 (*O), that a network sees.

    It has the proportions of the picture and all sides within it; None, all, where there is no foreground, or for a network that does not
    see pictures so (see `crops_of`).
    """
    marked = is_foreground(given)
    if not crops_of(config) or not marked.any():
        return None
    spans = [np.flatnonzero(marked.any(1 - axis))[[0, -1]] + (0, 1) for axis in (0, 1)]
    extent = max((stop - start) / length for (start, stop), length in zip(spans, given.shape, strict=True))
    share = float(np.clip((config.crop_around_given or 0) * extent, SMALLEST_CROP, 1))
    crop = []
    for (start, stop), length in zip(spans, given.shape, strict=True):
        side = max(1, round(share * length))
        first = int(np.clip((start + stop - side) // 2, 0, length - side))
        crop.append(slice(first, first + side))
    return crop[0], crop[1]


def fit_image(case: Case, config: Config, crop: Crop = None) -> np.ndarray:
    """Read the image of a case, (C, *S).

    Raises:
        DataError: a file cannot be read, or a voxel is not finite.
    """
    return fit_crops(case, config, [crop])[0]


def fit_crops(case: Case, config: Config, crops: Sequence[Crop]) -> list[np.ndarray]:
    """Read the image of a case once, and return each of these parts of it, as `fit_image` does.

    Raises:
        DataError: as there.
    """
    if len(config.size) == 2:
        pixels = read_image(case.image, config.channels)
        return [resize_image(pixels[crop or ...], config.size).transpose(2, 0, 1) for crop in crops]
    values = normalise(np.stack([read_values(file) for file in case.image_files]), config.normalisation)
    fitted = resample(values, _resampled(values.shape[1:], read_spacing(case, config), config))
    return [np.pad(fitted, [(0, 0), *_padding(fitted.shape[1:], config)], mode="edge").astype(np.float16)] * len(crops)


def fit_labels(labels: np.ndarray, spacing: Spacing, config: Config, crop: Crop = None) -> np.ndarray:
    """Bring labels uint8 (*O) to the grid of training, (*S)."""
    if spacing is None:
        return resize_labels(labels[crop or ...], config.size)
    fitted = resample_labels(labels, _resampled(labels.shape, spacing, config))
    return np.pad(fitted, _padding(fitted.shape, config), constant_values=IGNORE)


def restore(planes: np.ndarray, shape: Sequence[int], spacing: Spacing, config: Config) -> np.ndarray:
    """Bring probabilities, or other shares, float32 (K, *S) back to the grid of their files, (K, *O).

    Args:
        shape: *O.
    """
    if spacing is None:
        return np.stack([resize_plane(plane, (shape[0], shape[1])) for plane in planes])
    resampled = _resampled(shape, spacing, config)
    return np.stack([resample(plane[*_inside(resampled, config)][None], shape)[0] for plane in planes])


def restore_planes(planes: Iterable[np.ndarray], shape: Sequence[int], spacing: Spacing, config: Config) -> Iterator[np.ndarray]:
    """Bring the planes (K, h, w) of a volume's probabilities back one after the other, (K, H, W): few are held at a time.

    Args:
        planes: in the order of the first axis of *S.
        shape: *O.
    """
    resampled = _resampled(shape, spacing, config)
    depths, *inside = _inside(resampled, config)
    return resample_planes((plane[:, *inside] for plane in islice(planes, depths.start, depths.stop)), resampled[0], shape)


def to_floats(images: Tensor) -> Tensor:
    """Return images as the network gets them, float32: of pictures 0 … 1."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def _resampled(shape: Sequence[int], spacing: Spacing, config: Config) -> tuple[int, int, int]:
    assert spacing is not None
    assert config.spacing is not None, "settings of volumes are settled before their cases are read"
    return resampled_shape(shape, spacing, config.spacing)


def _padding(shape: Sequence[int], config: Config) -> list[tuple[int, int]]:
    """Return how many voxels are added before and after each axis of a resampled volume."""
    missing = [max(0, wanted - length) for wanted, length in zip(config.size, shape, strict=True)]
    return [(number // 2, number - number // 2) for number in missing]


def _inside(shape: Sequence[int], config: Config) -> list[slice]:
    """Return where a resampled volume is in what it was padded to."""
    return [slice(before, before + length) for (before, _), length in zip(_padding(shape, config), shape, strict=True)]


def _spacing(header: "Header") -> tuple[float, ...]:
    assert header.spacing_mm is not None
    return header.spacing_mm


def _read_headers(cases: CaseList) -> "list[Header]":
    images, places = np.unique(cases.numbers("image"), return_inverse=True)
    complaint = "volumes whose headers cannot be read"
    headers = map_in_threads(read_header, cases.files(images), text="reading headers", complaint=complaint, shown=False)
    return [headers[place] for place in places]
