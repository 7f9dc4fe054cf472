"""Training as one call: the checks, the network and the state of a run, the loop, and its result."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from pixeltrust.config import Config, as_config, to_values
from pixeltrust.data.batches import Streams, hold_out
from pixeltrust.data.cases import CaseList, Cases, Role, read_cases, table_of
from pixeltrust.data.checks import MIN_HELD_OUT, clean_warnings
from pixeltrust.data.fitting import describe_patches, settle
from pixeltrust.data.layouts import Layout
from pixeltrust.method_table import METHODS, describe
from pixeltrust.plumbing.malloc import keep_freed_memory
from pixeltrust.plumbing.processes import connect
from pixeltrust.plumbing.seeds import generator
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.training import checks
from pixeltrust.training.bfloat16 import refuse_wrong_gradients
from pixeltrust.training.checkpoints import State, find_checkpoint, read_checkpoint, refuse_other_cases, seconds_by_part
from pixeltrust.training.history import Steps, time_shares
from pixeltrust.training.loop import Loop, Watch
from pixeltrust.training.methods import StepFunction, build_step
from pixeltrust.training.model_card import FILE, model_card
from pixeltrust.training.models import build_model, in_precision, lay_out, try_out
from pixeltrust.training.optimizers import build_optimizer, build_schedule
from pixeltrust.training.run_writer import RunWriter


@dataclass(frozen=True, repr=False)
class Trained(Summary):
    """The result of a training; `str` gives the summary."""

    run: Path
    method: str
    updates: int
    seconds: dict[str, float]
    """Seconds of training by part (see `history.Clock`), including those before a resume."""
    images: int
    """Noisy, clean and pool images that the steps have seen."""
    val_dice: float
    """The mean Dice of the last weights on the held-out cases; NaN where none are held out."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        seconds = sum(self.seconds.values())
        speed = f"{self.updates:,} updates in {seconds:,.0f} s, {self.images / max(seconds, 1e-9):,.0f} images/s"
        dice = "" if math.isnan(self.val_dice) else f"; Dice {self.val_dice:.3f} on the held-out clean cases"
        return "\n".join([*self.notes, f"{self.method}: {speed}{dice}", time_shares(self.seconds), f"the run is in {self.run}"])


def train(
    data: Path,
    *,
    out: Path,
    config: Config | Mapping[str, Any] | None = None,
    method: StepFunction | None = None,
    watch: Watch | None = None,
    resume: bool = False,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Trained:
    """Train a network on a data folder, into a run folder.

    Ctrl-C ends it after the current update, with a checkpoint; `resume` continues to the bit where it stopped (on a CPU). Under `torchrun`
    every process makes this call, and all do the work of one: each takes its part of every batch.

    Example:
        trained = pixeltrust.train(Path("lesions"), out=Path("runs/trust"), config=Config(model="unet-small"))

    Args:
        data: a data folder or table of cases.
        out: the run folder to make; with `resume` the one to continue. Starts over where no checkpoint was written, and succeeds at once
            where the run has finished.
        config: the settings, as a Config or a mapping of some of them, over the defaults; with `resume` over those of the run, which
            may be no others.
        method: a step in place of that of `config.method`: any function (model, feed, config) to StepOutcome that adds to .grad, or an
            nn.Module that does so and remembers something (see `methods`). Its attributes `takes_gains`, `weighs_pixels` and `streams`,
            where it has them, say what the run does for it (see `method_table.Method`). The run folder does not hold it: to continue,
            give it again.
        watch: sees every step and its outcome, and returns further numbers for steps.csv and history.csv; later steps may leave some of
            them out.
        show_progress: a progress bar on standard error.
        layout: how the data folder differs from the usual one, as for `read_cases`. RUN/cases.csv names the files without it.

    Raises:
        DataError: every fault of the data, in one go, before any training.
        ConfigError: settings that cannot be used here.
        RunError: `out` exists already, belongs to other settings, or cannot be written; or a loss, a gain or a parameter is not finite:
            names the update and the cases of its batch. No such state is ever saved. Or a step reports numbers that the first one did not.
        KeyboardInterrupt: Ctrl-C, after the checkpoint was written.
    """
    run = RunWriter(Path(out))
    config = as_config(config, to_values(run.config()) if resume and (run.folder / "config.toml").is_file() else None)
    packed = find_checkpoint(run, config) if resume else None
    if not resume:
        checks.refuse_existing(run)
    elif run.finished():
        run.drop_cache()
        if not (run.folder / FILE).is_file():  # stopped between the weights and the card
            _write_card(run, data, method)
        return replace(_summary(run, config, packed or read_checkpoint(run), []), notes=("the run had finished already",))
    keep_freed_memory()
    described = METHODS[config.method] if method is None else describe(method)
    checks.refuse_unusable(config, described)
    device, ranks = connect(config.device)
    show_progress = show_progress and ranks.rank == 0
    notes = checks.precision_notes(config, device)
    _print_now(notes, show_progress)
    needed: tuple[Role, ...] = ("clean",) if described.streams == ("pairs",) else ("noisy", "clean")
    cases = read_cases(Path(data), needed=needed, may_be_volumes=True, show_progress=show_progress, **layout)
    config = settle(config if packed is None else run.config(), cases)
    notes += describe_patches(config)
    warned = [note for note in cases.notes if note.startswith("warning: ")]
    warned += clean_warnings(len(cases.of("clean")), val_fraction=config.val_fraction)
    _print_now(warned, show_progress)
    notes += [*(note for note in cases.notes if note not in warned), *warned]
    clean, held = hold_out(cases.of("clean"), config, noisy=cases.of("noisy"))
    notes.append(_split_note(cases, clean, held, config))
    table = table_of(cases.of("noisy") + clean + held + cases.of("test"), held.texts("id"))
    checks.refuse_unlike(ranks, run, table, packed)
    with run.claimed(ranks):
        streams = Streams(cases, clean, held, config, run.cache(ranks), ranks)
        model, network = _build_network(config, device)
        if config.method == "mender" or (len(config.size) == 3 and not described.takes_gains):
            lay_out(model, len(config.size), device)
        refuse_wrong_gradients(model, config, device)
        checks.refuse_batches_of_one(model, described, streams, config)
        notes += checks.try_gains(network, described, config, device) if described.takes_gains else []
        if not streams.pixels.mapped:
            streams.pixels.decode(range(len(streams.pixels.cases)), show_progress=show_progress)
        torch.manual_seed(int(generator(config.seed, "dropout", ranks.rank).integers(2**31)))
        step = build_step(network, config, streams, method)
        state = _begin(model, step, config, streams, device)
        if packed is not None:
            refuse_other_cases(run, table)
            state.unpack(packed, run)
            notes.append(f"continued after update {state.update:,}")
        elif ranks.rank == 0:
            run.create(config, table)
        ranks.on_rank_0(lambda: run.cut_rows("steps.csv", state.update - len(state.steps.rows)))
        loop = Loop(
            run, state, streams, network, step, device, weighs_pixels=described.weighs_pixels, watch=watch, show_progress=show_progress
        )
        loop.run()
        ranks.on_rank_0(lambda: _write_card(run, data, method))
    return _summary(run, config, state.pack(), notes)


def _write_card(run: RunWriter, data: Path, method: object) -> None:
    run.write_text(FILE, model_card(run, Path(data), own_step=method is not None))


def _build_network(config: Config, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Return the network on its device, by the seed, and the same in the precision of the settings."""
    torch.manual_seed(int(generator(config.seed, "parameters").integers(2**31)))
    channels, size = config.channels + config.planes, config.size
    model = build_model(config.model, channels=channels, classes=config.classes, axes=len(size))
    try_out(model, channels=channels, classes=config.classes, size=size)
    return model, in_precision(model.to(device), config.precision)


def _begin(model: nn.Module, step: StepFunction, config: Config, streams: Streams, device: torch.device) -> State:
    """Return the state of a run before its first update."""
    memory = step.to(device) if isinstance(step, nn.Module) else nn.Module()
    optimizer = build_optimizer(nn.ModuleList([model, memory]), config)
    schedule = build_schedule(optimizer, config, config.epochs * streams.updates_per_epoch)
    return State(model, optimizer, schedule, memory, ranks=streams.ranks)


def _print_now(notes: list[str], show_progress: bool) -> None:
    """Print notes as soon as they are known, and not at the end alone."""
    for note in notes if show_progress else []:
        print(note, file=sys.stderr)


def _split_note(cases: Cases, clean: CaseList, held: CaseList, config: Config) -> str:
    if held:
        chosen = f"{len(held):,} clean ones held out to choose by"
    elif config.val_fraction:
        chosen = f"none held out ({MIN_HELD_OUT} at least): the last weights count"
    else:
        chosen = "none held out: test masks (`evaluate`) or folds (`benchmark --question`) say how good the network is"
    return f"{len(cases.of('noisy')):,} noisy and {len(clean):,} clean cases to train on, {chosen}"


def _summary(run: RunWriter, config: Config, packed: dict[str, Any], notes: list[str]) -> Trained:
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
