"""The view of a training in the terminal: a progress bar, and warnings above it."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.progress import TaskID

from pixeltrust.config import Config
from pixeltrust.plumbing.progress import Bar, progress_bar
from pixeltrust.training.checkpoints import State

SHOWN_EVERY = 0.25  # seconds at least between two looks at the loss, which wait for the device


class Display:
    """The progress bar of a run.

    Args:
        updates: of the whole run.
        shown: whether to print anything.
    """

    def __init__(self, config: Config, updates: int, *, shown: bool) -> None:
        self.shown = shown
        self._config, self._updates = config, updates
        self._warned: set[str] = set()
        self._bar: Bar
        self._task: TaskID
        self._last = 0.0

    @contextmanager
    def begin(self, state: State) -> Iterator[None]:
        """Show the bar during the block."""
        with progress_bar(self.shown) as self._bar:
            self._task = self._bar.add_task(f"training {self._config.method}", total=self._updates, completed=state.update, note="")
            self._last = time.monotonic()
            yield

    def is_due(self, epoch_ended: bool) -> bool:
        """Return whether to show the state now."""
        return self._bar.shown and (epoch_ended or time.monotonic() - self._last > SHOWN_EVERY)

    def show(self, state: State, updates_per_epoch: int) -> None:
        """Show the epoch, the loss of the last step and the last Dice."""
        last, last_step = state.epochs[-1] if state.epochs else {}, state.steps.last
        assert last_step is not None
        dice = f", val Dice {last['val_dice']:.3f}" if last and not math.isnan(last["val_dice"]) else ""
        note = f"epoch {state.update // updates_per_epoch}/{self._config.epochs}, loss {last_step.row['loss']:.3f}{dice}"
        self._bar.update(self._task, completed=state.update, note=note)
        self._last = time.monotonic()

    def warn(self, found: Mapping[str, str]) -> None:
        """Print the warnings that were not printed before, by their names."""
        for name in found.keys() - self._warned if self.shown else ():
            self._bar.console.print(f"warning: {found[name]}", markup=False, highlight=False)
        self._warned |= found.keys()
