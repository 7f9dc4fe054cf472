"""The state of a run, its checkpoints, and whether a run may continue from one."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pixeltrust.config import Config, refuse_other_settings
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.processes import ALONE, Ranks
from pixeltrust.plumbing.text import one_line, some
from pixeltrust.training.history import PARTS, Steps
from pixeltrust.training.run_folder import Run

_WITH_STATE = ("model", "optimizer", "schedule", "memory")
_PLAIN = ("update", "images", "best_dice", "seconds", "epochs")


@dataclass
class State:
    """All that a run changes, and all that is needed to continue it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    memory: nn.Module = field(default_factory=nn.Module)
    """The memory of the method's step from update to update; empty for most."""
    update: int = 0
    """Updates made so far."""
    images: int = 0
    """Images that the steps have seen."""
    best_dice: float = -1.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Seconds by part, including the parts before a resume."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    """The rows of history.csv."""
    steps: Steps = field(default_factory=Steps)
    ranks: Ranks = ALONE

    def pack(self) -> dict[str, Any]:
        """Return tensors and plain values; every rank calls this, and what is the same everywhere is rank 0's."""
        parts = {name: getattr(self, name).state_dict() for name in _WITH_STATE} | {"steps": self.steps.pack()}
        random, *others = self.ranks.all_gather_objects({"random": torch.get_rng_state(), "cuda": _cuda_random_states()})
        return parts | {name: getattr(self, name) for name in _PLAIN} | random | ({"other_ranks": others} if others else {})

    def unpack(self, packed: dict[str, Any], run: Run) -> None:
        """Take over what `pack` gave, here or on another machine; what an older version did not keep stays as it is.

        Raises:
            RunError: it does not fit this network or these settings.
        """
        try:
            for name in _WITH_STATE:
                getattr(self, name).load_state_dict(packed.get(name, {}) if name == "memory" else packed[name])
            _fit(self.optimizer)
            random = [packed, *packed.get("other_ranks", [])][self.ranks.rank :][:1]
            for states in random:  # a rank that did not exist before begins anew
                torch.set_rng_state(states["random"])
                for device, state in zip(range(len(_cuda_random_states())), states["cuda"], strict=False):  # there may be other devices now
                    torch.cuda.set_rng_state(state, device)
            packed = packed | {"seconds": seconds_by_part(packed)}
            for name in _PLAIN:
                if not isinstance(packed.get(name, getattr(self, name)), type(getattr(self, name))):
                    raise TypeError(f"{name} is {packed[name]!r:.60}")
            self.steps = Steps.unpacked(packed)
        except Exception as error:  # foreign values make torch raise anything
            raise RunError(f"{run.folder / 'checkpoint.pt'}: does not fit this network and these settings: {one_line(error)}") from None
        for name in _PLAIN:
            setattr(self, name, packed.get(name, getattr(self, name)))


def seconds_by_part(packed: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of a checkpoint; where an older version kept the sum alone, all of it is `other`."""
    seconds = packed["seconds"]
    return dict.fromkeys(PARTS, 0.0) | (seconds if isinstance(seconds, dict) else {"other": seconds})


def find_checkpoint(run: Run, config: Config) -> dict[str, Any] | None:
    """Return the checkpoint to continue from; None to start over.

    Raises:
        RunError: the folder is not a run, or has other settings, or its checkpoint is broken.
    """
    if not (run.folder / "config.toml").exists():
        if run.has_other_files():
            raise RunError(f"{run.folder}: exists and is not a run that could continue (it has no config.toml); choose another --out")
        return None
    refuse_other_settings(run.folder, run.config(), config)
    return read_checkpoint(run) if (run.folder / "checkpoint.pt").exists() else None


def read_checkpoint(run: Run) -> dict[str, Any]:
    """Read what `State.pack` gave.

    Raises:
        RunError: it is broken, or lacks what every checkpoint holds.
    """
    packed = run.read_state("checkpoint.pt")
    missing = [name for name in ("update", "images", "seconds", "epochs", "steps") if name not in packed]
    if missing or not isinstance(packed["update"], int) or packed["update"] < 0:
        what = f"it has no {', '.join(missing)}" if missing else f"update is {packed['update']!r:.60}"
        raise RunError(f"{run.folder / 'checkpoint.pt'}: not a checkpoint of a run: {what}")
    return packed


def refuse_other_cases(run: Run, table: pd.DataFrame) -> None:
    """Raise unless the run was started with the cases of this table.

    Raises:
        RunError: names some of the cases that differ.
    """
    columns = ["id", "role", "held_out"]
    before, now = run.read_table("cases.csv")[columns].astype(str), table[columns].astype(str)
    if before.values.tolist() != now.values.tolist():
        ids = sorted({row[0] for row in set(map(tuple, before.values)) ^ set(map(tuple, now.values))})
        raise RunError(f"{run.folder}: was started with other cases ({some(ids)}); continue with the same data, or choose another --out")


def _fit(optimizer: torch.optim.Optimizer) -> None:
    """Lay out what the optimiser holds for a parameter as the parameter is: its fused kernels check no shape, and would write beyond."""
    for parameter, held in optimizer.state.items():
        for name, values in held.items():
            if name != "step" and isinstance(values, Tensor):
                if values.shape != parameter.shape:
                    raise ValueError(f"{name} has the shape {tuple(values.shape)}, its parameter {tuple(parameter.shape)}")
                held[name] = torch.empty_like(parameter).copy_(values)


def _cuda_random_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
