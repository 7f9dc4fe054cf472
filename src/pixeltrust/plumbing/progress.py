"""Long work: a progress bar on standard error (outside of a terminal a line a minute), and many files at once in threads."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.text import format_duration

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = min(8, os.cpu_count() or 1)  # decoding releases the interpreter's lock
AHEAD = 4 * THREADS  # so many items are started before their turn, so that a million results do not pile up


LINE_EVERY = 60.0  # seconds between two lines where there is no terminal
_KNOWN = 0.01  # the share of a work from which on its pace is known: the first steps load and compile


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_left(task), style="progress.remaining")


class Bar(Progress):
    """A progress bar on standard error that vanishes when the work is done; outside of a terminal a line a minute.

    Args:
        shown: show either.
    """

    stopped: list[str] = []  # noqa: RUF012
    """How far every work was that Ctrl-C has ended in this process, the innermost first."""

    def __init__(self, shown: bool = True) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeElapsedColumn(),
            _Left(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        super().__init__(*columns, console=console, transient=True, disable=not shown or not console.is_terminal)
        self.shown = shown
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._print_lines, daemon=True) if shown and self.disable else None

    def add_task(
        self, description: str, start: bool = True, total: float | None = 100.0, completed: int = 0, visible: bool = True, **fields: Any
    ) -> TaskID:
        """Add a work, of which so much has been completed before; its field `note` is shown at the end."""
        fields = {"note": "", "before": completed, **fields}
        return super().add_task(description, start, total, completed, visible, **fields)

    def start(self) -> None:
        super().start()
        if self._lines:
            self._lines.start()

    def stop(self) -> None:
        super().stop()
        self._ended.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            Bar.stopped += [f"{task.description} {task.completed:,.0f}/{task.total or 0:,.0f}" for task in self.tasks if not task.finished]
        super().__exit__(kind, error, traceback)

    def _print_lines(self) -> None:
        while not self._ended.wait(LINE_EVERY):
            for task in self.tasks:
                if not task.finished:
                    parts = (f"{task.completed:,.0f} of {task.total or 0:,.0f}", _left(task), task.fields["note"])
                    print(f"{task.description}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)


def progress_bar(shown: bool = True) -> Bar:
    """Return a bar for the works that are added to it."""
    return Bar(shown)


def _left(task: Task) -> str:
    """Return how long a work has still to go, by its pace so far; empty where that is not known yet."""
    done = task.completed - task.fields["before"]
    if task.finished or task.total is None or not task.elapsed or done < max(1, _KNOWN * task.total):
        return ""
    return f"{format_duration(task.elapsed * (task.total - task.completed) / done)} left"


def attempt_in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], *, text: str, shown: bool = True, threads: int = THREADS
) -> Iterator[tuple[Item, Result | PixeltrustError]]:
    """Yield each item with its result, or with an error that the user can correct, in the order of the items.

    Args:
        text: the work, as the bar names it.
        shown: show the bar.
        threads: at once, where items are large.
    """

    def attempt(item: Item) -> Result | PixeltrustError:
        try:
            return work(item)
        except PixeltrustError as error:
            return error

    pool = ThreadPoolExecutor(threads)
    try:
        with progress_bar(shown) as bar:
            task = bar.add_task(text, total=len(items), note="")
            for item, outcome in zip(items, map_in_order(pool, attempt, items, ahead=min(AHEAD, 4 * threads)), strict=True):
                bar.advance(task)
                yield item, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def map_in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], *, text: str, complaint: str, shown: bool = True, threads: int = THREADS
) -> list[Result]:
    """Return the results in the order of the items.

    Args:
        text, shown, threads: as for `attempt_in_threads`.
        complaint: the line above the list of faults, if there are any.

    Raises:
        DataError: lists the faults of all items.
    """
    results: list[Result] = []
    faults: list[str] = []
    for _, outcome in attempt_in_threads(work, items, text=text, shown=shown, threads=threads):
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
