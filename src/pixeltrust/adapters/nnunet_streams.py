"""What nnU-Net's trainer is fed: noisy patches with the address of every voxel, and clean ones, both as nnU-Net crops and augments them."""

from copy import copy
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_raw
from torch import Tensor

from pixeltrust.method.addresses import Where
from pixeltrust.plumbing.errors import DataError


def read_clean(dataset: str, preprocessed: str) -> set[str]:
    """Read the ids of the clean cases from clean.txt in the raw folder of a dataset, or in its preprocessed one.

    Args:
        dataset: the name of the dataset, Dataset004_Hippocampus.
        preprocessed: its preprocessed folder.

    Raises:
        DataError: there is none.
    """
    folders = ([Path(nnUNet_raw) / dataset] if nnUNet_raw.is_set() else []) + [Path(preprocessed)]
    for folder in folders:
        if (folder / "clean.txt").is_file():
            return {line.strip() for line in (folder / "clean.txt").read_text(encoding="utf-8").splitlines() if line.strip()}
    raise DataError(f"no clean.txt in {' or '.join(map(str, folders))}: list the ids of the clean cases there, one a line")


class TwoStreams:
    """A loader of noisy batches with the address of every voxel, each with a clean batch.

    Args:
        loader: nnU-Net's, of the training cases of a fold.
        clean: ids, of which some may be no training case of the fold.

    Raises:
        DataError: no training case is noisy, or none is clean.
    """

    def __init__(self, loader: Any, clean: set[str]) -> None:
        self._loader, self._noisy, self._clean = loader, copy(loader), copy(loader)
        self._noisy.indices = [case for case in loader.indices if case not in clean]
        self._clean.indices = [case for case in loader.indices if case in clean]
        for kind, stream in (("noisy", self._noisy), ("clean", self._clean)):
            if not stream.indices:
                raise DataError(f"by clean.txt this fold has no {kind} case to train on: take another fold, `all`, or another list")
        self._noisy.get_bbox, self._noisy.transforms = self._crop, self._augment

    def set_thread_id(self, thread: int) -> None:
        """Nnu-Net's processes call this."""

    def __next__(self) -> dict[str, Any]:
        self._seen: list[tuple[Tensor, tuple[int, ...]]] = []
        noisy = next(self._noisy)
        addresses, shapes = zip(*self._seen, strict=True)
        return noisy | {"addresses": torch.stack(addresses), "shapes": shapes, "clean": next(self._clean)}

    def _crop(self, shape: tuple[int, ...], *args: Any) -> tuple[list[int], list[int]]:
        self._grid, self._box = tuple(shape), self._loader.get_bbox(shape, *args)
        return self._box

    def _augment(self, **sample: Tensor) -> dict[str, Tensor]:
        """Augment a patch with its coordinates as a target of regression: the one thing that nnU-Net's transforms interpolate linearly."""
        axes = torch.meshgrid(*(torch.arange(*ends, dtype=torch.float32) for ends in zip(*self._box, strict=True)), indexing="ij")
        coordinates = torch.stack([torch.ones_like(axes[0]), *axes]).view(-1, *sample["image"].shape[1:])  # a 2-D patch has no first axis
        augmented = self._loader.transforms(**sample, regression_target=coordinates)
        place = Where.from_coordinates(["a patch"], augmented.pop("regression_target")[None], [self._grid])
        self._seen.append((place.addresses[0], self._grid))
        return augmented
