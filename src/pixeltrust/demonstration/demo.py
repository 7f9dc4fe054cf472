"""The whole job on made-up images: simulate, train plain and with trust, predict, evaluate, audit the noisy masks, report.

    OUT/  demo.json  source/  data/  runs/<method>/  to-predict/  predictions/<method>/  <method>.csv  audit/  masks.csv  report.html

Both methods train the same network from the same start, on the same masks, for the same number of updates. The outcome is not settled
beforehand: the page and the summary say what came out. masks.csv has a row per noisy mask (id, given, mended): the Dice of the
given and of the proposed mask to the true one, which a demo knows.
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
from pixeltrust.auditing.run import audit
from pixeltrust.config import Config
from pixeltrust.data.images import case_id, read_labels
from pixeltrust.data.masks import foreground
from pixeltrust.demonstration.page import FORMAT, TRAINED, demo_page, read_demo_record
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.metrics import bootstrap_interval, confusion, dice, mean_of_defined
from pixeltrust.noise.simulate import simulate
from pixeltrust.pages.pieces import write_page
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import link_or_copy, make_folder, write_file
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
    clean: int = 50
    size: int = 96
    """Pixels along a side of the images."""
    noise: str = "triangle"
    model: str = "unet-small"
    image_size: int = 64
    """Pixels along a side of what the network trains on."""
    epochs: int = 7
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """A method in the summary."""

    method: str
    dice: float
    """Mean over the test cases."""
    low: float
    high: float
    """95 % interval of the mean."""
    seconds: float
    """The duration of the training."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """The results of a demo; `str` gives the summary."""

    rows: tuple[DemoRow, ...]
    difference: float
    """Mean over the test cases of the Dice of training with trust minus that of plain training."""
    difference_low: float
    difference_high: float
    given: float
    """Mean Dice of the noisy masks to the true ones."""
    mended: float
    """Mean Dice of the masks that the audit proposes."""
    audit: Path
    page: Path

    def __str__(self) -> str:
        lines = [f"{'method':<8}{'Dice':>6}  {'95 % interval':<16}{'training':>9}"]
        lines += [f"{row.method:<8}{row.dice:>6.3f}  {row.low:.3f} … {row.high:.3f}   {row.seconds:>7.0f} s" for row in self.rows]
        interval = f"{self.difference:+.3f} [{self.difference_low:+.3f} … {self.difference_high:+.3f}]"
        return "\n".join([
            *lines,
            f"trust minus plain, case by case: {interval}",
            f"noisy masks, Dice to the truth: {self.given:.3f} as given, {self.mended:.3f} mended",
            f"the page is {self.page}",
            f"to go through the doubtful masks: {review_command(self.audit)}",
        ])  # fmt: skip


def demo(out: Path, *, plan: Plan | None = None, show_progress: bool = True) -> Demo:
    """Do the whole job in a folder; a demo that was stopped continues where it was.

    Args:
        out: a new or empty folder, or that of an earlier demo of the same plan.
        plan: sizes and settings; about two minutes on two cores where not given.
        show_progress: a line per stage and progress bars, on standard error.

    Raises:
        RunError: `out` holds something else, or cannot be written.
        KeyboardInterrupt: Ctrl-C; the same call continues.
    """
    stages = _Stages(Path(out).resolve(), plan or Plan(), show_progress)
    stages.claim()
    stages.run(1, f"drawing {stages.plan.cases} made-up images", stages.draw)
    stages.run(2, f"simulating {stages.plan.noise} masks", stages.simulate)
    for number, method in enumerate(TRAINED, start=3):
        stages.run(number, f"training {method}", partial(stages.train, method))
    stages.run(5, "predicting and measuring the test cases", stages.measure)
    stages.run(6, "auditing the noisy masks", stages.audit)
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
            simulate(source, data, noise=plan.noise, clean=plan.clean, seed=plan.seed, show_progress=self.show_progress)

    def train(self, method: str) -> None:
        plan, out = self.plan, self.out / "runs" / method
        config = Config(
            method=method,
            model=plan.model,
            image_size=plan.image_size,
            epochs=plan.epochs,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
        )
        if not Run(out).finished():  # any predictions and any audit are of another network then
            self.record["finished"] = False
            for outdated in (self.out / "predictions" / method, self.out / "audit"):
                shutil.rmtree(outdated, ignore_errors=True)
        train(self.out / "data", out=out, config=config, resume=out.exists(), show_progress=self.show_progress)

    def measure(self) -> None:
        """Predict the test cases, and measure the predictions."""
        if self.record["finished"] and all((self.out / f"{method}.csv").is_file() for method in TRAINED):
            return
        images = self._gather_test_images()
        for method in TRAINED:
            predictions = self.out / "predictions" / method
            predict(self.out / "runs" / method, images, out=predictions, resume=predictions.exists(), show_progress=self.show_progress)
            evaluate(predictions, self.out / "data" / "test", out=self.out / f"{method}.csv", show_progress=self.show_progress)

    def audit(self) -> None:
        """Audit the noisy masks, and measure given and mended masks against the truth."""
        out, table = self.out / "audit", self.out / "masks.csv"
        if not (out / "audit.json").is_file():
            audit(self.out / "runs" / "trust", self.out / "data", out=out, resume=out.exists(), show_progress=self.show_progress)
        elif self.record["finished"] and table.is_file():
            return
        config = Run(self.out / "runs" / "trust").config()
        rows = []
        for identity in read_audit_cases(out)["id"]:
            name = f"{identity}.png"
            true, given = (foreground(self.out / folder / name, config) for folder in ("source/masks", "data/noisy"))
            mended = read_labels(out / "mended" / name) > 0
            rows.append({"id": identity, "given": _dice(given, true), "mended": _dice(mended, true)})
        write_file(table, pd.DataFrame(rows).to_csv(index=False))
        self.record["finished"] = True
        self._write_record()

    def write_page(self) -> None:
        write_page(demo_page(self.out), self.out / "report.html")

    def summary(self) -> Demo:
        scores = {method: pd.read_csv(self.out / f"{method}.csv")["dice"].to_numpy() for method in TRAINED}
        rows = []
        for method, values in scores.items():
            low, high = bootstrap_interval(values)
            seconds = float(Run(self.out / "runs" / method).read_table("history.csv")["seconds"].iloc[-1])
            rows.append(DemoRow(method=method, dice=mean_of_defined(values), low=low, high=high, seconds=seconds))
        difference = scores["trust"] - scores["plain"]
        low, high = bootstrap_interval(difference)
        masks = pd.read_csv(self.out / "masks.csv")
        return Demo(
            rows=tuple(rows),
            difference=mean_of_defined(difference),
            difference_low=low,
            difference_high=high,
            given=mean_of_defined(masks["given"].to_numpy()),
            mended=mean_of_defined(masks["mended"].to_numpy()),
            audit=self.out / "audit",
            page=self.out / "report.html",
        )

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
