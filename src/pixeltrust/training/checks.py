"""Checks of a training before its first update, so that an invalid run writes nothing."""

import warnings
from hashlib import sha256
from typing import Any

import pandas as pd
import torch
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.batches import Streams, smallest_batch
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import cross_entropy_of_labels
from pixeltrust.method.tangents import get_choice
from pixeltrust.method.verification import verify
from pixeltrust.method_table import Method
from pixeltrust.plumbing.errors import ConfigError, GainsWarning, RunError
from pixeltrust.plumbing.processes import Ranks
from pixeltrust.training.models import parameters_along, trains_on_one
from pixeltrust.training.run_folder import Run


def refuse_existing(run: Run) -> None:
    """Raise unless a new run may be made in the folder."""
    if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
        raise RunError(f"{run.folder}: exists already; continue it with --resume, or choose another --out")


def refuse_unlike(ranks: Ranks, run: Run, table: pd.DataFrame, packed: dict[str, Any] | None) -> None:
    """Raise unless all processes see the same cases and the same checkpoint."""
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


def refuse_unusable(config: Config, method: Method) -> None:
    """Raise where the settings cannot be used on this machine, or not with this method."""
    is_available = torch.cuda.is_available() if config.device == "cuda" else torch.backends.mps.is_available()
    if config.device in ("cuda", "mps") and not is_available:
        raise ConfigError(f"device = {config.device!r}, but torch sees no such device; use device = 'auto' or 'cpu'")
    if method.takes_gains and config.gains == "finite-difference" and config.precision != "32":
        raise ConfigError("gains = 'finite-difference' is noise in bf16; use gains = 'exact', or precision = '32'")


def precision_notes(config: Config, device: torch.device) -> list[str]:
    """Return a note where bf16 would be slow."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch have no such function
    has_bfloat16 = not known or any(known.get(name) for name in ("bf16", "avx512_bf16", "amx_bf16"))
    if config.precision == "32" or device.type != "cpu" or has_bfloat16:
        return []
    return ["precision = 'bf16' is slower than '32' on this processor, which has no bfloat16 (2 to 20 times); use precision = '32' here"]


def refuse_batches_of_one(model: nn.Module, method: Method, streams: Streams, config: Config) -> None:
    """Raise where the method will get a batch of one image, and the network cannot be trained on one."""
    processes, noisy = streams.ranks.count, len(streams.noisy)
    for stream in method.streams:
        name = "clean_batch_size" if stream in ("clean", "pairs") else "batch_size"
        given, cases = getattr(config, name), noisy if stream == "noisy" else None
        if smallest_batch(given, cases=cases, processes=processes) > 1:
            continue
        wrong = trains_on_one(model, channels=config.channels + config.planes, size=config.size)
        if not wrong:
            return
        near = sorted(range(2, 2 * (given + processes) + 2), key=lambda size: abs(size - given))
        fitting = next((size for size in near if smallest_batch(size, cases=cases, processes=processes) > 1), None)
        way = f"; choose another {name}, such as {fitting}" if fitting else ""
        cause = f"{name} = {given}" + (f" and {noisy:,} noisy cases" if cases else "")
        cause += f" in {processes} processes" if processes > 1 else ""
        raise ConfigError(f"{cause} make a batch of one image, on which this network cannot be trained ({wrong}){way}")


def try_gains(model: nn.Module, method: Method, config: Config, device: torch.device) -> list[str]:
    """Compare the gains of a few random pixels with reverse mode, so that a network without right gains is refused at once.

    Returns:
        A note of how the gains are computed, where not in the usual way.

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
            warnings.simplefilter("ignore", GainsWarning)  # what it says is returned
            along = parameters_along(model, config.along)
            verdict = verify(
                model, noisy=noisy, clean=clean, pixel_loss=cross_entropy_of_labels, gains=config.gains, along=along, cost=False
            )
        if not verdict.right:
            raise ValueError(str(verdict))
    except torch.OutOfMemoryError:
        raise ConfigError(f"out of memory for two images of {'x'.join(map(str, config.size))} with model = {config.model!r}") from None
    except ValueError as error:
        what = f"method = {method.name!r}" if method.name else "a step that takes gains"
        raise ConfigError(f"{what} cannot weigh pixels for model = {config.model!r}: {' '.join(str(error).split())}") from error
    choice = get_choice(model)
    return [str(choice)] if config.gains == "exact" and choice is not None and choice.passed_over else []
