"""Mending: what pairs show of noisy masks, what is done by it, and how good the masks are expected to be."""

import json
import math
import shutil
import tomllib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pixeltrust
import tiny
from pixeltrust.auditing.folder import Audit, read_audit_cases, read_audit_regions
from pixeltrust.config import Config
from pixeltrust.data.batches import Streams, add_given, hold_out
from pixeltrust.data.cases import read_cases
from pixeltrust.data.fitting import crop_around
from pixeltrust.data.images import read_labels
from pixeltrust.data.prefetch import Feed
from pixeltrust.mending.estimate import Calibration, choose, make_estimate, mean_interval, read_estimate, spread
from pixeltrust.mending.menders import Menders, choose_crop
from pixeltrust.mending.settings import DEFAULTS, as_mender_config, chosen_settings, read_mender_config, strengthen
from pixeltrust.mending.ways import WAYS, dice_between, drop_parts_apart, propose, soft_dice
from pixeltrust.method.batch import Batch
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.reviewing.again import mend_again
from pixeltrust.training import methods

QUICK = ("model=tiny:network", "image_size=16", "epochs=1", "updates_per_epoch=2", "clean_batch_size=4", "batch_size=8")
WHOLE = {"image_size": 16, "crop_around_given": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight noisy cases, seven pairs and a clean case without a noisy mask."""
    folder = tmp_path_factory.mktemp("mending") / "data"
    truth = tiny.draw(folder.with_name("truth"), noisy=15, clean=1, test=2, noisy_above=0.35)
    tiny.draw(folder, noisy=15, clean=1, test=2)
    for number in range(7):
        shutil.copy(truth / "noisy" / f"{number:03}.png", folder / "clean")
    return folder


@pytest.fixture(scope="module")
def mended(data, tmp_path_factory, small_pictures):
    out = tmp_path_factory.mktemp("mended") / "out"
    return pixeltrust.mend(data, out=out, config=read_mender_config(settings=QUICK), show_progress=False)


# --- what a mender gets -------------------------------------------------------------------------------------------


def test_given_masks_are_planes_of_a_half_and_nothing_where_nothing_is_given():
    given = torch.tensor([[[0, 1], [2, 255]]])
    planes = add_given(torch.ones(1, 3, 2, 2), given, 2)[0]
    assert planes[:3].eq(1).all()
    assert planes[3].tolist() == [[-0.5, 0.5], [-0.5, 0]]
    assert planes[4].tolist() == [[-0.5, -0.5], [0.5, 0]]


def streams_of(data, tmp_path, **settings):
    config = Config(**{**DEFAULTS, "model": "tiny:network", "image_size": 16, "clean_batch_size": 6, **settings})
    cases = read_cases(data, show_progress=False)
    return Streams(cases, *hold_out(cases.of("clean"), config), config, tmp_path)


def test_a_given_mask_is_shown_as_its_image_is(tmp_path):
    same = tiny.draw(tmp_path / "same", noisy=2, clean=6, test=0)
    for file in (same / "clean").iterdir():  # given and clean masks are equal, so they must be after any view
        shutil.copy(file, same / "noisy")
    batch = streams_of(same, tmp_path, given_dropped=0).batch("pairs", 3)
    counted = batch.masks != 255
    assert not counted.all(), "the views of this update do not leave the images"
    assert torch.equal(batch.images[:, 3][counted], batch.masks[counted].float() - 0.5)
    assert batch.images[:, 3][~counted].eq(0).all()


def test_given_masks_are_dropped_at_random_and_absent_ones_are_unknown(data, tmp_path):
    streams = streams_of(data, tmp_path, given_dropped=0.5, jitter="none")
    unknown = [(streams.batch("pairs", update).images[:, 3] == 0).flatten(1).all(1).float().mean() for update in range(40)]
    assert 0.5 < np.mean(unknown) < 0.65  # half of seven pairs, and the clean case without a noisy mask
    assert torch.equal(streams.batch("pairs", 5).images, streams.batch("pairs", 5).images)


@pytest.mark.parametrize(
    ("rows", "columns", "crop"),
    [
        ((20, 30), (40, 60), ((15, 35), (30, 70))),  # as high as a tenth of the picture, and as wide: a fifth of it around its middle
        ((20, 30), (40, 45), ((15, 35), (22, 62))),  # the larger extent counts, and the picture's proportions are kept
        ((0, 10), (180, 200), ((0, 20), (160, 200))),  # within the picture
        ((50, 52), (100, 103), ((45, 57), (89, 114))),  # no less than an eighth of the sides
        ((10, 90), (0, 20), ((0, 100), (0, 200))),
    ],
)
def test_a_picture_is_cropped_around_the_given_mask(rows, columns, crop):
    given = np.zeros((100, 200), np.uint8)
    given[slice(*rows), slice(*columns)] = 1
    given[99, 0] = 255  # ignored
    config = Config(method="mender", crop_around_given=2)
    assert crop_around(given, config) == tuple(slice(*span) for span in crop)
    assert crop_around(given, Config(method="plain", crop_around_given=2)) is None
    assert crop_around(given, Config(method="mender")) is None
    assert crop_around(given * 0, config) is None


@pytest.fixture
def far_off(tmp_path):
    """Six pairs and two noisy cases: squares in the corner of large pictures, the clean ones further inside."""

    def draw(step):
        for part in ("images", "noisy", "clean"):
            (tmp_path / "data" / part).mkdir(parents=True)
        for number in range(8):
            mask = np.zeros((64, 64), np.uint8)
            mask[4:12, 4 : 11 + number % 2] = 255
            Image.fromarray(mask[..., None] // 2 + np.arange(64, dtype=np.uint8)[:, None, None].repeat(3, 2)).save(
                tmp_path / "data/images" / f"{number}.png"
            )
            Image.fromarray(mask).save(tmp_path / "data/noisy" / f"{number}.png")
            if number < 6:
                Image.fromarray(np.roll(mask, step, (0, 1))).save(tmp_path / "data/clean" / f"{number}.png")
        return tmp_path / "data"

    return draw


@pytest.mark.parametrize(("step", "crop"), [(0, 1.5), (3, 1.75), (8, 2.5), (12, 3), (20, 4), (34, 6), (50, 0)])
def test_the_crop_holds_the_clean_masks_of_the_pairs(far_off, step, crop):
    cases, config = read_cases(far_off(step), show_progress=False), as_mender_config({})
    assert choose_crop(config, cases).crop_around_given == crop
    assert choose_crop(as_mender_config({"crop_around_given": 5}), cases).crop_around_given == 5


def test_images_are_cropped_where_the_given_mask_is_shown_and_whole_where_it_is_not(far_off, tmp_path):
    data = far_off(0)
    settings = {"image_size": 32, "crop_around_given": 2, "jitter": "none", "augment": "none", "given_dropped": 0.5, "clean_batch_size": 6}
    streams = streams_of(data, tmp_path, **settings)
    batch = streams.batch("pairs", 0)
    dropped = (batch.images[:, 3] == 0).flatten(1).all(1)
    assert 0 < dropped.sum() < 6
    share = batch.masks.float().mean((1, 2))
    assert (share[dropped] < 0.02).all()  # 56 to 64 of 4,096 pixels
    assert (share[~dropped] > 0.19).all()  # of 16 x 16 pixels
    brighter = [
        float(image[0][mask == 1].mean() - image[0][mask == 0].mean()) for image, mask in zip(batch.images, batch.masks, strict=True)
    ]
    assert min(brighter) > 0.3  # a mask is where its image is bright, by half of 255
    assert torch.equal(batch.images[~dropped, 3] > 0, batch.masks[~dropped] == 1)


class SeesTheGiven:
    """A mender that sees the given mask again."""

    turns, batch_size = (0,), 4

    def __init__(self, config):
        self.config = config

    def probabilities_over_turns(self, images, given=None, turns=None):
        return np.where(np.stack(images)[:, :1] > 100 if given is None else np.stack(given)[:, None] == 1, 0.9, 0.1).astype(np.float32)


def test_masks_are_put_back_where_they_were_cropped(far_off, tmp_path, monkeypatch):
    monkeypatch.setattr(Menders, "train", lambda self, *_: (self.folder / "1").mkdir(parents=True))
    monkeypatch.setattr(Menders, "load", lambda self: [SeesTheGiven(self.config)] * self.count)
    data = far_off(0)
    done = pixeltrust.mend(data, out=tmp_path / "out", config={"image_size": 32}, show_progress=False)
    assert done.cases["changed_pixels"].eq(0).all()
    for number in (6, 7):
        assert np.array_equal(read_labels(tmp_path / "out/mended" / f"{number}.png"), read_labels(data / "noisy" / f"{number}.png"))
    confidence = np.asarray(Image.open(tmp_path / "out/confidence/6.png"))
    assert confidence[20:].min() == 255  # what menders were not shown is background


def test_the_first_updates_of_a_mender_see_half_the_size():
    sizes = []

    class Seeing(torch.nn.Module):
        def forward(self, images):
            sizes.append(tuple(images.shape[2:]))
            return images[:, :1] * torch.ones(1, requires_grad=True)

    config = Config(method="mender", image_size=(33, 40), coarse_share=0.5, model="tiny:network")
    batch = Batch(torch.rand(2, 4, 33, 40), torch.ones(2, 33, 40, dtype=torch.uint8))
    for update in range(4):
        methods.mender(Seeing(), Feed(noisy=None, clean=None, pool=None, pairs=lambda: batch, update=update, updates=4), config)
    assert sizes == [(16, 20), (16, 20), (33, 40), (33, 40)]


def test_a_mender_is_a_run_like_others(data, tmp_path):
    trained = pixeltrust.train(data, out=tmp_path / "run", config=read_mender_config(settings=QUICK), show_progress=False)
    assert trained.updates == 2
    predicted = pixeltrust.predict(tmp_path / "run", data / "images", out=tmp_path / "predicted", show_progress=False)
    assert predicted.count == 18  # images alone: it does without given masks


def test_no_mender_sees_a_pair_of_its_fold_or_of_its_group(data, tmp_path):
    rows = pd.DataFrame(
        [
            {"id": case.id, "image": case.image, "mask": mask, "role": role, "group": f"p{int(case.id) // 2}"}
            for case in read_cases(data, show_progress=False).cases
            for mask, role in ((case.mask, case.role), (case.given, "noisy"))
            if mask
        ]
    )
    rows.to_csv(tmp_path / "cases.csv", index=False)
    menders = Menders(read_cases(tmp_path / "cases.csv", show_progress=False), tmp_path / "menders", read_mender_config(settings=QUICK))
    menders.train(lambda number, update: None)
    for number in range(1, menders.count + 1):
        learned = set(pd.read_csv(tmp_path / "menders" / f"{number}.csv")["group"])
        held = {group for group, fold in zip(menders.groups, menders.folds, strict=True) if fold == number - 1}
        assert held
        assert not held & learned


# --- what can be done with a mask ---------------------------------------------------------------------------------


def test_ways_propose_what_they_say():
    given = np.array([[0, 1, 1, 255]], np.uint8)
    seen = np.array([[0.9, 0.9, 0.2, 0.9]], np.float32)
    probabilities = np.stack([1 - seen, seen])
    assert propose("given", given, probabilities, np.zeros(2)).tolist() == given.tolist()
    assert propose("mender", given, probabilities, np.zeros(2)).tolist() == [[1, 1, 0, 255]]
    assert propose("network", given, probabilities, np.zeros(2)).tolist() == [[1, 1, 0, 255]]
    unsure = np.array([[0.6, 0.9, 0.2, 0.9]], np.float32)
    kept = propose("audit", given, np.stack([1 - unsure, unsure]), np.array([2.0, 0.0]))
    assert kept.tolist() == [[0, 1, 0, 255]]  # labels of 0 are more often right than the network believes


def test_no_mask_is_emptied():
    given = np.array([[0, 1]], np.uint8)
    nothing = np.stack([np.ones((1, 2)), np.zeros((1, 2))]).astype(np.float32)
    assert propose("mender", given, nothing, np.zeros(2)).tolist() == given.tolist()


def test_parts_that_touch_the_given_mask_stay_and_others_become_background():
    given = np.array([[0, 1, 0, 0, 0], [0, 0, 0, 0, 255]], np.uint8)
    seen = np.array([[0, 2, 0, 0, 1], [1, 0, 0, 2, 1]], np.uint8)  # the 1 below touches at a corner; the ignored pixel is nothing to touch
    probabilities = np.stack([np.where(seen == label, 0.8, 0.1) for label in range(3)]).astype(np.float32)
    before = probabilities.copy()
    drop_parts_apart(probabilities, np.zeros_like(given))
    assert (probabilities == before).all(), "there is nothing to touch"
    drop_parts_apart(probabilities, given)
    assert probabilities.argmax(0).tolist() == [[0, 2, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert probabilities.sum(0) == pytest.approx(1)
    assert (probabilities[:, :, :3] == before[:, :, :3]).all()


def test_parts_of_volumes_touch_through_slices():
    given, kept = np.zeros((3, 3, 5), np.uint8), np.zeros((3, 3, 5), np.float32)
    given[0, 0, 0] = 1
    kept[0, 0, 0] = kept[1, 1, 1] = kept[2, 2, 0] = 1  # from corner to corner
    seen = kept.copy()
    seen[1, 1, 4] = 0.9
    probabilities = np.stack([1 - seen, seen])
    drop_parts_apart(probabilities, given)
    assert (probabilities[1] == kept).all()


def test_soft_dice_is_the_dice_where_probabilities_are_sure():
    labels, truth = np.array([[1, 1, 0, 2]], np.uint8), np.array([[1, 0, 0, 2]], np.uint8)
    sure = np.stack([(truth == label).astype(np.float32) for label in range(3)])
    assert soft_dice(labels, sure) == pytest.approx(dice_between(labels, truth, 3)) == pytest.approx((2 / 3 + 1) / 2)
    assert soft_dice(np.zeros((1, 4), np.uint8), np.stack([np.ones((1, 4)), np.zeros((1, 4))])) == 1


# --- the estimate -------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_students():
    values = np.array([0.7, 0.8, 0.9, np.nan])
    quality = mean_interval(values)
    assert quality.dice == pytest.approx(0.8)
    assert quality.high == 1, "a Dice is not above it"
    assert quality.dice - quality.low == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    one_draw = mean_interval(np.array([0.7, 0.7, 0.9, 0.9]), ["a", "a", "b", "b"])
    assert one_draw.high == 1, "two groups are two draws"
    assert math.isnan(mean_interval(np.array([np.nan])).dice)


def test_a_calibration_keeps_the_mean_and_the_order():
    draws = np.random.default_rng(0)
    soft = draws.uniform(0.5, 0.95, 60)
    dice = np.clip(soft - 0.1 + draws.normal(0, 0.03, 60), 0, 1)
    fitted = Calibration.of(dice, soft)
    assert fitted.expect(soft).mean() == pytest.approx(dice.mean(), abs=1e-6)
    assert (np.diff(fitted.expect(np.linspace(0.1, 0.9, 9))) > 0).all()
    assert np.abs(fitted.expect(soft) - (soft - 0.1)).mean() < 0.03


def measured(draws, **levels):
    """What each way has on pairs: a Dice about its level, and a soft Dice that knows it but for some noise."""
    dice = {way: np.clip(draws.normal(levels.get(way, 0.5), 0.05, 40), 0, 1) for way in WAYS}
    return {way: np.stack([values, np.clip(values + draws.normal(0, 0.02, 40), 0, 1)], 1) for way, values in dice.items()}


GROUPS = [f" {number}" for number in range(40)]
FOLDS = np.arange(40) % 4


@pytest.mark.parametrize(
    ("levels", "way"), [({"given": 0.6, "mender": 0.9}, "mender"), ({"given": 0.6, "network": 0.8, "mender": 0.7}, "network")]
)
def test_the_best_way_is_chosen(levels, way):
    assert choose(measured(np.random.default_rng(1), **levels), FOLDS, GROUPS).way == way


def test_of_equal_ways_the_one_that_sees_the_mask_is_chosen():
    values = measured(np.random.default_rng(6), given=0.6, mender=0.9)
    values["audit"] = values["mender"] + np.where(np.arange(40) % 2, 0.05, -0.048)[:, None]  # better by less than chance
    assert values["audit"][:, 0].mean() > values["mender"][:, 0].mean()
    assert choose(values, FOLDS, GROUPS).way == "mender"


def test_masks_that_no_way_improves_stay():
    values = measured(np.random.default_rng(2), given=0.95, mender=0.9)
    choice = choose(values, FOLDS, GROUPS)
    soft = np.array([[0.9, 0.9], [0.8, 0.95]])
    estimate, verdict = make_estimate(values, choice, GROUPS, soft=soft, noisy=np.ones(2, bool))
    assert choice.way == "given"
    assert not verdict.changed.any()
    assert estimate.changed == 0
    assert "no mask is changed" in estimate.sentence()


def test_a_single_mask_is_left_where_its_own_expected_dice_is_higher():
    draws = np.random.default_rng(3)
    good = np.arange(40) % 2 == 0
    values = measured(draws, given=0.5, mender=0.8)
    values["given"][good] = draws.uniform(0.93, 0.97, (20, 2))  # half of the masks are good, and can be told by their soft Dice
    choice = choose(values, FOLDS, GROUPS)
    _, verdict = make_estimate(values, choice, GROUPS, soft=np.array([[0.95, 0.8], [0.5, 0.8]]), noisy=np.ones(2, bool))
    assert choice.by_case
    assert verdict.changed.tolist() == [False, True]
    assert verdict.expected == pytest.approx([0.95, 0.8], abs=0.03)


def test_the_expected_dice_is_right_for_masks_of_another_mixture():
    draws = np.random.default_rng(4)
    values = measured(draws, given=0.3, mender=0.8)
    values["mender"][:, 0] = draws.uniform(0.6, 1, 40)
    values["mender"][:, 1] = np.clip(values["mender"][:, 0] + draws.normal(0, 0.02, 40), 0, 1)
    soft = np.stack([np.full(500, 0.3), draws.uniform(0.8, 1, 500)], 1)  # better ones than the pairs
    estimate, _ = make_estimate(values, choose(values, FOLDS, GROUPS), GROUPS, soft=soft, noisy=np.ones(500, bool))
    assert estimate.expected.dice == pytest.approx(soft[:, 1].mean(), abs=0.02)
    assert estimate.ways["mender"].dice < estimate.expected.dice - 0.05
    assert estimate.below["cases"] == 0


@pytest.mark.parametrize(("poor", "told"), [(4, 0), (20, 20)])
def test_masks_that_look_worse_than_every_pair_are_told_where_they_are_more_than_chance_allows(poor, told):
    draws = np.random.default_rng(8)
    values = measured(draws, given=0.9, mender=0.85)
    soft = np.stack([np.r_[draws.uniform(0.2, 0.5, poor), draws.uniform(0.88, 0.95, 100 - poor)], np.full(100, 0.85)], 1)
    noisy = np.ones(101, bool)
    noisy[-1] = False
    soft = np.vstack([soft, [0.01, 0.01]])  # corrected: it does not count
    estimate, _ = make_estimate(values, choose(values, FOLDS, GROUPS), GROUPS, soft=soft, noisy=noisy)  # .96 ** 40 is .20, .8 ** 40 .0001
    assert estimate.beyond == told
    assert estimate.doubt().partition(" look")[0] == ("20 of 100 masks" if told else "")
    near = np.stack([np.r_[values["given"][:, 1].min() - 0.005 * np.ones(50), np.full(51, 0.9)], soft[:, 1]], 1)
    by_a_hair, _ = make_estimate(values, choose(values, FOLDS, GROUPS), GROUPS, soft=near, noisy=noisy)
    assert by_a_hair.beyond == 0
    of_one_patient, _ = make_estimate(values, choose(values, FOLDS, GROUPS), ["a", *"b" * 39], soft=soft, noisy=noisy)
    assert of_one_patient.beyond == 0


def test_further_pairs_are_worth_what_earlier_ones_were():
    values = measured(np.random.default_rng(5), given=0.5, mender=0.9)
    earlier = ({"pairs": 10, "dice": 0.8, "low": 0.7, "high": 0.9},)
    soft = np.array([[0.9, 0.9]] * 5)
    choice = choose(values, FOLDS, GROUPS)
    alone, _ = make_estimate(values, choice, GROUPS, soft=soft, noisy=np.ones(5, bool))
    later, _ = make_estimate(values, choice, GROUPS, soft=soft, noisy=np.ones(5, bool), earlier=earlier)
    assert alone.more is None
    assert [row["pairs"] for row in later.history] == [10, 40]
    assert later.more["pairs"] == 20
    assert 0 < later.more["gain"] < 1 - later.expected.dice


def test_expected_dice_are_spread_by_how_far_menders_agree_and_keep_their_mean():
    expected, agreement = np.array([0.8, 0.9, 0.85, 0.2]), np.array([0.99, 0.7, 0.95, 0.9])
    counted = np.array([True, True, True, False])
    changed = spread(expected, agreement, counted)
    assert changed[counted].mean() == pytest.approx(0.85)
    assert (np.argsort(changed) == np.argsort(agreement)).all()
    odds = np.log(changed / (1 - changed)) - np.log(agreement / (1 - agreement))
    assert odds == pytest.approx(odds[0])
    assert spread(expected, np.array([0.99, np.nan, 0.9, 0.9]), counted).tolist() == expected.tolist()
    assert spread(np.ones(2), np.ones(2), np.ones(2, bool)) == pytest.approx(1, abs=2e-3)


def test_the_ranking_of_an_estimate_is_that_of_the_agreement():
    values = measured(np.random.default_rng(7), given=0.6, mender=0.9)
    choice = choose(values, FOLDS, GROUPS)
    soft, agreement = np.tile([0.6, 0.9], (4, 1)), np.array([0.9, 0.99, 0.2, 0.95])
    level, _ = make_estimate(values, choice, GROUPS, soft=soft, noisy=np.ones(4, bool))
    estimate, verdict = make_estimate(values, choice, GROUPS, soft=soft, agreement=agreement, noisy=np.ones(4, bool))
    assert np.argsort(verdict.expected).tolist() == [2, 0, 3, 1]
    assert estimate.expected.dice == pytest.approx(level.expected.dice)
    assert estimate.below["cases"] > level.below["cases"]


# --- the whole way ------------------------------------------------------------------------------------------------


def test_a_mending_is_an_audit_folder_with_an_estimate(mended, data):
    folder = mended.out
    table, regions = read_audit_cases(folder), read_audit_regions(folder)
    assert sorted(table["id"]) == sorted(f"{number:03}" for number in range(7, 15))
    assert table["expected"].is_monotonic_increasing
    assert set(regions["id"]) <= set(table["id"])
    assert Audit.read(folder).data == data.resolve()
    estimate = read_estimate(folder)
    assert (estimate.pairs, estimate.cases) == (7, 8)
    assert estimate == mended.estimate
    for row in table.itertuples():
        given, proposed = read_labels(data / "noisy" / f"{row.id}.png"), read_labels(folder / "mended" / f"{row.id}.png")
        assert (given != proposed).sum() == row.changed_pixels
        assert row.evidence in WAYS
        assert (row.evidence == "given") == (row.changed_pixels == 0) or row.changed_pixels == 0
    pairs = pd.read_csv(folder / "pairs.csv", dtype={"id": str})
    assert sorted(pairs["id"]) == sorted(f"{number:03}" for number in range(7))
    assert (folder / "pairs" / "000.png").is_file()
    assert not (folder / ".mending" / "next").exists()
    assert not list(folder.glob("menders/*/checkpoint.pt"))


def test_what_is_said_of_a_mending(mended):
    assert "from 7 pairs" in str(mended)
    assert "pixeltrust review" in str(mended)
    assert str(mended).endswith("mended.csv --out RUN --set method=plain")
    page = (mended.out / "report.html").read_text()
    assert "Look at these first" in page
    assert "from 7 pairs" in page
    assert pixeltrust.report(mended.out).read_text() == page


class SeesACorner:
    """A mender that sees the given mask without its first column, and a square in the last corner of every image."""

    turns, batch_size = (0,), 4

    def __init__(self, config):
        self.config = config

    def probabilities_over_turns(self, images, given=None, turns=None):
        marked = np.stack(given) > 0 if given is not None else np.zeros((len(images), *images[0].shape[1:]), bool)
        seen = marked & np.roll(marked, 1, axis=-1)
        seen[:, -3:, -3:] = True
        return np.where(seen, 0.9, 0.1)[:, None].astype(np.float32)


@pytest.mark.parametrize("is_right", [False, True])
def test_what_menders_see_apart_from_the_given_mask_is_dropped_unless_the_pairs_have_it(tmp_path, monkeypatch, is_right):
    for part in ("images", "noisy", "clean"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(8):
        mask = np.zeros((16, 16), np.uint8)
        mask[2:7, 2 : 5 + number % 3] = 255
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "data/images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "data/noisy" / f"{number}.png")
        if number < 6:
            mask[:, 2] = 0  # given masks are a column too wide
            mask[-3:, -3:] = 255 * is_right
            Image.fromarray(mask).save(tmp_path / "data/clean" / f"{number}.png")
    monkeypatch.setattr(Menders, "train", lambda self, *_: (self.folder / "1").mkdir(parents=True))
    monkeypatch.setattr(Menders, "load", lambda self: [SeesACorner(self.config)] * self.count)
    done = pixeltrust.mend(tmp_path / "data", out=tmp_path / "out", config=WHOLE, show_progress=False)
    assert done.estimate.way == "mender"
    assert done.estimate.drops_apart != is_right
    assert pd.read_csv(tmp_path / "out/pairs.csv")["dice_mender"].eq(1).all()
    for folder, number in (("pairs", 0), ("mended", 7)):
        assert read_labels(tmp_path / "out" / folder / f"{number}.png")[-3:, -3:].any() == is_right
    assert ("do not touch the given mask are left out" in (tmp_path / "out/report.html").read_text()) != is_right
    assert read_estimate(tmp_path / "out") == done.estimate


def test_mended_masks_are_trained_on(mended, tmp_path):
    config = Config(method="plain", model="tiny:network", image_size=16, epochs=1)
    trained = pixeltrust.train(mended.out / "mended.csv", out=tmp_path / "run", config=config, show_progress=False)
    assert trained.updates == 1


def test_a_stopped_mending_continues(data, tmp_path, monkeypatch, small_pictures, mended):
    config, out = read_mender_config(settings=QUICK), tmp_path / "out"
    monkeypatch.setattr("pixeltrust.mending.run._Work.look_at_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pixeltrust.mend(data, out=out, config=config, show_progress=False)
    monkeypatch.undo()
    with pytest.raises(RunError, match="exists"):
        pixeltrust.mend(data, out=out, config=config, show_progress=False)
    made = {file: file.stat().st_mtime_ns for file in (out / ".mending/next/menders").glob("*/model.pt")}
    assert len(made) == 4
    record = json.loads((out / ".mending/next/of.json").read_text())
    (out / ".mending/next/of.json").write_text(json.dumps({name: record[name] for name in ("data", "files", "config")}))  # as before 1.1
    monkeypatch.setattr("pixeltrust.training.loop.Loop.run", lambda self: pytest.fail("a finished mender is trained again"))
    resumed = pixeltrust.mend(data, out=out, config=config, resume=True, show_progress=False)
    assert resumed.cases.drop(columns=["image", "mask"]).equals(mended.cases.drop(columns=["image", "mask"]))
    with pytest.raises(RunError, match="finished already"):
        pixeltrust.mend(data, out=out, config=config, resume=True, show_progress=False)


# --- stronger menders ------------------------------------------------------------------------------------------------

STRONG = (*QUICK, "stronger_below=1")


@pytest.fixture
def poor(monkeypatch):
    """Make seven pairs enough for stronger menders, and set what menders bring the pairs to, by the folder of their kind."""

    def set_dice(kinds, brings=0.1):
        monkeypatch.setattr("pixeltrust.mending.run.FEWEST_FOR_STRONGER", 7)
        spread = np.linspace(-0.01, 0.01, 7)
        monkeypatch.setattr("pixeltrust.mending.run._Learned.dice", property(lambda learned: kinds[learned.kind] + spread))
        monkeypatch.setattr("pixeltrust.mending.run._Learned.given_brings", brings)

    return set_dice


def stop_at(monkeypatch, place, data, out, settings, *, resume=False):
    with monkeypatch.context() as stopping:
        stopping.setattr(place, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pixeltrust.mend(data, out=out, config=read_mender_config(settings=settings), resume=resume, show_progress=False)


def resume_without_training(monkeypatch, data, out, **settings):
    with monkeypatch.context() as resumed:
        resumed.setattr("pixeltrust.training.loop.Loop.run", lambda self: pytest.fail("a finished mender is trained again"))
        return pixeltrust.mend(data, out=out, config=settings, resume=True, show_progress=False)


@pytest.mark.parametrize(
    ("stronger", "brings", "alone", "kind", "epochs", "dropped"),
    [
        (0.6, 0.1, 0.7, "stronger", 3, 0.25),  # the given masks bring enough: no others are tried
        (0.6, 0.04, 0.7, "alone", 3, 1),
        (0.6, 0.04, 0.4, "stronger", 3, 0.25),
        (0.501, 0.1, 0.7, "usual", 1, 0.25),  # better by chance
        (0.4, 0.04, 0.7, "alone", 3, 1),
        (0.4, 0.04, 0.4, "usual", 1, 0.25),
    ],
)
def test_where_masks_stay_poor_stronger_menders_are_trained_and_the_best_are_taken(
    data, tmp_path, monkeypatch, small_pictures, poor, stronger, brings, alone, kind, epochs, dropped
):
    poor({"usual": 0.5 + np.array([0.02, -0.02, 0.02, -0.02, 0.02, -0.02, 0]), "stronger": stronger, "alone": alone}, brings)
    out = tmp_path / "out"
    stop_at(monkeypatch, "pixeltrust.mending.run._Work.look_at_all", data, out, STRONG)
    done = resume_without_training(monkeypatch, data, out)
    trained = [tomllib.loads(file.read_text()) for file in out.glob("menders/*/config.toml")]
    assert [(config["epochs"], config["given_dropped"]) for config in trained] == [(epochs, dropped)] * 4
    assert done.estimate.menders == kind
    assert ("mender" in done.estimate.ways) == (kind != "alone")
    assert f", {stronger:.3f} by stronger ones" in str(done)
    assert (f", {alone:.3f} by ones that see the images alone" in str(done)) == (brings < 0.05)
    used = {"usual": "the usual menders", "stronger": "stronger ones", "alone": "ones that see the images alone"}[kind]
    assert f"; {used} are used" in str(done)
    assert sorted(entry.name for entry in out.iterdir() if "menders" in entry.name) == ["menders"]
    assert not list(out.glob("menders/*/checkpoint.pt"))
    assert read_estimate(out) == done.estimate
    assert pixeltrust.report(out).read_text() == (out / "report.html").read_text()


def test_stronger_menders_can_be_declined_once_the_usual_ones_are_trained(data, tmp_path, monkeypatch, small_pictures, poor):
    poor({"usual": 0.5})
    stop_at(monkeypatch, "pixeltrust.mending.run.strengthen", data, tmp_path / "out", STRONG)
    done = resume_without_training(monkeypatch, data, tmp_path / "out", stronger_below=0)
    assert done.estimate.menders == "usual"
    kept = json.loads((tmp_path / "out" / "audit.json").read_text())["menders"]
    assert kept["stronger_below"] == 0
    assert "crop_around_given" not in kept  # the data have settled it


@pytest.mark.parametrize("poor_ones", [False, True])
def test_a_disk_that_is_full_at_the_end_loses_nothing(data, tmp_path, monkeypatch, small_pictures, poor, poor_ones):
    poor({"usual": 0.5, "stronger": 0.6})
    out = tmp_path / "out"
    settings = STRONG if poor_ones else (*QUICK, "stronger_below=0")
    stop_at(monkeypatch, "pixeltrust.auditing.writing.sync_files", data, out, settings)
    stop_at(monkeypatch, "pixeltrust.mending.run.sync_files", data, out, settings, resume=True)
    done = resume_without_training(monkeypatch, data, out)
    assert done.estimate.menders == ("stronger" if poor_ones else "usual")


def test_menders_that_see_no_given_masks_have_no_way_for_them(data, tmp_path, small_pictures):
    done = pixeltrust.mend(data, out=tmp_path / "out", config=read_mender_config(settings=(*QUICK, "given_dropped=1")), show_progress=False)
    assert list(done.estimate.ways) == ["given", "network", "audit"]
    assert read_estimate(done.out) == done.estimate
    assert "mender: image and mask" not in (done.out / "report.html").read_text()


@pytest.mark.parametrize(("settings", "fewest"), [((), 7), (("stronger_below=0",), 7), (("stronger_below=1",), 8)])
def test_no_stronger_menders_are_trained_where_that_is_unset_or_pairs_few(data, tmp_path, monkeypatch, small_pictures, settings, fewest):
    monkeypatch.setattr("pixeltrust.mending.run.FEWEST_FOR_STRONGER", fewest)
    trained, train = [], Menders.train
    monkeypatch.setattr(Menders, "train", lambda self, tick, ranks: trained.append(self.config.epochs) or train(self, tick, ranks))
    pixeltrust.mend(data, out=tmp_path / "out", config=read_mender_config(settings=(*QUICK, *settings)), show_progress=False)
    assert trained == ([1] if settings else [1, 3, 3])


def test_the_given_masks_are_judged_on_pairs_as_they_are_on_other_masks(tmp_path, monkeypatch):
    """Where the image alone is the best way, the given masks of both are judged by what is seen in the image alone."""
    for part in ("images", "noisy", "clean"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(16):
        given, clean = np.zeros((2, 16, 16), np.uint8)
        clean[4:12, 4:12] = 255
        given[4:12, 4 : 5 + number % 8] = 255
        Image.fromarray(np.stack([clean] * 3, -1)).save(tmp_path / "data/images" / f"{number:02}.png")
        Image.fromarray(given).save(tmp_path / "data/noisy" / f"{number:02}.png")
        if number < 8:
            Image.fromarray(clean).save(tmp_path / "data/clean" / f"{number:02}.png")
    monkeypatch.setattr(Menders, "train", lambda self, *_: (self.folder / "1").mkdir(parents=True))
    monkeypatch.setattr(Menders, "load", lambda self: [SeesTheImage(self.config)] * self.count)
    done = pixeltrust.mend(tmp_path / "data", out=tmp_path / "out", config=WHOLE, show_progress=False)
    assert done.estimate.way == "network"
    true = {f"{number:02}": 2 * (1 + number % 8) / (9 + number % 8) for number in range(8, 16)}
    told = done.cases.set_index("id")["expected_given"]
    assert told.to_numpy() == pytest.approx([true[identity] for identity in told.index], abs=0.1)


class SeesTheImage:
    """A mender that sees what is bright in the image, and of a given mask the wrong half."""

    turns, batch_size = (0,), 4

    def __init__(self, config):
        self.config = config

    def probabilities_over_turns(self, images, given=None, turns=None):
        bright = np.stack([np.asarray(image)[0] > 100 for image in images])
        seen = bright if given is None else ~bright
        return np.where(seen, 0.99, 0.01)[:, None].astype(np.float32)


def test_stronger_menders_learn_longer_by_a_larger_network_unless_the_network_was_chosen():
    usual = as_mender_config(None)
    assert strengthen(usual, alone=False) == replace(usual, model="unet-small", epochs=18)
    assert strengthen(usual, alone=True) == replace(usual, model="unet-small", epochs=18, given_dropped=1)
    volumes = as_mender_config({"image_size": (32, 32, 32)})
    assert strengthen(volumes, alone=False) == replace(volumes, epochs=30)
    chosen = as_mender_config({"model": "tiny:network", "epochs": 2})
    assert strengthen(chosen, alone=False) == replace(chosen, epochs=6)


def test_settings_that_menders_were_given_are_kept_without_those_of_the_data():
    given = {"classes": 3, "device": "cpu", "seed": 4, "epochs": 6, "crop_around_given": None}
    assert chosen_settings(given, as_mender_config(given, clean=10)) == {"seed": 4, "epochs": 6, "crop_around_given": None}
    assert chosen_settings(None, as_mender_config(None, clean=10)) == {}
    whole = as_mender_config({"epochs": 3, "classes": 2})
    kept = chosen_settings(whole, whole)
    assert kept["epochs"] == 3
    assert kept["learning_rate"] == 3e-3
    assert "classes" not in kept


def test_a_mending_anew_has_the_settings_of_the_one_before(data, tmp_path, monkeypatch, small_pictures, mended):
    shutil.copytree(mended.out, tmp_path / "out")
    asked = []
    monkeypatch.setattr("pixeltrust.reviewing.again.mend_cases", lambda cases, listed, **more: asked.append((cases.notes, more)))
    usual = read_mender_config(settings=QUICK)
    for given in (None, {"epochs": 2, "model": "unet-small", "device": "cpu"}, {"model": "tiny:network"}, usual):
        mend_again(tmp_path / "out", config=given, show_progress=False)
    configs, chosen = ([more[name] for _, more in asked] for name in ("config", "chosen"))
    by_ours = replace(usual, model="unet-tiny")  # of a folder that may be somebody else's no code is called
    assert configs == [by_ours, replace(usual, epochs=2, model="unet-small", device="cpu"), usual, usual]
    assert [settings.get("model") for settings in chosen] == [None, "unet-small", "tiny:network", "tiny:network"]
    assert chosen[1]["epochs"] == 2
    assert "device" not in chosen[1]
    assert ["--set model=tiny:network" in " ".join(notes) for notes, _ in asked] == [True, False, False, False]


@pytest.mark.slow
def test_classes_and_ignored_pixels(tmp_path, small_pictures):
    draws, folder = np.random.default_rng(0), tmp_path / "data"
    for part in ("images", "noisy", "clean"):
        (folder / part).mkdir(parents=True)
    for number in range(8):
        labels = draws.integers(0, 3, (20, 24), np.uint8)
        labels[0, 0] = 255
        Image.fromarray(draws.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "noisy" / f"{number}.png")
        if number < 6:
            Image.fromarray(np.roll(labels, 1, 1)).save(folder / "clean" / f"{number}.png")
    config = read_mender_config(settings=(*QUICK, "classes=3"))
    done = pixeltrust.mend(folder, out=tmp_path / "out", config=config, show_progress=False)
    assert set(done.cases["id"]) == {"6", "7"}
    assert read_labels(tmp_path / "out" / "mended" / "6.png")[0, 0] == 255
    assert set(np.unique(read_labels(tmp_path / "out" / "mended" / "7.png"))) <= {0, 1, 2, 255}


# --- refusals -----------------------------------------------------------------------------------------------------


def test_too_few_pairs_are_refused_in_words(tmp_path, run_command):
    tiny.draw(tmp_path / "data", noisy=6, clean=2, test=0)
    code, _, error = run_command("mend", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 2
    assert "0 pairs" in error
    assert "correct 5 more" in error
    assert not (tmp_path / "out").exists()


def test_settings_of_another_method_are_refused(data, tmp_path, run_command):
    code, _, error = run_command("mend", data, "--out", tmp_path / "out", "--set", "method=trust")
    assert code == 2
    assert "menders are trained by method = 'mender'" in error


@pytest.mark.parametrize("words", [[], ["DATA"], ["DATA", "--out", "x", "--again", "y"]])
def test_what_to_mend_is_said_once(words, data, run_command):
    code, _, error = run_command("mend", *[data if word == "DATA" else word for word in words])
    assert code == 2
    assert "DATA and --out, or --again" in error


def test_a_broken_mask_is_named_before_any_training(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "noisy" / "009.png").write_bytes((data / "noisy" / "009.png").read_bytes()[:60])
    with pytest.raises(DataError, match="009"):
        pixeltrust.mend(tmp_path / "data", out=tmp_path / "out", config=read_mender_config(settings=QUICK), show_progress=False)
    assert not list((tmp_path / "out").glob(".mending/next/menders/*"))


def test_an_image_that_breaks_on_the_way_changes_no_other_mask(data, tmp_path, small_pictures, monkeypatch, mended):
    shutil.copytree(data, tmp_path / "data")
    config, out = read_mender_config(settings=QUICK), tmp_path / "out"
    stop_at(monkeypatch, "pixeltrust.mending.run._Work.look_at_all", tmp_path / "data", out, QUICK)
    broken = tmp_path / "data" / "images" / f"{sorted(mended.cases['id'])[0]}.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:60])
    with pytest.raises(DataError, match=broken.name):
        pixeltrust.mend(tmp_path / "data", out=out, config=config, resume=True, show_progress=False)
    broken.write_bytes(whole)
    resumed = pixeltrust.mend(tmp_path / "data", out=out, config=config, resume=True, show_progress=False)
    assert resumed.cases.drop(columns=["image", "mask"]).equals(mended.cases.drop(columns=["image", "mask"]))
    for identity in mended.cases["id"]:
        for folder in ("mended", "confidence"):
            assert (read_labels(out / folder / f"{identity}.png") == read_labels(mended.out / folder / f"{identity}.png")).all()


def test_a_broken_estimate_is_named(mended, tmp_path):
    (tmp_path / "estimate.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(RunError, match=r"estimate\.json: cannot be read"):
        read_estimate(tmp_path)
    with pytest.raises(ConfigError):
        read_mender_config(settings=["method=plain"])


@pytest.mark.parametrize(("clean", "epochs"), [(5, 2), (10, 4), (25, 6), (500, 6)])
def test_few_pairs_are_learned_in_few_epochs_unless_the_settings_say_otherwise(clean, epochs):
    assert as_mender_config({"image_size": 64}, clean=clean).epochs == epochs
    assert as_mender_config({"epochs": 7}, clean=clean).epochs == 7
    assert as_mender_config({"image_size": [8, 16, 16]}, clean=clean).epochs == 10
