"""What trust adds to a step: `trust` against the bare step of `pixel` (which keeps nothing) with the same clean weight, by turns.

    OMP_NUM_THREADS=1 python benchmarks/trust_cost.py [--model unet-small] [--size 96] [--rounds 20] [--out FILE.csv]

Prints, and writes to FILE.csv, the median ratio of processor time and its quartiles.
"""

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from pixeltrust.config import Config
from pixeltrust.data.prefetch import BatchOrigin, Feed
from pixeltrust.data.views import TURNS, Views
from pixeltrust.method.batch import Batch
from pixeltrust.method.lost_gradients import forget_step
from pixeltrust.training.methods import StepOutcome, build_step, step_of
from pixeltrust.training.models import build_model

CASES, BATCH = 2000, 16


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="unet-small")
    arguments.add_argument("--size", type=int, default=96)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--out", type=Path)
    given = arguments.parse_args()
    draws = np.random.default_rng(0)
    model = build_model(given.model, channels=3, classes=1)
    streams = SimpleNamespace(noisy=np.arange(CASES), clean=np.arange(100), cache=None, pixels=SimpleNamespace(gib=0.0))
    configs = {name: Config(method=name, clean_weight=1.0, image_size=given.size) for name in ("pixel", "trust")}
    methods = {"pixel": step_of("pixel"), "trust": build_step(model, configs["trust"], streams)}  # type: ignore[arg-type]
    noisy, clean = (
        Batch(torch.rand(BATCH, 3, given.size, given.size), torch.randint(0, 2, (BATCH, given.size, given.size))) for _ in range(2)
    )

    def seconds(name: str) -> float:
        places = BatchOrigin(draws.permutation(CASES)[:BATCH], Views(draws.integers(0, TURNS, BATCH)))
        feed = Feed(noisy=lambda: noisy, clean=lambda: clean, pool=lambda: noisy, origin=lambda: places)
        model.zero_grad()
        began = time.process_time()
        outcome = methods[name](model, feed, configs[name])
        assert isinstance(outcome, StepOutcome)
        seconds = time.process_time() - began
        forget_step(model)  # nothing is trained here
        return seconds

    rows = [{name: seconds(name) for name in methods} for _ in range(given.rounds + 2)][2:]
    ratios = pd.Series([row["trust"] / row["pixel"] for row in rows])
    low, middle, high = ratios.quantile([0.25, 0.5, 0.75])
    print(f"{given.model}, {BATCH} + {BATCH} images of {given.size}x{given.size}: {middle:.3f} ({low:.3f} to {high:.3f})")
    if given.out:
        pd.DataFrame(rows).assign(model=given.model, size=given.size).to_csv(given.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
