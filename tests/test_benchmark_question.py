"""Does it help on my data? The answer from numbers worked by hand, and from trainings on made-up data of each kind."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from pixeltrust.benchmarking.answers import FEWEST, MARGIN, answer_too_few, find_answer
from pixeltrust.benchmarking.cell_masks import FolderMasks
from pixeltrust.benchmarking.grid import Cell, Grid
from pixeltrust.benchmarking.question import question
from pixeltrust.pages.numbers import format_range
from pixeltrust.plumbing.errors import ConfigError, RunError
from test_benchmark import Here
from tiny import draw, leave_figures_out

SETTINGS = {"model": "tiny:without_dropout", "image_size": 16, "batch_size": 8, "clean_batch_size": 8, "learning_rate": 2e-2, "epochs": 30}


def scores(plain, **differences):
    """Dice of made-up cases: `plain` as given, the others that much better."""
    plain = np.asarray(plain)
    return pd.DataFrame({"plain": plain, **{name: plain + difference for name, difference in differences.items()}})


def spread(mean, sd, cases):
    """Numbers of exactly this mean and standard deviation."""
    values = np.random.default_rng(0).normal(size=cases)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


# From numbers


def test_a_method_whose_interval_is_above_0_helps_and_is_named():
    table = scores(np.full(20, 0.5), clean=spread(0.05, 0.1, 20), finetuned=spread(0.2, 0.05, 20))
    answer = find_answer(table)
    assert (answer.verdict, answer.method, answer.cases) == ("helps", "finetuned", 20)
    assert answer.words.startswith("It helps. Use `finetuned`")
    assert "Dice 0.700 against 0.500" in answer.words
    assert "cost plain training about 0.20 of Dice" in answer.words
    assert [row.method for row in answer.rows] == ["finetuned", "clean", "plain"]


def test_intervals_are_students_and_allow_for_the_number_of_methods():
    differences = {name: spread(0.03, 0.08, 25) for name in ("clean", "finetuned", "pixel")}
    rows = {row.method: row for row in find_answer(scores(np.full(25, 0.6), **differences)).rows}
    low, high = stats.t.interval(1 - 0.05 / 3, 24, loc=0.03, scale=0.08 / 5)
    assert (rows["pixel"].low, rows["pixel"].high) == (pytest.approx(low), pytest.approx(high))
    assert math.isnan(rows["plain"].difference)


def test_methods_that_cannot_be_better_by_more_than_the_margin_make_no_difference():
    answer = find_answer(scores(np.full(60, 0.8), clean=spread(-0.1, 0.1, 60), pixel=spread(0.002, 0.03, 60)))
    assert (answer.verdict, answer.method) == ("no difference", "plain")
    assert answer.words.startswith("Plain training is just as good here.")
    assert max(row.high for row in answer.rows if row.method != "plain") < MARGIN


@pytest.mark.parametrize(("mean", "guess"), [(0.03, "pixel"), (-0.01, "plain")])
def test_an_interval_that_holds_nothing_and_something_is_too_few_cases(mean, guess):
    answer = find_answer(scores(np.full(14, 0.7), pixel=spread(mean, 0.15, 14)))
    assert (answer.verdict, answer.method) == ("too few to tell", guess)
    assert answer.words.startswith("Too few clean cases to tell. Over 14 clean cases")
    assert f"`{guess}` is a fair guess" in answer.words


def test_the_number_of_cases_that_should_tell_grows_with_the_width_of_the_interval():
    def wanted(sd):
        words = find_answer(scores(np.full(16, 0.7), pixel=spread(0.02, sd, 16))).words
        return int(words.split("About ")[1].split()[0])

    assert 16 < wanted(0.06) < wanted(0.12)


def test_methods_near_the_best_are_named_too():
    table = scores(np.full(40, 0.5), clean=spread(0.1, 0.02, 40), finetuned=spread(0.11, 0.02, 40), joint=spread(0.02, 0.02, 40))
    assert "Within 0.02 of it: `clean`" in find_answer(table).words


def test_cases_without_a_dice_are_left_out():
    table = scores(np.full(20, 0.5), clean=spread(0.1, 0.02, 20))
    table.loc[[0, 3], "clean"] = np.nan
    assert find_answer(table).cases == 18
    table.loc[:10, "clean"] = np.nan
    assert find_answer(table).verdict == "too few to tell"


def test_the_answer_reads_as_words_with_the_numbers_under_them():
    text = str(find_answer(scores(np.full(20, 0.5), clean=spread(0.1, 0.05, 20))))
    first, *rest = text.splitlines()
    assert first.startswith("It helps.")
    assert rest == ["", "method  Dice   minus plain, case by case", "clean  0.600   +0.100 (+0.077 to +0.123)", "plain  0.500"]
    assert f"Have an expert make at least {FEWEST} masks" in str(answer_too_few(3))


# From trainings


def asked(data, out, launcher=None, **axes):
    grid = Grid(**{"methods": ("plain", "finetuned"), "settings": SETTINGS, **axes})
    return question(data, out=out, grid=grid, launcher=launcher or Here(), show_progress=False)


@pytest.mark.slow
def test_it_helps_where_all_noisy_masks_are_far_too_small(tmp_path):
    data = draw(tmp_path / "data", noisy=80, clean=16, test=0)
    answer = asked(data, tmp_path / "out", methods=("plain", "clean"))
    assert (answer.verdict, answer.method) == ("helps", "clean"), answer.words
    record = json.loads((tmp_path / "out" / "answer.json").read_text())
    assert record["verdict"] == "helps"
    assert (tmp_path / "out" / "answer.md").read_text().startswith("It helps.")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "It helps. Use <code>clean</code>" in page
    row = answer.rows[0]  # the one interval of the difference, in the words, at the top and in the table
    assert page.count(format_range(row.low, row.high, signed=True)) >= 2
    measured = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"id": str})
    assert set(measured["id"]) == {path.stem for path in (data / "clean").iterdir()}
    assert measured["plain"].mean() == pytest.approx(answer.rows[-1].dice, abs=1e-6)


def test_how_long_it_will_take_is_said_before_the_first_training(tmp_path, monkeypatch, capsys):
    def ends(work):
        raise KeyboardInterrupt

    monkeypatch.setattr("pixeltrust.benchmarking.question.run_cells", ends)
    monkeypatch.setattr("pixeltrust.benchmarking.page.write_results", lambda out: None)
    data = draw(tmp_path / "data", noisy=20, clean=FEWEST, test=0)
    for mask in (data / "clean").iterdir():  # pairs
        shutil.copy(mask, data / "noisy")
    grid = {"methods": ["plain", "finetuned", "mended"], **SETTINGS, "epochs": 1000, "mender": {"model": "tiny:without_dropout"}}
    with pytest.raises(KeyboardInterrupt):
        question(data, out=tmp_path / "out", grid=grid, launcher=Here())
    assert re.search(r"^12 trainings of up to 3,000 updates, 1 at once: about \d+", capsys.readouterr().err, re.M)
    with pytest.raises(KeyboardInterrupt):  # the measurement would take as long
        question(data, out=tmp_path / "quick", grid={**grid, "epochs": 2, "methods": ["plain", "finetuned"]}, launcher=Here())
    assert "at once" not in capsys.readouterr().err


@pytest.mark.slow
def test_there_is_no_difference_where_the_noisy_masks_are_right(tmp_path):
    data = draw(tmp_path / "data", noisy=24, clean=40, test=0, noisy_above=0.35)
    answer = asked(data, tmp_path / "out", methods=("plain", "joint"))
    assert (answer.verdict, answer.method) == ("no difference", "plain"), answer.words


def test_with_too_few_clean_cases_nothing_is_trained(tmp_path):
    data = draw(tmp_path / "data", noisy=20, clean=FEWEST - 1, test=0)
    launcher = Here()
    answer = asked(data, tmp_path / "out", launcher)
    assert answer.verdict == "too few to tell"
    assert launcher.ran == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_question_continues_and_tells_what_failed(tmp_path, monkeypatch):
    leave_figures_out(monkeypatch)
    data = draw(tmp_path / "data", noisy=8, clean=12, test=0)
    broken = data / "noisy" / "000.png"
    right = broken.read_bytes()
    first = Here()
    broken.write_bytes(right[:60])  # the header is whole, so that only decoding finds it
    with pytest.raises(RunError, match=r"no answer yet: 8 trainings failed \(plain-given-12-0-fold0, .*the same command tries them again"):
        asked(data, tmp_path / "out", first, settings={**SETTINGS, "epochs": 1})
    broken.write_bytes(right)
    second = Here()
    assert asked(data, tmp_path / "out", second, settings={**SETTINGS, "epochs": 1}).cases == 12
    assert second.ran == first.ran
    third = Here()
    asked(data, tmp_path / "out", third, settings={**SETTINGS, "epochs": 1})
    assert third.ran == []


def completed(data):
    """The grid of a question that names nothing."""
    return question.__globals__["_complete"](Grid(), FolderMasks(data, show_progress=False))


def test_mended_is_compared_where_every_fold_leaves_pairs_enough(tmp_path):
    data = draw(tmp_path / "data", noisy=30, clean=12)
    assert "mended" not in completed(data).methods
    files = sorted((data / "clean").iterdir())
    for number, compared in ((5, False), (12, True)):  # a fold of 3 tests leaves 2 to 5, or 9
        for file in files[:number]:
            shutil.copy(file, data / "noisy" / file.name)
        assert ("mended" in completed(data).methods) == compared


def test_trainings_are_short_and_nothing_is_held_out_by_default(tmp_path):
    grid = completed(draw(tmp_path / "data", noisy=30, clean=12))
    assert grid.methods[0] == "plain"
    assert grid.config(Cell(method="plain", noise="given", clean=12, seed=0)).val_fraction == 0
    assert grid.settings["epochs"] * 2 == 600  # two updates an epoch


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"noise": ("box",)}, "noise and clean are for a benchmark"),
        ({"methods": ("plain",)}, "compares `plain` with at least one other"),
        ({"methods": ("clean", "pixel")}, "compares `plain` with at least one other"),
        ({"methods": ("plain", "ceiling")}, "knows no ceiling"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(tmp_path, axes, said):
    with pytest.raises(ConfigError, match=said):
        asked(draw(tmp_path / "data", clean=12), tmp_path / "out", **axes)


def test_a_source_is_told_to_leave_the_question_out(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / "source" / name).mkdir(parents=True)
        Image.new("L", (16, 16)).save(tmp_path / "source" / name / "a.png")
    with pytest.raises(ConfigError, match="leave --question out"):
        question(Path(tmp_path / "source"), out=tmp_path / "out", show_progress=False)
