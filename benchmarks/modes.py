"""Cheaper ways to the weights, tried on ISIC 2017 with triangle noise: what they cost, how far their gains are off, the Dice they end at.

    python benchmarks/modes.py SOURCE OUT --seeds 0 1 2 --jobs 2

SOURCE has images/, masks/ and split.csv. One thread a job. What is finished is not run again; a stopped training starts over, for some
of these ways carry something from step to step. Results, small files only, go to results/modes/: cases.csv (a row per way, seed and
case), runs.csv (a row per run), agreement.csv (a row per way and measurement during real training), costs.csv (a row per way and round,
measured by itself at the end; with --again once more), table.md.
"""

import argparse
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from kinds import Cell, batches, trained
from torch import Tensor, nn

from pixeltrust.config import Config
from pixeltrust.data.prefetch import Feed
from pixeltrust.method.losses import pixel_cross_entropy
from pixeltrust.method.weights import Batch, Step, clean_gradient, pixel_gains, step_along
from pixeltrust.metrics import bootstrap_interval
from pixeltrust.noise.simulate import simulate
from pixeltrust.prediction.evaluate import evaluate
from pixeltrust.prediction.predict import predict
from pixeltrust.training.methods import METHODS, Outcome
from pixeltrust.training.run_folder import Run, describe_environment
from pixeltrust.training.train import train

SETTINGS = {"method": "pixel", "model": "unet-small", "image_size": 32, "epochs": 5}
RESULTS = Path(__file__).parents[1] / "results" / "modes"
DECODER = ("upcat_", "final_conv")  # of MONAI's BasicUNet
MEASURED_EVERY = 50  # updates


class Way:
    """A step with weights from less work; remembers what it reuses."""

    def __init__(self, *, gains="exact", along: tuple[str, ...] = (), clean_every: int = 1, visits: int = 1, share: float = 1.0) -> None:
        self.gains, self.along, self.clean_every, self.visits, self.share = gains, along, clean_every, visits, share
        self.updates = 0

    def __call__(self, model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG002
        if self.updates % self.visits == 0:
            if self.updates % (self.clean_every * self.visits) == 0:
                parameters = [p for name, p in model.named_parameters() if not self.along or any(part in name for part in self.along)]
                self.clean_loss, self.direction = clean_gradient(model, feed.clean(), along=parameters)
            self.noisy = part_of(feed.noisy(), self.share)
            step = step_along(self.direction, model, noisy=self.noisy, clean_loss=self.clean_loss, gains=self.gains)
            self.weights = step.weights
            outcome = outcome_of(step)
        else:  # the same images once more, by the weights they had
            losses = pixel_cross_entropy(model(self.noisy.images), self.noisy.masks)
            loss = (self.weights * losses).sum()
            loss.backward()
            outcome = Outcome(loss=float(loss.detach()))
        self.updates += 1
        return outcome


class Observed:
    """The exact method, and now and then how far the others' gains are off at that very moment of a real training."""

    def __init__(self) -> None:
        self.updates, self.rows = 0, []
        self.earlier: list[dict[nn.Parameter, Tensor]] = []  # the directions of the last updates, newest first
        self.last: tuple[Batch, Tensor] | None = None  # the noisy batch of the last update, and its gains then

    def __call__(self, model: nn.Module, feed: Feed, config: Config) -> Outcome:  # noqa: ARG002
        noisy, clean = feed.noisy(), feed.clean()
        if self.updates % MEASURED_EVERY == MEASURED_EVERY - 1:
            self.rows += [{"update": self.updates + 1, **row} for row in self.measured(model, noisy, clean)]
        clean_loss, direction = clean_gradient(model, clean)
        step = step_along(direction, model, noisy=noisy, clean_loss=clean_loss)
        self.earlier, self.last = [direction, *self.earlier[:7]], (noisy, step.gains)
        self.updates += 1
        return outcome_of(step)

    def measured(self, model: nn.Module, noisy: Batch, clean: Batch) -> Iterator[dict[str, object]]:
        exact = pixel_gains(model, noisy=noisy, clean=clean)
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        parts = {"decoder": DECODER, "head": ("final_conv",)}
        directions = {
            name: clean_gradient(model, clean, along=[p for n, p in model.named_parameters() if any(q in n for q in part)])[1]
            for name, part in parts.items()
        }
        directions |= {f"clean gradient of {age} updates ago": self.earlier[age - 1] for age in (1, 2, 4, 8) if age <= len(self.earlier)}
        now = clean_gradient(model, clean)[1]
        for name, direction in directions.items():
            yield {"way": name, **agreement(step_along(direction, model, noisy=noisy, clean_loss=exact.sum()).gains, exact)}
        if self.last:
            images, gains = self.last
            yield {"way": "gains of one update ago", **agreement(gains, pixel_gains(model, noisy=images, clean=clean))}
        difference = step_along(now, model, noisy=noisy, clean_loss=exact.sum(), gains="finite-difference").gains
        yield {"way": "finite difference", **agreement(difference, exact)}
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient


def agreement(gains: Tensor, exact: Tensor) -> dict[str, float]:
    """Cosine of the gains and of the weights, and the share of equal signs, against the exact ones."""
    cosine = nn.functional.cosine_similarity
    return {
        "cosine": float(cosine(gains.flatten(), exact.flatten(), dim=0)),
        "weights_cosine": float(cosine(gains.clamp(min=0).flatten(), exact.clamp(min=0).flatten(), dim=0)),
        "same_sign": float((gains.sign() == exact.sign()).float().mean()),
        "relative_error": float((gains - exact).norm() / exact.norm()),
    }


def part_of(batch: Batch, share: float) -> Batch:
    count = max(1, round(share * len(batch.images)))
    return Batch(batch.images[:count], batch.masks[:count])


def outcome_of(step: Step) -> Outcome:
    return Outcome(
        loss=float(step.loss),
        clean_loss=float(step.clean_loss),
        zero_share=step.zero_share,
        effective_pixels=step.effective_pixels,
        all_zero=step.all_zero,
    )


WAYS: dict[str, dict[str, Any]] = {  # settings of `Way`
    "exact": {},
    "finite difference": {"gains": "finite-difference"},
    "clean gradient kept for 2 updates": {"clean_every": 2},
    "clean gradient kept for 4 updates": {"clean_every": 4},
    "noisy batch visited twice": {"visits": 2},
    "half of the noisy batch": {"share": 0.5},
    "decoder only": {"along": DECODER},
    "head only": {"along": ("final_conv",)},
}
CYCLE = 4  # updates after which every way begins anew


def step_of(way: str) -> Callable[..., Outcome]:
    return METHODS[way] if way in METHODS else Way(**WAYS[way])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=[*WAYS, *METHODS])
    parser.add_argument("--again", action="store_true", help="measure the costs also where the results have them")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        if not (arguments.out / f"data-{seed}").exists():
            simulate(arguments.source, arguments.out / f"data-{seed}", noise="triangle", clean=100, seed=seed, show_progress=False)
    runs = [(arguments.out, way, seed) for seed in arguments.seeds for way in arguments.ways]
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        folders = list(pool.map(one_run, *zip(*runs, strict=True)))
    if arguments.again or not (RESULTS / "costs.csv").exists():
        RESULTS.mkdir(parents=True, exist_ok=True)
        costs(arguments.ways).to_csv(RESULTS / "costs.csv", index=False, float_format="%.4f")
    collect(folders)


@dataclass
class Repeated:
    """A feed that gives the same batches for ever."""

    batches: tuple[Batch, Batch]

    def noisy(self) -> Batch:
        return self.batches[0]

    def clean(self) -> Batch:
        return self.batches[1]


def costs(ways: Sequence[str], rounds: int = 9) -> pd.DataFrame:
    """Seconds of an update without its optimiser, the mean of as many as the longest cycle of a way, all in one round robin.

    8 + 8 images of 96x96, as in step.py; `joint` is ordinary training on both batches.
    """
    torch.set_num_threads(1)
    _, model = trained(Cell(network="unet-small"), updates=5)
    feed, config, rows = Repeated(batches(Cell(network="unet-small"))), Config(**SETTINGS), []
    steps = {way: step_of(way) for way in dict.fromkeys(["joint", *ways])}
    for number in range(rounds + 1):
        turn = number % len(steps)
        for way in (*list(steps)[turn:], *list(steps)[:turn]):
            start = time.perf_counter()
            for _ in range(CYCLE):
                model.zero_grad()
                steps[way](model, feed, config)
            if number:  # the first is dropped
                rows.append({"round": number, "way": way, "seconds": (time.perf_counter() - start) / CYCLE})
    return pd.DataFrame(rows)


def one_run(out: Path, way: str, seed: int) -> Path:
    """Train, predict and evaluate, if that is not done yet; a folder with cases.csv, run.json and perhaps agreement.csv."""
    torch.set_num_threads(1)
    folder = out / "ways" / f"{way.replace(' ', '-')}-{seed}"
    if (folder / "run.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data, method = out / f"data-{seed}", Observed() if way == "exact" else step_of(way)
    start = time.process_time()
    training = train(data, out=folder / "run", config=Config(**SETTINGS, seed=seed), method=method, show_progress=False)
    seconds = time.process_time() - start
    shown = folder / "images"
    shown.mkdir()
    for mask in (data / "test").iterdir():
        image = next((data / "images").glob(f"{mask.stem}.*"))
        (shown / image.name).symlink_to(image.resolve())
    predict(folder / "run", shown, out=folder / "predicted", show_progress=False)
    evaluate(folder / "predicted", data / "test", out=folder / "cases.csv", show_progress=False)
    if isinstance(method, Observed):
        pd.DataFrame(method.rows).to_csv(folder / "agreement.csv", index=False, float_format="%.6f")
    idle = int(Run(folder / "run").read_table("history.csv").all_zero_steps.sum())
    row = {"way": way, "seed": seed, "updates": training.updates, "cpu_seconds": round(seconds, 1), "val_dice": training.val_dice}
    (folder / "run.json").write_text(json.dumps(row | {"all_zero_steps": idle}))
    return folder


def collect(folders: list[Path]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    runs = pd.DataFrame([json.loads((folder / "run.json").read_text()) for folder in folders])
    tables = [pd.read_csv(f / "cases.csv").assign(way=r.way, seed=r.seed) for f, r in zip(folders, runs.itertuples(), strict=True)]
    cases = pd.concat(tables, ignore_index=True)
    runs["dice"] = [round(table.dice.mean(), 4) for table in tables]
    cases.to_csv(RESULTS / "cases.csv", index=False, float_format="%.6f")
    runs.to_csv(RESULTS / "runs.csv", index=False)
    measured = [(f, r) for f, r in zip(folders, runs.itertuples(), strict=True) if (f / "agreement.csv").exists()]
    agreements = pd.concat([pd.read_csv(f / "agreement.csv").assign(seed=r.seed) for f, r in measured], ignore_index=True)
    agreements.to_csv(RESULTS / "agreement.csv", index=False)
    record = {name: value for name, value in describe_environment().items() if name not in ("command", "threads")}
    (RESULTS / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = dice_table(cases, runs, pd.read_csv(RESULTS / "costs.csv")) + "\n" + agreement_table(agreements)
    (RESULTS / "table.md").write_text(text, encoding="utf-8")
    print(text)


def dice_table(cases: pd.DataFrame, runs: pd.DataFrame, costs: pd.DataFrame) -> str:
    """Per way: time over `joint`, Dice per seed and overall, and the difference to exact paired by case (averaged over the seeds)."""
    seconds = costs.pivot(index="round", columns="way", values="seconds")
    times = seconds.div(seconds["joint"], axis=0).quantile([0.25, 0.5, 0.75])
    by_case = cases.groupby(["way", "id"]).dice.mean().unstack("way")
    seeds = sorted(runs.seed.unique())
    columns = [
        "way",
        "time over `joint`",
        *(f"seed {seed}" for seed in seeds),
        "mean Dice, 95 % interval",
        "minus exact",
        "held-out clean Dice",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for way in by_case.columns[by_case.mean().argsort()[::-1]]:
        of_way = runs[runs.way == way].set_index("seed")
        low, high = bootstrap_interval(by_case[way].to_numpy())
        difference = by_case[way] - by_case["exact"]
        below, above = bootstrap_interval(difference.to_numpy())
        against = "–" if way == "exact" else f"{difference.mean():+.3f} ({below:+.3f} to {above:+.3f})"
        per_seed = " | ".join(f"{of_way.dice[seed]:.3f}" for seed in seeds)
        mean = f"{by_case[way].mean():.3f} ({low:.3f} to {high:.3f})"
        faster, usual, slower = times[way]
        lines.append(
            f"| {way} | {usual:.2f} ({faster:.2f}–{slower:.2f}) | {per_seed} | {mean} | {against} | {of_way.val_dice.mean():.3f} |"
        )
    return "\n".join(lines) + "\n"


def agreement_table(agreements: pd.DataFrame) -> str:
    """Medians over the measurements of all seeds, and the worst tenth."""
    lines = ["| gains by | cosine | worst tenth | cosine of weights | same sign | relative error |", "|---|---|---|---|---|---|"]
    for way, rows in agreements.groupby("way", sort=False):
        values = f"{rows.cosine.median():.4f} | {rows.cosine.quantile(0.1):.4f} | {rows.weights_cosine.median():.4f}"
        lines.append(f"| {way} | {values} | {rows.same_sign.median():.3f} | {rows.relative_error.median():.3f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
