"""Reading a run folder: for predictions, audits, pages, and a training that continues.

    RUN/config.toml  environment.json  cases.csv  history.csv  steps.csv  checkpoint.pt  best.pt  model.pt
        weight_maps.npz  helped/  warnings.txt  report.html  README.md (the model card)

`run_writer` writes it.
"""

import hashlib
import json
import pickle
import warnings
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pixeltrust.config import Config, read_config, require_run
from pixeltrust.data.cases import COLUMNS
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.text import one_line
from pixeltrust.training.models import build_model

FORMAT = 1  # of the run folder; a newer one is refused, an earlier one read
WEIGHTS = {"last": "model.pt", "best": "best.pt"}
CACHE = ".cache"
LARGE = 2**30  # bytes of a file of tensors that is mapped, not read as a whole: trust of many volumes takes gigabytes
_COUNTED = ["epoch", "update", "seconds", "loss", "all_zero_steps"]
_COLUMNS = {"cases.csv": (*COLUMNS, "held_out"), "history.csv": (*_COUNTED, "val_dice")}
_BEFORE_SETTINGS = (CACHE, "environment.json", "cases.csv")  # what a training makes before config.toml


class Run:
    """A run folder by its path; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def config(self) -> Config:
        """Read the settings of the run.

        Raises:
            RunError: the folder is not a run, or has a format that this version does not know.
            ConfigError: its settings are not those of this version.
        """
        require_run(self.folder)
        self._refuse_other_format()
        return read_config(self.folder / "config.toml")

    def finished(self) -> bool:
        """Return whether the last weights have been written."""
        return (self.folder / WEIGHTS["last"]).is_file()

    def has_other_files(self) -> bool:
        """Return whether there are files other than those of a run that was killed before its settings were written."""
        if not self.folder.is_dir():
            return self.folder.exists()
        return not all(path.name.startswith(_BEFORE_SETTINGS) or path.name.endswith(".unfinished") for path in self.folder.iterdir())

    def warnings(self) -> list[str]:
        """Read the lines of warnings.txt; none where there is no such file.

        Raises:
            RunError: it cannot be read.
        """
        path = self.folder / "warnings.txt"
        try:
            return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read: {one_line(error)}") from None

    def weight_maps(self) -> dict[str, np.ndarray] | None:
        """Read `ids` (N,), `epochs` (E,) and `maps` (E, N, H, W), in multiples of the average weight; None where there are none.

        Of volumes `corners` (N, 3) too (see `weight_maps`).

        Raises:
            RunError: the file is broken.
        """
        path = self.folder / "weight_maps.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                read = {name: arrays[name] for name in ("ids", "epochs", "maps", "corners") if name != "corners" or name in arrays}
            if read["maps"].shape[:2] != read["epochs"].shape + read["ids"].shape or read["maps"].ndim != 4:
                raise ValueError(f"maps {read['maps'].shape} do not fit {read['epochs'].shape} epochs and {read['ids'].shape} cases")
            return read
        except Exception as error:  # as in `read_state`
            raise RunError(f"{path}: cannot be read: {one_line(error)}") from None

    def weight_maps_over_time(self) -> tuple[list[int], dict[str, np.ndarray], dict[str, list[int]]]:
        """Return up to three epochs, early, midway and late in training, and by the ids of cases their weight maps (epochs, H, W).

        Of volumes the corners of their patches come third, by id (see `weight_maps`).

        Raises:
            RunError: the file is broken.
        """
        stored = self.weight_maps()
        if stored is None or not len(stored["epochs"]):
            return [], {}, {}
        last = len(stored["epochs"]) - 1
        moments = sorted({0, last // 2, last})
        maps = {str(identity): stored["maps"][moments, place] for place, identity in enumerate(stored["ids"])}
        corners = dict(zip(stored["ids"].astype(str).tolist(), stored["corners"].tolist() if "corners" in stored else [], strict=False))
        return [int(epoch) for epoch in stored["epochs"][moments]], maps, corners

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a CSV file of the run.

        Raises:
            RunError: it is missing, or lacks what every run writes.
        """
        try:
            if name == "cases.csv":  # an id is a text, 007 and NA too
                table = pd.read_csv(self.folder / name, dtype=dict.fromkeys((*COLUMNS, "group"), str), keep_default_na=False)
            else:
                table = pd.read_csv(self.folder / name)
            if missing := [column for column in _COLUMNS.get(name, ()) if column not in table]:
                raise ValueError(f"it has no column {', '.join(missing)}")
            if name == "history.csv" and not (len(table) and np.isfinite(table[_COUNTED].apply(pd.to_numeric)).all(axis=None)):
                raise ValueError("it has no row, or a value that is not a number")
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name}: cannot be read: {one_line(error)}") from None
        return table

    def read_state(self, name: str) -> dict[str, Any]:
        """Read `checkpoint.pt`, `model.pt` or `best.pt` by weights-only rules: no code of the file runs.

        Raises:
            RunError: the file is missing or broken, or holds anything but tensors and plain values.
        """
        path = self.folder / name
        _refuse_bomb(path)
        try:
            with warnings.catch_warnings(action="ignore"):  # about how a foreign file was pickled
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=path.stat().st_size > LARGE)
        except FileNotFoundError:
            raise RunError(f"{path}: there is no such file; has the run got that far?") from None
        except (pickle.UnpicklingError, EOFError, KeyError):  # torch's own text advises to run the code of such a file
            raise RunError(f"{path}: refused: it is broken, or holds more than tensors and plain values, which could run code") from None
        except Exception as error:  # the unpickler and the zip reader raise whatever they like on a broken file
            raise RunError(f"{path}: cannot be read: {one_line(error)}") from None
        if not isinstance(state, dict):
            raise RunError(f"{path}: holds a {type(state).__name__}, not what a run writes")
        return state

    def fingerprint(self, weights: str = "last") -> str:
        """Return a fingerprint of the file of the last or the best weights."""
        with (self.folder / WEIGHTS[weights]).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def model(self, weights: str = "last") -> nn.Module:
        """Return the trained network, in eval mode on the CPU.

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
            raise RunError(
                f"{self.folder}: has no best weights: no clean cases were held out (val_fraction) to choose by; use the last ones"
            )
        state = self.read_state(WEIGHTS[weights])
        self._refuse_own_code(config.model)
        channels, axes = config.channels + config.planes, len(config.size)
        model = build_model(config.model, channels=channels, classes=config.classes, axes=axes)
        try:
            model.load_state_dict(state["model"])
        except Exception as error:  # foreign values make torch raise anything
            raise RunError(f"{self.folder / WEIGHTS[weights]}: does not fit model = {config.model!r}: {one_line(error)}") from None
        return model.eval()

    def _refuse_other_format(self) -> None:
        path = self.folder / "environment.json"
        try:
            written = json.loads(path.read_text(encoding="utf-8"))["format"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return  # reading a run does not need the record of a machine
        if type(written) is not int or written < 1:
            raise RunError(f"{self.folder}: says format {written!r:.60} in {path.name}, which no pixeltrust writes")
        if written > FORMAT:
            raise RunError(f"{self.folder}: was written by a later pixeltrust (format {written}, this one knows {FORMAT}); update it")

    def _refuse_own_code(self, model: str) -> None:
        """Raise where the code of the network is in the run folder: that is data, and is not run."""
        if ":" not in model:
            return
        package = model.partition(":")[0].partition(".")[0]
        with suppress(ImportError, ValueError):  # then it cannot be built either
            spec = find_spec(package)
            places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
            if any(Path(place).resolve().is_relative_to(self.folder.resolve()) for place in places if place):
                raise RunError(f"{self.folder}: its network, {model!r}, is code in the run folder itself, which is not run; install it")


def _refuse_bomb(path: Path) -> None:
    """Raise where a file would unpack to more than its own size: torch never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return  # torch says what is wrong
    if unpacked > path.stat().st_size:
        raise RunError(f"{path}: refused: it is packed, as no file is that a run writes")
