"""The batches of a step, made in the background while the step before runs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from pixeltrust.data.views import Views
from pixeltrust.method.batch import Batch
from pixeltrust.plumbing.processes import ALONE, Ranks


@dataclass(frozen=True)
class Places:
    """Where the images of a noisy batch come from: cases (B,), as numbers of noisy ones, and how each of them is shown."""

    cases: np.ndarray
    views: Views

    def part(self, ranks: Ranks) -> "Places":
        """Of the rank's part of the batch."""
        span = ranks.span(len(self.cases))
        return Places(self.cases[span], self.views[span])


@dataclass(frozen=True)
class Feed:
    """The batches of one update, each made when asked for, or before; and which update it is.

    With several ranks a batch is this rank's part of the joined one, maybe without images.
    """

    noisy: Callable[[], Batch]
    clean: Callable[[], Batch]
    pool: Callable[[], Batch]
    """From one shuffled pool of noisy and clean cases."""
    places: Callable[[], Places] | None = None
    """Of the noisy batch, the joined one."""
    update: int = 0
    """Updates made before this one."""
    updates: int = 1
    """Of the whole training."""
    ranks: Ranks = ALONE


class Prefetcher:
    """Makes batches one update ahead, in one thread that ends with the block.

    What is asked for in one update is made for the next one while the step runs; what was not foreseen is made when asked for. A
    batch is the same either way, and so are the errors that making it raises.

    Args:
        make: (stream, update) to its batch; a function of these alone.
        updates: how many there are; nothing is made beyond.
    """

    def __init__(self, make: Callable[[str, int], Batch], updates: int) -> None:
        self._make, self._updates = make, updates
        self._thread = ThreadPoolExecutor(1, "batches")
        self._made: dict[str, tuple[int, Future[Batch]]] = {}

    def batch(self, stream: str, update: int) -> Batch:
        """The batch of a stream in an update."""
        foreseen, future = self._made.pop(stream, (None, None))
        batch = future.result() if future and foreseen == update else self._make(stream, update)
        if update + 1 < self._updates:
            self._made[stream] = update + 1, self._thread.submit(self._make, stream, update + 1)
        return batch

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._made.clear()
        self._thread.shutdown(cancel_futures=True)
