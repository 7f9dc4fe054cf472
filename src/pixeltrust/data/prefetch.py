"""Prefetch the batches of a step, in the background, while the step before runs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from pixeltrust.method.addresses import Where
from pixeltrust.method.batch import Batch
from pixeltrust.plumbing.processes import ALONE, Ranks


def no_pairs() -> Batch:
    """Stand in for a stream of pairs, for a step that does not ask for it."""
    raise ValueError("this run has no stream of pairs: its method does not see given masks")


@dataclass(frozen=True)
class Feed:
    """The batches of one update, each made when it is asked for, or prefetched.

    With several ranks a batch is this rank's part of the joined one, and may be empty.
    """

    noisy: Callable[[], Batch]
    clean: Callable[[], Batch]
    pool: Callable[[], Batch]
    """A batch from one shuffled pool of noisy and clean cases."""
    pairs: Callable[[], Batch] = no_pairs
    """A batch of clean cases whose images have the given masks as further channels, for a network that sees them."""
    where: Callable[[], Where] | None = None
    """Which pixels of which cases the noisy batch shows."""
    update: int = 0
    """The number of updates before this one."""
    updates: int = 1
    """The number of updates of the whole training."""
    ranks: Ranks = ALONE


class Prefetcher:
    """A thread that makes batches one update ahead, and ends with the block.

    The streams that one update asks for are prefetched for the next; other batches are made when they are asked for. A batch is
    the same either way, and so are the errors that making it raises.

    Args:
        make: makes the batch of (stream, update), from these alone.
        updates: the number of updates; nothing is made beyond.
    """

    def __init__(self, make: Callable[[str, int], Batch], updates: int) -> None:
        self._make, self._updates = make, updates
        self._thread = ThreadPoolExecutor(1, "batches")
        self._prefetched: dict[str, tuple[int, Future[Batch]]] = {}

    def batch(self, stream: str, update: int) -> Batch:
        """Return the batch of a stream in an update, and start making the next one."""
        for_update, future = self._prefetched.pop(stream, (None, None))
        batch = future.result() if future and for_update == update else self._make(stream, update)
        if update + 1 < self._updates:
            self._prefetched[stream] = update + 1, self._thread.submit(self._make, stream, update + 1)
        return batch

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._prefetched.clear()
        self._thread.shutdown(cancel_futures=True)
