"""Processes that work together, on one or several machines: rank r of n has its part of every batch, and its share of every list.

Sums are over the joined batch, so that n processes do what one process does with all of it. With one process every function here
returns its argument. `torchrun` starts the processes, torch.distributed connects them and carries what they exchange;
every rank must take part in every exchange, even one without images.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pixeltrust.plumbing.errors import ConfigError, DataError, PixeltrustError, RunError

Value = TypeVar("Value")
LONGEST = timedelta(days=1)  # for which one rank may work alone; a process that has ended is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process, `rank` of `count`."""

    rank: int = 0
    count: int = 1

    # --- parts and shares -----------------------------------------------------------------------------------------

    def span(self, count: int) -> slice:
        """Return the place of this rank's part of `count` rows: parts follow one another, and their sizes differ by at most 1."""
        return slice(self._bound(self.rank, count), self._bound(self.rank + 1, count))

    def part(self, values: np.ndarray) -> np.ndarray:
        """Return this rank's part of the values of a joined batch."""
        return values[self.span(len(values))]

    def share(self, values: Sequence[Value]) -> Sequence[Value]:
        """Return this rank's share of a list of work: every n-th item, which spreads slow ones; `gather_results` restores the order."""
        return values[self.rank :: self.count]

    def _bound(self, rank: int, count: int) -> int:
        return rank * (count // self.count) + min(rank, count % self.count)

    # --- sums over the joined batch ---------------------------------------------------------------------------------

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Sum a tensor of the same shape over the ranks.

        The derivative of the sum is that of this rank's term alone, so the ranks' gradients add up to that of the joined batch.
        """
        return value if self.count == 1 else _Total.apply(value)

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """Return the largest value of all ranks; 0 where there are none."""
        largest = values.max() if values.numel() else values.new_zeros(())
        return largest if self.count == 1 else _reduced(largest, dist.ReduceOp.MAX)

    def sum_counts(self, *numbers: int) -> tuple[int, ...]:
        """Sum each number over the ranks."""
        return numbers if self.count == 1 else tuple(_reduced(torch.tensor(numbers)).tolist())

    def summed_gradients(self, parameters: Sequence[nn.Parameter], own: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Sum each gradient over the ranks; None where no rank has one."""
        if self.count == 1:
            return list(own)
        terms = [torch.zeros_like(p) if gradient is None else gradient for p, gradient in zip(parameters, own, strict=True)]
        known = torch.tensor([gradient is not None for gradient in own], dtype=torch.int64)
        return [total if any_rank else None for total, any_rank in zip(_summed(terms), _reduced(known).tolist(), strict=True)]

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every .grad by its sum over the ranks."""
        if self.count == 1:
            return
        trained = list(parameters)
        for parameter, total in zip(trained, self.summed_gradients(trained, [parameter.grad for parameter in trained]), strict=True):
            if total is not None:  # in the parameter's own memory format
                parameter.grad = (torch.empty_like(parameter) if parameter.grad is None else parameter.grad).copy_(total)

    # --- the same everywhere ----------------------------------------------------------------------------------------

    def all_gather_parts(self, part: Tensor) -> list[Tensor]:
        """Return the ranks' vectors, by rank; they may have different lengths."""
        if self.count == 1:
            return [part]
        lengths = self.all_gather_objects(len(part))
        padded = torch.cat([part, part.new_zeros(max(lengths) - len(part))])
        parts = [torch.empty_like(padded) for _ in range(self.count)]
        with _reaching():
            dist.all_gather(parts, padded)
        return [values[:length] for values, length in zip(parts, lengths, strict=True)]

    def all_gather_objects(self, value: Value) -> list[Value]:
        """Return the values of all ranks, by rank; they may be anything that can be pickled."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _reaching():
            dist.all_gather_object(values, value)
        return values

    def gather_results(self, work: Callable[[], Sequence[Value]]) -> list[Value]:
        """Join the results of `work`, which every rank does for its share, in the order of the list that was shared.

        Raises:
            PixeltrustError: the work of a rank raised one. Every rank raises it, with the faults and errors of all ranks.
        """
        if self.count == 1:
            return list(work())
        outcomes = self.all_gather_objects(_attempted(work))
        errors = [error for _, error in outcomes if error is not None]
        if errors:
            listing = [error for error in errors if getattr(error, "faults", [])]
            if not listing:
                raise errors[0]
            faults = [fault for error in errors for fault in getattr(error, "faults", []) or [str(error)]]
            raise DataError(str(listing[0]).partition("\n")[0], faults)
        absent = object()
        rounds = zip_longest(*(result or [] for result, _ in outcomes), fillvalue=absent)
        return [value for values in rounds for value in values if value is not absent]  # type: ignore[misc]

    def on_rank_0(self, work: Callable[[], Value]) -> Value:
        """Return the result of `work`, which rank 0 does while the others wait; every rank raises its `PixeltrustError`."""
        if self.count == 1:
            return work()
        result, error = self.all_gather_objects(_attempted(work) if self.rank == 0 else (None, None))[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_gather_objects(None)

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of rank 0 into those of every rank."""
        if self.count > 1:
            for tensor in tensors:
                sent = tensor.contiguous()
                with _reaching():
                    dist.broadcast(sent, 0)
                tensor.copy_(sent)

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor of floats by its mean over the ranks."""
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.count > 1 and floats:
            for tensor, total in zip(floats, _summed(floats), strict=True):
                tensor.copy_(total / self.count)


ALONE = Ranks()


def connect(device: str) -> tuple[torch.device, Ranks]:
    """Return this process's device, after all processes that `torchrun` has started are connected.

    None of them has written anything before all have seen what was there.

    Args:
        device: `cpu`, `cuda` or `mps`, which is available here, or `auto`: the best one that is.

    Raises:
        ConfigError: the processes cannot share what the machines have.
    """
    alone = not launched_by_torchrun()
    if not alone:
        _refuse_unequal(device, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    own = torch.device("cuda", 0 if alone else int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if alone:
        return own, ALONE
    if device == "cuda":
        torch.cuda.set_device(own)
    if not dist.is_initialized():
        has_nccl = dist.is_nccl_available() and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"  # what is on the CPU does not wait for the device
        dist.init_process_group(backend, timeout=LONGEST, device_id=own if device == "cuda" else None)
    ranks = current_ranks()
    ranks.barrier()  # init_process_group does not wait where an earlier call has connected them
    return own, ranks


def launched_by_torchrun() -> bool:
    """Return True if `torchrun` has started this process as one of several."""
    return dist.is_available() and dist.is_torchelastic_launched() and os.environ["WORLD_SIZE"] != "1"


def environment_without_torchrun() -> dict[str, str]:
    """Return the environment for a process that is started from here and works alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}


def current_ranks() -> Ranks:
    """Return this process among those that torch.distributed has connected; `ALONE` where it has not."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else ALONE


def claims_error_report() -> bool:
    """Return True for the first process that fails: only that one prints the error. Each process may ask once."""
    key = f"pixeltrust told {os.environ.get('TORCHELASTIC_RESTART_COUNT')}"
    try:
        store, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=10))))
        return int(store.add(key, 1)) == 1
    except (OSError, RuntimeError, ValueError):  # the process that keeps the count is gone: print the error twice rather than never
        return True


def _refuse_unequal(device: str, count: int, here: int) -> None:
    if count % here:
        raise ConfigError(f"{count} processes, {here} of them on this machine: start the same number on every machine")
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if 0 < gpus < here:
        raise ConfigError(f"{here} processes on this machine, which has {gpus} GPUs: start as many as GPUs, or set device = 'cpu'")
    if not gpus and device in ("auto", "mps") and torch.backends.mps.is_available():
        raise ConfigError(f"device = {device!r}: several processes cannot share mps; set device = 'cpu', or start one process")


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return _reduced(value)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def _reduced(value: Tensor, how: Any = dist.ReduceOp.SUM) -> Tensor:
    """Reduce a tensor over the ranks in 64 bits: they need not agree on a dtype, which a part without images cannot know."""
    wide = value.detach().to(torch.float64 if value.is_floating_point() else torch.int64, copy=True)
    with _reaching():
        dist.all_reduce(wide, how)
    return wide.to(value.dtype)


def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sum each tensor over the ranks, those of one device and dtype in one exchange."""
    sums: dict[int, Tensor] = {}
    for kind in dict.fromkeys((tensor.device, tensor.dtype) for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if (tensor.device, tensor.dtype) == kind]
        flat = torch.cat([tensors[place].flatten() for place in places])
        with _reaching():
            dist.all_reduce(flat)
        pieces = flat.split([tensors[place].numel() for place in places])
        sums |= {place: piece.view(tensors[place].shape) for place, piece in zip(places, pieces, strict=True)}
    return [sums[place] for place in range(len(tensors))]


def _attempted(work: Callable[[], Value]) -> tuple[Value | None, PixeltrustError | None]:
    try:
        return work(), None
    except PixeltrustError as error:
        return None, error


@contextmanager
def _reaching() -> Iterator[None]:
    """Turn the error of an exchange into one that says that another process has ended."""
    try:
        yield
    except RuntimeError as error:  # gloo raises only this; NCCL's errors are subclasses
        reason = " ".join(str(error).split())
        raise RunError(f"another of the processes has ended, or cannot be reached, so this one ends too ({reason})") from error
