"""Make batches of cases: every file is decoded once, then served from memory or from a memory-mapped file.

N cases   B images of a batch   C channels   *P the size of training   *S the shape of a case, which is *P for pictures (see `fitting`)
images (C, *S)   masks uint8 (*S), labels, 255 for ignored
"""

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain, pairwise
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch

from pixeltrust.config import Config
from pixeltrust.data.cases import CaseList, Cases
from pixeltrust.data.checks import MIN_HELD_OUT
from pixeltrust.data.fitting import crop_around, crops_of, fit_crops, fit_labels, fitted_shapes, read_spacing, threads_for, to_floats
from pixeltrust.data.masks import MaskMeaning, decode_labels, meaning_faults, read_mask, role_faults
from pixeltrust.data.views import Views, cut_corner, draw_views
from pixeltrust.method.addresses import Where, addresses_in_cases
from pixeltrust.method.batch import Batch, to_device
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.files import mapped_array
from pixeltrust.plumbing.labels import IGNORE, is_foreground
from pixeltrust.plumbing.processes import ALONE, Ranks
from pixeltrust.plumbing.progress import attempt_in_threads
from pixeltrust.plumbing.seeds import generator

CPU = torch.device("cpu")
SAMPLED = 1000  # voxels of each class of a volume, of which patches with foreground show one
Corners: TypeAlias = Sequence[Sequence[int]]
"""(B, axes), the first voxels of patches."""
PIECE = 64  # cases to read in one go, where there are many
CROPPED = {"images": "cropped-images", "masks": "cropped-masks"}
"""The names of what is kept of pictures as they are cropped around their given masks."""


class CaseCache:
    """The decoded cases at the size of training.

    Args:
        cases: N cases; an index counts in their order.
        config: size, channels, classes, ignore_label, cache_gib.
        folder: the place of the memory-mapped files, if the cases do not fit into `cache_gib`.
    """

    def __init__(self, cases: CaseList, config: Config, folder: Path) -> None:
        self.cases = cases
        self.config = config
        self.shapes = fitted_shapes(cases, config)
        """*S of every case."""
        self._ends = np.cumsum([math.prod(shape) for shape in self.shapes], dtype=np.int64)
        dtype, pixels = np.dtype(np.uint8 if len(config.size) == 2 else np.float16), int(self._ends[-1]) if len(cases) else 0
        self.gib = pixels * ((config.channels * dtype.itemsize + 1) * (1 + crops_of(config)) + bool(config.planes)) / 2**30
        self.mapped = self.gib > config.cache_gib
        arrays = {"images": (dtype, pixels * config.channels), "masks": (np.dtype(np.uint8), pixels)}
        if config.planes:
            arrays["given"] = arrays["masks"]
        if crops_of(config):
            arrays |= {cropped: arrays[name] for name, cropped in CROPPED.items()}
        self._arrays = {
            name: mapped_array(folder / f"{name}.{kind}", kind, (length,)) if self.mapped else np.empty(length, kind)
            for name, (kind, length) in arrays.items()
        }
        self._foreground: dict[int, list[np.ndarray]] = {}
        self._decoded = np.zeros(len(cases), bool)
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
        threads = threads_for([self.cases[index] for index in missing], self.config.classes)
        for index, outcome in attempt_in_threads(self._decode_one, missing, text="decoding", shown=show_progress, threads=threads):
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

    def batch(
        self, indices: np.ndarray, device: torch.device = CPU, *, corners: Corners | None = None, cropped: np.ndarray | None = None
    ) -> Batch:
        """Return the cases of `indices` (B,) as float images (B, C, *P) and labels (B, *P); the device gets them as they are kept.

        Args:
            corners: the first voxels of patches of the size of training; where not given, cases are shown whole, which then are of one
                shape *S in place of *P.
            cropped: which of the pictures are shown cropped around their given masks, for a network that sees them so, bools (B,).
        """
        images, masks = (to_device(self._part(name, indices, corners, cropped), device) for name in ("images", "masks"))
        return Batch(to_floats(images), masks, ignore_label=IGNORE)

    def given(self, indices: np.ndarray, device: torch.device = CPU, *, corners: Corners | None = None) -> torch.Tensor:
        """Return the given masks of the cases, labels (B, *P), of a network that sees them, cropped where it sees pictures so; all ignored
        for a case without one."""
        return to_device(self._part("given", indices, corners), device)

    def labels_at(self, where: Where) -> torch.Tensor:
        """Return the labels of the pixels that a batch shows, uint8 (B, *P); 255 for a pixel of no case."""
        indices = [self._places[identity] for identity in where.ids]
        self.decode(indices)
        masks = (torch.from_numpy(self._case("masks", index)).flatten() for index in indices)
        addresses = where.addresses.cpu()
        labels = [mask[shown.clamp(min=0)] for mask, shown in zip(masks, addresses, strict=True)]
        return torch.stack(labels).masked_fill(addresses < 0, IGNORE) if labels else addresses.byte()

    @cached_property
    def _places(self) -> dict[str, int]:
        """Return the index of every case, by its id."""
        return {identity: place for place, identity in enumerate(self.cases.texts("id"))}

    def corners(self, indices: np.ndarray, views: Views) -> Corners | None:
        """Return where the views of these cases cut their patches; None for pictures."""
        if views.cuts is None:
            return None
        self.decode(indices)
        cuts = zip(indices.tolist(), views.cuts, strict=True)
        return [cut_corner(cut, self.shapes[index], self.config.size, self._foreground[index]) for index, cut in cuts]

    def middles(self, indices: np.ndarray) -> Corners | None:
        """Return the corners of patches about the middle of the foreground of cases; None for pictures."""
        if len(self.config.size) == 2:
            return None
        self.decode(indices)
        corners = []
        for index in indices.tolist():
            shape, addresses = self.shapes[index], np.concatenate([[], *self._foreground[index]]).astype(int)
            middle = np.mean(np.unravel_index(addresses, shape), axis=1) if len(addresses) else np.divide(shape, 2)
            first = (middle - np.divide(self.config.size, 2)).clip(0, np.subtract(shape, self.config.size))
            corners.append(tuple(first.astype(int).tolist()))
        return corners

    def pieces(self, indices: np.ndarray, size: int) -> list[np.ndarray]:
        """Split indices, in order, into pieces of at most `size` whose cases have one shape."""
        changes = [place for place, (one, other) in enumerate(pairwise(indices), start=1) if self.shapes[one] != self.shapes[other]]
        return [piece for part in np.split(indices, changes) for piece in split_in_pieces(part, size)]

    def _part(self, name: str, indices: np.ndarray, corners: Corners | None, cropped: np.ndarray | None = None) -> torch.Tensor:
        self.decode(indices)
        is_cropped = cropped if cropped is not None and crops_of(self.config) else np.zeros(len(indices), bool)
        whole = [self._case(CROPPED[name] if crop else name, index) for crop, index in zip(is_cropped, indices.tolist(), strict=True)]
        for place, corner in enumerate(corners or ()):
            whole[place] = whole[place][cut_of(corner, self.config.size)]
        empty = (0, *([self.config.channels] if name == "images" else []), *self.config.size)
        return torch.from_numpy(np.stack(whole) if whole else np.empty(empty, self._arrays[name].dtype))

    def _case(self, name: str, index: int) -> np.ndarray:
        """Return what is kept of a case, to be read or written: its image (C, *S), or a mask (*S)."""
        shape, of_image = self.shapes[index], name in ("images", CROPPED["images"])
        channels = self.config.channels if of_image else 1
        end = int(self._ends[index]) * channels
        kept = self._arrays[name][end - math.prod(shape) * channels : end]
        return kept.reshape(*([channels] if of_image else []), *shape)

    def _decode_one(self, index: int) -> MaskMeaning:
        case, config = self.cases[index], self.config
        spacing, crop = read_spacing(case, config), None
        if "given" in self._arrays:
            given = read_mask(case.given, config) if case.given else None
            crop = None if given is None else crop_around(given, config)
            self._case("given", index)[...] = IGNORE if given is None else fit_labels(given, spacing, config, crop)
        labels, meaning = decode_labels(case.mask, classes=config.classes, ignore_label=config.ignore_label)
        images = fit_crops(case, config, [None, crop] if crops_of(config) else [None])
        self._case("images", index)[...] = images[0]
        self._case("masks", index)[...] = fitted = fit_labels(labels, spacing, config)
        if crops_of(config):
            self._case(CROPPED["images"], index)[...] = images[1]
            self._case(CROPPED["masks"], index)[...] = fit_labels(labels, spacing, config, crop)
        if spacing:
            self._foreground[index] = _sample_foreground(fitted, generator(config.seed, "foreground", case.id))
        return meaning


def _sample_foreground(labels: np.ndarray, draws: np.random.Generator) -> list[np.ndarray]:
    """Return up to `SAMPLED` addresses of voxels of each foreground class that a mask has."""
    addresses = np.flatnonzero(is_foreground(labels))
    of_each = labels.ravel()[addresses]
    classes = [addresses[of_each == label] for label in np.unique(of_each)]
    return [draws.choice(of_class, min(SAMPLED, len(of_class)), replace=False) for of_class in classes]


def cut_of(corner: Sequence[int], size: Sequence[int]) -> tuple[Any, ...]:
    """Return the index of a patch of this size along the last axes of an array or tensor, by its first voxel."""
    return (..., *(slice(first, first + length) for first, length in zip(corner, size, strict=True)))


def add_given(images: torch.Tensor, given: torch.Tensor, planes: int) -> torch.Tensor:
    """Add the planes of given masks to images, for a network that sees them, (B, C + planes, *P).

    Args:
        images: (B, C, *P).
        given: labels (B, *P); 255 where nothing is given.
        planes: one for each foreground class: ½ inside of it, −½ outside, and 0 where nothing is given.
    """
    labels = torch.arange(1, planes + 1, device=given.device).view(-1, *(1,) * (given.ndim - 1))
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
        corners = self.pixels.corners(cases[part], views[part])
        if stream != "pairs":
            return views[part].show(self.pixels.batch(cases[part], device, corners=corners))
        dropped = generator(self.config.seed, "given dropped", update).random(len(cases))[part] < self.config.given_dropped
        batch = views[part].show(self.pixels.batch(cases[part], device, corners=corners, cropped=~dropped))
        given = views[part].show_masks(self.pixels.given(cases[part], device, corners=corners))
        given[to_device(torch.from_numpy(dropped), device)] = IGNORE
        return Batch(add_given(batch.images, given, self.config.planes), batch.masks, ignore_label=IGNORE)

    def upright(self, indices: np.ndarray, device: torch.device = CPU, *, corners: Corners | None = None) -> Batch:
        """Return cases, or patches of them, as they are, with their given masks for a network that sees them."""
        batch = self.pixels.batch(indices, device, corners=corners, cropped=np.ones(len(indices), bool))
        if not self.config.planes:
            return batch
        given = self.pixels.given(indices, device, corners=corners)
        return Batch(add_given(batch.images, given, self.config.planes), batch.masks, ignore_label=IGNORE)

    def ids(self, stream: str, update: int) -> list[str]:
        """Return the ids of the cases in that batch, on all ranks."""
        return [self.pixels.cases[index].id for index in self._shown(stream, update)[0]]

    @cached_property
    def clean_label(self) -> int | None:
        """The only label of all clean cases, `IGNORE` where no pixel counts; None where there are several labels."""
        labels: set[int] = set()
        for piece in self.pixels.pieces(self.clean, PIECE):
            labels |= set(self.pixels.batch(piece).masks.unique().tolist()) - {IGNORE}
            if len(labels) > 1:
                return None
        return labels.pop() if labels else IGNORE if len(self.clean) else None

    def where(self, update: int) -> Where:
        """Return which pixels of which cases this rank's part of the noisy batch of an update shows."""
        cases, views = self._shown("noisy", update)
        span = self.ranks.span(len(cases))
        ids = [self.pixels.cases[index].id for index in cases[span]]
        addresses, corners = views[span].show_addresses(self.config.size), self.pixels.corners(cases[span], views[span])
        if corners is None:
            return Where(ids, addresses, self.config.size)
        shapes = [self.pixels.shapes[index] for index in cases[span]]
        return Where(ids, addresses_in_cases(addresses, self.config.size, corners, shapes), shapes)

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
