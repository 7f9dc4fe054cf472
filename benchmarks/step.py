"""What a training step costs beside ordinary training on the same images: time, memory, and how right its weights are.

    OMP_NUM_THREADS=1 python benchmarks/step.py --threads 1            on a CPU, into results/step-cpu/
    python benchmarks/step.py --device cuda --precision fp32 tf32 bf16   on a GPU, into results/step-cuda/

A cell is a network at an image size, with so many noisy + clean images, in a precision. In a cell every kind of step (`KINDS`) sees
the same network, a few Adam updates old, and the same batches and loss. A step is what adds its gradient to .grad; the optimiser is
left out.

Time: one process, round robin, the order turned by one every round, the first rounds dropped. A ratio is taken inside its round, to
`both` (two ordinary passes forward and backward, one per batch); the median and quartiles are over rounds. `both-again` is `both` once
more: how far its ratio strays from 1 is the noise of the machine. The processor's share of the wall time is written down too.

Memory: the peak of one step above the idle state (network, batches, no .grad), after one step of the kind that is not counted. On a
CPU it is resident memory in a fresh process: the kernel's own high-water mark, set back before the step (Linux), with malloc told to
return what is freed at once; so it counts what libraries allocate beside torch. On a GPU it is torch's allocator, cuDNN's workspace
included.

Right: cosine of the weights, and share of gains of the same sign, against float64 (torch's own forward mode on a copy; else the
textbook's double backward; else float32, and then the table says so).

Cells that the results have are not measured again (--again: they are). Where a kind fails the table says why in a word.
"""

import argparse
import copy
import gc
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixeltrust import Batch, pixel_gains, reweighted_step, tangents
from pixeltrust.files import replacing
from pixeltrust.losses import cross_entropy_of_labels
from pixeltrust.models import build_model
from pixeltrust.progress import progress_bar
from pixeltrust.runs import environment, one_line
from pixeltrust.weights import normalised

RESULTS = Path(__file__).parents[1] / "results"
PRECISIONS = ("fp64", "fp32", "tf32", "bf16")
SHAPES = ((8, 8), (6, 30), (16, 4))
SMALL = ("unet-small", "unet-16-plain")
SAMPLE_SECONDS = 0.05  # steps that are quicker are taken several times for one sample
FEWEST_ROUNDS = 3
# malloc gives every tensor pages of its own and returns them to the kernel when it is freed: what is resident is what is in use.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured: noisy + clean images of size x size, in colour."""

    network: str
    size: int = 96
    noisy: int = 8
    clean: int = 8
    precision: str = "fp32"
    classes: int = 1
    device: str = "cpu"

    def __str__(self) -> str:
        classes = f", {self.classes} classes" if self.classes > 1 else ""
        return f"{self.network}, {self.size}x{self.size}, {self.noisy}+{self.clean}, {self.precision}{classes}"


# --- The kinds of step: each adds its gradient to .grad, and gives the gains that it weighed by -------------------------------------


def plain(model: nn.Module, noisy: Batch, clean: Batch) -> None:  # noqa: ARG001
    """Ordinary training on the noisy batch."""
    cross_entropy_of_labels(model(noisy.images), noisy.masks).mean().backward()


def both(model: nn.Module, noisy: Batch, clean: Batch) -> None:
    """Ordinary training on both batches, one after the other."""
    for batch in (noisy, clean):
        cross_entropy_of_labels(model(batch.images), batch.masks).mean().backward()


def fused(model: nn.Module, noisy: Batch, clean: Batch, gains: str) -> Tensor:
    """The library's step."""
    return reweighted_step(model, noisy=noisy, clean=clean, pixel_loss=cross_entropy_of_labels, gains=gains).gains


def unfused(model: nn.Module, noisy: Batch, clean: Batch) -> Tensor:
    """The gains by themselves, then ordinary training with their weights."""
    gains = pixel_gains(model, noisy=noisy, clean=clean, pixel_loss=cross_entropy_of_labels, gains="exact")
    _train_with(model, noisy, normalised(gains))
    return gains


def torch_duals(model: nn.Module, noisy: Batch, clean: Batch) -> Tensor:
    """The fused step by torch's own forward mode alone, in grad mode, where torch records the graph of the tangents too."""
    parameters = list(model.parameters())
    clean_loss = cross_entropy_of_labels(model(clean.images), clean.masks).mean()
    slopes = torch.autograd.grad(clean_loss, parameters, allow_unused=True)
    direction = {p: v for p, v in zip(parameters, slopes, strict=True) if v is not None}
    logits, tangent = _torchs_tangent(model, noisy.images, direction)
    with torch.no_grad(), forward_mode.dual_level():
        dual = forward_mode.make_dual(logits.detach(), tangent)
        gains = forward_mode.unpack_dual(cross_entropy_of_labels(dual, noisy.masks)).tangent
    (normalised(gains) * cross_entropy_of_labels(logits, noisy.masks)).sum().backward()
    return gains


def differentiated(model: nn.Module, noisy: Batch, clean: Batch) -> Tensor:
    """The textbook: the imagined step is taken, and the clean loss after it differentiated; then ordinary training with the weights."""
    theta = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        losses = cross_entropy_of_labels(model(noisy.images), noisy.masks)
        factors = torch.zeros_like(losses, requires_grad=True)
        gradients = torch.autograd.grad((factors * losses).sum(), theta, create_graph=True, materialize_grads=True)
        with _standing_in(model, {p: p - g for p, g in zip(theta, gradients, strict=True)}):
            clean_loss = cross_entropy_of_labels(model(clean.images), clean.masks).mean()
        (slope,) = torch.autograd.grad(clean_loss, factors)
    del losses, gradients, clean_loss  # and their graphs, before the pass that trains
    _train_with(model, noisy, normalised(-slope))
    return -slope


@contextmanager
def _standing_in(model: nn.Module, substitutes: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """The network computes with other tensors until the block ends. (torch.func.functional_call leaves them in DynUNet for good.)"""
    places = [(module._parameters, name) for module in model.modules() for name in module._parameters]
    before = [table[name] for table, name in places]
    try:
        for (table, name), parameter in zip(places, before, strict=True):
            table[name] = None if parameter is None else substitutes[parameter]
        yield
    finally:
        for (table, name), parameter in zip(places, before, strict=True):
            table[name] = parameter


def _train_with(model: nn.Module, noisy: Batch, weights: Tensor) -> None:
    (weights * cross_entropy_of_labels(model(noisy.images), noisy.masks)).sum().backward()


def _torchs_tangent(model: nn.Module, images: Tensor, direction: Mapping[Any, Tensor]) -> tuple[Tensor, Tensor]:
    rule = getattr(tangents, "forward_mode_tangent", None) or tangents.exact_tangent
    return rule(model, images, direction)


Kind = Callable[[nn.Module, Batch, Batch], Tensor | None]
KINDS: dict[str, Kind] = {
    "plain": plain,
    "both": both,
    "both-again": both,
    "exact": partial(fused, gains="exact"),
    "exact-unfused": unfused,
    "finite-difference": partial(fused, gains="finite-difference"),
    "torch-duals": torch_duals,
    "differentiated": differentiated,
}


# --- Networks, batches, the state they are measured in ------------------------------------------------------------------------------


def _plain_unet(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, in_channels, out_channels, features=(16, 32, 64, 128, 256, 16), act=("relu", {"inplace": True}), norm=None)


def _seg_res_net(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(2, 16, in_channels, out_channels)


def _swin_unetr(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels, out_channels, feature_size=24, spatial_dims=2)


def _dyn_unet(in_channels: int, out_channels: int) -> nn.Module:
    from monai.networks.nets import DynUNet

    strides = (1, 2, 2, 2, 2)
    return DynUNet(2, in_channels, out_channels, (3,) * 5, strides, strides[1:], norm_name="instance")


def tiny(in_channels: int, out_channels: int) -> nn.Module:
    """`step:tiny`, to try the benchmarks with."""
    first = nn.Conv2d(in_channels, 8, 3, padding=1)
    return nn.Sequential(first, nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, out_channels, 1))


NETWORKS = {
    "unet": None,  # None: the library's own of that name
    "unet-small": None,
    "unet-16-plain": _plain_unet,
    "seg-res-net": _seg_res_net,
    "swin-unetr": _swin_unetr,
    "dyn-unet": _dyn_unet,
}


def build(cell: Cell) -> nn.Module:
    """The cell's network, one of `NETWORKS` or `package.module:function`; the same parameters every time."""
    torch.manual_seed(0)
    builder = NETWORKS.get(cell.network)
    if builder is not None:
        return builder(3, cell.classes).to(cell.device)
    return build_model(cell.network, channels=3, classes=cell.classes).to(cell.device)


class InBfloat16(nn.Module):
    """Mixed precision as the training loop has it: the pass under autocast, logits in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16):
            return self.network(images).float()


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """The same parameters, used in that precision."""
    if torch.cuda.is_available():
        with warnings.catch_warnings(action="ignore"):  # torch would rather have this said in a newer way
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if precision == "bf16":
        return InBfloat16(network)
    return network.double() if precision == "fp64" else network


def batch(cell: Cell, count: int, *, noise: float, seed: int) -> Batch:
    """Images whose mask follows their brightness, which a network soon learns; `noise` > 0: masks that are all too small."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=random)
    brightness = F.interpolate(coarse, (cell.size, cell.size), mode="bicubic").clamp(0, 1)
    images = brightness * torch.tensor([1.0, 0.8, 0.6]).view(1, 3, 1, 1)
    images = images + 0.1 * torch.randn(images.shape, generator=random)
    levels = max(cell.classes, 2)
    masks = ((brightness[:, 0] - noise).clamp(0, 1) * levels).long().clamp(max=levels - 1)
    dtype = torch.float64 if cell.precision == "fp64" else torch.float32
    return Batch(images.to(cell.device, dtype), masks.to(cell.device))


def batches(cell: Cell, seed: int = 0) -> tuple[Batch, Batch]:
    """A noisy and a clean batch."""
    return batch(cell, cell.noisy, noise=0.15, seed=2 * seed), batch(cell, cell.clean, noise=0.0, seed=2 * seed + 1)


def trained(cell: Cell, updates: int) -> tuple[nn.Module, nn.Module]:
    """The network after some ordinary updates on other batches, and the same network in the cell's precision."""
    network = build(cell)
    model = in_precision(network, cell.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3) if updates else None
    for update in range(updates):
        model.zero_grad()
        both(model, *batches(cell, seed=update + 1))
        optimizer.step()
    model.zero_grad()
    return network, model


# --- Measuring a cell ---------------------------------------------------------------------------------------------------------------


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
    """All about a cell, as JSON has it; a kind that fails is in `failures`, with a word and a sentence.

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


def take(kind: str, model: nn.Module, noisy: Batch, clean: Batch) -> Tensor | None:
    """One step from the idle state; its gains, where it has any."""
    model.zero_grad(set_to_none=True)
    return KINDS[kind](model, noisy, clean)


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
    """How many steps make a sample; a first step of everything on the way."""
    first = _of_each(kinds, failures, lambda kind: _timed(cell, kind, model, noisy, clean, 1))
    return max(1, math.ceil(SAMPLE_SECONDS / min((wall for wall, _ in first.values()), default=SAMPLE_SECONDS)))


def _reference(network: nn.Module, noisy: Batch, clean: Batch) -> tuple[str, Tensor | None]:
    """The gains as exactly as can be had, on the CPU in float64, and the dtype that they were computed in."""
    for dtype in (torch.float64, torch.float32):
        for kind in (torch_duals, differentiated):
            try:
                exact = copy.deepcopy(network).to(dtype)
                gains = kind(exact, *(Batch(b.images.to(dtype), b.masks) for b in (noisy, clean)))
                return str(dtype).removeprefix("torch."), gains.detach().double().cpu()
            except Exception:  # no forward mode, no double backward, no memory: the next way
                exact = None
                _free()
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
    """The peak of a step above the idle state, in MiB."""
    return _allocated_peak(cell, kind) if cell.device == "cuda" else _in_fresh_process(_resident_peak, cell, kind, torch.get_num_threads())


def _allocated_peak(cell: Cell, kind: str) -> float:
    _, model = trained(cell, updates=0)
    noisy, clean = batches(cell)
    take(kind, model, noisy, clean)
    model.zero_grad(set_to_none=True)
    _free()
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
    _free()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    idle = _resident_kib("VmRSS")
    take(kind, model, noisy, clean)
    return (_resident_kib("VmHWM") - idle) / 2**10


def _resident_kib(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _in_fresh_process(work: Callable[..., float], *arguments: Any) -> float:
    """The work's result from a process of its own, forked from one that has imported all and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["step", "monai.networks.nets"])
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
    """`work` of every kind that has not failed and does not now."""
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
    _free()
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


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# --- The table ----------------------------------------------------------------------------------------------------------------------


def ratios(record: Mapping[str, Any], kind: str) -> list[float]:
    """Of every round, to `both` in the same round."""
    return [time / unit for time, unit in zip(record["seconds"][kind], record["seconds"]["both"], strict=True)]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the times as multiples of `both`, a line per cell; then all of every cell."""
    kinds = [kind for kind in KINDS if any(kind in record.get("seconds", ()) or kind in record["failures"] for record in records)]
    compared = [kind for kind in kinds if kind != "both"]
    lines = [
        "Time of a step over that of ordinary training on both batches: median over rounds (quartiles), and the same for peak memory.",
        "",
        f"| network, size, noisy+clean, precision | {' | '.join(f'`{kind}`' for kind in compared)} |",
        "|---" * (len(compared) + 1) + "|",
    ]
    lines += [f"| {name_of(record)} | {' | '.join(_short(record, kind) for kind in compared)} |" for record in records]
    for record in records:
        lines += ["", f"### {name_of(record)}", "", *_details(record, kinds)]
    return "\n".join(lines) + "\n"


def _details(record: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    head = ["ms", "times `both`", "peak MiB", "times `both`", "cosine of the weights", "gains of the same sign"]
    lines = [f"| step | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for kind in kinds:
        right = record.get("agreement", {}).get(kind)
        cells = [
            _spread([1e3 * value for value in record.get("seconds", {}).get(kind, [])], ".4g") or _failed(record, kind),
            _spread(ratios(record, kind), ".2f") if _timed_both(record, kind) else "",
            f"{record['peak_mib'][kind]:,.0f}" if kind in record.get("peak_mib", {}) else "",
            _memory_ratio(record, kind),
            f"{right['cosine']:.7f}" if right else "",
            f"{right['same_sign']:.3%}" if right else "",
        ]
        lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    wall, cpu = (np.array([sum(values) for values in record.get(name, {}).values()]) for name in ("seconds", "cpu_seconds"))
    rounds = max(map(len, record.get("seconds", {}).values()), default=0)
    running = f", the processor at work for {cpu.sum() / wall.sum():.0%} of the time" if wall.sum() and record["device"] == "cpu" else ""
    exact = f"; weights against {record['reference']}" if "reference" in record else ""
    failed = [f"- `{kind}`: {failure['text']}" for kind, failure in record["failures"].items()]
    return [
        *lines,
        "",
        *failed,
        *([""] if failed else []),
        f"{rounds} rounds of {record.get('repeats', 0)} steps, {record['threads']} threads{running}{exact}.",
    ]


def _short(record: Mapping[str, Any], kind: str) -> str:
    if not _timed_both(record, kind):
        return _failed(record, kind)
    memory = _memory_ratio(record, kind)
    return _spread(ratios(record, kind), ".2f") + (f"; {memory}" if memory else "")


def _spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def _memory_ratio(record: Mapping[str, Any], kind: str) -> str:
    peaks = record.get("peak_mib", {})
    return f"{peaks[kind] / peaks['both']:.2f}" if min(peaks.get(kind, 0), peaks.get("both", 0)) > 1 else ""  # less is not resolved


def _timed_both(record: Mapping[str, Any], kind: str) -> bool:
    return {kind, "both"} <= set(record.get("seconds", ()))


def _failed(record: Mapping[str, Any], kind: str) -> str:
    return record["failures"].get(kind, {"word": "not measured"})["word"]


def name_of(record: Mapping[str, Any]) -> str:
    return str(Cell(**{name: record[name] for name in Cell.__dataclass_fields__}))


# --- The command --------------------------------------------------------------------------------------------------------------------


def cells_of(device: str, networks=None, sizes=None, shapes=SHAPES, precisions=("fp32",)) -> list[Cell]:
    """Every combination; without sizes, those that are sensible on the device."""
    usual = {"cuda": lambda _: (96, 256, 512), "cpu": lambda network: (96, 256) if network in SMALL else (96,)}[device]
    return [
        Cell(network=network, size=size, noisy=noisy, clean=clean, precision=precision, device=device)
        for precision in precisions
        if precision != "tf32" or device == "cuda"  # a GPU's
        for network in networks or NETWORKS
        for size in sizes or usual(network)
        for noisy, clean in shapes
    ]


def run(cells: Sequence[Cell], out: Path, *, again: bool = False, end: float = math.inf, **settings: Any) -> list[dict[str, Any]]:
    """Measure what the folder does not have, writing after every cell; all that the folder has then.

    Args:
        end: time.monotonic() after which no cell is begun.
        settings: of `measure`.
    """
    out.mkdir(parents=True, exist_ok=True)
    write(out / "environment.json", json.dumps(machine(), indent=2) + "\n")
    file = out / "cells.json"
    records = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=len(cells), note="")
        for cell in cells:
            bar.update(task, note=str(cell))
            known = [record for record in records if name_of(record) == str(cell)]
            if (again or not known) and time.monotonic() < end:
                record = measure(cell, **{**settings, "seconds": min(settings.get("seconds", math.inf), end - time.monotonic())})
                records = [r for r in records if r not in known] + [record]
                write(file, json.dumps(records, indent=1) + "\n")
                write(out / "table.md", table(records))
                print(line(record), flush=True)
            bar.advance(task)
    return records


def line(record: Mapping[str, Any]) -> str:
    shown = [f"{kind} {_short(record, kind)}" for kind in KINDS if kind in record.get("seconds", ()) or kind in record["failures"]]
    return f"{name_of(record)}: {', '.join(shown)} [{record.get('measuring_seconds', 0):.0f} s]"


def write(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """The environment, with the processor by its name."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {**{name: value for name, value in environment().items() if name != "command"}, "cpu": names[0] if names else None}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def shape(text: str) -> tuple[int, int]:
    """8+8 as (8, 8)."""
    noisy, _, clean = text.partition("+")
    return int(noisy), int(clean)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", help=f"of {', '.join(NETWORKS)}, or package.module:function; default all")
    parser.add_argument("--sizes", type=int, nargs="+", help="pixels a side; default: what is sensible on the device")
    parser.add_argument("--shapes", type=shape, nargs="+", default=SHAPES, help="noisy+clean images; default 8+8 6+30 16+4")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of step; `both` is always measured")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="default results/step-<device>")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-rounds", type=int, default=1, help="dropped")
    parser.add_argument("--warm-updates", type=int, default=5, help="of Adam, before anything is measured")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help=f"of a cell's rounds, after which none is begun, {FEWEST_ROUNDS} at least"
    )
    parser.add_argument("--threads", type=int, help="of torch; default: as torch chooses")
    parser.add_argument("--again", action="store_true", help="measure also what the results have")
    chosen = parser.parse_args(words)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    out = chosen.out or RESULTS / f"step-{chosen.device}"
    cells = cells_of(chosen.device, chosen.networks, chosen.sizes, chosen.shapes, chosen.precision)
    settings = {name: getattr(chosen, name) for name in ("rounds", "warm_rounds", "warm_updates", "seconds")}
    run(cells, out, again=chosen.again, kinds=[kind for kind in KINDS if kind in (*chosen.kinds, "both")], **settings)
    print(f"the table is {out / 'table.md'}")


warnings.filterwarnings("ignore", message="`torch.jit.script")  # torch says so at the first use of forward mode

if __name__ == "__main__":
    import step  # by this name the processes of its own know it, and have it loaded

    step.main()
