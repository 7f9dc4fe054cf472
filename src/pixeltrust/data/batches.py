"""Make batches of cases: every file is decoded once, then served from memory or from a memory-mapped file.

N cases   C channels   (H, W) the size of training
images uint8 (N, C, H, W)   masks uint8 (N, H, W), labels, 255 for ignored
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from pixeltrust.config import Config
from pixeltrust.data.cases import Case, CaseList, Cases
from pixeltrust.data.checks import MIN_HELD_OUT
from pixeltrust.data.images import read_image, resize_image, resize_labels
from pixeltrust.data.masks import MaskMeaning, decode_labels, meaning_faults, role_faults
from pixeltrust.data.views import Views, draw_views, to_device
from pixeltrust.method.addresses import Where
from pixeltrust.method.batch import Batch
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.processes import ALONE, Ranks
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.seeds import generator

CPU = torch.device("cpu")
PIECE = 64  # cases to read in one go, where there are many


class CaseCache:
    """The decoded cases at the size of training.

    Args:
        cases: N cases; an index counts in their order.
        config: size, channels, classes, ignore_label, cache_gib.
        folder: the place of the memory-mapped files, if the cases do not fit into `cache_gib`.
    """

    def __init__(self, cases: Sequence[Case], config: Config, folder: Path) -> None:
        self.cases = cases
        self.config = config
        count, (height, width) = len(self.cases), config.size
        self.gib = count * (config.channels + 1 + bool(config.planes)) * height * width / 2**30
        self.mapped = self.gib > config.cache_gib
        shapes = {"images": (count, config.channels, height, width), "masks": (count, height, width)}
        if config.planes:
            shapes["given"] = (count, height, width)
        arrays = {
            name: mapped_array(folder / f"{name}.uint8", np.uint8, shape) if self.mapped else np.empty(shape, np.uint8)
            for name, shape in shapes.items()
        }
        self._images, self._masks, self._given = arrays["images"], arrays["masks"], arrays.get("given")
        self._decoded = np.zeros(count, bool)
        self._meanings: dict[str, dict[tuple[str, bool], MaskMeaning]] = {}  # by role, an example of each
        self._decoding = Lock()  # batches are made in the background too

    def decode(self, indices: Sequence[int] | np.ndarray, *, show_progress: bool = False) -> None:
        """Decode the cases that are not decoded yet.

        Raises:
            DataError: lists every file that cannot be used.
        """
        with self._decoding:
            missing = sorted({int(index) for index in indices if not self._decoded[index]})
            if missing:
                self._decode(missing, show_progress)

    def _decode(self, missing: list[int], show_progress: bool) -> None:
        faults: list[str] = []
        for index, outcome in attempt_in_threads(self._decode_one, missing, text="decoding", shown=show_progress):
            if isinstance(outcome, PixeltrustError):
                faults.append(outcome.fault)
            else:
                self._decoded[index] = True
                examples = self._meanings.setdefault(self.cases[index].role, {})
                examples.setdefault((outcome.meaning, outcome.labelled), outcome)
        complaint = f"{len(faults)} of {len(missing)} cases cannot be used" if faults else "the masks cannot be understood"
        meanings = {role: list(examples.values()) for role, examples in self._meanings.items()}
        faults += role_faults(meanings) if self._decoded.all() else meaning_faults(chain.from_iterable(meanings.values()))
        if faults:
            raise DataError(complaint, faults)

    def batch(self, indices: np.ndarray, device: torch.device = CPU) -> Batch:
        """Return the cases of `indices` (B,) as float images (B, C, H, W) of 0 … 1 and labels (B, H, W); bytes go to the device."""
        self.decode(indices)
        images, masks = (to_device(torch.from_numpy(array[indices]), device) for array in (self._images, self._masks))
        return Batch(images.float().div_(255), masks, ignore_label=IGNORE)

    def given(self, indices: np.ndarray, device: torch.device = CPU) -> torch.Tensor:
        """Return the given masks of the cases, labels (B, H, W), of a network that sees them; all ignored for a case without one."""
        assert self._given is not None
        self.decode(indices)
        return to_device(torch.from_numpy(self._given[indices]), device)

    def _decode_one(self, index: int) -> MaskMeaning:
        case, config = self.cases[index], self.config
        if self._given is not None:
            self._given[index] = IGNORE
            if case.given:
                given, _ = decode_labels(case.given, classes=config.classes, ignore_label=config.ignore_label)
                self._given[index] = resize_labels(given, config.size)
        labels, meaning = decode_labels(case.mask, classes=config.classes, ignore_label=config.ignore_label)
        self._images[index] = resize_image(read_image(case.image, config.channels), config.size).transpose(2, 0, 1)
        self._masks[index] = resize_labels(labels, config.size)
        return meaning


def add_given(images: torch.Tensor, given: torch.Tensor, planes: int) -> torch.Tensor:
    """Add the planes of given masks to images, for a network that sees them, (B, C + planes, H, W).

    Args:
        images: (B, C, H, W).
        given: labels (B, H, W); 255 where nothing is given.
        planes: one for each foreground class: ½ inside of it, −½ outside, and 0 where nothing is given.
    """
    labels = torch.arange(1, planes + 1, device=given.device).view(-1, 1, 1)
    shown = (given[:, None] == labels).to(images.dtype) - 0.5
    return torch.cat([images, shown.masked_fill((given == IGNORE)[:, None], 0)], 1)


def smallest_batch(batch_size: int, *, cases: int | None = None, processes: int = 1) -> int:
    """Return how many images the smallest batch of one process has, its part of a joined batch; empty parts do not count.

    Args:
        cases: the number in a stream that visits each once in an epoch, whose last batch has the rest; None for an endless stream.
    """
    joined = batch_size if cases is None else cases % batch_size or batch_size
    return max(1, joined // processes)


def endless_order(cases: np.ndarray, batch_size: int, update: int, seed: int, stream: str) -> np.ndarray:
    """Return the batch of `update` from a stream that reshuffles without end, (batch_size,) of `cases`.

    It depends on the arguments alone, so that a run can resume anywhere. With few cases a batch may repeat one.
    """
    start, stop, count = update * batch_size, (update + 1) * batch_size, len(cases)
    shuffled = _permutation if count > batch_size else _permutation.__wrapped__  # the many rounds of few cases would fill the cache
    rounds = range(start // count, -(-stop // count))
    return cases[np.concatenate([shuffled(count, seed, stream, r)[max(0, start - r * count) : stop - r * count] for r in rounds])]


def epoch_order(cases: np.ndarray, batch_size: int, update: int, seed: int, stream: str) -> np.ndarray:
    """Return the batch of `update` where every epoch visits every case once; the last batch of an epoch may be smaller."""
    epoch, number = divmod(update, -(-len(cases) // batch_size))
    order = _permutation(len(cases), seed, stream, epoch)
    return cases[order[number * batch_size : (number + 1) * batch_size]]


def split_in_pieces(values: np.ndarray, size: int) -> list[np.ndarray]:
    """Split the values, in order, `size` at a time."""
    return [values[start : start + size] for start in range(0, len(values), size)]


@lru_cache(maxsize=8)  # the current round of three streams, and the next
def _permutation(count: int, seed: int, stream: str, number: int) -> np.ndarray:
    return generator(seed, stream, number).permutation(count)


def hold_out(clean: CaseList, config: Config, *, noisy: CaseList | None = None) -> tuple[CaseList, CaseList]:
    """Split clean cases into those to train on and those held out to choose by, (train, held out).

    round(val_fraction × clean) are held out, whole groups only, and no group with noisy cases, so it can be fewer; if that gives
    fewer than 10, none are.
    """
    wanted = round(config.val_fraction * len(clean))
    if wanted < MIN_HELD_OUT:
        return clean, clean[:0]
    groups: dict[str, list[int]] = {}
    for place, (identity, group) in enumerate(zip(clean.texts("id"), clean.texts("group"), strict=True)):
        groups.setdefault(f"group {group}" if group else f"case {identity}", []).append(place)
    groups_with_noisy = {f"group {group}" for group in noisy.texts("group").unique()} if noisy else set()
    names = sorted(groups.keys() - groups_with_noisy)
    chosen: list[int] = []
    for name in generator(config.seed, "held out").permutation(len(names)):
        if len(chosen) + len(groups[names[name]]) <= wanted:
            chosen += groups[names[name]]
    if len(chosen) < MIN_HELD_OUT:
        return clean, clean[:0]
    is_held_out = np.isin(np.arange(len(clean)), chosen)
    return clean[~is_held_out], clean[is_held_out]


class Streams:
    """The batches of every update, for the methods and for choosing the best weights.

    Args:
        cases: the whole data folder; the noisy ones are trained on.
        clean, held: the clean cases to train on, and those held out.
        cache: the folder of memory-mapped files.
        ranks: a batch is this rank's part of the one that a single process would make.
    """

    def __init__(self, cases: Cases, clean: CaseList, held: CaseList, config: Config, cache: Path, ranks: Ranks = ALONE) -> None:
        self.config, self.cache, self.ranks = config, cache, ranks
        noisy = cases.of("noisy")
        self.pixels = CaseCache(noisy + clean + held, config, cache)
        self.noisy, self.clean, self.held = np.split(np.arange(len(self.pixels.cases)), [len(noisy), len(noisy) + len(clean)])
        self.updates_per_epoch = config.updates_per_epoch or -(-(len(noisy) or len(clean)) // config.batch_size)

    @cached_property
    def pool(self) -> np.ndarray:
        """The noisy and clean cases to train on; computed once, as they may be very many."""
        return np.concatenate([self.noisy, self.clean])

    def batch(self, stream: str, update: int, device: torch.device = CPU) -> Batch:
        """Make the batch of `noisy`, `clean`, `pool` or `pairs` in an update."""
        cases, views = self._shown(stream, update)
        part = self.ranks.span(len(cases))
        batch = views[part].show(self.pixels.batch(cases[part], device))
        if stream != "pairs":
            return batch
        given = views[part].show_masks(self.pixels.given(cases[part], device))
        dropped = generator(self.config.seed, "given dropped", update).random(len(cases))[part] < self.config.given_dropped
        given[torch.from_numpy(dropped).to(device)] = IGNORE
        return Batch(add_given(batch.images, given, self.config.planes), batch.masks, ignore_label=IGNORE)

    def upright(self, indices: np.ndarray, device: torch.device = CPU) -> Batch:
        """Return cases as they are, with their given masks for a network that sees them."""
        batch = self.pixels.batch(indices, device)
        if not self.config.planes:
            return batch
        return Batch(add_given(batch.images, self.pixels.given(indices, device), self.config.planes), batch.masks, ignore_label=IGNORE)

    def ids(self, stream: str, update: int) -> list[str]:
        """Return the ids of the cases in that batch, on all ranks."""
        return [self.pixels.cases[index].id for index in self._shown(stream, update)[0]]

    @cached_property
    def clean_label(self) -> int | None:
        """The only label of all clean cases, `IGNORE` where no pixel counts; None where there are several labels."""
        labels: set[int] = set()
        for piece in split_in_pieces(self.clean, PIECE):
            labels |= set(self.pixels.batch(piece).masks.unique().tolist()) - {IGNORE}
            if len(labels) > 1:
                return None
        return labels.pop() if labels else IGNORE if len(self.clean) else None

    def where(self, update: int) -> Where:
        """Return which pixels of which cases this rank's part of the noisy batch of an update shows."""
        cases, views = self._shown("noisy", update)
        span = self.ranks.span(len(cases))
        ids = [self.pixels.cases[index].id for index in cases[span]]
        return Where(ids, views[span].show_addresses(self.config.size), self.config.size)

    def _shown(self, stream: str, update: int) -> tuple[np.ndarray, Views]:
        """Return the cases (B,) that a stream shows in an update, and how."""
        config = self.config
        if stream == "noisy":
            cases = epoch_order(self.noisy, config.batch_size, update, config.seed, stream)
        elif stream in ("clean", "pairs"):
            cases = endless_order(self.clean, config.clean_batch_size, update, config.seed, stream)
        else:
            cases = endless_order(self.pool, config.batch_size, update, config.seed, stream)
        return cases, draw_views(len(cases), config, update, stream)

    def map_cases(self) -> np.ndarray:
        """Draw, by the seed, the noisy cases whose weight maps are kept."""
        count = min(self.config.weight_map_cases, len(self.noisy))
        return np.sort(generator(self.config.seed, "weight maps").permutation(self.noisy)[:count])
