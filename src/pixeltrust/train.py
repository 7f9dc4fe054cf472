"""Training: one loop for every method, epochs × ceil(noisy cases / batch_size) updates.

What a step sees is a function of (seed, update) alone, so a run continues anywhere: a checkpoint holds the network, the optimiser,
the number of the update, dropout's random state and the history so far.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR

from pixeltrust.cases import Case, Cases, read_cases, table_of
from pixeltrust.config import Config, to_toml
from pixeltrust.data import MIN_HELD_OUT, Streams, held_out
from pixeltrust.errors import ConfigError, RunError
from pixeltrust.losses import IGNORE, mean_over_counted, pixel_cross_entropy
from pixeltrust.methods import METHODS, Method
from pixeltrust.metrics import confusion, dice, mean_of_defined
from pixeltrust.models import build_model, try_out
from pixeltrust.progress import progress_bar
from pixeltrust.runs import CACHE, Run, one_line, parameters
from pixeltrust.seeds import generator
from pixeltrust.weights import Batch, normalised, pixel_gains

MAP_EPOCHS = 12  # weight maps are kept after at most so many epochs, evenly spread
MAP_CLEAN = 64  # clean cases that those weights are taken from, at most


@dataclass(frozen=True)
class Trained:
    """What a training run did; `str` of it is what a person wants to read at its end."""

    run: Path
    method: str
    updates: int
    seconds: float
    """Of training, without decoding; over all sittings."""
    images: int
    """Noisy, clean and pool images that the steps have seen."""
    val_dice: float
    """At the last weights; NaN where nothing was held out."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        speed = f"{self.updates:,} updates in {self.seconds:,.0f} s, {self.images / max(self.seconds, 1e-9):,.0f} images/s"
        chosen = "" if math.isnan(self.val_dice) else f"; Dice {self.val_dice:.3f} on the held-out clean cases"
        return "\n".join([*self.notes, f"{self.method}: {speed}{chosen}", f"the run is in {self.run}"])


@dataclass
class _State:
    """All that continuing needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    update: int = 0
    seconds: float = 0.0
    images: int = 0
    best_dice: float = -1.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def pack(self) -> dict[str, Any]:
        plain = ("update", "seconds", "images", "best_dice", "epochs", "steps")
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        return parts | {name: getattr(self, name) for name in plain} | {"random": torch.get_rng_state(), "cuda": _cuda_random_states()}

    def unpack(self, packed: dict[str, Any]) -> None:
        for name, value in packed.items():
            if name in ("model", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(value)
            elif name not in ("random", "cuda"):
                setattr(self, name, value)
        torch.set_rng_state(packed["random"])
        for device, state in zip(range(len(_cuda_random_states())), packed["cuda"], strict=False):  # there may be other devices now
            torch.cuda.set_rng_state(state, device)


def train(data: Path, *, out: Path, config: Config | None = None, resume: bool = False, show_progress: bool = True) -> Trained:
    """Train a network on a data folder, into a run folder.

    Ctrl-C ends it after the update in hand, with a checkpoint; `resume` continues to the bit where it stopped (on a CPU).

    Args:
        data: a data folder or table of cases.
        out: the run folder to make; with `resume` the one to continue. Starts over where no checkpoint was written, and succeeds at once
            where the run has finished.
        config: the settings; the defaults where not given.
        show_progress: a progress bar on standard error.

    Raises:
        DataError: every fault of the data, in one go, before any training.
        ConfigError: settings that cannot be used here.
        RunError: `out` exists already, belongs to other settings, or cannot be written.
        KeyboardInterrupt: Ctrl-C, after the checkpoint was written.
    """
    config = config or Config()
    run = Run(Path(out))
    packed = _earlier(run, config) if resume else None
    if not resume:
        _refuse_existing(run)
    elif run.finished():
        run.drop_cache()
        return replace(_summary(run, config, packed or run.read_state("checkpoint.pt"), []), notes=("the run had finished already",))
    fabric = _fabric(config)
    cases = read_cases(Path(data), show_progress=show_progress)
    notes = [*cases.notes]
    clean, held = held_out(cases.of("clean"), config, noisy=cases.of("noisy"))
    notes.append(_split_note(cases, clean, held))
    table = table_of([*cases.of("noisy"), *clean, *held, *cases.of("test")], {case.id for case in held})
    with run.claimed():
        loop = _Loop(run, config, fabric, Streams(cases, clean, held, config, run.folder / CACHE), show_progress)
        if packed is None:
            run.create(config, table)
        else:
            _refuse_other_cases(run, table)
            _continue(loop.state, packed, run)
            notes.append(f"continued after update {loop.state.update:,}")
        loop.to_the_end()
    return _summary(run, config, loop.state.pack(), notes)


class _Loop:
    def __init__(self, run: Run, config: Config, fabric: Fabric, streams: Streams, show_progress: bool) -> None:
        self.run, self.config, self.fabric, self.streams, self.show_progress = run, config, fabric, streams, show_progress
        self.method: Method = METHODS[config.method]
        self.total = config.epochs * streams.updates_per_epoch
        torch.manual_seed(int(generator(config.seed, "parameters").integers(2**31)))
        model = build_model(config.model, channels=config.channels, classes=config.classes)
        try_out(model, channels=config.channels, classes=config.classes, size=config.size)
        if config.method == "pixel":
            _try_gains(model, config)
        if not streams.pixels.mapped:
            streams.pixels.decode(range(len(streams.pixels.cases)), show_progress=show_progress)
        torch.manual_seed(int(generator(config.seed, "dropout").integers(2**31)))
        self.model = fabric.setup_module(model if config.precision == "32" else _InBfloat16(model))
        optimizer = _optimizer(model, config)
        self.state = _State(model, optimizer, _schedule(optimizer, config, self.total))

    def to_the_end(self) -> None:
        """Run the updates that are left."""
        saved_at = time.monotonic()
        with _interruption() as interrupted, progress_bar(self.show_progress) as bar:
            task = bar.add_task(f"training {self.config.method}", total=self.total, completed=self.state.update, note="")
            while self.state.update < self.total:
                self._update()
                epoch_ended = self.state.update % self.streams.updates_per_epoch == 0
                if epoch_ended:
                    self._end_epoch()
                if epoch_ended or interrupted.is_set() or time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes:
                    self.run.write_state("checkpoint.pt", self.state.pack())
                    saved_at = time.monotonic()
                if interrupted.is_set() and self.state.update < self.total:
                    raise KeyboardInterrupt
                self._show(bar, task)
        self.run.write_state("model.pt", {"model": parameters(self.state.model)})

    def _update(self) -> None:
        start = time.perf_counter()
        state = self.state
        self.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        seen: list[int] = []

        def to_device(batch: Batch) -> Batch:
            seen.append(len(batch.images))
            return self._to_device(batch)

        rate = state.schedule.get_last_lr()[0]
        try:
            outcome = self.method(self.model, self.streams.feed(state.update, to_device), self.config)
        except torch.OutOfMemoryError:
            sizes = f"batch_size = {self.config.batch_size}, clean_batch_size = {self.config.clean_batch_size}"
            raise RunError(f"out of memory in update {state.update + 1} with {sizes}: choose smaller ones, in a new run") from None
        state.optimizer.step()
        state.schedule.step()
        state.update += 1
        state.images += sum(seen)
        state.steps.append({"update": state.update, "learning_rate": rate, **asdict(outcome)})
        state.seconds += time.perf_counter() - start

    def _end_epoch(self) -> None:
        start = time.perf_counter()
        state, per_epoch = self.state, self.streams.updates_per_epoch
        epoch = state.update // per_epoch
        val_loss, val_dice = self._validate()
        state.epochs.append(
            {"epoch": epoch, "update": state.update, **_means(state.steps[-per_epoch:]), "val_loss": val_loss, "val_dice": val_dice}
        )
        if val_dice > state.best_dice:
            state.best_dice = val_dice
            self.run.write_state("best.pt", {"model": parameters(state.model), "epoch": epoch, "val_dice": val_dice})
        if self.config.method == "pixel" and epoch in map_epochs(self.config.epochs):
            self._keep_weight_maps(epoch)
        state.seconds += time.perf_counter() - start
        state.epochs[-1]["seconds"] = round(state.seconds, 3)
        self.run.write_table("history.csv", pd.DataFrame(state.epochs))
        self.run.write_table("steps.csv", pd.DataFrame(state.steps))

    def _validate(self) -> tuple[float, float]:
        """Mean loss and mean Dice of the held-out clean cases, at the size of training; NaN where there are none."""
        losses, scores = [], []
        self.model.eval()
        for piece in _pieces(self.streams.held, self.config.batch_size):
            batch = self.streams.pixels.batch(piece)
            there = self._to_device(batch)
            with torch.no_grad():
                logits = self.model(there.images)
            cross_entropy = pixel_cross_entropy(logits, there.masks)
            losses += [float(mean_over_counted(loss, mask)) for loss, mask in zip(cross_entropy, there.masks, strict=True)]
            predicted = (logits[:, 0] > 0).long() if self.config.classes == 1 else logits.argmax(1)
            scores += [_mean_dice(p, m, self.config.classes) for p, m in zip(predicted.cpu().numpy(), batch.masks.numpy(), strict=True)]
        return mean_of_defined(losses), mean_of_defined(scores)

    def _keep_weight_maps(self, epoch: int) -> None:
        """Weights of a few noisy cases, taken from many clean ones, as multiples of the average weight (so 1 is average)."""
        chosen = self.streams.map_cases()
        if not len(chosen):
            return
        weights = normalised(self._gains_by_many(chosen, self.streams.clean[:MAP_CLEAN]))
        maps = (weights * weights.numel()).clamp(max=torch.finfo(torch.half).max).half().cpu().numpy()[None]
        ids = np.array([self.streams.pixels.cases[index].id for index in chosen])
        earlier = self.run.weight_maps()
        if earlier is not None:
            kept = earlier["epochs"] < epoch
            maps = np.concatenate([earlier["maps"][kept], maps])
            epochs = np.append(earlier["epochs"][kept], epoch)
        else:
            epochs = np.array([epoch])
        self.run.write_arrays("weight_maps.npz", ids=ids, epochs=epochs, maps=maps)

    def _gains_by_many(self, noisy: np.ndarray, clean: np.ndarray) -> Tensor:
        """Gains of noisy cases by the sum of clean losses (the sum of their gains), in batches no larger than those of a step."""
        self.model.eval()
        noisy_batches = [self._to_device(self.streams.pixels.batch(piece)) for piece in _pieces(noisy, self.config.batch_size)]
        total = torch.zeros(len(noisy), *self.config.size, device=self.fabric.device)
        for piece in _pieces(clean, self.config.clean_batch_size):
            batch = self._to_device(self.streams.pixels.batch(piece))
            counted = (batch.masks != IGNORE).sum()
            if counted:
                gains = [pixel_gains(self.model, noisy=noisy, clean=batch, gains=self.config.gains) for noisy in noisy_batches]
                total += counted * torch.cat(gains)
        return total

    def _to_device(self, batch: Batch) -> Batch:
        return Batch(*self.fabric.to_device((batch.images, batch.masks)))

    def _show(self, bar: Progress, task: Any) -> None:
        last = self.state.epochs[-1] if self.state.epochs else {}
        chosen = f", val Dice {last['val_dice']:.3f}" if last and not math.isnan(last["val_dice"]) else ""
        epoch = self.state.update // self.streams.updates_per_epoch
        note = f"epoch {epoch}/{self.config.epochs}, loss {self.state.steps[-1]['loss']:.3f}{chosen}"
        bar.update(task, completed=self.state.update, note=note)


class _InBfloat16(nn.Module):
    """Mixed precision by autocast alone: Fabric's own allows no backward but its own, and the gains need `torch.autograd.grad`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.network(images).float()


def map_epochs(epochs: int) -> set[int]:
    """The epochs (from 1) after which weight maps are kept: the first, the last, and evenly between."""
    return {int(epoch) for epoch in np.linspace(1, epochs, min(MAP_EPOCHS, epochs)).round()}


def _earlier(run: Run, config: Config) -> dict[str, Any] | None:
    """The checkpoint to continue from; None to start over."""
    if not (run.folder / "config.toml").exists():
        if not run.unbegun():
            raise RunError(f"{run.folder}: exists and is no run that could continue (it has no config.toml); choose another --out")
        return None
    if to_toml(run.config()) != to_toml(config):
        changed = [name for name, value in asdict(config).items() if getattr(run.config(), name) != value]
        was = ", ".join(f"{name} = {getattr(run.config(), name)!r}, now {getattr(config, name)!r}" for name in changed)
        raise RunError(f"{run.folder}: was started with other settings ({was}); give the same again, or another --out")
    if not (run.folder / "checkpoint.pt").exists():
        return None
    return run.read_state("checkpoint.pt")


def _refuse_other_cases(run: Run, table: pd.DataFrame) -> None:
    columns = ["id", "role", "held_out"]
    before, now = run.read_table("cases.csv")[columns].astype(str), table[columns].astype(str)
    if before.values.tolist() != now.values.tolist():
        changed = sorted({row[0] for row in set(map(tuple, before.values)) ^ set(map(tuple, now.values))})
        some = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        raise RunError(f"{run.folder}: was started with other cases ({some}); continue with the same data, or choose another --out")


def _continue(state: _State, packed: dict[str, Any], run: Run) -> None:
    try:
        state.unpack(packed)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{run.folder / 'checkpoint.pt'}: does not fit this network and these settings: {one_line(error)}") from None


def _refuse_existing(run: Run) -> None:
    if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
        raise RunError(f"{run.folder}: exists already; continue it with --resume, or choose another --out")


def _fabric(config: Config) -> Fabric:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch sees no such device; use device = 'auto' or 'cpu'")
    if config.device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device = 'mps', but torch sees no such device; use device = 'auto' or 'cpu'")
    if config.method == "pixel" and config.gains == "finite-difference" and config.precision != "32":
        raise ConfigError("gains = 'finite-difference' is noise in bf16; use gains = 'exact', or precision = '32'")
    return Fabric(accelerator=config.device, devices=1)


def _try_gains(model: nn.Module, config: Config) -> None:
    """The gains of one empty image, so that a network that has none is known before anything is written."""
    batch = Batch(torch.zeros(1, config.channels, *config.size), torch.zeros(1, *config.size))
    try:
        pixel_gains(model.eval(), noisy=batch, clean=batch, gains=config.gains)
    except ValueError as error:
        raise ConfigError(f"method = 'pixel' cannot weigh pixels for model = {config.model!r}: {' '.join(str(error).split())}") from error


def _optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        case "sgd":
            return torch.optim.SGD(trained, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def _schedule(optimizer: torch.optim.Optimizer, config: Config, total: int) -> LRScheduler:
    match config.schedule:
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=total)
        case "step":
            return MultiStepLR(optimizer, milestones=[total // 3, 2 * total // 3])
        case "constant":
            return ConstantLR(optimizer, factor=1.0, total_iters=1)


def _means(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Over the steps of an epoch; `all_zero` is counted."""
    table = pd.DataFrame(steps)
    means = {name: float(table[name].mean()) for name in ("loss", "clean_loss", "zero_share", "effective_pixels")}
    return {"learning_rate": float(table["learning_rate"].iloc[-1]), **means, "all_zero_steps": int(table["all_zero"].sum())}


def _pieces(values: np.ndarray, size: int) -> list[np.ndarray]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _mean_dice(predicted: np.ndarray, mask: np.ndarray, classes: int) -> float:
    return mean_of_defined([dice(confusion(predicted=predicted, truth=mask, label=label)) for label in range(1, max(classes, 2))])


def _split_note(cases: Cases, clean: list[Case], held: list[Case]) -> str:
    chosen = (
        f"{len(held):,} clean ones held out to choose by" if held else f"none held out ({MIN_HELD_OUT} at least): the last weights count"
    )
    return f"{len(cases.of('noisy')):,} noisy and {len(clean):,} clean cases to train on, {chosen}"


def _summary(run: Run, config: Config, packed: dict[str, Any], notes: list[str]) -> Trained:
    idle = sum(bool(step["all_zero"]) for step in packed["steps"])
    if idle:
        notes = [*notes, f"in {idle:,} of {packed['update']:,} steps no noisy pixel helped: all weights were 0"]
    diverged = sum(not math.isfinite(step["loss"]) for step in packed["steps"])
    if diverged:
        notes = [*notes, f"in {diverged:,} of {packed['update']:,} steps the loss was not a finite number: lower learning_rate"]
    return Trained(
        run=run.folder,
        method=config.method,
        updates=packed["update"],
        seconds=packed["seconds"],
        images=packed["images"],
        val_dice=packed["epochs"][-1]["val_dice"] if packed["epochs"] else math.nan,
        notes=tuple(notes),
    )


def _cuda_random_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


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
