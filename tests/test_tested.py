"""A run on the test cases of its data: measured once, shown on its page with its interval, beside another run or an estimate by folds."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pixeltrust.data.pictures import write_png
from pixeltrust.metrics import bootstrap_interval
from pixeltrust.plumbing.errors import RunError
from pixeltrust.prediction.tested import measure_on_tests
from pixeltrust.reports import report
from pixeltrust.training.model_card import FILE, NOT_MEASURED
from pixeltrust.training.run_folder import Run
from test_predict import make_run
from test_report import assert_alone, history, needs_chromium, seen_in_chromium, words
from volumes import write_nifti

pytestmark = pytest.mark.usefixtures("blank_charts", "small_pictures")
COVERED = [0.5, 0.9, 0.6, 1.0, 0.8, 0.7, 0.4]
"""Of each test case the share of the red half that its mask has: the network finds the whole half, so its Dice is 2 c / (1 + c)."""


def dice_of(covered):
    return 2 * covered / (1 + covered)


def with_tests(run, data, *, ids=tuple(range(7)), method="trust"):
    """Give a run test cases and a history."""
    rows = []
    for number in ids:
        pixels, mask = np.zeros((20, 40, 3), np.uint8), np.zeros((20, 40), np.uint8)
        pixels[:, :20, 0] = 255
        mask[: round(20 * COVERED[number]), :20] = 255
        for part, content in (("images", pixels), ("test", mask)):
            (data / part).mkdir(parents=True, exist_ok=True)
            write_png(data / part / f"t{number}.png", content)
        files = {part: f"{data / part / f't{number}.png'}" for part in ("images", "test")}
        rows.append({"id": f"t{number}", "image": files["images"], "mask": files["test"], "role": "test", "held_out": False})
    rows.append({"id": "n", "image": "gone.png", "mask": "gone.png", "role": "noisy", "held_out": False})
    pd.DataFrame(rows).to_csv(run / "cases.csv", index=False)
    history(method=method, val_dice=np.nan).to_csv(run / "history.csv", index=False)
    return run


@pytest.fixture
def run(tmp_path):
    return with_tests(make_run(tmp_path / "run"), tmp_path / "data")


def test_the_page_tells_the_dice_on_the_test_cases_with_its_interval_and_typical_cases_first(run):
    (run / FILE).write_text(f"# run\n\n{NOT_MEASURED}\n\nmy own words", encoding="utf-8")
    html = report(run, show_progress=False).read_text(encoding="utf-8")
    assert_alone(html)
    text = words(html)
    scores = pd.read_csv(run / "test" / "dice.csv")
    assert scores["dice"].to_numpy() == pytest.approx([dice_of(one) for one in COVERED], abs=1e-3)
    low, high = bootstrap_interval(scores["dice"].to_numpy())
    mean = f"{scores['dice'].mean():.3f}"
    assert f"Dice {mean} on 7 test cases" in text
    assert f"Dice on the test cases {mean} {low:.3f} … {high:.3f}, 95 % interval" in text
    assert text.count(f"{low:.3f}") == 1  # one interval per number
    order = [text.index(f" {identity} image true mask") for identity in ("t5", "t4", "t1", "t6", "t0", "t2")]
    assert text.index("Typical: around the middle") < order[0]
    assert order == sorted(order)
    assert order[2] < text.index("The worst") < order[3]
    assert sorted(path.name for path in (run / "test").iterdir()) == ["dice.csv", "of.json", "predicted"]
    card = (run / FILE).read_text(encoding="utf-8")
    assert f"On 7 test cases, which training has not looked at: a mean Dice of {mean}" in card
    assert "my own words" in card


def test_what_was_measured_is_measured_again_only_for_other_weights(run, monkeypatch):
    first = measure_on_tests(Run(run), show_progress=False)
    monkeypatch.setattr("pixeltrust.prediction.measure.predict", lambda *_, **__: pytest.fail("predicted again"))
    shutil.rmtree(run.parent / "data")
    pd.testing.assert_frame_equal(measure_on_tests(Run(run), show_progress=False), first)
    assert "Dice 0.8" in words(report(run, show_progress=False).read_text(encoding="utf-8"))  # without the pictures, which are gone
    monkeypatch.undo()
    (run / "model.pt").write_bytes((run / "model.pt").read_bytes() + b" ")
    assert "The test cases could not be measured" in words(report(run, show_progress=False).read_text(encoding="utf-8"))


def test_without_test_cases_or_weights_there_is_nothing_to_measure(run, tmp_path):
    assert measure_on_tests(Run(with_tests(make_run(tmp_path / "none"), tmp_path / "data", ids=[])), show_progress=False) is None
    (run / "model.pt").unlink()
    assert measure_on_tests(Run(run), show_progress=False) is None


def test_two_runs_are_compared_case_by_case_on_the_cases_that_both_have(run, tmp_path):
    other = with_tests(make_run(tmp_path / "plain", "left_half", method="plain"), tmp_path / "data", ids=[0, 2, 4])
    html = report(run, beside=other, show_progress=False).read_text(encoding="utf-8")
    text = words(html)
    assert "on 3 test cases: trust and plain cannot be told apart" in text  # the left half is the red half here
    assert "Difference, case by case +0.000" in text
    assert text.count("image true mask trust Dice") == 3
    assert "Dice, plain" in text
    none = with_tests(make_run(tmp_path / "none", method="plain"), tmp_path / "data", ids=[1])
    with pytest.raises(RunError, match="share no test case"):
        report(with_tests(make_run(tmp_path / "two"), tmp_path / "data", ids=[0]), beside=none, show_progress=False)
    with pytest.raises(RunError, match="is no run"):
        report(tmp_path, beside=other)


def test_an_estimate_by_folds_stands_where_there_is_no_test(tmp_path):
    run = with_tests(make_run(tmp_path / "run"), tmp_path / "data", ids=[])
    (tmp_path / "answer").mkdir()
    record = {"cases": 24, "rows": [{"method": "trust", "dice": 0.8123}, {"method": "plain", "dice": 0.7}]}
    (tmp_path / "answer" / "answer.json").write_text(json.dumps(record))
    text = words(report(run, beside=tmp_path / "answer", show_progress=False).read_text(encoding="utf-8"))
    assert "Dice by folds, trust 0.812 mean of 24 clean cases" in text
    assert "How good is the network?" not in text
    (tmp_path / "answer" / "answer.json").write_text(json.dumps(record | {"rows": []}))
    with pytest.raises(RunError, match="has no answer about 'trust'"):
        report(run, beside=tmp_path / "answer", show_progress=False)


@pytest.mark.slow
def test_volumes_are_shown_at_the_slice_where_the_true_mask_is_largest(tmp_path):
    run = make_run(tmp_path / "run", "unet-tiny", image_size=(16, 16, 16), channels=1, batch_size=1, spacing=(1.0, 1.0, 1.0))
    values, mask = np.random.default_rng(0).normal(size=(18, 20, 22)).astype(np.float32), np.zeros((18, 20, 22), np.uint8)
    mask[4:9, 5:15, 5:15], mask[6, 2:18, 2:18] = 1, 1
    for part, content in (("images", values), ("test", mask)):
        (tmp_path / part).mkdir()
        write_nifti(tmp_path / part / "v.nii.gz", content, np.eye(4))
    files = {"image": f"{tmp_path / 'images' / 'v.nii.gz'}", "mask": f"{tmp_path / 'test' / 'v.nii.gz'}"}
    pd.DataFrame([{"id": "v", **files, "role": "test", "held_out": False}]).to_csv(run / "cases.csv", index=False)
    history(method="trust", val_dice=np.nan).to_csv(run / "history.csv", index=False)
    text = words(report(run, show_progress=False).read_text(encoding="utf-8"))
    assert "the slice where the true mask is largest" in text


@needs_chromium
@pytest.mark.slow
def test_the_page_of_two_runs_fits_a_phone(run, tmp_path, monkeypatch):
    monkeypatch.undo()  # charts and pictures as they are
    other = with_tests(make_run(tmp_path / "plain", "left_half", method="plain"), tmp_path / "data")
    page = report(run, beside=other, show_progress=False)
    for _, width, needed, broken in seen_in_chromium({"both": page}, tmp_path, widths=(390, 1440)):
        assert needed <= width
        assert broken == 0
