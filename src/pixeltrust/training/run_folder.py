"""A run folder: what training writes and everything else reads.

    RUN/config.toml  environment.json  cases.csv  history.csv  steps.csv  checkpoint.pt  best.pt  model.pt
        weight_maps.npz  trust/  warnings.txt  report.html

Every file is written beside and renamed, so a kill at any moment leaves either the old or the new one. But to steps.csv the rows since the
last checkpoint are added just before the next one: a kill may leave rows there that no checkpoint knows, the last one in part, until
the run goes on.
"""

import csv
import hashlib
import io
import json
import os
import pickle
import platform
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pixeltrust.config import Config, read_config, to_toml
from pixeltrust.data.cases import COLUMNS
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.files import append_text, exclusive_lock, make_folder, naming_write_errors, write_atomically
from pixeltrust.plumbing.processes import ALONE, Ranks
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.plumbing.text import one_line
from pixeltrust.training.models import build_model

FORMAT = 1  # of the run folder; a newer one is refused, an earlier one read
WEIGHTS = {"last": "model.pt", "best": "best.pt"}
CACHE = ".cache"
_COUNTED = ["epoch", "update", "seconds", "loss", "all_zero_steps"]
_COLUMNS = {"cases.csv": (*COLUMNS, "held_out"), "history.csv": (*_COUNTED, "val_dice")}
_BEFORE_SETTINGS = (CACHE, "environment.json", "cases.csv")  # what `create` and `claimed` have made before config.toml stands


class Run:
    """A run folder by its path; nothing is read or written before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self) -> Config:
        """The settings of the run.

        Raises:
            RunError: the folder is no run, or of a format that this version does not know.
            ConfigError: its settings are none of this version's.
        """
        if not (self.folder / "config.toml").is_file():
            raise RunError(f"{self.folder}: not a run folder (it has no config.toml); `pixeltrust train` makes one")
        self._refuse_other_format()
        return read_config(self.folder / "config.toml")

    def has_other_files(self) -> bool:
        """Return whether there is anything but what a run leaves that was killed before its settings were written."""
        if not self.folder.is_dir():
            return self.folder.exists()
        return not all(path.name.startswith(_BEFORE_SETTINGS) or path.name.endswith(".unfinished") for path in self.folder.iterdir())

    def finished(self) -> bool:
        """Whether the last weights have been written."""
        return (self.folder / WEIGHTS["last"]).is_file()

    def cache(self, ranks: Ranks = ALONE) -> Path:
        """The folder for what this process has decoded."""
        return self.folder / (f"{CACHE}-{ranks.rank}" if ranks.rank else CACHE)

    @contextmanager
    def claimed(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """The folder is there for this block alone, and in it one for the cache; afterwards that is removed, and a folder left empty too.

        Raises:
            RunError: another process, none of these ranks, has it; or it cannot be made, or not be written to.
        """
        with ExitStack() as held:

            def claim() -> None:
                with naming_write_errors(self.folder):
                    make_folder(self.cache())
                    held.enter_context(
                        exclusive_lock(self.cache() / "lock", f"{self.folder}: another process trains in it; wait for its end")
                    )

            ranks.on_rank_0(claim)
            with naming_write_errors(self.folder):
                make_folder(self.cache(ranks))
            try:
                yield
            finally:
                shutil.rmtree(self.cache(ranks), ignore_errors=True)
                with suppress(OSError):  # it is not empty
                    self.folder.rmdir()

    def drop_cache(self) -> None:
        """Remove the decoded cases, which a kill leaves behind."""
        for folder in self.folder.glob(f"{CACHE}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def weight_maps(self) -> dict[str, np.ndarray] | None:
        """`ids` (N,), `epochs` (E,) and `maps` (E, N, H, W), in multiples of the average weight; None where none were kept.

        Raises:
            RunError: the file is broken.
        """
        path = self.folder / "weight_maps.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                kept = {name: arrays[name] for name in ("ids", "epochs", "maps")}
            if kept["maps"].shape[:2] != kept["epochs"].shape + kept["ids"].shape or kept["maps"].ndim != 4:
                raise ValueError(f"maps {kept['maps'].shape} are not those of {kept['epochs'].shape} epochs and {kept['ids'].shape} cases")
            return kept
        except Exception as error:  # as in `read_state`
            raise RunError(f"{path}: cannot be read: {one_line(error)}") from None

    def create(self, config: Config, cases: pd.DataFrame) -> None:
        """Make the folder, with its settings, cases and environment.

        Raises:
            RunError: it cannot be written.
        """
        with naming_write_errors(self.folder):
            make_folder(self.folder)
            self.write_text("environment.json", json.dumps(describe_environment(), indent=2) + "\n")
            write_csv(cases, self.folder / "cases.csv")
            self.write_text("config.toml", to_toml(config))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, UTF-8."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a CSV file."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished:
            table.to_csv(unfinished, index=False)

    def append_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to a CSV file, which is made where there is none; NaN is an empty cell. A kill may leave a part: see `cut_rows`."""
        path, text = self.folder / name, io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        with naming_write_errors(self.folder):
            if not path.exists():
                table.writeheader()
            table.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
            append_text(path, text.getvalue())

    def cut_rows(self, name: str, update: int) -> None:
        """Of a CSV file with a row per update keep those up to this one, and no file of none.

        Raises:
            RunError: it has not got that far.
        """
        path, size, last = self.folder / name, 0, b""
        lacking = RunError(f"{path}: lacks rows up to update {update:,}, where the checkpoint is; bring the file back as it was")
        with naming_write_errors(self.folder):
            if update < 1:
                path.unlink(missing_ok=True)
                return
            if not path.exists():
                raise lacking
            with path.open("rb+") as file:
                for last in islice(file, update + 1):
                    size += len(last)
                if not (last.startswith(b"%d," % update) and last.endswith(b"\n")):
                    raise lacking
                file.truncate(size)
                os.fsync(file.fileno())

    def write_warnings(self, lines: list[str]) -> None:
        """Keep what the run warns of, a line each, in warnings.txt; there is no such file where it warns of nothing."""
        if lines:
            self.write_text("warnings.txt", "\n".join(lines) + "\n")
        else:
            with naming_write_errors(self.folder):
                (self.folder / "warnings.txt").unlink(missing_ok=True)

    def warnings(self) -> list[str]:
        """What `write_warnings` kept.

        Raises:
            RunError: it cannot be read.
        """
        path = self.folder / "warnings.txt"
        try:
            return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read: {one_line(error)}") from None

    def write_state(self, name: str, state: dict[str, Any]) -> None:
        """Write tensors and plain values (`checkpoint.pt`, `model.pt`, `best.pt`)."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # which torch's writer raises on top of what the disk has said
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write an .npz file."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def read_state(self, name: str) -> dict[str, Any]:
        """Read what `write_state` wrote, by weights-only rules: no code of the file runs.

        Raises:
            RunError: there is no such file, it is broken, or holds anything but tensors and plain values.
        """
        path = self.folder / name
        _refuse_bomb(path)
        try:
            with warnings.catch_warnings(action="ignore"):  # about how a stranger's file was pickled
                state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise RunError(f"{path}: there is no such file; has the run got that far?") from None
        except (pickle.UnpicklingError, EOFError, KeyError):  # torch's own text advises to run the code of such a file
            raise RunError(f"{path}: refused: it is broken, or holds more than tensors and plain values, which could run code") from None
        except Exception as error:  # the unpickler and the zip reader raise whatever they like on a broken file
            raise RunError(f"{path}: cannot be read: {one_line(error)}") from None
        if not isinstance(state, dict):
            raise RunError(f"{path}: holds a {type(state).__name__}, not what a run writes")
        return state

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a CSV file of the run.

        Raises:
            RunError: there is none, or it lacks what every run writes.
        """
        try:
            if name == "cases.csv":  # an id is a text, 007 and NA too
                table = pd.read_csv(self.folder / name, dtype=dict.fromkeys((*COLUMNS, "group"), str), keep_default_na=False)
            else:
                table = pd.read_csv(self.folder / name)
            if missing := [column for column in _COLUMNS.get(name, ()) if column not in table]:
                raise ValueError(f"it has no column {', '.join(missing)}")
            if name == "history.csv" and not (len(table) and np.isfinite(table[_COUNTED].apply(pd.to_numeric)).all(axis=None)):
                raise ValueError("it has no row, or a value that is no number")
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name}: cannot be read: {one_line(error)}") from None
        return table

    def fingerprint(self, weights: str = "last") -> str:
        """Of the file of the last or the best weights."""
        with (self.folder / WEIGHTS[weights]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def model(self, weights: str = "last") -> nn.Module:
        """The trained network, in eval mode on the CPU.

        Args:
            weights: `last`, or `best` by the held-out clean cases.

        Raises:
            RunError: the run has no such weights, or brings the code of its network along.
            ConfigError: the network of the settings cannot be built.
        """
        if weights not in WEIGHTS:
            raise ConfigError(f"weights must be {' or '.join(WEIGHTS)}, not {weights!r}")
        config = self.config()
        if weights == "best" and not (self.folder / WEIGHTS["best"]).is_file():
            raise RunError(f"{self.folder}: has no best weights: no clean cases were held out to choose by; use the last ones")
        state = self.read_state(WEIGHTS[weights])
        self._refuse_own_code(config.model)
        model = build_model(config.model, channels=config.channels, classes=config.classes)
        try:
            model.load_state_dict(state["model"])
        except Exception as error:  # a stranger's values make torch raise anything
            raise RunError(f"{self.folder / WEIGHTS[weights]}: does not fit model = {config.model!r}: {one_line(error)}") from None
        return model.eval()

    def _refuse_own_code(self, model: str) -> None:
        """A run folder is data: from wherever the code of its network comes, it is not from there."""
        if ":" not in model:
            return
        package = model.partition(":")[0].partition(".")[0]
        with suppress(ImportError, ValueError):  # then it cannot be built either
            spec = find_spec(package)
            places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
            if any(Path(place).resolve().is_relative_to(self.folder.resolve()) for place in places if place):
                raise RunError(f"{self.folder}: its network, {model!r}, is code in the run folder itself, which is not run; install it")

    def _refuse_other_format(self) -> None:
        path = self.folder / "environment.json"
        try:
            written = json.loads(path.read_text(encoding="utf-8"))["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return  # the record of a machine is nothing that reading a run needs
        if type(written) is not int or written < 1:
            raise RunError(f"{self.folder}: says format {written!r:.60} in {path.name}, which no pixeltrust writes")
        if written > FORMAT:
            raise RunError(f"{self.folder}: was written by a later pixeltrust (format {written}, this one knows {FORMAT}); update it")


def describe_environment() -> dict[str, Any]:
    """What the run depends on beside settings and data: machine, versions, the command."""
    packages = ("pixeltrust", "monai", "numpy", "pillow", "scikit-image")
    return {
        "format": FORMAT,
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {"torch": torch.__version__, **{name: _version(name) for name in packages}},  # torch's own tells the build, too
    }


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the network's parameters and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _refuse_bomb(path: Path) -> None:
    """Whether a file would unpack to more than it is itself, which none is that torch writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return  # torch says what is wrong
    if unpacked > path.stat().st_size:
        raise RunError(f"{path}: refused: it is packed, as a bomb is and nothing that a run writes")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
