"""A trained network in Python: load a run, and predict arrays in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.data.images import read_image
from pixeltrust.data.resizing import resize_image, resize_plane
from pixeltrust.data.volumes import in_order
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.labels import most_probable
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.network import Network, choose_device, holds_window, read_network
from pixeltrust.prediction.volumes import list_volumes, probability_planes, read_volume_header
from pixeltrust.training.run_folder import Run


def load(run: Path, *, weights: str = "last", batch_size: int | None = None) -> "Predictor":
    """Load the network of a run, to predict images in memory.

    Example:
        run = pixeltrust.load("runs/mended")
        mask = run.predict("lesions/images/ISIC_0000000.jpg")

    Args:
        run: a run folder whose training has finished (or has best weights so far).
        weights: `last`, or `best` by the held-out clean cases.
        batch_size: images in one pass; the run's where not given. Changes speed and memory only.

    Raises:
        RunError: `run` is not a run folder or has not finished, or its weights do not fit its network.
        ConfigError: `weights` or `batch_size` is invalid, or the network does not fit the settings.
    """
    config, model, notes = read_network(Run(Path(run)), weights)
    device, _, moved = choose_device(config)
    return Predictor(Path(run), Network(device, model, config, batch_size), (*notes, *moved))


class Predictor(Summary):
    """The network of a run, on its device; `load` makes it."""

    def __init__(self, folder: Path, network: Network, notes: tuple[str, ...] = ()) -> None:
        self.folder, self.notes = folder, notes
        self._network = network

    @property
    def config(self) -> Config:
        """The settings of the run."""
        return self._network.config

    @property
    def network(self) -> nn.Module:
        """The network itself, in eval mode, from images (B, C, h, w) of 0 … 1 to logits (B, K, h, w); of volumes (B, C, d, h, w)."""
        return self._network.module

    def __str__(self) -> str:
        config, volumes = self.config, len(self.config.size) == 3
        place = f"in patches of {in_order(config.size)} voxels" if volumes else f"at {'x'.join(map(str, reversed(config.size)))} pixels"
        takes = f"{'volumes' if volumes else 'images'} of {count(config.channels, 'channel')} {place}"
        gives = "foreground" if config.classes == 1 else f"{config.classes} classes"
        told = f"{self.folder}: {config.model} trained by {config.method}: {takes}, {gives}; on {self._network.device}"
        return "\n".join([*self.notes, told])

    def predict(self, images: Any, *, probabilities: bool = False, sliding_window: bool = False) -> Any:
        """Predict one image or several, as `pixeltrust.predict` does for files.

        A volume is given by its file (the first of several channels) or the folder of its DICOM series, as the spacing is there.

        Args:
            images: an array (H, W), (H, W, 1) or (H, W, 3), uint8 or floats of 0 … 1; a batch (B, H, W) or (B, H, W, C) of them; the
                path of an image; or a list of arrays and paths, of any sizes. Grey and colour become what the network was trained on.
            probabilities: return probabilities instead of masks.
            sliding_window: cover images larger than the size of training window by window, at their own resolution.

        Returns:
            Of one image a mask, uint8 (H, W) of labels 0 … K − 1 (of 0 and 1 when classes = 1); or its probabilities, float32 (H, W) of the
            foreground when classes = 1, else (K, H, W). Of a batch an array of these, of a list a list.

        Raises:
            ValueError: an array of another shape or type, or with values outside of 0 … 1; or an array, where the network takes volumes.
            DataError: a file is missing, a folder, or cannot be read.
        """
        if len(self.config.size) == 3:
            several = isinstance(images, list | tuple)
            predicted = [self._predict_volume(volume, probabilities) for volume in (images if several else [images])]
            return predicted if several else predicted[0]
        if isinstance(images, list | tuple):
            return self._predict([self._picture(image) for image in images], probabilities, sliding_window)
        if isinstance(images, str | Path):
            return self._predict([self._picture(images)], probabilities, sliding_window)[0]
        array = _as_array(images)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3)):
            return self._predict([self._picture(array)], probabilities, sliding_window)[0]
        if array.ndim not in (3, 4):
            raise ValueError(f"images of shape {array.shape}; give (H, W), (H, W, 3), or a batch (B, H, W) or (B, H, W, 3)")
        return np.stack(self._predict([self._picture(image) for image in array], probabilities, sliding_window))

    def _predict_volume(self, volume: Any, as_probabilities: bool) -> np.ndarray:
        if not isinstance(volume, str | Path):
            raise ValueError("give the path of a volume: the network takes volumes at a spacing, which an array does not have")
        cases, _ = list_volumes(Path(volume), self.config.channels)
        if len(cases) != 1:
            raise DataError(f"{volume}: {count(len(cases), 'volume')}; `pixeltrust.predict` predicts all volumes of a folder into files")
        header = read_volume_header(cases[0])
        planes = probability_planes(self._network, cases[0], header)
        if not as_probabilities:
            return np.stack([most_probable(plane) for plane in planes])
        shares = np.stack(list(planes), axis=1)
        return shares[0] if len(shares) == 1 else shares

    def _picture(self, image: Any) -> np.ndarray:
        """Return an image as uint8 (H, W, C) with the channels of the network."""
        channels = self.config.channels
        if isinstance(image, str | Path):
            if Path(image).is_dir():
                raise DataError(f"{image}: a folder; `pixeltrust.predict` predicts all images of one into files")
            return read_image(Path(image), channels)
        pixels = _in_bytes(_as_array(image))
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise ValueError(f"an image of shape {np.shape(image)}; give (H, W), (H, W, 1) or (H, W, 3)")
        if pixels.shape[-1] == channels:
            return pixels
        return np.repeat(pixels, 3, axis=-1) if channels == 3 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]

    def _predict(self, pictures: Sequence[np.ndarray], as_probabilities: bool, sliding_window: bool) -> list[np.ndarray]:
        network, size = self._network, self.config.size
        windowed = [sliding_window and holds_window((p.shape[0], p.shape[1]), self.config) and p.shape[:2] != size for p in pictures]
        made = {place: network.probabilities_by_windows(pictures[place]) for place, by_windows in enumerate(windowed) if by_windows}
        whole = [place for place, by_windows in enumerate(windowed) if not by_windows]
        for start in range(0, len(whole), network.batch_size):
            piece = whole[start : start + network.batch_size]
            made.update(zip(piece, network.probabilities([resize_image(pictures[place], size) for place in piece]), strict=True))
        outcomes = []
        for place, picture in enumerate(pictures):
            planes = np.stack([resize_plane(plane, (picture.shape[0], picture.shape[1])) for plane in made[place]])
            if as_probabilities:
                outcomes.append(planes[0] if len(planes) == 1 else planes)
            else:
                outcomes.append(most_probable(planes))
        return outcomes


def _as_array(image: Any) -> np.ndarray:
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def _in_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return bytes, which an image file would hold.

    Raises:
        ValueError: the values are neither bytes nor floats of 0 … 1.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "f" and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        return (pixels * 255).round().astype(np.uint8)
    found = f"{pixels.dtype} of {pixels.min():g} … {pixels.max():g}" if pixels.size and pixels.dtype.kind in "iufb" else f"{pixels.dtype}"
    raise ValueError(f"an image of {found}; give uint8 of 0 … 255, or floats of 0 … 1")
