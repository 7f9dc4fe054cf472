"""What trust adds to a step: that of `Trust` against the same step without memory, by turns, in processor time.

    OMP_NUM_THREADS=1 python benchmarks/trust_cost.py [--model unet-small] [--size 96 96] [--batch 16] [--rounds 20] [--out FILE.csv]

Three axes make volumes, for a BasicUNet of the same widths. Prints, and writes to FILE.csv, the median ratio and its quartiles.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from pixeltrust.method.addresses import Where
from pixeltrust.method.batch import Batch
from pixeltrust.method.lost_gradients import forget_step
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import Step, reweighted_step
from pixeltrust.training.models import WIDTHS, build_model

CASES = 2000  # pictures; of volumes an eighth


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="unet-small")
    arguments.add_argument("--size", type=int, nargs="+", default=[96, 96])
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    size, draws = tuple(given.size), np.random.default_rng(0)
    model = network(given.model, len(size))
    noisy, clean = (Batch(torch.rand(given.batch, 3, *size), torch.randint(0, 2, (given.batch, *size))) for _ in range(2))
    trust = Trust()
    cases = [str(case) for case in range(CASES if len(size) == 2 else CASES // 8)]
    trust.reserve(cases, size)

    def with_trust() -> Step:
        turns = draws.integers(0, 4, given.batch) if size[-1] == size[-2] else None
        where = Where.of(list(draws.choice(cases, given.batch, replace=False)), size, turns=turns)
        return trust.step(model, noisy=noisy, clean=clean, where=where)

    steps: dict[str, Callable[[], Step]] = {
        "without": lambda: reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0),
        "trust": with_trust,
    }

    def seconds(name: str) -> float:
        model.zero_grad()
        began = time.process_time()
        steps[name]()
        seconds = time.process_time() - began
        forget_step(model)  # nothing is trained here
        return seconds

    rows = [{name: seconds(name) for name in steps} for _ in range(given.rounds + 2)][2:]
    ratios = pd.Series([row["trust"] / row["without"] for row in rows])
    low, middle, high = ratios.quantile([0.25, 0.5, 0.75])
    shape = "x".join(map(str, size))
    print(f"{given.model}, {given.batch} + {given.batch} images of {shape}: {middle:.3f} ({low:.3f} to {high:.3f})")
    if given.out:
        pd.DataFrame(rows).assign(model=given.model, size=shape).to_csv(given.out, index=False, float_format="%.4f")


def network(name: str, axes: int) -> nn.Module:
    """Return a network of the project, or the same for volumes."""
    if axes == 2:
        return build_model(name, channels=3, classes=1)
    return BasicUNet(axes, 3, 1, features=WIDTHS[name], norm=("group", {"num_groups": 8}))


if __name__ == "__main__":
    main()
