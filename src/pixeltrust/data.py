"""Cases become batches: every file is decoded once, then served from memory or from a memory-mapped file.

N cases   C channels   (H, W) the size that is trained on
images uint8 (N, C, H, W)   masks uint8 (N, H, W), labels with 255 for ignored
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixeltrust.cases import Case, Cases, Kind, decode_labels, mixture_faults
from pixeltrust.config import Config
from pixeltrust.errors import DataError, PixeltrustError
from pixeltrust.images import read_image, resize_image, resize_labels
from pixeltrust.progress import in_threads
from pixeltrust.seeds import generator
from pixeltrust.weights import Batch

TURNS = 8  # the symmetries of a square: number % 4 quarter turns, then mirrored if number ≥ 4


class Pixels:
    """The decoded cases at the size of training.

    Args:
        cases: N cases; an index counts in their order.
        config: size, channels, classes, ignore_label, cache_gib.
        folder: where a memory-mapped file may go, if the cases do not fit into `cache_gib`.
    """

    def __init__(self, cases: Sequence[Case], config: Config, folder: Path) -> None:
        self.cases = list(cases)
        self.config = config
        count, (height, width) = len(self.cases), config.size
        self.gib = count * (config.channels + 1) * height * width / 2**30
        self.mapped = self.gib > config.cache_gib
        shapes = {"images": (count, config.channels, height, width), "masks": (count, height, width)}
        if self.mapped:
            folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: np.memmap(folder / f"{name}.uint8", np.uint8, "w+", shape=shape) if self.mapped else np.empty(shape, np.uint8)
            for name, shape in shapes.items()
        }
        self._images, self._masks = arrays["images"], arrays["masks"]
        self._decoded = np.zeros(count, bool)
        self._kinds: dict[str, Kind] = {}

    def decode(self, indices: Sequence[int] | np.ndarray, *, show_progress: bool = False) -> None:
        """Decode those of the cases that were not yet.

        Raises:
            DataError: lists every file that cannot be used.
        """
        missing = sorted({int(index) for index in indices if not self._decoded[index]})
        if not missing:
            return
        faults = []
        for index, outcome in in_threads(self._decode_one, missing, text="decoding", shown=show_progress):
            if isinstance(outcome, PixeltrustError):
                faults.append(str(outcome))
            else:
                self._decoded[index] = True
                self._kinds[outcome.meaning] = outcome
        faults += mixture_faults(self._kinds.values())
        if faults:
            raise DataError(f"{len(faults)} of {len(missing)} cases cannot be used", faults)

    def batch(self, indices: np.ndarray) -> Batch:
        """The cases of `indices` (B,) as float images (B, C, H, W) of 0 … 1 and labels (B, H, W)."""
        self.decode(indices)
        return Batch(torch.from_numpy(self._images[indices]).float() / 255, torch.from_numpy(self._masks[indices]))

    def _decode_one(self, index: int) -> Kind:
        case, config = self.cases[index], self.config
        labels, kind = decode_labels(case.mask, classes=config.classes, ignore_label=config.ignore_label)
        self._images[index] = resize_image(read_image(case.image, config.channels), config.size).transpose(2, 0, 1)
        self._masks[index] = resize_labels(labels, config.size)
        return kind


def endless_order(cases: np.ndarray, batch_size: int, update: int, seed: int, stream: str) -> np.ndarray:
    """The batch of `update` from a stream that reshuffles without end, (batch_size,) of `cases`.

    A function of its arguments alone, so that a run continues anywhere. With few cases a batch may repeat one.
    """
    positions = np.arange(update * batch_size, (update + 1) * batch_size)
    rounds, places = np.divmod(positions, len(cases))
    return np.array([cases[_permutation(len(cases), seed, stream, int(r))[place]] for r, place in zip(rounds, places, strict=True)])


def epoch_order(cases: np.ndarray, batch_size: int, update: int, seed: int, stream: str) -> np.ndarray:
    """The batch of `update` where every epoch visits every case once; the last batch of an epoch may be smaller."""
    epoch, number = divmod(update, -(-len(cases) // batch_size))
    order = _permutation(len(cases), seed, stream, epoch)
    return cases[order[number * batch_size : (number + 1) * batch_size]]


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, stream: str, number: int) -> np.ndarray:
    return generator(seed, stream, number).permutation(count)


def drawn_turns(count: int, size: tuple[int, int], draws: np.random.Generator) -> np.ndarray:
    """A random symmetry (0 … 7) for each of `count` images; where height and width differ, no quarter turns."""
    turns = draws.integers(0, TURNS, count)
    return turns if size[0] == size[1] else turns - turns % 2


def turned(values: Tensor, turns: np.ndarray) -> Tensor:
    """Each of (B, …, H, W) by its own symmetry: quarter turns, then a mirror."""
    result = torch.empty_like(values)
    for turn in np.unique(turns):
        chosen = torch.from_numpy(np.flatnonzero(turns == turn))
        part = torch.rot90(values[chosen], int(turn) % 4, (-2, -1))
        result[chosen] = part.flip(-1) if turn >= 4 else part
    return result


def augmented(batch: Batch, config: Config, update: int, stream: str) -> Batch:
    """The batch under random flips and turns (`config.augment`); what is drawn depends on seed, stream and update alone."""
    if config.augment == "none":
        return batch
    turns = drawn_turns(len(batch.images), config.size, generator(config.seed, "augment", stream, update))
    return Batch(turned(batch.images, turns), turned(batch.masks, turns))


def held_out(clean: Sequence[Case], config: Config, *, noisy: Sequence[Case] = ()) -> tuple[list[Case], list[Case]]:
    """Clean cases to train on, and those held out to choose by, (train, held out).

    round(val_fraction × clean) are held out, whole groups only, and no group that has noisy cases, so it can be fewer; below 10
    none are.
    """
    wanted = round(config.val_fraction * len(clean))
    if wanted < MIN_HELD_OUT:
        return list(clean), []
    groups: dict[str, list[Case]] = {}
    for case in clean:
        groups.setdefault(f"group {case.group}" if case.group else f"case {case.id}", []).append(case)
    trained = {f"group {case.group}" for case in noisy if case.group}
    names = sorted(groups.keys() - trained)
    chosen: list[Case] = []
    for name in generator(config.seed, "held out").permutation(len(names)):
        if len(chosen) + len(groups[names[name]]) <= wanted:
            chosen += groups[names[name]]
    if len(chosen) < MIN_HELD_OUT:
        return list(clean), []
    ids = {case.id for case in chosen}
    return [case for case in clean if case.id not in ids], [case for case in clean if case.id in ids]


MIN_HELD_OUT = 10  # with fewer, the choice is mostly luck


@dataclass(frozen=True)
class Feed:
    """The batches of one update, each made when asked for."""

    noisy: Callable[[], Batch]
    clean: Callable[[], Batch]
    pool: Callable[[], Batch]
    """From one shuffled pool of noisy and clean cases."""


class Streams:
    """The batches of every update, for the methods and for choosing.

    Args:
        cases: of the whole data folder; the noisy ones are trained on.
        clean, held: the clean cases to train on, and those held out.
        cache: where a memory-mapped file may go.
    """

    def __init__(self, cases: Cases, clean: list[Case], held: list[Case], config: Config, cache: Path) -> None:
        self.config = config
        noisy = cases.of("noisy")
        self.pixels = Pixels([*noisy, *clean, *held], config, cache)
        self.noisy, self.clean, self.held = np.split(np.arange(len(self.pixels.cases)), [len(noisy), len(noisy) + len(clean)])
        self.updates_per_epoch = -(-len(noisy) // config.batch_size)

    def feed(self, update: int, to_device: Callable[[Batch], Batch]) -> Feed:
        config = self.config

        def batch(indices: np.ndarray, stream: str) -> Batch:
            return to_device(augmented(self.pixels.batch(indices), config, update, stream))

        def endless(cases: np.ndarray, size: int, stream: str) -> Batch:
            return batch(endless_order(cases, size, update, config.seed, stream), stream)

        return Feed(
            noisy=lambda: batch(epoch_order(self.noisy, config.batch_size, update, config.seed, "noisy"), "noisy"),
            clean=lambda: endless(self.clean, config.clean_batch_size, "clean"),
            pool=lambda: endless(np.concatenate([self.noisy, self.clean]), config.batch_size, "pool"),
        )

    def map_cases(self) -> np.ndarray:
        """Noisy cases, drawn by the seed, whose weight maps are kept."""
        count = min(self.config.weight_map_cases, len(self.noisy))
        return np.sort(generator(self.config.seed, "weight maps").permutation(self.noisy)[:count])
