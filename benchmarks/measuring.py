"""Time, peak memory and agreement of every kind of step in one cell; how, is said in step.py."""

import copy
import gc
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinds import KINDS, Cell, batches, differentiated, take, torch_duals, trained
from pixeltrust import Batch
from pixeltrust.method.weights import normalised
from pixeltrust.plumbing.text import one_line

SAMPLE_SECONDS = 0.05  # steps that are quicker are taken several times for one sample
FEWEST_ROUNDS = 3
# malloc gives every tensor pages of its own and returns them to the kernel when it is freed: what is resident is what is in use.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"}


def measure(
    cell: Cell,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    rounds: int = 9,
    warm_rounds: int = 1,
    warm_updates: int = 5,
    seconds: float = math.inf,
    agreement: bool = True,
    memory: bool = True,
) -> dict[str, Any]:
    """Measure everything about a cell; return it as for JSON. A kind that fails is in `failures`, with a word and a sentence.

    Args:
        seconds: once there are a few rounds, none is begun when they have taken so many.
        agreement: compare the weights with float64 as well.
        memory: measure the peak of every kind as well.
    """
    began = time.monotonic()
    failures = {} if cell.precision != "bf16" else {"finite-difference": {"word": "refused", "text": "it is noise in bf16"}}
    record: dict[str, Any] = {**asdict(cell), "threads": torch.get_num_threads(), "torch": torch.__version__, "failures": failures}
    if memory:
        record["peak_mib"] = _of_each(kinds, failures, partial(_peak_mib, cell))
    alive = [kind for kind in kinds if kind not in failures]
    state = _attempt(partial(trained, cell, warm_updates), failures, alive)
    if state is None:
        return record
    network, model = state
    noisy, clean = batches(cell)
    if agreement:
        record["reference"], expected = _reference(network, noisy, clean)
        record["agreement"] = _of_each(alive, failures, partial(_agreement, expected, model, noisy, clean))
        alive = [kind for kind in kinds if kind not in failures]
    repeats = _repeats(cell, alive, failures, model, noisy, clean)
    alive = [kind for kind in kinds if kind not in failures]
    samples = _samples(cell, alive, failures, model, noisy, clean, rounds + warm_rounds, repeats, time.monotonic() + seconds)
    wall, cpu = ({kind: [pair[i] for pair in taken[warm_rounds:]] for kind, taken in samples.items()} for i in (0, 1))
    return {**record, "repeats": repeats, "seconds": wall, "cpu_seconds": cpu, "measuring_seconds": round(time.monotonic() - began, 1)}


def _samples(cell, kinds, failures, model, noisy, clean, rounds, repeats, end) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of a step, per kind and round."""
    samples: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        if number > FEWEST_ROUNDS and time.monotonic() > end:
            break
        turn = number % len(kinds) if kinds else 0
        for kind in (*kinds[turn:], *kinds[:turn]):
            if kind not in failures:
                sample = _attempt(partial(_timed, cell, kind, model, noisy, clean, repeats), failures, [kind])
                samples[kind] += [sample] if sample else []
    return {kind: taken for kind, taken in samples.items() if kind not in failures}


def _timed(cell: Cell, kind: str, model: nn.Module, noisy: Batch, clean: Batch, repeats: int) -> tuple[float, float]:
    synchronise(cell.device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        take(kind, model, noisy, clean)
    synchronise(cell.device)
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def _repeats(cell, kinds, failures, model, noisy, clean) -> int:
    """Return how many steps make a sample, after a first step of every kind."""
    first = _of_each(kinds, failures, lambda kind: _timed(cell, kind, model, noisy, clean, 1))
    return max(1, math.ceil(SAMPLE_SECONDS / min((wall for wall, _ in first.values()), default=SAMPLE_SECONDS)))


def _reference(network: nn.Module, noisy: Batch, clean: Batch) -> tuple[str, Tensor | None]:
    """Compute the gains as exactly as possible, on the CPU in float64; return them and the dtype that they were computed in."""
    for dtype in (torch.float64, torch.float32):
        for kind in (torch_duals, differentiated):
            try:
                exact = copy.deepcopy(network).to(dtype)
                gains = kind(exact, *(Batch(b.images.to(dtype), b.masks) for b in (noisy, clean)))
                return str(dtype).removeprefix("torch."), gains.detach().double().cpu()
            except Exception:  # no forward mode, no double backward, no memory: the next way
                exact = None
                free()
    return "none", None


def _agreement(expected: Tensor | None, model: nn.Module, noisy: Batch, clean: Batch, kind: str) -> dict[str, float] | None:
    gains = take(kind, model, noisy, clean)
    if gains is None or expected is None:
        return None
    gains = gains.detach().double().cpu()
    cosine = F.cosine_similarity(normalised(gains).flatten(), normalised(expected).flatten(), dim=0)
    return {"cosine": float(cosine), "same_sign": float((gains.sign() == expected.sign()).double().mean())}


# --- Memory -------------------------------------------------------------------------------------------------------------------------


def _peak_mib(cell: Cell, kind: str) -> float:
    """Return the peak of a step above the idle state, in MiB."""
    return _allocated_peak(cell, kind) if cell.device == "cuda" else _in_fresh_process(_resident_peak, cell, kind, torch.get_num_threads())


def _allocated_peak(cell: Cell, kind: str) -> float:
    _, model = trained(cell, updates=0)
    noisy, clean = batches(cell)
    take(kind, model, noisy, clean)
    model.zero_grad(set_to_none=True)
    free()
    idle = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    take(kind, model, noisy, clean)
    return (torch.cuda.max_memory_allocated() - idle) / 2**20


def _resident_peak(cell: Cell, kind: str, threads: int) -> float:
    torch.set_num_threads(threads)
    _, model = trained(cell, updates=0)
    noisy, clean = batches(cell)
    take(kind, model, noisy, clean)
    model.zero_grad(set_to_none=True)
    free()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    idle = _resident_kib("VmRSS")
    take(kind, model, noisy, clean)
    return (_resident_kib("VmHWM") - idle) / 2**10


def _resident_kib(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _in_fresh_process(work: Callable[..., float], *arguments: Any) -> float:
    """Return the result of the work in a process of its own, forked from one that has imported everything and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["measuring", "monai.networks.nets"])
    with _environment({**RETURNING, "PYTHONPATH": os.pathsep.join(sys.path)}):  # malloc and the server read it when they start
        forkserver.ensure_running()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, work, arguments))
    process.start()
    there.close()
    try:
        result, failure = here.recv()
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGKILL  # by the kernel, which has one reason
        result, failure = None, ("out of memory" if killed else "died", f"the process ended with {process.exitcode}")
    process.join()
    if failure:
        raise Failure(*failure)
    return result


def _answer(there: Connection, work: Callable[..., float], arguments: Sequence[Any]) -> None:
    try:
        there.send((work(*arguments), None))
    except Exception as error:  # as in _attempt
        there.send((None, (_word(error), one_line(error))))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- What fails ---------------------------------------------------------------------------------------------------------------------


def _of_each(kinds: Sequence[str], failures: dict[str, Any], work: Callable[[str], Any]) -> dict[str, Any]:
    """Return the result of `work` for every kind that has not failed and does not fail now."""
    results = {}
    for kind in kinds:
        if kind not in failures:
            result = _attempt(partial(work, kind), failures, [kind])
            if result is not None:
                results[kind] = result
    return results


def _attempt(work: Callable[[], Any], failures: dict[str, Any], kinds: Sequence[str]) -> Any:
    try:
        return work()
    except Exception as error:  # a benchmark measures what there is
        failures.update({kind: {"word": _word(error), "text": one_line(error)} for kind in kinds})
    free()
    return None


class Failure(Exception):
    """What failed, in a word, and the sentence."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


def _word(error: Exception) -> str:
    text = str(error)
    if isinstance(error, Failure):
        return error.word
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    if "forward AD" in text or "forward-mode" in text or "jvp" in text:
        return "no forward mode"
    if "derivative" in text or "double backward" in text or "twice" in text:
        return "no double backward"
    return type(error).__name__


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
