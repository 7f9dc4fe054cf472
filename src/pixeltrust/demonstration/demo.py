"""The whole job on made-up images: simulate, train plain and with trust, predict, evaluate, audit the noisy masks, report.

    OUT/  demo.json  source/  data/  runs/<method>/  to-predict/  predictions/<method>/  <method>.csv  audit/  masks.csv  report.html

Both methods train the same network from the same start, on the same masks, for the same number of updates. Nothing of the outcome is
settled beforehand: the page and the summary say what came out. masks.csv has a row per noisy mask (id, given, mended): the Dice of the
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

from pixeltrust.auditing import audit
from pixeltrust.auditing.folder import read_audit_cases, review_command
from pixeltrust.config import Config
from pixeltrust.data.images import case_id, read_labels
from pixeltrust.data.masks import foreground
from pixeltrust.demonstration.page import METHODS, demo_page
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

FORMAT = 2  # of demo.json
STAGES = 7


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the demo makes and trains."""

    cases: int = 370
    test_share: float = 80 / 370
    clean: int = 50
    size: int = 96
    """Pixels a side of the images."""
    noise: str = "triangle"
    model: str = "unet-small"
    image_size: int = 64
    """Pixels a side of what the network trains on."""
    epochs: int = 7
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method's line of the summary."""

    method: str
    dice: float
    """Mean over the test cases."""
    low: float
    high: float
    """95 % interval of the mean."""
    seconds: float
    """Of training."""


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo found; `str` of it is what a person wants to read at its end."""

    rows: tuple[Row, ...]
    difference: float
    """Mean over the test cases of the Dice of training with trust minus that of plain training."""
    difference_low: float
    difference_high: float
    given: float
    """Mean Dice of the noisy masks to the true ones."""
    mended: float
    """That of the masks which the audit proposes."""
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
    """Do the whole job in a folder; one that was stopped goes on where it was.

    Args:
        out: a new or empty folder, or that of an earlier demo of the same plan.
        plan: sizes and settings; about two minutes on two cores where not given.
        show_progress: a line per stage and progress bars, on standard error.

    Raises:
        RunError: `out` holds something else, or cannot be written.
        KeyboardInterrupt: Ctrl-C; call it again to go on.
    """
    work = _Work(Path(out).resolve(), plan or Plan(), show_progress)
    work.claim()
    work.stage(1, f"drawing {work.plan.cases} made-up images", work.draw)
    work.stage(2, f"simulating {work.plan.noise} masks", work.simulate)
    for number, method in enumerate(METHODS, start=3):
        work.stage(number, f"training {method}", partial(work.train, method))
    work.stage(5, "predicting and measuring the test cases", work.measure)
    work.stage(6, "auditing the noisy masks", work.audit)
    work.stage(7, "writing the page", work.write_page)
    return work.summary()


class _Work:
    def __init__(self, out: Path, plan: Plan, show_progress: bool) -> None:
        self.out, self.plan, self.show_progress = out, plan, show_progress
        self.record: dict[str, Any] = {"format": FORMAT, "plan": asdict(plan), "finished": False}

    def claim(self) -> None:
        """Make the folder, or recognise it as an earlier demo of the same plan."""
        path = self.out / "demo.json"
        try:
            if path.is_file():
                self.record = _read_record(path)
                if self.record["plan"] != asdict(self.plan):
                    raise RunError(f"{self.out}: a demo with other settings was started here; choose another --out")
            elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise RunError(f"{self.out}: has something in it that is no demo; choose a new or empty folder")
            else:
                make_folder(self.out)
                self._write_record()
        except OSError as error:
            raise RunError(f"{self.out}: cannot be made or read: {error.strerror or error}; choose another --out") from None

    def stage(self, number: int, text: str, work: Callable[[], None]) -> None:
        if self.show_progress:
            print(f"{number}/{STAGES} {text}", file=sys.stderr, flush=True)
        try:
            work()
        except OSError as error:
            raise RunError(f"{error.filename or self.out}: cannot be read or written: {error.strerror or error}") from None

    def draw(self) -> None:
        plan = self.plan
        if not (self.out / "source").exists():  # it appears when everything is in it
            write_source(
                self.out / "source",
                cases=plan.cases,
                seed=plan.seed,
                size=plan.size,
                test_share=plan.test_share,
                show_progress=self.show_progress,
            )

    def simulate(self) -> None:
        plan = self.plan
        if not (self.out / "data").exists():  # as above
            simulate(
                self.out / "source",
                self.out / "data",
                noise=plan.noise,
                clean=plan.clean,
                seed=plan.seed,
                show_progress=self.show_progress,
            )

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
        if not Run(out).finished():  # then what was predicted or audited, if anything, is by another network
            self.record["finished"] = False
            for made in (self.out / "predictions" / method, self.out / "audit"):
                shutil.rmtree(made, ignore_errors=True)
        train(self.out / "data", out=out, config=config, resume=out.exists(), show_progress=self.show_progress)

    def measure(self) -> None:
        """Predictions of the test cases, and their numbers."""
        if self.record["finished"] and all((self.out / f"{method}.csv").is_file() for method in METHODS):
            return
        images = self._gathered()
        for method in METHODS:
            predictions = self.out / "predictions" / method
            predict(self.out / "runs" / method, images, out=predictions, resume=predictions.exists(), show_progress=self.show_progress)
            evaluate(predictions, self.out / "data" / "test", out=self.out / f"{method}.csv", show_progress=self.show_progress)

    def audit(self) -> None:
        """Trust and a proposed mask for every noisy mask, and how far both masks are from the truth."""
        out, table = self.out / "audit", self.out / "masks.csv"
        if not (out / "audit.json").is_file():
            audit(self.out / "runs" / "trust", self.out / "data", out=out, resume=out.exists(), show_progress=self.show_progress)
        elif self.record["finished"] and table.is_file():
            return
        config = Run(self.out / "runs" / "trust").config()
        rows = []
        for case in read_audit_cases(out).itertuples():
            name = f"{case.id}.png"
            true, given = (foreground(self.out / folder / name, config) for folder in ("source/masks", "data/noisy"))
            mended = read_labels(out / "mended" / name) > 0
            rows.append({"id": case.id, "given": _dice(given, true), "mended": _dice(mended, true)})
        write_file(table, pd.DataFrame(rows).to_csv(index=False))
        self.record["finished"] = True
        self._write_record()

    def write_page(self) -> None:
        write_page(demo_page(self.out), self.out / "report.html")

    def summary(self) -> Demo:
        scores = {method: pd.read_csv(self.out / f"{method}.csv")["dice"].to_numpy() for method in METHODS}
        rows = []
        for method, values in scores.items():
            low, high = bootstrap_interval(values)
            seconds = float(Run(self.out / "runs" / method).read_table("history.csv")["seconds"].iloc[-1])
            rows.append(Row(method=method, dice=mean_of_defined(values), low=low, high=high, seconds=seconds))
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

    def _gathered(self) -> Path:
        """A folder of links to (or copies of) the images to predict."""
        data, folder = self.out / "data", self.out / "to-predict"
        make_folder(folder)
        wanted = {case_id(path) for path in (data / "test").iterdir()}
        for image in sorted((data / "images").iterdir()):
            if case_id(image) in wanted and not (folder / image.name).exists():
                link_or_copy(image, folder / image.name)
        return folder

    def _write_record(self) -> None:
        write_file(self.out / "demo.json", json.dumps(self.record, indent=2) + "\n")


def _dice(mask: np.ndarray, true: np.ndarray) -> float:
    return dice(confusion(predicted=mask.astype(np.uint8), truth=true.astype(np.uint8)))


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or "plan" not in record or "finished" not in record:
            raise ValueError(f"of format {record['format']}, wanted {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as the record of a demo ({error}); choose another --out") from None
    return record
