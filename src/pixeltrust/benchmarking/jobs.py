"""Many cells at once, each a process of its own, here or on a Ray cluster.

A cell that fails, or whose process is killed (memory), does not stop the others. Ctrl-C stops them all after their current update.
"""

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from pixeltrust.benchmarking.cell_masks import CellMasks
from pixeltrust.benchmarking.cells import GRACE, try_cell
from pixeltrust.benchmarking.grid import Cell, Grid
from pixeltrust.benchmarking.outcome.reading import is_finished, read_cell_state
from pixeltrust.plumbing.children import start_child, wait_for_child
from pixeltrust.plumbing.errors import ConfigError
from pixeltrust.plumbing.processes import Ranks, environment_without_torchrun, launched_by_torchrun

PLACES = ("local", "ray")


class Launcher(Protocol):
    """A place where cells run."""

    jobs: int
    """How many cells run at once."""

    def __call__(self, folder: Path) -> str | None:
        """Run the cell of a folder; return why it failed, or None."""

    def stop(self) -> None:
        """Let every cell stop after its current update."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The cells of a benchmark, and all that running them takes."""

    cells: Sequence[Cell]
    grid: Grid
    masks: CellMasks
    out: Path
    launcher: Launcher
    ranks: Ranks
    show_progress: bool


def launcher_of(on: str, jobs: int | None) -> Launcher:
    """Return the launcher of a place, `local` or `ray`, that runs so many cells at once.

    Raises:
        ConfigError: there is no such place.
    """
    if on not in PLACES:
        raise ConfigError(f"--on must be {' or '.join(PLACES)}, not {on!r}")
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, not {jobs}")
    if on == "ray" and launched_by_torchrun():
        raise ConfigError("--on ray shares the cells itself: start it once, without torchrun")
    return OnRay(jobs) if on == "ray" else Local(jobs)


def run_all(folders: Sequence[Path], launch: Launcher, prepare: Callable[[Path], None]) -> Iterator[tuple[Path, str | None]]:
    """Run cells; yield each with why it failed (None: it did not), as they end.

    Args:
        prepare: called with a folder right before its cell, in the same thread; what it raises ends everything.
    """

    def work(folder: Path) -> str | None:
        prepare(folder)
        return launch(folder)

    with ThreadPoolExecutor(launch.jobs, "cells") as pool:
        futures = {pool.submit(work, folder): folder for folder in folders}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            launch.stop()
            raise


class Local:
    """Processes on this machine, each with its share of the cores and, where there are any, a GPU.

    Args:
        jobs: how many at once; as many as there are GPUs, else cores, where not given. Under `torchrun` the machine's processes share
            them, and this is the number of each.
    """

    def __init__(self, jobs: int | None = None) -> None:
        gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
        here, place = (int(os.environ[f"LOCAL_{name}"]) for name in ("WORLD_SIZE", "RANK")) if launched_by_torchrun() else (1, 0)
        self.jobs = jobs or max(1, (gpus or cores) // here)
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // (here * self.jobs))))
        self._environment = {**environment_without_torchrun(), "OMP_NUM_THREADS": threads}
        self._gpus: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for number in range(place * self.jobs, (place + 1) * self.jobs):
            self._gpus.put(number % gpus if gpus else None)
        self._stopping = threading.Event()

    def __call__(self, folder: Path) -> str | None:
        command = [sys.executable, "-m", "pixeltrust.benchmarking", str(folder)]
        with (folder / "log.txt").open("ab") as log, self._gpu() as shown:
            process = start_child(command, log=log, environment={**self._environment, **shown})
            code = wait_for_child(process, self._stopping, grace=GRACE)
        return None if is_finished(folder) else _why(folder, code)

    def stop(self) -> None:
        self._stopping.set()

    @contextmanager
    def _gpu(self) -> Iterator[dict[str, str]]:
        """Hold a GPU; yield the environment that shows a process this one alone."""
        gpu = self._gpus.get()
        try:
            yield {} if gpu is None else {"CUDA_VISIBLE_DEVICES": str(gpu)}
        finally:
            self._gpus.put(gpu)


class OnRay:
    """Tasks of a Ray cluster, whose machines see the same folders: the one `RAY_ADDRESS` names, or one started on this machine.

    Args:
        jobs: how many at once; as many as the cluster has GPUs, else cores, where not given.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, jobs: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("--on ray needs Ray: install the extra, pip install 'pixeltrust[ray]'") from None
        self._ray = ray
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self.jobs = jobs or gpus or int(resources["CPU"])
        self._attempt = ray.remote(num_cpus=1, num_gpus=min(1, gpus), max_retries=1)(try_cell)
        self._tasks: list[Any] = []

    def __call__(self, folder: Path) -> str | None:
        task = self._attempt.remote(folder)
        self._tasks.append(task)
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return f"its Ray task ended: {type(error).__name__}"

    def stop(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task)


def _why(folder: Path, code: int) -> str:
    """Return why a process ended without a result."""
    if error := read_cell_state(folder)["error"]:
        return str(error)
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed ({name})" + (": out of memory?" if name == "SIGKILL" else "")
    return f"its process ended with {code}; {folder / 'log.txt'} may say why"
