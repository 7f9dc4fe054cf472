"""Training: one loop for every method, epochs × ceil(noisy cases / batch_size) updates, in one process or in several under `torchrun`.

What a step sees is a function of (seed, update) alone, so a run continues anywhere: a checkpoint holds the network, the optimiser,
the number of the update, dropout's random state and the epochs so far. With several ranks (see `ranks`) all but dropout is the same on
every one, and rank 0 alone writes and speaks.
"""

import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias, Unpack

import pandas as pd
import torch
from rich.progress import Progress
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.data.batches import Streams, hold_out, smallest_batch
from pixeltrust.data.cases import MIN_HELD_OUT, CaseList, Cases, clean_warnings, read_cases, table_of
from pixeltrust.data.layouts import Layout
from pixeltrust.data.prefetch import Feed, Prefetcher
from pixeltrust.method.losses import cross_entropy_of_labels
from pixeltrust.method.tangents import choice_of
from pixeltrust.method.verification import verify
from pixeltrust.method.weights import Batch
from pixeltrust.plumbing.errors import ConfigError, GainsWarning, RunError
from pixeltrust.plumbing.malloc import keep_freed_memory
from pixeltrust.plumbing.processes import Ranks, connect
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.plumbing.seeds import generator
from pixeltrust.training.alarms import alarms
from pixeltrust.training.checkpoints import State, earlier, read_checkpoint, refuse_other_cases, seconds_by_part
from pixeltrust.training.helped_maps import write_helped_maps
from pixeltrust.training.history import Clock, Steps, shares
from pixeltrust.training.methods import TAKE_GAINS, Method, Outcome, Remembering, Trust, build_method, streams_of
from pixeltrust.training.models import build_model, in_precision, parameters_along, trains_on_one, try_out
from pixeltrust.training.optimizers import build_optimizer, build_schedule
from pixeltrust.training.run_folder import Run, parameters
from pixeltrust.training.validation import validate
from pixeltrust.training.weight_maps import keep_weight_maps, map_epochs, weights_by_many

Watch: TypeAlias = Callable[[Feed, Outcome], Mapping[str, float | Tensor]]
SHOWN_EVERY = 0.25  # seconds at least between two looks at the loss, which wait for the device


@dataclass(frozen=True)
class Trained:
    """What a training run did; `str` of it is what a person wants to read at its end."""

    run: Path
    method: str
    updates: int
    seconds: dict[str, float]
    """Of training, by part (see `clock`); over all sittings."""
    images: int
    """Noisy, clean and pool images that the steps have seen."""
    val_dice: float
    """At the last weights; NaN where nothing was held out."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        seconds = sum(self.seconds.values())
        speed = f"{self.updates:,} updates in {seconds:,.0f} s, {self.images / max(seconds, 1e-9):,.0f} images/s"
        chosen = "" if math.isnan(self.val_dice) else f"; Dice {self.val_dice:.3f} on the held-out clean cases"
        return "\n".join([*self.notes, f"{self.method}: {speed}{chosen}", shares(self.seconds), f"the run is in {self.run}"])


def train(
    data: Path,
    *,
    out: Path,
    config: Config | None = None,
    method: Method | None = None,
    watch: Watch | None = None,
    resume: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Trained:
    """Train a network on a data folder, into a run folder.

    Ctrl-C ends it after the update in hand, with a checkpoint; `resume` continues to the bit where it stopped (on a CPU). Under `torchrun`
    every process makes this call, and all do the work of one: each takes its part of every batch.

    Args:
        data: a data folder or table of cases.
        out: the run folder to make; with `resume` the one to continue. Starts over where no checkpoint was written, and succeeds at once
            where the run has finished.
        config: the settings; the defaults where not given.
        method: another step than that of `config.method`: any function (model, feed, config) to Outcome that adds to .grad, or an
            nn.Module that does so and remembers something (see `methods`). All else goes by the settings (with `pixel`, weight maps
            too). The run folder does not know it: to continue, give it again.
        watch: looks at every step and what came of it, and gives further numbers for steps.csv and history.csv, of which later
            steps may leave some out.
        show_progress: a progress bar on standard error.
        layout: what is other in the data folder than usual, as for `read_cases`. RUN/cases.csv knows the files without it.

    Raises:
        DataError: every fault of the data, in one go, before any training.
        ConfigError: settings that cannot be used here.
        RunError: `out` exists already, belongs to other settings, or cannot be written; or a loss, a gain or a parameter is no finite
            number: names the update and the cases of its batch. No such state is ever saved. Or a step reports numbers that the first
            one did not.
        KeyboardInterrupt: Ctrl-C, after the checkpoint was written.
    """
    config = config or Config()
    run = Run(Path(out))
    packed = earlier(run, config) if resume else None
    if not resume:
        _refuse_existing(run)
    elif run.finished():
        run.drop_cache()
        return replace(_summary(run, config, packed or read_checkpoint(run), []), notes=("the run had finished already",))
    keep_freed_memory()
    device, ranks = _connect(config)
    show_progress = show_progress and ranks.rank == 0
    notes = _precision_notes(config, device)
    _say_now(notes, show_progress)
    cases = read_cases(Path(data), show_progress=show_progress, **layout)
    warned = [note for note in cases.notes if note.startswith("warning: ")]
    warned += clean_warnings(len(cases.of("clean")), val_fraction=config.val_fraction)
    _say_now(warned, show_progress)
    notes += [*(note for note in cases.notes if note not in warned), *warned]
    clean, held = hold_out(cases.of("clean"), config, noisy=cases.of("noisy"))
    notes.append(_split_note(cases, clean, held))
    table = table_of(cases.of("noisy") + clean + held + cases.of("test"), held.texts("id"))
    _refuse_unlike(ranks, run, table, packed)
    with run.claimed(ranks):
        streams = Streams(cases, clean, held, config, run.cache(ranks), ranks)
        loop = _Loop(run, config, device, streams, method, watch, show_progress)
        notes += [loop.gains] if loop.gains else []
        if packed is not None:
            refuse_other_cases(run, table)
            loop.state.unpack(packed, run)
            notes.append(f"continued after update {loop.state.update:,}")
        elif ranks.rank == 0:
            run.create(config, table)
        ranks.on_rank_0(lambda: run.cut_rows("steps.csv", loop.state.update - len(loop.state.steps.rows)))
        loop.to_the_end()
    return _summary(run, config, loop.state.pack(), notes)


class _Loop:
    def __init__(
        self,
        run: Run,
        config: Config,
        device: torch.device,
        streams: Streams,
        method: Method | None,
        watch: Watch | None,
        show_progress: bool,
    ) -> None:
        self.run, self.config, self.streams, self.watch, self.show_progress = run, config, streams, watch, show_progress
        self.device, self.ranks = device, streams.ranks
        self.total = config.epochs * streams.updates_per_epoch
        torch.manual_seed(int(generator(config.seed, "parameters").integers(2**31)))
        model = build_model(config.model, channels=config.channels, classes=config.classes)
        try_out(model, channels=config.channels, classes=config.classes, size=config.size)
        if method is None:
            _refuse_batches_of_one(model, streams, config)
        self.model = in_precision(model.to(device), config.precision)
        self.gains = _verify_gains(self.model, config, self.device) if config.method in TAKE_GAINS else None
        """How the gains are computed, where not as usual."""
        if not streams.pixels.mapped:
            streams.pixels.decode(range(len(streams.pixels.cases)), show_progress=show_progress)
        torch.manual_seed(int(generator(config.seed, "dropout", self.ranks.rank).integers(2**31)))
        self.method = method or build_method(self.model, config, streams)
        memory = self.method.to(self.device) if isinstance(self.method, nn.Module) else nn.Module()
        optimizer = build_optimizer(nn.ModuleList([model, memory]), config)
        self.state = State(model, optimizer, build_schedule(optimizer, config, self.total), memory, ranks=self.ranks)
        self.recent: list[_Taken] = []
        """The steps that nobody has looked at yet, and the last one."""
        self.saved = 0
        """The update of the checkpoint."""
        self.warned: set[str] = set()

    def to_the_end(self) -> None:
        """Run the updates that are left."""
        self.ranks.broadcast(self.state.model.state_dict().values())  # whatever else a network was made of
        clock = Clock(self.state.seconds)
        ahead = Prefetcher(lambda stream, update: self.streams.batch(stream, update, self.device), self.total)
        self.saved = self.state.update
        saved_at = shown_at = time.monotonic()
        with ahead, _interruption() as interrupted, progress_bar(self.show_progress) as bar:
            task = bar.add_task(f"training {self.config.method}", total=self.total, completed=self.state.update, note="")
            self._warn(bar)
            while self.state.update < self.total:
                self._update(ahead, clock)
                epoch_ended = self.state.update % self.streams.updates_per_epoch == 0
                if epoch_ended:
                    self._end_epoch(clock)
                    self._warn(bar)
                due = time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes
                stopping, due_somewhere = self.ranks.sum_counts(interrupted.is_set(), due)
                if epoch_ended or stopping or due_somewhere:
                    if not epoch_ended:  # then it has been looked at
                        self._look(clock)
                    self._save_checkpoint(clock)
                    saved_at = time.monotonic()
                if stopping and self.state.update < self.total:
                    raise KeyboardInterrupt
                if epoch_ended or time.monotonic() - shown_at > SHOWN_EVERY:
                    self._show(bar, task, clock)
                    shown_at = time.monotonic()
        with clock.part("saving"):
            self.ranks.on_rank_0(self._write_what_was_learned)
        clock.read()

    def _write_what_was_learned(self) -> None:
        if isinstance(self.method, Remembering | Trust):
            write_helped_maps(self.run, self.streams, self.method.store, show_progress=self.show_progress)
        self.run.write_state("model.pt", {"model": parameters(self.state.model)})

    def _update(self, ahead: Prefetcher, clock: Clock) -> None:
        state = self.state
        self.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        seen: dict[str, int] = {}

        @cache  # whoever watches asks for what the method has had
        def batch(stream: str) -> Batch:
            with clock.part("batches"):
                made = ahead.batch(stream, state.update)
            seen[stream] = len(made.images)
            return made

        rate = state.schedule.get_last_lr()[0]
        feed = Feed(
            noisy=lambda: batch("noisy"),
            clean=lambda: batch("clean"),
            pool=lambda: batch("pool"),
            places=partial(self.streams.noisy_places, state.update),
            update=state.update,
            updates=self.total,
            ranks=self.ranks,
        )
        try:
            with clock.part("step"):
                outcome = self.method(self.model, feed, self.config)
                watched = self.watch(feed, outcome) if self.watch else {}
                self.ranks.sum_gradients(p for group in state.optimizer.param_groups for p in group["params"])
        except torch.OutOfMemoryError:
            sizes = f"batch_size = {self.config.batch_size}, clean_batch_size = {self.config.clean_batch_size}"
            raise RunError(f"out of memory in update {state.update + 1} with {sizes}: choose smaller ones, in a new run") from None
        with clock.part("optimiser"):
            state.optimizer.step()
            state.schedule.step()
        state.update += 1
        state.images += sum(self.ranks.sum_counts(sum(seen.values())))
        state.steps.reported.append({"update": state.update, "learning_rate": rate, **outcome.numbers(), **watched})
        self.recent.append(_Taken(state.update, tuple(seen), outcome.are_finite()))
        if self.device.type == "cpu":  # where looking waits for nothing
            self._settle(clock)

    def _end_epoch(self, clock: Clock) -> None:
        self._look(clock)
        state, per_epoch = self.state, self.streams.updates_per_epoch
        epoch = state.update // per_epoch
        with clock.part("validation"):
            measured = validate(self.model, self.streams, device=self.device)
        state.epochs.append({"epoch": epoch, "update": state.update, **state.steps.end_epoch(), **measured})
        if measured["val_dice"] > state.best_dice:
            state.best_dice = measured["val_dice"]
            with clock.part("saving"):
                self._write_state("best.pt", {"model": parameters(state.model), "epoch": epoch, "val_dice": state.best_dice})
        if self.ranks.rank == 0 and self.config.method in ("pixel", "trust") and epoch in map_epochs(self.config.epochs):
            with clock.part("validation"):
                self._keep_weight_maps(epoch)
        seconds = {"seconds": clock.read()} | {f"seconds_{part}": value for part, value in clock.seconds.items()}
        state.epochs[-1] |= {name: round(value, 3) for name, value in seconds.items()}
        if self.ranks.rank == 0:
            with clock.part("saving"):
                self.run.write_table("history.csv", pd.DataFrame(state.epochs))

    def _keep_weight_maps(self, epoch: int) -> None:
        chosen = self.streams.map_cases()
        if not len(chosen):
            return
        if isinstance(self.method, Trust):
            weights = self.method.weights_of(chosen, self.config)
        else:
            weights = weights_by_many(self.model, self.streams, chosen, self.device)
        keep_weight_maps(self.run, [self.streams.pixels.cases[index].id for index in chosen], weights, epoch=epoch)

    def _save_checkpoint(self, clock: Clock) -> None:
        steps = self.state.steps
        with clock.part("saving"):
            clock.read()
            if self.ranks.rank == 0:  # before the checkpoint, which counts on them
                self.run.append_rows("steps.csv", steps.columns, steps.rows)
            steps.rows.clear()
            self._write_state("checkpoint.pt", self.state.pack())
        self.saved = self.state.update

    def _write_state(self, name: str, state: dict[str, Any]) -> None:
        if self.ranks.rank == 0:
            self.run.write_state(name, state)

    def _settle(self, clock: Clock) -> None:
        """Look at what the last steps have left on the device, and go no further where it is not finite."""
        with clock.part("step"):  # what it waits for
            self.state.steps.settle()
            for taken in self.recent:
                if not taken.finite:
                    raise RunError(self._lost(taken, "the loss or a gain"))
            del self.recent[:-1]

    def _look(self, clock: Clock) -> None:
        """What is saved next must be good (a gradient can be infinite where the loss is not), and the same on every rank."""
        self._settle(clock)
        kept = (*self.state.model.state_dict().values(), *self.state.memory.parameters())
        if not all(bool(values.isfinite().all()) for values in kept) and self.recent:
            raise RunError(self._lost(self.recent[-1], "a parameter"))
        self.ranks.average(self.state.model.buffers())

    def _lost(self, taken: "_Taken", what: str) -> str:
        batch = "; ".join(f"{stream} {', '.join(self.streams.ids(stream, taken.update - 1))}" for stream in taken.streams)
        good = f"the checkpoint of update {self.saved:,} is good" if self.saved else "nothing had been saved yet"
        return (
            f"{self.run.folder}: {what} is no finite number in update {taken.update:,}, whose batch is {batch}; {good}. Where these files "
            "are at fault, mend them and go on with --resume; the same files and settings lead here again, so else start a new run, with "
            f"a lower learning_rate (it is {self.config.learning_rate:g}) or without these cases"
        )

    def _warn(self, bar: Progress) -> None:
        """Say what is amiss once it shows, and keep it for those who look at the run."""
        streams, state = self.streams, self.state
        found = alarms(
            idle=state.steps.idle,
            epochs=state.epochs,
            clean=len(streams.clean),
            clean_label=streams.clean_label,
            classes=self.config.classes,
        )
        for name in found.keys() - self.warned if self.show_progress else ():
            bar.console.print(f"warning: {found[name]}", markup=False, highlight=False)
        self.warned |= found.keys()
        if self.ranks.rank == 0:
            self.run.write_warnings(list(found.values()))

    def _show(self, bar: Progress, task: Any, clock: Clock) -> None:
        if bar.disable:
            return
        self._settle(clock)
        last = self.state.epochs[-1] if self.state.epochs else {}
        chosen = f", val Dice {last['val_dice']:.3f}" if last and not math.isnan(last["val_dice"]) else ""
        epoch = self.state.update // self.streams.updates_per_epoch
        note = f"epoch {epoch}/{self.config.epochs}, loss {self.state.steps.last['loss']:.3f}{chosen}"
        bar.update(task, completed=self.state.update, note=note)


@dataclass(frozen=True)
class _Taken:
    """What a complaint about a step needs."""

    update: int
    """From 1."""
    streams: tuple[str, ...]
    """What its batches came from."""
    finite: bool | Tensor


def _say_now(notes: list[str], show_progress: bool) -> None:
    """When they can still be heeded, and not at the end alone."""
    for note in notes if show_progress else []:
        print(note, file=sys.stderr)


def _refuse_existing(run: Run) -> None:
    if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
        raise RunError(f"{run.folder}: exists already; continue it with --resume, or choose another --out")


def _refuse_unlike(ranks: Ranks, run: Run, table: pd.DataFrame, packed: dict[str, Any] | None) -> None:
    """Whether all processes have the same cases, and the same run before them."""
    if ranks.count == 1:
        return
    cases = sha256(table[["id", "role", "held_out"]].to_csv(index=False).encode()).hexdigest()
    cases_of_all, updates_of_all = zip(*ranks.all_gather_objects((cases, packed and packed["update"])), strict=True)
    for rank in range(ranks.count):
        if cases_of_all[rank] != cases_of_all[0]:
            raise RunError(f"process {rank} finds other cases than process 0; give all machines the same data")
        if updates_of_all[rank] != updates_of_all[0]:
            raise RunError(
                f"{run.folder}: process {rank} finds another checkpoint there than process 0; put the run on a disk that all share"
            )


def _connect(config: Config) -> tuple[torch.device, Ranks]:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch sees no such device; use device = 'auto' or 'cpu'")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device = 'mps', but torch sees no such device; use device = 'auto' or 'cpu'")
    if config.method in TAKE_GAINS and config.gains == "finite-difference" and config.precision != "32":
        raise ConfigError("gains = 'finite-difference' is noise in bf16; use gains = 'exact', or precision = '32'")
    return connect(config.device)


def _precision_notes(config: Config, device: torch.device) -> list[str]:
    if config.precision == "32" or device.type != "cpu" or not _lacks_bfloat16():
        return []
    return ["precision = 'bf16' is slower than '32' on this processor, which has no bfloat16 (2 to 20 times); use precision = '32' here"]


def _lacks_bfloat16() -> bool:
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    return bool(known) and not any(known.get(name) for name in ("bf16", "avx512_bf16", "amx_bf16"))


def _refuse_batches_of_one(model: nn.Module, streams: Streams, config: Config) -> None:
    """Where the method will see a batch of one image, and the network cannot be trained on it, say so now and not in that update."""
    processes, noisy = streams.ranks.count, len(streams.noisy)
    for stream in streams_of(config.method):
        name = "clean_batch_size" if stream == "clean" else "batch_size"
        given, cases = getattr(config, name), noisy if stream == "noisy" else None
        if smallest_batch(given, cases=cases, processes=processes) > 1:
            continue
        wrong = trains_on_one(model, channels=config.channels, size=config.size)
        if not wrong:
            return
        near = sorted(range(2, 2 * (given + processes) + 2), key=lambda size: abs(size - given))
        fitting = next((size for size in near if smallest_batch(size, cases=cases, processes=processes) > 1), None)
        way = f"; choose another {name}, such as {fitting}" if fitting else ""
        cause = f"{name} = {given}" + (f" and {noisy:,} noisy cases" if cases else "")
        cause += f" in {processes} processes" if processes > 1 else ""
        raise ConfigError(f"{cause} make a batch of one image, on which this network cannot be trained ({wrong}){way}")


def _verify_gains(model: nn.Module, config: Config, device: torch.device) -> str | None:
    """Hold the gains of a few random pixels against reverse mode, so that a network that has none is known before anything is written.

    Returns:
        How they are computed, where not by the usual way.

    Raises:
        ConfigError: the network has no gains that are right.
    """
    random = torch.Generator().manual_seed(0)
    shape = (min(2, config.batch_size), *config.size)
    noisy, clean = (
        Batch(
            torch.rand(shape[0], config.channels, *config.size, generator=random).to(device),
            torch.randint(0, max(2, config.classes), shape, generator=random).to(device),
        )
        for _ in range(2)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GainsWarning)  # it is among the notes
            along = parameters_along(model, config.along)
            found = verify(model, noisy=noisy, clean=clean, pixel_loss=cross_entropy_of_labels, gains=config.gains, along=along, cost=False)
        if not found.right:
            raise ValueError(str(found))
    except torch.OutOfMemoryError:
        raise ConfigError(f"out of memory for two images of {config.size[0]}x{config.size[1]} with model = {config.model!r}") from None
    except ValueError as error:
        raise ConfigError(
            f"method = {config.method!r} cannot weigh pixels for model = {config.model!r}: {' '.join(str(error).split())}"
        ) from error
    choice = choice_of(model)
    return str(choice) if config.gains == "exact" and choice is not None and choice.passed_over else None


def _split_note(cases: Cases, clean: CaseList, held: CaseList) -> str:
    chosen = (
        f"{len(held):,} clean ones held out to choose by" if held else f"none held out ({MIN_HELD_OUT} at least): the last weights count"
    )
    return f"{len(cases.of('noisy')):,} noisy and {len(clean):,} clean cases to train on, {chosen}"


def _summary(run: Run, config: Config, packed: dict[str, Any], notes: list[str]) -> Trained:
    if idle := Steps.unpacked(packed).idle.steps:
        notes = [*notes, f"in {idle:,} of {packed['update']:,} steps no noisy pixel helped: all weights were 0"]
    notes = [*notes, *(f"warning: {line}" for line in run.warnings())]
    return Trained(
        run=run.folder,
        method=config.method,
        updates=packed["update"],
        seconds=seconds_by_part(packed),
        images=packed["images"],
        val_dice=packed["epochs"][-1]["val_dice"] if packed["epochs"] else math.nan,
        notes=tuple(notes),
    )


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of breaking off in mid-update; a second one breaks off at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
