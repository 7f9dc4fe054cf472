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
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinds import KINDS, NETWORKS, PRECISIONS, Cell
from measuring import FEWEST_ROUNDS, measure
from pixeltrust.plumbing.files import write_atomically
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.training.run_writer import describe_environment

RESULTS = Path(__file__).parents[1] / "results"
SHAPES = ((8, 8), (6, 30), (16, 4))
SMALL = ("unet-small", "unet-16-plain")


# --- The table ----------------------------------------------------------------------------------------------------------------------


def ratios(record: Mapping[str, Any], kind: str) -> list[float]:
    """Return the ratio of every round to `both` in the same round."""
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
    """Return every combination; if no sizes are given, those that are sensible on the device."""
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
    with write_atomically(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return the environment, with the name of the processor."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {**{name: value for name, value in describe_environment().items() if name != "command"}, "cpu": names[0] if names else None}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def shape(text: str) -> tuple[int, int]:
    """Parse 8+8 into (8, 8)."""
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


if __name__ == "__main__":
    main()
