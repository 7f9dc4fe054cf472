"""What twenty typical corrections cost a person: actions and seconds, in a real browser, on the queue of the demo.

    pixeltrust demo --out demo
    python benchmarks/review_corrections.py demo --out results/review-corrections --before SRC

A correction is what a proposal has wrong, by the true mask that a demo knows: in the order of the queue, the largest connected part of
at least 12 pixels of each of the first twenty cases that have one. It is repaired with the quickest of the page's tools, and saved:

    a false region    a whole part of the proposed change: left by T over it; before, rubbed out with the eraser
    a false piece     a part of such a part: rubbed out, or apart from the lesion erased by the fill tool; before, rubbed out
    a missing piece   painted with the brush

A hand is slower than this script: the seconds that count are those of the keystroke-level model (Card, Moran and Newell 1980): .28 s for a
key, 1.1 s to point at a place, .1 s to press or let go a button, 1.35 s to think of each correction; a stroke is drawn at .4 s for 100
pixels of the screen, and the page's own time is measured: from M until the next case is shown, and from a case on screen until
it can be worked on. `--before` is the folder of the sources (`src`) of an earlier version, whose page is measured by the tools that it has.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from scipy import ndimage

CORRECTIONS, SMALLEST = 20, 12
KEY, POINT, BUTTON, THINK, DRAW = 0.28, 1.1, 0.1, 1.35, 0.4 / 100
MARGIN, LARGEST_SCALE = 24, 64  # of a whole image in its view
BRUSH = 5


def labels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)) > 0


def parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask, largest first."""
    found, number = ndimage.label(mask, np.ones((3, 3)))
    return sorted((found == place for place in range(1, number + 1)), key=np.sum, reverse=True)


class Hand:
    """A person at the page, who counts."""

    def __init__(self, page: Page, size: tuple[int, int]) -> None:
        self.page, self.size, self.actions, self.seconds = page, size, 0, 0.0
        box = page.locator("#view").bounding_box()
        height, width = size
        self.scale = min((box["width"] - 2 * MARGIN) / width, (box["height"] - 2 * MARGIN) / height, LARGEST_SCALE)
        self.corner = box["x"] + (box["width"] - self.scale * width) / 2, box["y"] + (box["height"] - self.scale * height) / 2

    def key(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.did(KEY)

    def did(self, seconds: float) -> None:
        self.actions += 1
        self.seconds += seconds

    def point(self, x: float, y: float) -> None:
        self.page.mouse.move(self.corner[0] + self.scale * x, self.corner[1] + self.scale * y)
        self.seconds += POINT

    def click(self, x: float, y: float) -> None:
        self.point(x, y)
        self.page.mouse.down()
        self.page.mouse.up()
        self.did(2 * BUTTON)

    def stroke(self, places: list[tuple[float, float]]) -> None:
        self.point(*places[0])
        self.page.mouse.down()
        for x, y in places[1:]:
            self.page.mouse.move(self.corner[0] + self.scale * x, self.corner[1] + self.scale * y)
        self.page.mouse.up()
        length = sum(np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in pairwise(places))
        self.did(2 * BUTTON + DRAW * self.scale * length)

    def take(self, tool: str) -> None:
        """By its key, unless the page has it from the case before."""
        if not self.page.is_checked(f"input[name=tool][value={tool}]"):
            self.key({"brush": "b", "eraser": "e", "bucket": "f"}[tool])

    def resize(self) -> None:
        """By the keys, as the pointer is over the image."""
        while (size := int(self.page.input_value("#size"))) != BRUSH:
            self.key("," if size > BRUSH else ".")

    def rub(self, part: np.ndarray, tool: str) -> None:
        """Go over a part with the brush or the eraser, row by row, in one stroke."""
        self.take(tool)
        self.resize()
        self.stroke(course(part))


def course(part: np.ndarray) -> list[tuple[float, float]]:
    """The middle of a brush that covers a part from top to bottom, to and fro."""
    rows = np.flatnonzero(part.any(1))
    places, forth = [], True
    for top in range(rows[0], rows[-1] + 1, BRUSH - 1):
        columns = np.flatnonzero(part[top : top + BRUSH].any(0))
        if not columns.size:
            continue
        row = min(top + BRUSH / 2, part.shape[0] - 0.5)
        ends = [(columns[0] + min(2, np.ptp(columns) / 2) + 0.5, row), (columns[-1] - min(2, np.ptp(columns) / 2) + 0.5, row)]
        places += ends if forth else ends[::-1]
        forth = not forth
    return places


def correct(hand: Hand, new: bool, part: np.ndarray, given: np.ndarray, proposed: np.ndarray, true: np.ndarray) -> str:
    """Repair one part of a proposal; returns what it was."""
    hand.seconds += THINK
    rows, columns = np.nonzero(part)
    place = rows.size // 2
    inside = columns[place] + 0.5, rows[place] + 0.5
    false = bool(proposed[part].mean() > 0.5)
    changed = next((one for one in parts(given != proposed) if one[part].any()), None)
    undone = changed is not None and (given == true)[changed].mean() > 0.9 and (changed & part).sum() > 0.9 * part.sum()
    kind = ("a false region" if undone else "a false piece") if false else "a missing piece"
    if new and undone:
        place = np.argwhere(changed & part)[(changed & part).sum() // 2]
        hand.point(place[1] + 0.5, place[0] + 0.5)
        hand.key("t")
    elif new and false and not touches(part, true):
        hand.take("bucket")
        hand.click(*inside)
    else:
        hand.rub(part, "eraser" if false else "brush")
    return kind


def touches(part: np.ndarray, true: np.ndarray) -> bool:
    return bool((ndimage.binary_dilation(part, np.ones((3, 3))) & true).any())


def corrections(demo: Path) -> list[tuple[str, np.ndarray]]:
    """The cases, in the order of the queue, each with the part of its proposal that is corrected."""
    found = []
    for name in pd.read_csv(demo / "mended/cases.csv", dtype={"id": str})["id"]:
        wrong = labels(demo / f"mended/mended/{name}.png") != labels(demo / f"source/masks/{name}.png")
        largest = (parts(wrong) or [wrong])[0]
        if largest.sum() >= SMALLEST:
            found.append((name, largest))
        if len(found) == CORRECTIONS:
            break
    return found


def measured(demo: Path, sources: Path | None) -> pd.DataFrame:
    """A row for every correction: its kind, actions, seconds of the hand and of the page, and the Dice of the mask that was saved."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder) / "audit"
        shutil.copytree(demo / "mended", audit, ignore=shutil.ignore_patterns("menders", "review.sqlite*", ".*"))
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"PYTHONPATH": str(sources)} if sources else {})
        command = [sys.executable, "-m", "pixeltrust.cli", "review", str(audit), "--port", "0", "--who", "hand"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        try:
            with sync_playwright() as started:
                browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
                for name, part in corrections(demo):
                    page.goto(f"{address}case?show=all&id={name}")
                    page.wait_for_selector("body[data-ready]")
                    masks = [labels(demo / place / f"{name}.png") for place in ("data/noisy", "mended/mended", "source/masks")]
                    hand = Hand(page, part.shape)
                    kind = correct(hand, sources is None, part, *masks)
                    hand.key("m")
                    saved = time.perf_counter()
                    page.wait_for_function("id => (document.querySelector('.side h1')?.textContent ?? '') !== id", arg=name)
                    page.wait_for_selector("body[data-ready]")
                    rows.append({"id": name, "kind": kind, "pixels": int(part.sum()), "actions": hand.actions, "hand": hand.seconds})
                    rows[-1] |= {"page": time.perf_counter() - saved, "dice": dice_of(page, address, name, masks[2])}
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=60)
    return pd.DataFrame(rows)


def dice_of(page: Page, address: str, name: str, true: np.ndarray) -> float:
    plane = page.request.get(f"{address}plane/decided?id={name}").body()
    made = np.frombuffer(plane, np.uint8).reshape(true.shape) > 0
    return 2 * (made & true).sum() / (made.sum() + true.sum())


def table(before: pd.DataFrame | None, now: pd.DataFrame) -> str:
    """Actions and seconds by kind of correction, before and now."""
    lines = ["| correction | number | actions before | now | seconds before | now |", "|---|---|---|---|---|---|"]
    for kind in [*sorted(now["kind"].unique()), "all"]:
        chosen = now["kind"] == kind if kind != "all" else now["kind"] != ""
        numbers = []
        for column in ("actions", "seconds"):
            for rows in (before, now):
                if rows is None:
                    numbers.append("")
                    continue
                values = rows["actions"] if column == "actions" else rows["hand"] + rows["page"]
                numbers.append(f"{values[chosen].sum():.0f}")
        lines.append(f"| {kind} | {chosen.sum()} | {' | '.join(numbers)} |")
    means = " and ".join(f"{rows['dice'].mean():.3f} {when}" for rows, when in ((before, "before"), (now, "now")) if rows is not None)
    return "\n".join([*lines, "", f"Mean Dice of the saved masks to the true ones: {means}."]) + "\n"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="a folder of `pixeltrust demo`")
    parser.add_argument("--before", type=Path, help="the sources of an earlier version")
    parser.add_argument("--out", type=Path, help="a folder for before.csv, now.csv, table.md")
    asked = parser.parse_args(words)
    found = {"before": measured(asked.demo, asked.before) if asked.before else None, "now": measured(asked.demo, None)}
    text = table(found["before"], found["now"])
    print(text)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        for name, rows in found.items():
            if rows is not None:
                rows.round(3).to_csv(asked.out / f"{name}.csv", index=False)
        (asked.out / "table.md").write_text(text)
        (asked.out / "about.json").write_text(json.dumps({"corrections": CORRECTIONS, "smallest": SMALLEST, "brush": BRUSH}) + "\n")


if __name__ == "__main__":
    main()
