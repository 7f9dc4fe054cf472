"""The whole job on made-up images: simulate, mend from a few pairs, train on given and on mended masks, predict, evaluate, report.

    OUT/  demo.json  source/  data/  mended/  runs/<masks>/  to-predict/  predictions/<masks>/  <masks>.csv  masks.csv  report.html

<masks> is `given` or `mended`. Both trainings are of the same network from the same start, with the same settings; only the masks differ.
The outcome is not settled beforehand: the page and the summary say what came out. masks.csv has a row per noisy mask: the Dice of the
given and of the mended mask to the true one, which a demo knows (given, mended), and what the mending expects of them (expected_given,
expected), which does not know it.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import read_audit_cases, review_command
from pixeltrust.config import Config, config_from
from pixeltrust.data.image_files import case_id
from pixeltrust.data.images import read_labels
from pixeltrust.data.masks import foreground
from pixeltrust.demonstration.page import FORMAT, TRAINED, demo_page, read_demo_estimate, read_demo_record
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.mending.estimate import Estimate
from pixeltrust.mending.run import mend
from pixeltrust.mending.settings import DEFAULTS
from pixeltrust.metrics import bootstrap_interval, confusion, dice, mean_of_defined
from pixeltrust.noise.simulate import simulate
from pixeltrust.pages.pieces import write_page
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import link_or_copy, make_folder, write_file
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.evaluate import evaluate
from pixeltrust.prediction.predict import predict
from pixeltrust.training.run_folder import Run
from pixeltrust.training.train import train

STAGES = 7


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes and settings of a demo."""

    cases: int = 370
    test_share: float = 80 / 370
    pairs: int = 20
    size: int = 96
    """Pixels along a side of the images."""
    noise: str = "triangle"
    model: str = "unet-small"
    image_size: int = 64
    """Pixels along a side of what the networks, menders too, train on."""
    mender_updates: int = 200
    """Of each mender: few, for the time. Their other settings are the usual ones."""
    epochs: int = 6
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """A training in the summary."""

    masks: str
    """What it was on: `given` or `mended` masks."""
    dice: float
    """Mean over the test cases."""
    low: float
    high: float
    """95 % interval of the mean."""
    seconds: float
    """The duration of the training."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Demo(Summary):
    """The results of a demo; `str` gives the summary."""

    given: float
    """Mean Dice of the noisy masks to the true ones."""
    mended: float
    """Mean Dice of the mended masks to the true ones."""
    estimate: Estimate
    """What the mending, which does not know the true masks, says of both."""
    rows: tuple[DemoRow, ...]
    difference: float
    """Mean over the test cases of the Dice of training on mended masks minus that of training on given ones."""
    difference_low: float
    difference_high: float
    folder: Path
    """The folder of the mended masks."""
    page: Path

    def __str__(self) -> str:
        lines = [f"{'masks':<8}{'true Dice':>9}   expected from {count(self.estimate.pairs, 'pair')}"]
        for name, true, told in (("given", self.given, self.estimate.ways["given"]), ("mended", self.mended, self.estimate.expected)):
            lines.append(f"{name:<8}{true:>9.3f}   {told.dice:.3f} ({told.low:.3f} … {told.high:.3f})")
        lines += ["", f"{'trained on':<12}{'Dice':>5}   {'95 % interval':<16}{'training':>9}"]
        lines += [f"{row.masks:<12}{row.dice:.3f}   {row.low:.3f} … {row.high:.3f}   {row.seconds:>7.0f} s" for row in self.rows]
        interval = f"{self.difference:+.3f} [{self.difference_low:+.3f} … {self.difference_high:+.3f}]"
        return "\n".join([
            *lines,
            f"mended minus given, case by case: {interval}",
            "",
            f"the page is {self.page}",
            f"to go through the masks, the worst first: {review_command(self.folder)}",
        ])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """The data of a demo, to try commands on; `str` says where they are."""

    folder: Path
    """A data folder: images/, noisy/, clean/, test/."""
    source: Path
    """Where all true masks are."""

    def __str__(self) -> str:
        return f"the data folder is {self.folder}\nthe true masks of all its cases are in {self.source / 'masks'}"


def demo_data(out: Path, *, plan: Plan | None = None, show_progress: bool = True) -> DemoData:
    """Make the images and masks of a demo alone, in seconds; `demo` goes on from there.

    Args:
        out: as of `demo`.
        plan: as of `demo`.
        show_progress: as of `demo`.

    Raises:
        RunError: as of `demo`.
    """
    stages = _Stages(Path(out).resolve(), plan or Plan(), show_progress)
    stages.make_data()
    return DemoData(folder=Path(out) / "data", source=Path(out) / "source")


def demo(out: Path, *, plan: Plan | None = None, show_progress: bool = True) -> Demo:
    """Do the whole job in a folder; a demo that was stopped continues where it was.

    Example:
        print(pixeltrust.demo("demo"))

    Args:
        out: a new or empty folder, or that of an earlier demo of the same plan.
        plan: sizes and settings; about two minutes on two cores where not given.
        show_progress: a line per stage and progress bars, on standard error.

    Raises:
        RunError: `out` holds something else, or cannot be written.
        KeyboardInterrupt: Ctrl-C; the same call continues.
    """
    stages = _Stages(Path(out).resolve(), plan or Plan(), show_progress)
    stages.make_data()
    stages.run(3, f"mending the masks from {count(stages.plan.pairs, 'pair')}", stages.mend)
    for number, (masks, data) in enumerate(zip(TRAINED, ("data", "mended/mended.csv"), strict=True), start=4):
        stages.run(number, f"training on the {masks} masks", partial(stages.train, masks, data))
    stages.run(6, "predicting the test cases, and measuring them and the masks", stages.measure)
    stages.run(7, "writing the page", stages.write_page)
    return stages.summary()


class _Stages:
    """The stages of a demo; each leaves alone what an earlier call has finished."""

    def __init__(self, out: Path, plan: Plan, show_progress: bool) -> None:
        self.out, self.plan, self.show_progress = out, plan, show_progress
        self.record: dict[str, Any] = {"format": FORMAT, "plan": asdict(plan), "finished": False}

    def claim(self) -> None:
        """Make the folder, or recognise it as an earlier demo of the same plan."""
        try:
            if (self.out / "demo.json").is_file():
                self.record = read_demo_record(self.out)
                if self.record["plan"] != asdict(self.plan):
                    raise RunError(f"{self.out}: a demo with other settings was started here; choose another --out")
            elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise RunError(f"{self.out}: has something in it that is not a demo; choose a new or empty folder")
            else:
                make_folder(self.out)
                self._write_record()
        except OSError as error:
            raise RunError(f"{self.out}: cannot be made or read: {error.strerror or error}; choose another --out") from None

    def make_data(self) -> None:
        self.claim()
        self.run(1, f"drawing {self.plan.cases} made-up images", self.draw)
        self.run(2, f"simulating {self.plan.noise} masks", self.simulate)

    def run(self, number: int, text: str, work: Callable[[], None]) -> None:
        if self.show_progress:
            print(f"{number}/{STAGES} {text}", file=sys.stderr, flush=True)
        try:
            work()
        except OSError as error:
            raise RunError(f"{error.filename or self.out}: cannot be read or written: {error.strerror or error}") from None

    def draw(self) -> None:
        plan, out, shown = self.plan, self.out / "source", self.show_progress
        if not out.exists():  # it appears only when it is complete
            write_source(out, cases=plan.cases, seed=plan.seed, size=plan.size, test_share=plan.test_share, show_progress=shown)

    def simulate(self) -> None:
        plan, source, data = self.plan, self.out / "source", self.out / "data"
        if not data.exists():  # as above
            simulate(source, data, noise=plan.noise, clean=plan.pairs, seed=plan.seed, show_progress=self.show_progress)

    def mend(self) -> None:
        plan, out = self.plan, self.out / "mended"
        if (out / "audit.json").is_file():
            return
        self._forget("runs/mended")
        settings = {"image_size": plan.image_size, "epochs": 1, "updates_per_epoch": plan.mender_updates, "seed": plan.seed}
        config = config_from({**DEFAULTS, **settings})
        mend(self.out / "data", out=out, config=config, resume=out.exists(), show_progress=self.show_progress)

    def train(self, masks: str, data: str) -> None:
        plan, out = self.plan, self.out / "runs" / masks
        config = Config(
            method="plain",
            model=plan.model,
            image_size=plan.image_size,
            epochs=plan.epochs,
            learning_rate=plan.learning_rate,
            jitter="all",
            seed=plan.seed,
        )
        if not Run(out).finished():
            self._forget(f"predictions/{masks}")
        train(self.out / data, out=out, config=config, resume=out.exists(), show_progress=self.show_progress)

    def measure(self) -> None:
        """Predict the test cases, and measure the predictions; measure given and mended masks against the truth."""
        if self.record["finished"] and all((self.out / f"{name}.csv").is_file() for name in (*TRAINED, "masks")):
            return
        images = self._gather_test_images()
        for masks in TRAINED:
            predictions = self.out / "predictions" / masks
            predict(self.out / "runs" / masks, images, out=predictions, resume=predictions.exists(), show_progress=self.show_progress)
            evaluate(predictions, self.out / "data" / "test", out=self.out / f"{masks}.csv", show_progress=self.show_progress)
        config = Run(self.out / "runs" / "given").config()
        rows = []
        for case in read_audit_cases(self.out / "mended").to_dict("records"):
            name = f"{case['id']}.png"
            true, given = (foreground(self.out / folder / name, config) for folder in ("source/masks", "data/noisy"))
            mended = read_labels(self.out / "mended" / "mended" / name) > 0
            expected = {column: case[column] for column in ("expected_given", "expected")}
            rows.append({"id": case["id"], "given": _dice(given, true), "mended": _dice(mended, true), **expected})
        write_file(self.out / "masks.csv", pd.DataFrame(rows).to_csv(index=False))
        self.record["finished"] = True
        self._write_record()

    def write_page(self) -> None:
        write_page(demo_page(self.out), self.out / "report.html")

    def summary(self) -> Demo:
        scores = {masks: pd.read_csv(self.out / f"{masks}.csv")["dice"].to_numpy() for masks in TRAINED}
        rows = []
        for masks, values in scores.items():
            low, high = bootstrap_interval(values)
            seconds = float(Run(self.out / "runs" / masks).read_table("history.csv")["seconds"].iloc[-1])
            rows.append(DemoRow(masks=masks, dice=mean_of_defined(values), low=low, high=high, seconds=seconds))
        difference = scores["mended"] - scores["given"]
        low, high = bootstrap_interval(difference)
        table = pd.read_csv(self.out / "masks.csv")
        return Demo(
            given=mean_of_defined(table["given"].to_numpy()),
            mended=mean_of_defined(table["mended"].to_numpy()),
            estimate=read_demo_estimate(self.out),
            rows=tuple(rows),
            difference=mean_of_defined(difference),
            difference_low=low,
            difference_high=high,
            folder=self.out / "mended",
            page=self.out / "report.html",
        )

    def _forget(self, outdated: str) -> None:
        """Remove what was made from something that is made anew."""
        self.record["finished"] = False
        shutil.rmtree(self.out / outdated, ignore_errors=True)

    def _gather_test_images(self) -> Path:
        """Return a folder of links to (or copies of) the images to predict."""
        data, folder = self.out / "data", self.out / "to-predict"
        make_folder(folder)
        tested = {case_id(path) for path in (data / "test").iterdir()}
        for image in sorted((data / "images").iterdir()):
            if case_id(image) in tested and not (folder / image.name).exists():
                link_or_copy(image, folder / image.name)
        return folder

    def _write_record(self) -> None:
        write_file(self.out / "demo.json", json.dumps(self.record, indent=2) + "\n")


def _dice(mask: np.ndarray, true: np.ndarray) -> float:
    return dice(confusion(predicted=mask.astype(np.uint8), truth=true.astype(np.uint8)))
