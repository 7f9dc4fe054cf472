"""The training loop: a run of epochs, an epoch of steps, for every method, in one process or in several under `torchrun`.

What a step sees is a function of (seed, update) alone, so a run continues anywhere from a checkpoint (see `checkpoints`). With several
ranks (see `plumbing.processes`) all but dropout is the same on every one, and rank 0 alone writes and prints.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeAlias

import pandas as pd
import torch
from torch import Tensor, nn

from pixeltrust.data.batches import Streams
from pixeltrust.data.prefetch import Feed, Prefetcher
from pixeltrust.method.batch import Batch
from pixeltrust.method.trust import Trust
from pixeltrust.plumbing.errors import RunError
from pixeltrust.training.checkpoints import State
from pixeltrust.training.display import Display
from pixeltrust.training.helped_maps import write_helped_maps
from pixeltrust.training.history import Clock, Reported
from pixeltrust.training.methods import StepFunction, StepOutcome
from pixeltrust.training.run_writer import RunWriter, parameters
from pixeltrust.training.validation import validate
from pixeltrust.training.warning_signs import warning_signs
from pixeltrust.training.weight_maps import keep_weight_maps, map_epochs

LONG, REST = 5.0, 20.0
"""Seconds: after a checkpoint that takes longer, the next one waits so many times as long; few of the training's seconds go to them so."""
Watch: TypeAlias = Callable[[Feed, StepOutcome], Mapping[str, float | Tensor]]


class Loop:
    """A run in progress: its fixed parts, and the state that every step changes.

    Args:
        out: the run folder.
        network: what the steps call, on its device and in the precision of the settings.
        step: the step of the method.
        weighs_pixels: whether to keep weight maps.
        watch: see `train`.
    """

    def __init__(
        self, out: RunWriter, state: State, streams: Streams, network: nn.Module, step: StepFunction, device: torch.device,
        *, weighs_pixels: bool, watch: Watch | None, show_progress: bool,
    ) -> None:  # fmt: skip
        config = streams.config
        self.out, self.config, self.streams, self.device = out, config, streams, device
        self.state, self.network, self.method, self.watch = state, network, step, watch
        self.ranks, self.updates = streams.ranks, config.epochs * streams.updates_per_epoch
        self.map_epochs = map_epochs(config.epochs) if weighs_pixels else set()
        self.clock = Clock(state.seconds)
        self.batches = Prefetcher(lambda stream, update: streams.batch(stream, update, device), self.updates)
        self.display = Display(config, self.updates, shown=show_progress)
        self.interrupted = threading.Event()
        self.saved, self.saved_at = state.update, time.monotonic()
        """The update of the last checkpoint, and when it was written."""
        self.rests_until = self.saved_at
        """When the next may be written: one that takes long is not written after every epoch."""

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the epochs that are left, and write what was learned.

        Raises:
            RunError: the loss, a gain or a parameter is not finite, memory is short, or a file cannot be written.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
        """
        self.ranks.broadcast(self.state.model.state_dict().values())  # initial parameters may not depend on the seed alone
        with self.batches, catch_ctrl_c(self.interrupted), self.display.begin(self.state):
            self.warn()
            while self.state.update < self.updates:
                self.epoch()
        with self.clock.part("saving"):
            self.ranks.on_rank_0(self.write_results)
        self.clock.read()

    def epoch(self) -> None:
        """Make the steps that are left of this epoch; write checkpoints, stop and update the display when due."""
        per_epoch = self.streams.updates_per_epoch
        end = (self.state.update // per_epoch + 1) * per_epoch
        while self.state.update < end:
            self.step()
            ended = self.state.update == end
            if ended:
                self.end_epoch()
            self.save_and_stop_where_due(ended)
            if self.display.is_due(ended):
                self.settle()
                self.display.show(self.state, self.streams.updates_per_epoch)

    def step(self) -> None:
        """Make one update: batches, gradient, optimiser."""
        state, optimizer = self.state, self.state.optimizer
        self.network.train()
        optimizer.zero_grad(set_to_none=True)
        feed, images = self.feed()
        rate = state.schedule.get_last_lr()[0]
        try:
            with self.clock.part("step"):
                outcome = self.method(self.network, feed, self.config)
                watched = self.watch(feed, outcome) if self.watch else {}
                self.ranks.sum_gradients(p for group in optimizer.param_groups for p in group["params"])
        except torch.OutOfMemoryError:
            sizes = f"batch_size = {self.config.batch_size}, clean_batch_size = {self.config.clean_batch_size}"
            raise RunError(f"out of memory in update {state.update + 1} with {sizes}: choose smaller ones, in a new run") from None
        with self.clock.part("optimiser"):
            optimizer.step()
            state.schedule.step()
        state.update += 1
        state.images += sum(self.ranks.sum_counts(sum(images.values())))
        row = {"update": state.update, "learning_rate": rate, **outcome.numbers(), **watched}
        state.steps.reported.append(Reported(row, tuple(images), outcome.are_finite()))
        if self.device.type == "cpu":  # reading the numbers does not block there
            self.settle()

    # --- its pieces -------------------------------------------------------------------------------------------------

    def feed(self) -> tuple[Feed, dict[str, int]]:
        """Return the batches of the next update, each made when asked for, and the number of images of those that were."""
        update, images = self.state.update, {}

        @cache  # a watch function asks for the batches that the method has had
        def batch(stream: str) -> Batch:
            with self.clock.part("batches"):
                made = self.batches.batch(stream, update)
            images[stream] = len(made.images)
            return made

        feed = Feed(
            noisy=lambda: batch("noisy"),
            clean=lambda: batch("clean"),
            pool=lambda: batch("pool"),
            pairs=lambda: batch("pairs"),
            where=cache(partial(self.streams.where, update)),
            update=update,
            updates=self.updates,
            ranks=self.ranks,
        )
        return feed, images

    def end_epoch(self) -> None:
        """Measure the network on the held-out cases, keep the best weights and weight maps, and write the row of history.csv."""
        self.check()
        state, clock, first = self.state, self.clock, self.ranks.rank == 0
        epoch = state.update // self.streams.updates_per_epoch
        with clock.part("validation"):
            measured = validate(self.network, self.streams, device=self.device)
        state.epochs.append({"epoch": epoch, "update": state.update, **state.steps.end_epoch(), **measured})
        if measured["val_dice"] > state.best_dice:
            state.best_dice = measured["val_dice"]
            if first:
                with clock.part("saving"):
                    best = {"model": parameters(state.model), "epoch": epoch, "val_dice": state.best_dice}
                    self.out.write_state("best.pt", best)
        if first and epoch in self.map_epochs:
            with clock.part("validation"):
                keep_weight_maps(self.out, self.network, self.method, self.streams, self.device, epoch=epoch)
        seconds = {"seconds": clock.read()} | {f"seconds_{part}": value for part, value in clock.seconds.items()}
        state.epochs[-1] |= {name: round(value, 3) for name, value in seconds.items()}
        if first:
            with clock.part("saving"):
                self.out.write_table("history.csv", pd.DataFrame(state.epochs))
        self.warn()

    def save_and_stop_where_due(self, epoch_ended: bool) -> None:
        """Write a checkpoint after an epoch, after some minutes, and where Ctrl-C was pressed: then stop, too."""
        now, first = time.monotonic(), self.ranks.rank == 0
        late = now - self.saved_at > 60 * self.config.checkpoint_minutes
        stopping, due = self.ranks.sum_counts(self.interrupted.is_set(), first and (epoch_ended or late) and now >= self.rests_until)
        if not epoch_ended and (stopping or due):
            self.check()
        if stopping or due or self.state.update == self.updates:
            self.save()
        if stopping and self.state.update < self.updates:
            raise KeyboardInterrupt

    def save(self) -> None:
        """Write a checkpoint."""
        state, first, began = self.state, self.ranks.rank == 0, time.monotonic()
        with self.clock.part("saving"):
            self.clock.read()
            if first:  # before the checkpoint, which relies on these rows
                self.out.append_rows("steps.csv", state.steps.columns, state.steps.rows)
            state.steps.rows.clear()
            packed = state.pack()
            if first:
                self.out.write_state("checkpoint.pt", packed)
        self.saved, self.saved_at = state.update, time.monotonic()
        took = self.saved_at - began
        self.rests_until = self.saved_at + (REST * took if took > LONG else 0)

    def settle(self) -> None:
        """Read the numbers that the last steps have left on the device, and raise where one is not finite."""
        with self.clock.part("step"):  # this blocks until the step is done
            lost = self.state.steps.settle()
        if lost is not None:
            raise RunError(self.lost(lost, "the loss or a gain"))

    def check(self) -> None:
        """Make the state fit to be saved: finite (a gradient can be infinite where the loss is not), and the same on every rank."""
        self.settle()
        saved = (*self.state.model.state_dict().values(), *self.state.memory.parameters())
        last = self.state.steps.last
        if last is not None and not all(bool(values.isfinite().all()) for values in saved):
            raise RunError(self.lost(last, "a parameter"))
        self.ranks.average(self.state.model.buffers())

    def lost(self, step: Reported, what: str) -> str:
        """Return the message that something is not finite in a step."""
        update, saved = step.row["update"], self.saved
        batch = "; ".join(f"{stream} {', '.join(self.streams.ids(stream, update - 1))}" for stream in step.streams)
        good = f"the checkpoint of update {saved:,} is good" if saved else "nothing had been saved yet"
        return (
            f"{self.out.folder}: {what} is not finite in update {update:,}, whose batch is {batch}; {good}. If these files are at fault, "
            "repair them and continue with --resume; otherwise the same error returns: start a new run, with a lower "
            f"learning_rate (it is {self.config.learning_rate:g}) or without these cases"
        )

    def warn(self) -> None:
        """Print the warning signs that are new, and write all of them to the run folder."""
        state, streams = self.state, self.streams
        found = warning_signs(
            idle=state.steps.idle,
            epochs=state.epochs,
            clean=len(streams.clean),
            clean_label=streams.clean_label,
            classes=self.config.classes,
        )
        self.display.warn(found)
        if self.ranks.rank == 0:
            self.out.write_warnings(list(found.values()))

    def write_results(self) -> None:
        """Write the last weights, and the helped maps of a method that has them."""
        trust = getattr(self.method, "trust", None)
        if isinstance(trust, Trust):
            write_helped_maps(self.out, self.streams, trust, show_progress=self.display.shown)
        self.out.write_state("model.pt", {"model": parameters(self.state.model)})


@contextmanager
def catch_ctrl_c(event: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set the event instead of raising in mid-update; a second one raises at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
