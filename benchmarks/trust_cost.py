"""What trust adds to a step: that of `Trust` against the same step without memory, in processor time.

    OMP_NUM_THREADS=1 python benchmarks/trust_cost.py [--model unet-small] [--size 96 96] [--batch 16] [--rounds 20] [--out FILE.csv]

Three axes make volumes, for a BasicUNet of the same widths. Each round makes a step without trust, one with it, and then alone what the
second does more: addresses, and learning from gains. Prints the medians of both ratios, with quartiles; the second is steadier on a machine
that others use.
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
from pixeltrust.method.weights import reweighted_step
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

    def where() -> Where:
        turns = draws.integers(0, 4, given.batch) if size[-1] == size[-2] else None
        return Where.of(list(draws.choice(cases, given.batch, replace=False)), size, turns=turns)

    gains = torch.randn(given.batch, *size)
    parts: dict[str, Callable[[], object]] = {
        "without": lambda: reweighted_step(model, noisy=noisy, clean=clean, clean_weight=1.0),
        "trust": lambda: trust.step(model, noisy=noisy, clean=clean, where=where()),
        "alone": lambda: trust.learn(gains, where()),
    }

    def seconds(name: str) -> float:
        model.zero_grad()
        began = time.process_time()
        parts[name]()
        seconds = time.process_time() - began
        forget_step(model)  # nothing is trained here
        return seconds

    rows = pd.DataFrame([{name: seconds(name) for name in parts} for _ in range(given.rounds + 2)][2:])
    shape = "x".join(map(str, size))
    print(f"{given.model}, {given.batch} + {given.batch} images of {shape}")
    for text, ratios in (("step against step", rows["trust"] / rows["without"]), ("by what is added", 1 + rows["alone"] / rows["without"])):
        low, middle, high = ratios.quantile([0.25, 0.5, 0.75])
        print(f"{text}: {middle:.3f} ({low:.3f} to {high:.3f})")
    if given.out:
        rows.assign(model=given.model, size=shape).to_csv(given.out, index=False, float_format="%.4f")


def network(name: str, axes: int) -> nn.Module:
    """Return a network of the project, or the same for volumes."""
    if axes == 2:
        return build_model(name, channels=3, classes=1)
    return BasicUNet(axes, 3, 1, features=WIDTHS[name], norm=("group", {"num_groups": 8}))


if __name__ == "__main__":
    main()
