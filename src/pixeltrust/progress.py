"""Long work: a bar with speed and remaining time on standard error, and many files at once in threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pixeltrust.errors import DataError, PixeltrustError

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = 4  # decoding releases the interpreter's lock


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


def progress_bar(shown: bool = True) -> Progress:
    """A rich progress bar on standard error that vanishes when its work is done.

    The column `note` shows `task.fields["note"]`, where a task has one.
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
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], *, text: str, shown: bool = True
) -> Iterator[tuple[Item, Result | PixeltrustError]]:
    """Each item with its result, or with the error that is the user's to mend, in the order of the items.

    Args:
        text: what the bar says is being done.
        shown: False for no bar.
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
            for item, outcome in zip(items, pool.map(attempt, items), strict=True):
                bar.advance(task)
                yield item, outcome
    finally:
        pool.shutdown(cancel_futures=True)


def all_in_threads(work: Callable[[Item], Result], items: Sequence[Item], *, text: str, complaint: str, shown: bool = True) -> list[Result]:
    """The results in the order of the items.

    Args:
        complaint: what to say above the list of faults, if there are any.

    Raises:
        DataError: lists the fault of every item that has one.
    """
    results: list[Result] = []
    faults: list[str] = []
    for _, outcome in in_threads(work, items, text=text, shown=shown):
        if isinstance(outcome, PixeltrustError):
            faults += getattr(outcome, "faults", None) or [str(outcome)]
        else:
            results.append(outcome)
    if faults:
        raise DataError(complaint, faults)
    return results
