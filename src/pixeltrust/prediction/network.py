"""A trained network on its device: from pictures to probabilities.

K classes   (h, w) the size the network works at   pictures uint8 (h, w, C)
probabilities float32 (K, h, w), of the foreground when K = 1, else of each class
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.data.batches import add_given
from pixeltrust.data.fitting import to_floats
from pixeltrust.data.views import INVERSES, find_symmetries, turn_images
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.malloc import keep_freed_memory
from pixeltrust.plumbing.processes import Ranks, connect
from pixeltrust.prediction.planes import slide_windows
from pixeltrust.training.models import in_precision, try_out
from pixeltrust.training.run_folder import Run
from pixeltrust.training.windows import OVERLAP, apply_by_windows

OVERLAP_OF_TURNED = 0.25  # where views of an image are averaged anyway


def read_network(run: Run, weights: str) -> tuple[Config, nn.Module, list[str]]:
    """Return settings and network of a run, and notes about them; from now on freed memory is kept (see `plumbing.malloc`)."""
    keep_freed_memory()
    config, notes = run.config(), []
    if not run.finished():
        if weights != "best" or not (run.folder / "best.pt").is_file():
            raise RunError(f"{run.folder}: its training has not finished; continue it first, by `pixeltrust train` with --resume")
        notes.append(f"{run.folder}: its training has not finished; these are its best weights so far")
    return config, run.model(weights), notes


def choose_device(config: Config) -> tuple[torch.device, Ranks, list[str]]:
    """Return the run's device, or the CPU and a note where it is not here, and the processes that share the work."""
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}.get(config.device, False)
    notes = [f"trained with device = {config.device!r}, which is not here: predicted on the CPU"] if absent else []
    return *connect("cpu" if absent else config.device), notes


class Network:
    """A network on its device: takes uint8 pictures of one size, and returns probabilities on the CPU.

    Args:
        batch_size: pictures in one pass; where not given, as in training.

    Raises:
        ConfigError: the batch size is invalid, or the network does not take such images, or does not return K logits per pixel.
    """

    def __init__(self, device: torch.device, model: nn.Module, config: Config, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, not {batch_size!r}")
        self.config, self.batch_size, self.device = config, batch_size or config.batch_size, device
        self.module = model.to(device).eval()
        """The network in float32, for gradients."""
        self.model = in_precision(self.module, config.precision).eval()
        try_out(self.model, channels=config.channels + config.planes, classes=config.classes, size=config.size)

    def probabilities(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Return (B, K, h, w) for B pictures (h, w, C)."""
        return self._checked(self._probabilities(self._input(pixels)).cpu().numpy())

    @property
    def turns(self) -> tuple[int, ...]:
        """The flips and turns that the network was trained under, by their numbers (see `data.views`); of volumes the flips alone."""
        if not self.config.flips:
            return (0,)
        flips = 2 ** len(self.config.size)  # in three axes turns would be up to 48
        return tuple(number for number in find_symmetries(self.config.size, self.config.spacing) if self._axes == 2 or number < flips)

    @property
    def _axes(self) -> int:
        return len(self.config.size)

    def probabilities_over_turns(
        self, images: Sequence[np.ndarray], given: Sequence[np.ndarray] | None = None, turns: Sequence[int] | None = None
    ) -> np.ndarray:
        """Return probabilities (B, K, *S) on the grid of training, the mean over flips and turns; of volumes by windows.

        Args:
            images: B × (C, *S) of one shape (see `data.fitting`).
            given: the given masks, B × labels (*S), for a network that sees them; it can do without.
            turns: the numbers of some of `turns`; all where not given.
        """
        shown = self._with_given(to_floats(torch.from_numpy(np.stack(images))), given)
        turns, device = self.turns if turns is None else turns, self.device if self._axes == 2 else torch.device("cpu")
        shown, total = shown.to(device), torch.zeros((), device=device)
        for turn in turns:
            same = np.full(len(shown), turn)
            seen = apply_by_windows(
                self._probabilities, turn_images(shown, same, self._axes), self.config, batch_size=self.batch_size, device=self.device,
                overlap=OVERLAP_OF_TURNED,
            )  # fmt: skip
            total = total + turn_images(seen, INVERSES[self._axes][same], self._axes)
        return self._checked((total / len(turns)).cpu().numpy())

    def _input(self, pixels: list[np.ndarray], given: list[np.ndarray] | None = None, device: torch.device | str | None = None) -> Tensor:
        """Return what the network takes, on its device or another: images, and if it sees given masks their planes, 0 without one."""
        return self._with_given(to_tensor(pixels), given).to(self.device if device is None else device)

    def _with_given(self, images: Tensor, given: Sequence[np.ndarray] | None) -> Tensor:
        if not self.config.planes:
            return images
        unknown = np.full((len(images), *images.shape[2:]), IGNORE, np.uint8)
        return add_given(images, torch.from_numpy(unknown if given is None else np.stack(given)), self.config.planes)

    def probabilities_by_windows(self, pixels: np.ndarray) -> np.ndarray:
        """Return (K, h, w) for one picture (h, w, C), at least as large as a window; only windows go to the device."""
        from monai.inferers import sliding_window_inference

        blended = sliding_window_inference(
            self._input([pixels], device="cpu"),
            self.config.size,
            self.batch_size,
            self._probabilities,
            overlap=OVERLAP,
            mode="gaussian",
            sw_device=self.device,
            device=torch.device("cpu"),
        )
        assert isinstance(blended, Tensor)
        return self._checked(blended[0].numpy())

    def probabilities_by_planes(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the planes (K, h, w) of a volume's probabilities, of an image (C, d, h, w) as in training, one after the other."""

        def probabilities(windows: Tensor) -> Tensor:
            unknown = torch.full((len(windows), *windows.shape[2:]), IGNORE, dtype=torch.uint8, device=windows.device)
            return self._probabilities(add_given(windows, unknown, self.config.planes) if self.config.planes else windows)

        for planes in slide_windows(image, self.config.size, probabilities, batch_size=self.batch_size, device=self.device):
            yield self._checked(planes)

    @torch.no_grad()
    def _probabilities(self, images: Tensor) -> Tensor:
        try:
            logits = self.model(images).float()
        except torch.OutOfMemoryError:
            raise RunError(f"{self.device}: out of memory with {len(images)} images in one pass; use a smaller batch size") from None
        return logits.sigmoid() if self.config.classes == 1 else logits.softmax(1)

    def _checked(self, probabilities: np.ndarray) -> np.ndarray:
        if not np.isfinite(probabilities).all():
            raise RunError("the network gives values that are not finite: its training diverged; train with a lower learning_rate")
        return probabilities


def to_tensor(pixels: list[np.ndarray]) -> Tensor:
    """Return uint8 pictures, B × (h, w, C), as float (B, C, h, w) of 0 … 1, as in training."""
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy()).float() / 255


def holds_window(size: tuple[int, int], config: Config) -> bool:
    """Return whether an image of this size is at least as large as a window."""
    return size[0] >= config.size[0] and size[1] >= config.size[1]
