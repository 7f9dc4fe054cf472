"""All that needs a GPU, in one go: what a step costs, images a second of real training, and how much of the card a step uses.

    python benchmarks/gpu.py --budget-seconds 500                 with made-up images, into results/gpu/
    python benchmarks/gpu.py --data DATA --out results/gpu        with a data folder
    python benchmarks/gpu.py --toy --out /tmp/toy                 a trial of the whole, on a CPU, in seconds

1. training   images a second of `pixeltrust.train` from the second epoch on, loading, validation and saving included, and what the
              paper's training would take: 300 epochs of 2,000 images, 16 noisy + 16 clean a step, at the seconds of an update.
2. share      the card's rate in a large bf16 product of random matrices, and the share of it that a step reaches. A step's FLOP are
              those of its matrix products and convolutions, as torch counts them.
3. variants   ordinary training on both batches, as it is, channels last, compiled, and both.
4. steps      the tables of step.py, the most telling cells first.

Results go to OUT/gpu.json after every part, the tables of steps to OUT/steps/. What the budget has no room for says "not measured".
"""

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kinds
import measuring
import step
from kinds import Cell
from pixeltrust.config import Config
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.method.losses import cross_entropy_of_labels
from pixeltrust.noise.simulate import simulate
from pixeltrust.plumbing.files import link_or_copy
from pixeltrust.plumbing.text import one_line
from pixeltrust.training.run_folder import Run
from pixeltrust.training.train import train

NOT_MEASURED = "not measured"
PAPER_EPOCHS, PAPER_IMAGES = 300, 2000
TRAININGS = (("pixel", "bf16"), ("plain", "bf16"), ("joint", "bf16"), ("pixel", "32"))
EPOCHS = 3  # of a training: the first warms up


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of everything."""

    device: str
    network: str = "unet"
    size: int = 96
    batch: int = 16
    made_up: int = 250
    clean: int = 100
    copies: int = 16
    """Every made-up noisy case stands for so many: the paper's 2,000 images."""
    matrix: int = 8192
    rounds: int = 9
    cells: tuple[Cell, ...] = ()
    training_seconds: float = 40.0
    cell_seconds: float = 20.0


def plan_of(device: str, toy: bool) -> Plan:
    if toy:
        cells = [Cell(network="kinds:tiny", size=16, noisy=2, clean=2, precision="bf16", device=device)]
        sizes = {"network": "kinds:tiny", "size": 32, "batch": 4, "made_up": 30, "clean": 10, "copies": 2, "matrix": 256, "rounds": 2}
        return Plan(device=device, cells=tuple(cells), **sizes)
    return Plan(device=device, cells=tuple(cells_of(device)))


def cells_of(device: str) -> list[Cell]:
    """Return the cells to measure: the paper's network first, at the paper's size and then at 512, then a small one, then the others."""
    order = [("unet", 96, 16, 16), ("unet", 512, 8, 8), ("unet-small", 96, 16, 16), ("unet-small", 512, 8, 8), ("unet", 96, 6, 30)]
    order += [(network, 96, 16, 16) for network in ("swin-unetr", "dyn-unet", "seg-res-net", "unet-16-plain")]
    order += [(network, 512, 8, 8) for network in ("swin-unetr", "dyn-unet", "seg-res-net", "unet-16-plain")]
    return [
        Cell(network=network, size=size, noisy=noisy, clean=clean, precision=precision, device=device)
        for network, size, noisy, clean in order
        for precision in ("bf16", "tf32", "fp32")
    ]


# --- Training -----------------------------------------------------------------------------------------------------------------------


def training(plan: Plan, data: Path | None, out: Path, end: float) -> list[dict[str, Any]]:  # noqa: ARG001
    """Return a row per method and precision, with the minutes of the paper's training for `pixel` in bf16."""
    rows = []
    with TemporaryDirectory() as scratch:
        folder = data or made_up(Path(scratch), plan)
        for method, precision in TRAININGS:
            row: dict[str, Any] = {"method": method, "precision": precision}
            seconds = min(plan.training_seconds, end - time.monotonic())
            config = config_of(plan, method, precision)
            run = Run(Path(scratch) / f"{method}-{precision}")
            rows.append(row | (trained(folder, run, config, seconds) if seconds > 0 else {"failure": NOT_MEASURED}))
            shutil.rmtree(run.folder, ignore_errors=True)  # a checkpoint is large
    return rows


def made_up(scratch: Path, plan: Plan) -> Path:
    """Make a data folder of made-up images, its noisy cases many times over under other names."""
    write_source(scratch / "source", cases=plan.made_up, size=plan.size, test_share=0.1, show_progress=False)
    simulate(scratch / "source", scratch / "data", clean=plan.clean, pairs=False, show_progress=False)
    for mask in sorted((scratch / "data/noisy").iterdir()):
        for copy in range(1, plan.copies):
            for folder in ("noisy", "images"):
                file = scratch / "data" / folder / mask.name
                link_or_copy(file, file.with_stem(f"{file.stem}-{copy}"))
    return scratch / "data"


def config_of(plan: Plan, method: str, precision: str) -> Config:
    sizes = {"batch_size": plan.batch, "clean_batch_size": plan.batch, "image_size": plan.size}
    return Config(method=method, model=plan.network, precision=precision, epochs=EPOCHS, device=plan.device, **sizes)


def trained(data: Path, run: Run, config: Config, seconds: float) -> dict[str, Any]:
    """Return the seconds of an update and the images a second, over all epochs but the first; of the first if the time was up."""
    try:
        stopped_after(seconds, lambda: train(data, out=run.folder, config=config, show_progress=False))
        if not (run.folder / "history.csv").is_file():
            return {"failure": f"no epoch ended within {seconds:.0f} s"}
        history = run.read_table("history.csv")
    except Exception as error:
        return {"failure": one_line(error)}
    took, updates = history["seconds"].tolist(), history["update"].tolist()
    first = len(took) > 1
    update = (took[-1] - first * took[0]) / (updates[-1] - first * updates[0])
    images = config.batch_size + config.clean_batch_size * (config.method in ("pixel", "joint"))
    row = {"seconds_an_update": update, "images_a_second": images / update, "epochs": len(took), "updates_an_epoch": updates[0]}
    minutes = PAPER_EPOCHS * math.ceil(PAPER_IMAGES / config.batch_size) * update / 60
    return row | {"with_first_epoch": not first} | ({"papers_training_minutes": minutes} if config.method == "pixel" else {})


def stopped_after(seconds: float, work: Callable[[], Any]) -> None:
    """Do the work; as if by Ctrl-C, which ends a training well, when the time is up."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        work()
    except KeyboardInterrupt:
        if not late.is_set():
            raise
    finally:
        timer.cancel()


# --- Share of the card --------------------------------------------------------------------------------------------------------------


def share(plan: Plan, data: Path | None, out: Path, end: float) -> dict[str, Any]:  # noqa: ARG001
    """FLOP of a step, its FLOP a second, and their share of the rate of a large product."""
    rate = matmul_rate(plan)
    cell = Cell(network=plan.network, size=plan.size, noisy=plan.batch, clean=plan.batch, precision="bf16", device=plan.device)
    compared = ("plain", "both", "exact")
    record = measuring.measure(
        cell, kinds=compared, rounds=plan.rounds, agreement=False, seconds=min(plan.cell_seconds, end - time.monotonic())
    )
    rows = []
    for kind in compared:
        if kind in record.get("seconds", ()):
            flop, seconds = flop_of(cell, kind), statistics.median(record["seconds"][kind])
            reached = {"teraflop_a_second": flop / seconds / 1e12, "share_of_rate": flop / seconds / rate}
            rows.append({"kind": kind, "flop": flop, "seconds": seconds, "peak_mib": record["peak_mib"][kind], **reached})
        else:
            rows.append({"kind": kind, "failure": record["failures"].get(kind, {"word": NOT_MEASURED})["word"]})
    return {"matmul_teraflop_a_second": rate / 1e12, "matrix": plan.matrix, "cell": str(cell), "rows": rows}


def matmul_rate(plan: Plan) -> float:
    """FLOP a second of a product of random bf16 matrices, the median of some."""
    left, right = (torch.randn(plan.matrix, plan.matrix, device=plan.device).bfloat16() for _ in range(2))
    times = clocked({"product": lambda: left @ right}, plan, repeats=10)
    return 2 * plan.matrix**3 / times["product"]


def flop_of(cell: Cell, kind: str) -> int:
    _, model = kinds.trained(cell, updates=0)
    noisy, clean = kinds.batches(cell)
    for _ in range(2):  # the first two test the gains as well
        kinds.take(kind, model, noisy, clean)
    with FlopCounterMode(display=False) as counter:
        kinds.take(kind, model, noisy, clean)
    return counter.get_total_flops()


# --- Variants of ordinary training --------------------------------------------------------------------------------------------------


def variants(plan: Plan, data: Path | None, out: Path, end: float) -> list[dict[str, Any]]:  # noqa: ARG001
    """Measure the seconds of ordinary training on both batches, in one round robin for every precision."""
    rows = []
    for precision in ("bf16", "fp32") if plan.device == "cuda" else ("fp32",):
        if time.monotonic() > end:
            return [*rows, {"precision": precision, "failure": NOT_MEASURED}]
        cell = Cell(network=plan.network, size=plan.size, noisy=plan.batch, clean=plan.batch, precision=precision, device=plan.device)
        works, failures = {}, []
        for last in (False, True):
            for compiled in (False, True) if plan.device == "cuda" else (False,):
                name = ", ".join([*["channels last"] * last, *["compiled"] * compiled]) or "as it is"
                try:
                    works[name] = ordinary(cell, last=last, compiled=compiled)
                    works[name]()
                except Exception as error:  # compiling needs a compiler
                    works.pop(name, None)
                    failures.append({"cell": str(cell), "variant": name, "failure": one_line(error)})
        rows += [{"cell": str(cell), "variant": name, "seconds": seconds} for name, seconds in clocked(works, plan).items()] + failures
    return rows


def ordinary(cell: Cell, *, last: bool, compiled: bool) -> Callable[[], None]:
    """Return a step of `both`, with a network of its own."""
    _, model = kinds.trained(cell, updates=0)
    images, masks = zip(*((batch.images, batch.masks) for batch in kinds.batches(cell)), strict=True)
    if last:
        model = model.to(memory_format=torch.channels_last)
        images = tuple(some.to(memory_format=torch.channels_last) for some in images)
    network: nn.Module | Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model

    def work() -> None:
        model.zero_grad(set_to_none=True)
        for some, labels in zip(images, masks, strict=True):
            cross_entropy_of_labels(network(some), labels).mean().backward()

    return work


def clocked(works: dict[str, Callable[[], Any]], plan: Plan, repeats: int = 3) -> dict[str, float]:
    """Return the median seconds of each, in a round robin whose first round is dropped."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(plan.rounds + 1):
        for name, work in works.items():
            measuring.synchronise(plan.device)
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            measuring.synchronise(plan.device)
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


# --- The steps, and all ---------------------------------------------------------------------------------------------------------------


def steps(plan: Plan, data: Path | None, out: Path, end: float) -> list[str]:  # noqa: ARG001
    """Return a line per cell; the tables are in OUT/steps."""
    settings = {"rounds": plan.rounds, "seconds": plan.cell_seconds}
    records = step.run(plan.cells, out / "steps", end=end, **settings)
    known = {step.name_of(record): record for record in records}
    return [step.line(known[str(cell)]) if str(cell) in known else f"{cell}: {NOT_MEASURED}" for cell in plan.cells]


PARTS: dict[str, Callable[[Plan, Path | None, Path, float], Any]] = {
    "training": training,
    "share": share,
    "variants": variants,
    "steps": steps,
}


def summary(results: dict[str, Any]) -> str:
    """Return a short table, to be read at the end."""
    lines = [f"{results['machine']['accelerator'] or results['machine']['cpu']}, torch {results['machine']['packages']['torch']}"]
    for row in rows_of(results, "training"):
        text = (
            "{images_a_second:,.0f} images/s, {seconds_an_update:.4f} s an update".format(**row) if "failure" not in row else row["failure"]
        )
        paper = f", the paper's training in {row['papers_training_minutes']:.0f} min" if "papers_training_minutes" in row else ""
        lines.append(f"training {row.get('method', '')} {row.get('precision', '')}: {text}{paper}")
    of_share = results.get("share", {})
    if "rows" in of_share:
        lines.append(f"bf16 product: {of_share['matmul_teraflop_a_second']:.4g} TFLOP/s; {of_share['cell']}:")
    for row in of_share.get("rows", [of_share]):
        form = "{flop:.4g} FLOP in {seconds:.4f} s: {teraflop_a_second:.4g} TFLOP/s, {share_of_rate:.1%}"
        lines.append(f"  {row.get('kind', 'share')}: {form.format(**row) if 'flop' in row else row.get('failure', NOT_MEASURED)}")
    for row in rows_of(results, "variants"):
        named = f"both, {row['cell']}, {row['variant']}: " if "cell" in row else ""
        lines.append(named + (f"{row['seconds']:.4f} s" if "seconds" in row else row["failure"]))
    found = results.get("steps", NOT_MEASURED)
    return "\n".join([*lines, *(found if isinstance(found, list) else [f"steps: {found}"])])


def rows_of(results: dict[str, Any], part: str) -> list[dict[str, Any]]:
    found = results.get(part, NOT_MEASURED)
    return found if isinstance(found, list) else [found if isinstance(found, dict) else {"failure": f"{part}: {found}"}]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data folder to train on; default: made-up images")
    parser.add_argument("--out", type=Path, default=step.RESULTS / "gpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--budget-seconds", type=float, default=500.0, help="nothing is begun after so many")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: does it run?")
    chosen = parser.parse_args(words)
    plan, end = plan_of(chosen.device, chosen.toy), time.monotonic() + chosen.budget_seconds
    chosen.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": step.machine(), "plan": asdict(replace(plan, cells=()))}
    for part in chosen.parts:
        results[part] = one_part(part, plan, chosen.data, chosen.out, end)
        step.write(chosen.out / "gpu.json", json.dumps(results, indent=1) + "\n")
    step.write(chosen.out / "summary.txt", summary(results) + "\n")
    print(summary(results))


def one_part(part: str, plan: Plan, data: Path | None, out: Path, end: float) -> Any:
    if time.monotonic() > end:
        return NOT_MEASURED if part == "steps" else {"failure": NOT_MEASURED}
    try:
        return PARTS[part](plan, data, out, end)
    except Exception as error:  # the other parts are worth having
        return {"failure": f"{type(error).__name__}: {one_line(error)}"}


if __name__ == "__main__":
    main()
