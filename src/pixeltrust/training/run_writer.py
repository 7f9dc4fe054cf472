"""Writing a run folder.

Every file is written beside and renamed, so a kill at any moment leaves either the old or the new one. Only steps.csv grows: the rows since
the last checkpoint are added just before the next one, so a kill may leave rows that no checkpoint knows, the last one in part, until the
run continues.
"""

import csv
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pixeltrust.config import Config, to_toml
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import append_text, exclusive_lock, make_folder, naming_write_errors, write_atomically
from pixeltrust.plumbing.processes import ALONE, Ranks
from pixeltrust.plumbing.tables import write_csv
from pixeltrust.training.run_folder import CACHE, FORMAT, Run


class RunWriter(Run):
    """A run folder that a training makes and fills."""

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

    @contextmanager
    def claimed(self, ranks: Ranks = ALONE) -> Iterator[None]:
        """Make the folder and its cache, and hold them for this block alone; then remove the cache, and the folder where it is empty.

        Raises:
            RunError: another process, not one of these ranks, holds it; or it cannot be made or written to.
        """
        with ExitStack() as held:

            def claim() -> None:
                with naming_write_errors(self.folder):
                    make_folder(self.cache())
                    held.enter_context(
                        exclusive_lock(self.cache() / "lock", f"{self.folder}: another process trains in it; wait until it ends")
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

    def cache(self, ranks: Ranks = ALONE) -> Path:
        """Return the folder for what this process has decoded."""
        return self.folder / (f"{CACHE}-{ranks.rank}" if ranks.rank else CACHE)

    def drop_cache(self) -> None:
        """Remove the decoded cases, which a kill leaves behind."""
        for folder in self.folder.glob(f"{CACHE}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file in UTF-8."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write a CSV file."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished:
            table.to_csv(unfinished, index=False)

    def write_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Write an .npz file."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def write_state(self, name: str, state: dict[str, Any]) -> None:
        """Write tensors and plain values (`checkpoint.pt`, `model.pt`, `best.pt`)."""
        with naming_write_errors(self.folder), write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch's writer raises it on top of the error of the disk
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def append_rows(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to a CSV file, or make it; NaN is an empty cell. A kill may leave a part of them: see `cut_rows`."""
        path, text = self.folder / name, io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        with naming_write_errors(self.folder):
            if not path.exists():
                table.writeheader()
            table.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
            append_text(path, text.getvalue())

    def cut_rows(self, name: str, update: int) -> None:
        """Cut a CSV file with a row per update after this one, and remove it where none is left.

        Raises:
            RunError: it ends before that update.
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
        """Write the warnings of the run to warnings.txt, a line each; without any, remove the file."""
        if lines:
            self.write_text("warnings.txt", "\n".join(lines) + "\n")
        else:
            with naming_write_errors(self.folder):
                (self.folder / "warnings.txt").unlink(missing_ok=True)


def describe_environment() -> dict[str, Any]:
    """Return what a run depends on beside settings and data: machine, versions, the command."""
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
        "packages": {"torch": torch.__version__, **{name: _version(name) for name in packages}},  # this one names the build, too
    }


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the network's parameters and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
