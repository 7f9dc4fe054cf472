"""What pairs teach an audit: where outlines are wrong, when that is not used, and what an audit with pairs says and goes on with."""

import numpy as np
import pandas as pd
import pytest

from audits import disc
from pixeltrust.auditing import run as run_module
from pixeltrust.auditing.calibration import Calibration, calibrate, sample_pair
from pixeltrust.auditing.folder import Audit, read_audit_cases
from pixeltrust.auditing.gain import Gain, measure_gain
from pixeltrust.auditing.run import audit
from pixeltrust.auditing.run_source import RunSource
from pixeltrust.data.cases import FEWEST_PAIRS, Case, CaseList
from pixeltrust.data.images import read_labels
from pixeltrust.data.pictures import write_png

SIZE = (40, 40)
PAIRS = 8
NO_TILT = np.zeros(2)


def true_of(place):
    return disc(SIZE, place)


def small_of(place):
    """The true disc without its rim of three pixels: what these annotators draw."""
    rows, columns = np.indices(SIZE)
    middle = (rows - SIZE[0] / 2) ** 2 + (columns - SIZE[1] / 2 + place % 5) ** 2
    return (middle < (SIZE[0] / 4 - 3) ** 2).astype(np.uint8)


def seen_of(place):
    """A network that sees the rim, but is not sure of it: alone it would leave the masks as they are."""
    foreground = np.where(true_of(place) > 0, 0.4, 0.1) + 0.05 * np.random.default_rng(place).normal(size=SIZE)
    foreground = np.where(small_of(place) > 0, 0.9, foreground).clip(0.01, 0.99)
    return np.stack([1 - foreground, foreground]).astype(np.float32)


def pair(place, given):
    return sample_pair(given, true_of(place), seen_of(place), given)


def dice_of(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def names(number):
    return [f" {place}" for place in range(number)]


def test_pairs_teach_where_the_outline_is_wrong():
    pairs = [pair(place, small_of(place)) for place in range(PAIRS)]
    rule = calibrate(pairs, names(PAIRS), NO_TILT, classes=1, sure=0.5).rule
    assert rule is not None
    assert rule.pairs == PAIRS
    judged = rule.judge(small_of(20), seen_of(20))
    np.testing.assert_allclose(judged.sum(0), 1, rtol=1e-5)
    assert dice_of(judged.argmax(0), true_of(20)) > dice_of(small_of(20), true_of(20)) + 0.1
    assert judged[0][~true_of(20).astype(bool)].min() > 0.5  # nothing is put where nothing is
    np.testing.assert_array_equal(rule.mend(pairs[0], 0.5), rule.judge(small_of(0), seen_of(0)).argmax(0).ravel())


def test_pairs_that_show_nothing_better_are_not_used():
    pairs = [pair(place, true_of(place)) for place in range(PAIRS)]
    assert calibrate(pairs, names(PAIRS), NO_TILT, classes=1, sure=0.5).rule is None


def test_few_pairs_or_few_groups_are_not_used():
    pairs = [pair(place, small_of(place)) for place in range(PAIRS)]
    few = FEWEST_PAIRS - 1
    assert calibrate(pairs[:few], names(few), NO_TILT, classes=1, sure=0.5).rule is None
    assert calibrate(pairs, ["a", "b", "c", "d"] * (PAIRS // 4), NO_TILT, classes=1, sure=0.5).rule is None
    assert calibrate([], [], NO_TILT, classes=1, sure=0.5).rule is None


def test_a_penalty_draws_to_the_rule_without_pairs():
    nothing = sample_pair(np.full(SIZE, 255, np.uint8), true_of(0), seen_of(0), true_of(0))
    np.testing.assert_allclose(Calibration.of([nothing], np.array([0.0, 2.0])).weights, [0, 1, 0, 1, 1, 0])


def test_ignored_pixels_keep_their_probabilities_and_several_classes_their_order():
    given, probabilities = np.zeros(SIZE, np.uint8), np.random.default_rng(0).dirichlet([1, 1, 1], SIZE).transpose(2, 0, 1)
    given[10:20, 10:20], given[0] = 2, 255
    judged = Calibration(np.array([0, 1, 0, -3, 1, 0.5]), 9).judge(given, probabilities.astype(np.float32))
    np.testing.assert_allclose(judged[:, 0], probabilities[:, 0], rtol=1e-5)
    np.testing.assert_allclose(judged.sum(0), 1, rtol=1e-5)
    inside = slice(None), slice(10, 20), slice(10, 20)
    assert (judged[inside][2] < probabilities[inside][2]).all()
    np.testing.assert_array_equal(judged[inside][:2].argmax(0), probabilities[inside][:2].argmax(0))


# --- how much better mended masks are expected to be ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gains", "says"),
    [
        ([0.2, 0.3, 0.1, 0.2, 0.2], "given 0.60, mended 0.80: +0.20 of Dice (+0.11 to +0.29, from 5 pairs)."),
        ([0.1, -0.1, 0.1, -0.1, 0.05], "may be no better"),
        ([-0.2, -0.2, -0.1, -0.2, -0.2], "are worse: do not train on them"),
    ],
)
def test_the_gain_is_the_mean_over_pairs_with_its_interval(gains, says):
    dice = np.array([[0.6, 0.6 + gain] for gain in gains] + [[0.6, np.nan], [0.6, 1.0]])
    unseen = np.array([True] * 6 + [False])
    assert says in measure_gain(dice, names(len(dice)), unseen).sentence()


@pytest.mark.parametrize(
    ("pairs", "unseen", "groups", "why"),
    [
        (0, 0, None, "there is no pair"),
        (6, 0, None, "trained on the corrected masks of all 6 pairs"),
        (6, 4, None, "only 4 of 6 pairs are of cases that the network was not trained on, and 5 are the fewest"),
        (6, 6, list("aabbcd"), "only 4 of 6 pairs"),
    ],
)
def test_where_the_gain_cannot_be_known_the_reason_is_said(pairs, unseen, groups, why):
    gain = measure_gain(np.full((pairs, 2), 0.5), groups or names(pairs), np.arange(pairs) < unseen)
    assert gain.pairs == 0
    assert why in gain.sentence()
    assert Gain.of(gain.values()) == gain


# --- a whole audit ----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Twelve noisy masks, of which eight are pairs; and probabilities of all but one of these."""
    folder = tmp_path / "data"
    for name in ("images", "noisy", "clean", "soft"):
        (folder / name).mkdir(parents=True)
    for place in range(PAIRS + 4):
        name = f"{place:02}.png"
        write_png(folder / "images" / name, (60 + 120 * true_of(place)).astype(np.uint8)[..., None].repeat(3, -1))
        write_png(folder / "noisy" / name, small_of(place) * np.uint8(255))
        if place < PAIRS:
            write_png(folder / "clean" / name, true_of(place) * np.uint8(255))
        if place > 0:
            np.save(tmp_path / "data" / "soft" / f"{place:02}.npy", seen_of(place)[1])
    return folder


def by_files(data, out, **more):
    return audit(data=data, probabilities=data / "soft", out=out, show_progress=False, **more)


def test_an_audit_uses_pairs_and_says_so(data, tmp_path):
    done = by_files(data, tmp_path / "audit")
    cases = read_audit_cases(done.out)
    assert cases["id"].sort_values().tolist() == ["08", "09", "10", "11"]  # pairs are not audited
    assert set(cases["evidence"]) == {f"probabilities, calibrated on {PAIRS - 1} pairs"}
    assert f"4 masks judged by probabilities, calibrated on {PAIRS - 1} pairs" in done.notes
    assert done.gain.pairs == PAIRS - 1
    assert done.gain.low > 0.1  # measured by rules that have not seen the pair
    assert f"given {done.gain.given:.2f}, mended {done.gain.mended:.2f}: +" in str(done)
    assert Audit.read(done.out).gain == done.gain
    for case in cases.itertuples():
        mended, true = read_labels(done.out / "mended" / f"{case.id}.png") > 0, true_of(int(case.id)) > 0
        assert dice_of(mended, true) > dice_of(small_of(int(case.id)) > 0, true) + 0.1
        confidence = read_labels(done.out / "confidence" / f"{case.id}.png")
        np.testing.assert_array_equal(mended != (small_of(int(case.id)) > 0), confidence < 128)


@pytest.mark.slow
def test_a_stopped_audit_with_pairs_ends_the_same(data, tmp_path, monkeypatch):
    whole = by_files(data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "join_judged", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            by_files(data, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped" / ".seen").glob("*.npz"))) == PAIRS + 3
    resumed = by_files(data, tmp_path / "stopped", resume=True)
    pd.testing.assert_frame_equal(resumed.cases, whole.cases)


def test_a_run_is_measured_by_pairs_that_it_has_not_learned_where_they_are_enough(monkeypatch):
    class Learned:
        _notes: list[str] = []  # noqa: RUF012
        _run = type("Run", (), {"read_table": lambda *_: pd.DataFrame({"id": ["0", "1"], "role": "clean", "held_out": [False, True]})})()

        has_not_learned = RunSource.has_not_learned

    pairs = CaseList.of([Case(str(place), "i", "m", "clean", None, "g") for place in range(4)])
    monkeypatch.setattr("pixeltrust.auditing.run_source.ENOUGH_UNSEEN", 3)
    assert RunSource.choose_pairs(Learned(), pairs).texts("id").tolist() == ["1", "2", "3"]
    assert Learned._notes == []
    assert RunSource.has_not_learned(Learned(), pairs).tolist() == [False, True, True, True]
    assert RunSource.choose_pairs(Learned(), pairs[:3]).texts("id").tolist() == ["0", "1", "2"]
    assert Learned._notes == ["1 of 3 pairs trained the network, so it may know them better than other cases"]
