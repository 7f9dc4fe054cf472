"""Long work: a progress bar on standard error, and many files at once in threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pixeltrust.plumbing.errors import DataError, PixeltrustError

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = min(8, os.cpu_count() or 1)  # decoding releases the interpreter's lock
AHEAD = 4 * THREADS  # so many items are started before their turn, so that a million results do not pile up


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


def progress_bar(shown: bool = True) -> Progress:
    """Return a progress bar on standard error that vanishes when the work is done, and is invisible outside of a terminal.

    Its last column shows `task.fields["note"]`, which every task needs.
    """
    note = TextColumn("{task.fields[note]}", markup=False) if shown else TextColumn("")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        note,
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not shown or not console.is_terminal)


def attempt_in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], *, text: str, shown: bool = True
) -> Iterator[tuple[Item, Result | PixeltrustError]]:
    """Yield each item with its result, or with an error that the user can correct, in the order of the items.

    Args:
        text: the work, as the bar names it.
        shown: show the bar.
    """

    def attempt(item: Item) -> Result | PixeltrustError:
        try:
            return work(item)
        except PixeltrustError as error:
            return error

    pool = ThreadPoolExecutor(THREADS)
    try:
        with progress_bar(shown) as bar:
            task = bar.add_task(text, total=len(items), note="")
            for item, outcome in zip(items, map_in_order(pool, attempt, items), strict=True):
                bar.advance(task)
                yield item, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def map_in_threads(work: Callable[[Item], Result], items: Sequence[Item], *, text: str, complaint: str, shown: bool = True) -> list[Result]:
    """Return the results in the order of the items.

    Args:
        complaint: the line above the list of faults, if there are any.

    Raises:
        DataError: lists the faults of all items.
    """
    results: list[Result] = []
    faults: list[str] = []
    for _, outcome in attempt_in_threads(work, items, text=text, shown=shown):
        if isinstance(outcome, PixeltrustError):
            faults += faults_of(outcome)
        else:
            results.append(outcome)
    if faults:
        raise DataError(complaint, faults)
    return results


def faults_of(error: PixeltrustError) -> list[str]:
    """Return the faults that an error lists, or its own as the only one."""
    return getattr(error, "faults", None) or [error.fault]


def map_in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = AHEAD
) -> Iterator[Result]:
    """Yield the results in the order of the items, with at most `ahead` items started or waiting."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
