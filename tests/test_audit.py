"""The audit: how likely a pixel is right, what is said of cases and regions, what is mended and what never is, going on after a stop."""

import json
import os
import re
import shutil
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from audits import audit_of, discs, shifted_back
from pixeltrust.auditing import evidence
from pixeltrust.auditing import page as page_module
from pixeltrust.auditing import run as run_module
from pixeltrust.auditing.folder import CASE_COLUMNS, REGION_COLUMNS, Audit, read_audit_cases, read_audit_record, read_audit_regions
from pixeltrust.auditing.gain import Gain
from pixeltrust.auditing.regions import list_regions, measure_agreement, measure_case
from pixeltrust.auditing.run import audit
from pixeltrust.auditing.scores import SHARE, TILT, compute_confidence, count_confusion, estimate_tilt
from pixeltrust.auditing.writing import find_foreground_value
from pixeltrust.data.batches import CaseCache
from pixeltrust.data.cases import check, read_cases
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.masks import decode_labels
from pixeltrust.data.pictures import write_png
from pixeltrust.formats.convert import convert
from pixeltrust.pages.pictures import draw_overlay, png_source
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.files import exclusive_lock
from pixeltrust.prediction.network import Network
from pixeltrust.reports import report
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.masks import read_confidence
from pixeltrust.training.train import train
from tiny import configured, draw

pytestmark = pytest.mark.usefixtures("small_pictures")
PICTURES = 2  # of the worst cases on a page
AUDIT_PAGE = page_module.audit_page


@pytest.fixture(scope="module", autouse=True)
def without_pages():
    """Write empty pages where no test looks at them: they take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "WORST", PICTURES)
        patch.setattr(page_module, "audit_page", lambda *_: "")
        yield


@pytest.fixture
def with_pages(monkeypatch):
    monkeypatch.setattr(page_module, "audit_page", AUDIT_PAGE)


def log_odds(value):
    return np.log(value / (1 - value))


# --- how likely a pixel is right --------------------------------------------------------------------------------------


def test_confidence_is_the_sum_of_what_network_kind_and_training_say():
    labels = np.array([[0, 1, 255]], np.uint8)
    foreground = np.array([[0.3, 0.3, 0.9]], np.float32)
    tilt, shares = np.array([0.0, 1.2]), np.array([[0.8, 0.6, 0.1]], np.float32)
    confidence = compute_confidence(labels, np.stack([1 - foreground, foreground]), tilt, shares)
    odds = [log_odds(0.7) + SHARE * log_odds(0.8), log_odds(0.3) + TILT * 1.2 + SHARE * log_odds(0.6)]
    np.testing.assert_allclose(confidence[0, :2], 1 / (1 + np.exp(-np.array(odds))), rtol=1e-5)
    assert confidence[0, 2] == 1  # ignored: nothing to doubt
    alone = compute_confidence(labels, np.stack([1 - foreground, foreground]), np.zeros(2), None)
    np.testing.assert_allclose(alone[0, :2], [0.7, 0.3], rtol=1e-5)


def test_the_kind_of_label_that_is_seldom_wrong_is_tilted_to():
    confusion = np.array([[900.0, 1.0], [50.0, 49.0]])  # much foreground is left out, hardly anything wrong is put in
    tilt = estimate_tilt([confusion])
    assert tilt[0] == 0
    rates = confusion / confusion.sum(1, keepdims=True)
    assert tilt[1] == pytest.approx(np.log(rates[1, 1] / rates[0, 1]) - np.log(rates[0, 0] / rates[1, 0]))
    assert estimate_tilt([confusion, 3 * confusion]) == pytest.approx(tilt)
    assert estimate_tilt([np.array([[90.0, 10.0], [10.0, 90.0]])]) == pytest.approx([0, 0])
    assert np.isfinite(estimate_tilt([np.array([[5.0, 0.0], [0.0, 0.0]])])).all()  # no foreground anywhere


def test_the_tilt_counts_as_far_as_the_cases_err_to_the_same_side():
    out, into = np.array([[900.0, 0.0], [40.0, 60.0]]), np.array([[860.0, 40.0], [0.0, 100.0]])
    assert estimate_tilt([out, into]) == pytest.approx([0, 0])  # one leaves out what the other puts in
    three = estimate_tilt([out, out, out, into])
    rates = np.sum([out, out, out, into], 0) / [[3600], [400]]
    alike = np.log(rates[1, 1] / rates[0, 1]) - np.log(rates[0, 0] / rates[1, 0])
    assert three == pytest.approx([0, alike / 2])  # 120 pixels one way, 40 the other


def test_a_label_that_no_mask_has_changes_no_tilt():
    confusion = np.array([[900.0, 1.0], [10.0, 90.0]])
    assert estimate_tilt([np.pad(confusion, (0, 1))]) == pytest.approx([*estimate_tilt([confusion]), 0])


def test_confusion_counts_probabilities_by_given_labels_and_leaves_out_ignored_pixels():
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    probabilities = np.array([[[0.5, 0.2, 0.1, 1]], [[0.3, 0.7, 0.3, 0]], [[0.2, 0.1, 0.6, 0]]], np.float32)
    np.testing.assert_allclose(count_confusion(labels, probabilities), probabilities[:, 0, :3], rtol=1e-6)


# --- cases and regions ------------------------------------------------------------------------------------------------


def dice_of(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_agreement_is_half_what_the_network_sees_and_half_its_most_favourable_reading():
    draws = np.random.default_rng(0)
    given, foreground = (draws.random((20, 30)) > 0.6).astype(np.uint8), draws.random((20, 30))
    scores = [dice_of(given > 0, foreground > step / 10) for step in range(1, 10)]
    assert measure_agreement(given, np.stack([1 - foreground, foreground])) == pytest.approx((scores[4] + max(scores)) / 2)


def test_agreement_where_nothing_is_there():
    nothing, never = np.zeros((4, 4), np.uint8), np.stack([np.ones((4, 4)), np.zeros((4, 4))])
    assert measure_agreement(nothing, never) == 1
    assert measure_agreement(nothing + 1, never) == 0
    assert measure_agreement(nothing, never[::-1]) == 0
    ignored = np.full((4, 4), 255, np.uint8)
    assert measure_agreement(ignored, never[::-1]) == 1


def test_agreement_of_three_classes_is_by_the_likeliest():
    likeliest = np.stack([np.full((4, 4), share) for share in (0.3, 0.45, 0.25)])
    assert measure_agreement(np.ones((4, 4), np.uint8), likeliest) == 1
    assert measure_agreement(np.zeros((4, 4), np.uint8), likeliest) == 0


def test_regions_say_what_where_and_how_sure():
    given, seen, confidence = np.zeros((10, 12), np.uint8), np.zeros((10, 12), np.uint8), np.full((10, 12), 200, np.uint8)
    given[1:5, 1:5] = 1
    seen[1:5, 1:3] = 1  # the right half of the mask is too much
    seen[7:9, 6:12] = 1  # and a lesion is missing
    confidence[1:5, 3:5], confidence[7:9, 6:12], confidence[0, 11] = 51, 102, 0
    mended = np.where((confidence < 128) & (seen != given), seen, given)
    rows = list_regions(given, mended, seen, confidence, 2)
    assert [(row["kind"], row["area"], row["top"], row["left"], row["bottom"], row["right"], row["mended"]) for row in rows] == [
        ("too much", 8, 1, 3, 5, 5, True),
        ("missing", 12, 7, 6, 9, 12, True),
    ]
    assert [row["doubt"] for row in rows] == pytest.approx([0.8, 0.6])
    assert [row["share"] for row in rows] == pytest.approx([0.5, 0.75])
    assert (rows[1]["row"], rows[1]["column"]) == (7.5, 8.5)
    assert len(list_regions(given, mended, seen, confidence, 1)) == 3
    assert list_regions(given, mended, seen, confidence, 1)[0]["kind"] == "unsure"  # the single pixel: the network sees nothing else there
    row = measure_case(given, mended, seen, confidence)
    assert (row["doubtful_pixels"], row["changed_pixels"], row["added_pixels"], row["removed_pixels"]) == (21, 20, 12, 8)
    assert row["doubtful_share"] == pytest.approx(21 / 29)  # of 28 that the mask or the network has, and one that neither has, but doubts


def test_other_classes_and_ignored_pixels_have_their_kinds():
    given = np.array([[1, 1, 2, 2, 255, 255]], np.uint8)
    seen = np.array([[2, 2, 0, 0, 1, 1]], np.uint8)
    rows = list_regions(given, seen, seen, np.zeros((1, 6), np.uint8), 1)
    assert sorted((row["kind"], row["area"]) for row in rows) == [("other class", 2), ("too much", 2)]


# --- a whole audit ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("made") / "data", noisy=24)


def trained(data, out, **settings):
    values = {"model": "tiny:without_dropout", "learning_rate": 0.05, "epochs": 20, "weight_map_cases": 0, "val_fraction": 0.0}
    values |= {"batch_size": 8} | settings
    train(data, out=out, config=configured(**values), show_progress=False)
    return out


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("run") / "run", method="trust")


@pytest.fixture(scope="module")
def audited(run, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "audit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "audit_page", AUDIT_PAGE)
        return audit(run, data, out=out, show_progress=False)


def pictures(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_an_audit_folder_holds_what_it_promises(audited, data):
    out = audited.out
    ids = sorted(case.id for case in read_cases(data).of("noisy"))
    assert {path.name for path in out.iterdir()} == {
        "audit.json", "cases.csv", "regions.csv", "mended.csv", "report.html", "confidence", "mended", "changed",
    }  # fmt: skip
    for name in ("confidence", "mended"):
        assert sorted(path.stem for path in (out / name).iterdir()) == ids
    cases, regions = read_audit_cases(out), read_audit_regions(out)
    assert list(cases.columns) == list(CASE_COLUMNS)
    assert list(regions.columns) == list(REGION_COLUMNS)
    assert cases["rank"].tolist() == list(range(1, 25))
    assert cases["agreement"].is_monotonic_increasing
    assert cases["regions"].sum() == len(regions) > 0
    assert set(cases["evidence"]) == {"network and training"}
    assert read_audit_record(out).data == str(data.resolve())


def test_only_doubtful_pixels_are_mended_and_the_files_say_which(audited, data):
    cases = read_audit_cases(audited.out).set_index("id")
    changed_anywhere = 0
    for case in read_cases(data).of("noisy"):
        given = read_labels(case.mask)
        mended, confidence = (read_labels(audited.out / name / f"{case.id}.png") for name in ("mended", "confidence"))
        changed = given != mended
        assert not (changed & (confidence >= 128)).any()
        assert set(np.unique(mended)) <= {0, 255}
        path = audited.out / "changed" / f"{case.id}.png"
        assert path.is_file() == changed.any()
        if changed.any():
            np.testing.assert_array_equal(read_labels(path), changed * 255)
        assert cases.loc[case.id, "changed_pixels"] == changed.sum()
        assert cases.loc[case.id, "doubtful_pixels"] == (confidence < 128).sum()
        changed_anywhere += changed.sum()
    assert changed_anywhere > 0


def test_mended_masks_are_nearer_to_the_truth(audited, data):
    """The noisy masks of the made-up data are all too small; the truth is where the bump is above .35."""
    truth = draw(data.parent / "truth", noisy=24, noisy_above=0.35)
    before, after = [], []
    for case in read_cases(data).of("noisy"):
        true = read_labels(truth / "noisy" / case.mask.name) > 0
        before.append(dice_of(read_labels(case.mask) > 0, true))
        after.append(dice_of(read_labels(audited.out / "mended" / f"{case.id}.png") > 0, true))
    assert np.mean(after) > np.mean(before) + 0.1


def test_the_mended_masks_can_be_trained_on(audited, data, tmp_path):
    cases = check(audited.out / "mended.csv", show_progress=False)
    assert {role: len(cases.of(role)) for role in ("noisy", "clean", "test")} == {"noisy": 24, "clean": 14, "test": 3}
    assert all(case.mask.parent == audited.out / "mended" for case in cases.of("noisy"))
    trained(audited.out / "mended.csv", tmp_path / "run", method="trust", epochs=1)


def test_the_page_is_whole_and_can_be_written_again(audited, with_pages, tmp_path):
    page = (audited.out / "report.html").read_text(encoding="utf-8")
    assert "likely bad" in page
    assert "How much better the proposed masks are is not known: there is no pair" in page
    assert page.count("<h3>") == PICTURES
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert report(audited.out, out=tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_the_page_begins_with_the_gain_where_it_is_known(audited):
    gain = Gain(pairs=12, given=0.61, mended=0.83, low=0.18, high=0.26)
    audit = replace(Audit.read(audited.out), gain=gain)
    assert page_module._gain(audit)[0].value == "+0.22"
    story = page_module._story(audit, read_audit_cases(audited.out))
    assert story.startswith("Given 0.61, mended 0.83: +0.22 of Dice (+0.18 to +0.26, from 12 pairs).")


def test_an_audit_of_an_earlier_version_is_reported_reviewed_and_converted(audited, with_pages, tmp_path):
    """It has its confidence in trust/, and in regions.csv the doubt of a region under that name."""
    older = shutil.copytree(audited.out, tmp_path / "older" / audited.out.name)
    (older / "confidence").rename(older / "trust")
    rows = (older / "regions.csv").read_text(encoding="utf-8").splitlines()
    (older / "regions.csv").write_text("\n".join([rows[0].replace("doubt", "confidence"), *rows[1:]]), encoding="utf-8")
    assert report(older).read_bytes() == report(audited.out).read_bytes()
    identity = audited.cases["id"][0]
    size = tuple(audited.cases.loc[0, ["height", "width"]])
    confidence = read_labels(audited.out / "confidence" / f"{identity}.png")
    np.testing.assert_array_equal(read_confidence(Audit.read(older), identity, size), confidence)
    with closing(Decisions(Audit.read(older))) as decisions, decisions.reading() as connection:
        assert connection.execute("SELECT count(*) FROM regions WHERE confidence > 0").fetchone()[0] == len(rows) - 1
    for folder, name in ((older, "older"), (audited.out, "newer")):
        convert(folder, tmp_path / name / "masks", to="png", show_progress=False)
    assert pictures(tmp_path / "older" / "masks") == pictures(tmp_path / "newer" / "masks")


def test_the_end_says_where_to_go_on(audited):
    text = str(audited)
    assert f"pixeltrust review {audited.out}" in text
    assert f"pixeltrust train {audited.out / 'mended.csv'}" in text
    assert "24 masks judged by network and training" in text


def test_a_mask_that_training_has_not_seen_is_judged_with_the_clean_set(run, data, tmp_path):
    other = shutil.copytree(data, tmp_path / "other")
    changed = next((other / "noisy").iterdir())
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[:6, :6] = 255
    Image.fromarray(pixels).save(changed)
    audit(run, other, out=tmp_path / "audit", show_progress=False)
    judged_by = read_audit_cases(tmp_path / "audit").set_index("id")["evidence"]
    assert judged_by[changed.stem] == "network and clean set"
    assert (judged_by.drop(changed.stem) == "network and training").all()
    confidence = read_labels(tmp_path / "audit" / "confidence" / changed.name)
    assert confidence[:6, :6].mean() < 128


def test_a_run_of_plain_training_audits_too_and_says_what_it_lacks(data, tmp_path):
    plain = trained(data, tmp_path / "run", method="plain", epochs=2)
    found = audit(plain, data, out=tmp_path / "audit", show_progress=False)
    assert set(found.cases["evidence"]) == {"network and clean set"}
    assert "leaves no helped maps" in str(found)


def test_a_network_without_forward_mode_is_asked_alone(data, tmp_path):
    plain = trained(data, tmp_path / "run", method="plain", epochs=1, model="tiny:without_forward_mode")
    found = audit(plain, data, out=tmp_path / "audit", show_progress=False)
    assert set(found.cases["evidence"]) == {"network"}
    assert "the clean set was not used" in str(found)


def test_the_clean_set_is_asked_along_the_parts_that_training_took_its_gains_along(data, tmp_path):
    settings = {"method": "pixel", "epochs": 1, "model": "tiny:with_forward_mode_at_its_end", "along": "1"}
    other = draw(tmp_path / "other", noisy=3, clean=1, test=0, prefix="x")
    found = audit(trained(data, tmp_path / "run", **settings), other, out=tmp_path / "audit", show_progress=False)
    assert set(found.cases["evidence"]) == {"network and clean set"}


def test_an_audit_leaves_the_run_folder_as_it_was_and_decodes_the_clean_cases_that_are_asked(data, tmp_path, monkeypatch):
    """All clean ones need not fit into memory."""
    of_run = trained(data, tmp_path / "run", method="plain", epochs=1, cache_gib=0, clean_batch_size=1)
    before = sorted(of_run.rglob("*"))
    held = []
    monkeypatch.setattr(evidence, "CaseCache", lambda cases, *more: held.append(len(cases)) or CaseCache(cases, *more))
    audit(of_run, data, out=tmp_path / "audit", show_progress=False)
    assert sorted(of_run.rglob("*")) == before
    assert held == [evidence.ASKED]


@pytest.mark.slow
def test_where_the_clean_files_are_gone_the_network_is_asked_alone(data, tmp_path):
    moved = shutil.copytree(data, tmp_path / "data")
    plain = trained(moved, tmp_path / "run", method="plain", epochs=1)
    moved.rename(tmp_path / "elsewhere")
    found = audit(plain, tmp_path / "elsewhere", out=tmp_path / "audit", show_progress=False)
    assert set(found.cases["evidence"]) == {"network"}
    assert "the clean set was not used" in str(found)


# --- stops and faults -------------------------------------------------------------------------------------------------


def test_an_audit_is_not_done_before_its_pictures_are_on_the_disk(run, data, audited, tmp_path, monkeypatch):
    out = tmp_path / "audit"
    monkeypatch.setattr("pixeltrust.auditing.writing.sync_files", lambda folder: (_ for _ in ()).throw(OSError(28, "full", str(folder))))
    with pytest.raises(RunError, match="free the disk"):
        audit(run, data, out=out, show_progress=False)
    assert pictures(out) == pictures(audited.out)
    assert not (out / "audit.json").exists()


def test_a_stopped_audit_goes_on_and_ends_the_same(run, data, audited, tmp_path, monkeypatch):
    out, calls = tmp_path / "audit", []
    real = Network.probabilities_over_turns

    def stopping(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, pixels)

    monkeypatch.setattr(Network, "probabilities_over_turns", stopping)
    with pytest.raises(KeyboardInterrupt):
        audit(run, data, out=out, show_progress=False)
    looked_at = sum(calls[:2])
    assert len(list((out / ".seen").glob("*.npz"))) == looked_at
    with pytest.raises(RunError, match="not an audit that has finished"):
        read_audit_record(out)
    with pytest.raises(RunError, match="not empty"):
        audit(run, data, out=out, show_progress=False)
    calls.clear()
    monkeypatch.setattr(Network, "probabilities_over_turns", lambda self, pixels: calls.append(len(pixels)) or real(self, pixels))
    audit(run, data, out=out, resume=True, show_progress=False)
    assert sum(calls) == 24 - looked_at
    assert pictures(out) == pictures(audited.out)
    for name in ("cases.csv", "regions.csv"):
        assert (out / name).read_bytes() == (audited.out / name).read_bytes()


@pytest.mark.slow
def test_an_audit_of_another_run_is_not_gone_on_with(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "estimate_tilt", lambda confusion: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        audit(run, data, out=tmp_path / "audit", show_progress=False)
    monkeypatch.undo()
    shutil.copytree(data, tmp_path / "data")
    with pytest.raises(RunError, match="started with others"):
        audit(run, tmp_path / "data", out=tmp_path / "audit", resume=True, show_progress=False)


@pytest.fixture
def stopped(run, data, tmp_path, monkeypatch):
    """An audit that was stopped after it had looked at every image."""
    out = tmp_path / "audit"
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "estimate_tilt", lambda confusion: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audit(run, data, out=out, show_progress=False)
    return out


def test_an_audit_is_not_gone_on_with_by_other_numbers_or_weights(run, data, stopped, tmp_path):
    for settings in ({"sure": 0.9}, {"smallest": 3}):
        with pytest.raises(RunError, match=f"started with others.*{next(iter(settings))} was"):
            audit(run, data, out=stopped, resume=True, show_progress=False, **settings)
    shutil.move(run, tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", run)
    try:
        weights = torch.load(run / "model.pt", weights_only=True)
        parameters = next(part for part in weights.values() if isinstance(part, dict) and all(map(torch.is_tensor, part.values())))
        next(iter(parameters.values())).add_(0.1)  # as trained anew in the same place
        torch.save(weights, run / "model.pt")
        with pytest.raises(RunError, match=r"started with others.*weights was last"):
            audit(run, data, out=stopped, resume=True, show_progress=False)
    finally:
        shutil.rmtree(run)
        shutil.move(tmp_path / "kept", run)


def test_what_a_stopped_audit_has_written_goes_where_nothing_is_mended(run, data, audited, stopped):
    unchanged = audited.cases["id"][audited.cases["changed_pixels"] == 0]
    stale = stopped / "changed" / f"{unchanged.iloc[0] if len(unchanged) else audited.cases['id'][0]}.png"
    write_png(stale, np.full((16, 16), 255, np.uint8))
    audit(run, data, out=stopped, resume=True, show_progress=False)
    assert pictures(stopped) == pictures(audited.out)


@pytest.mark.slow
def test_a_mask_that_has_changed_since_it_was_looked_at_is_named(run, data, tmp_path, monkeypatch):
    mine, out = shutil.copytree(data, tmp_path / "data"), tmp_path / "audit"
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "estimate_tilt", lambda confusion: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audit(run, mine, out=out, show_progress=False)
    mask = next((mine / "noisy").iterdir())
    write_png(mask, 255 - read_labels(mask))
    with pytest.raises(DataError, match=f"{mask.name}: has changed since this audit looked at it; remove .*{mask.stem}.npz"):
        audit(run, mine, out=out, resume=True, show_progress=False)
    (out / ".seen" / f"{mask.stem}.npz").unlink()
    assert len(audit(run, mine, out=out, resume=True, show_progress=False).cases) == 24


@pytest.mark.slow
def test_masks_without_foreground_are_mended_in_the_values_of_the_others(run, data, tmp_path):
    mine = shutil.copytree(data, tmp_path / "data")
    masks = sorted((mine / "noisy").iterdir())
    for mask in [*masks, *mine.glob("clean/*.png"), *mine.glob("test/*.png")]:
        write_png(mask, (read_labels(mask) > 0).astype(np.uint8))
    ignoring = read_labels(masks[0]).copy()
    ignoring[0] = 255
    write_png(masks[0], ignoring)
    write_png(masks[1], np.zeros_like(ignoring))
    found = audit(run, mine, out=tmp_path / "audit", show_progress=False)
    assert found.cases.set_index("id")["added_pixels"][masks[1].stem] > 0
    assert set(np.unique(read_labels(found.out / "mended" / masks[1].name))) == {0, 1}
    check(found.out / "mended.csv", show_progress=False)
    write_png(masks[2], 255 * (read_labels(masks[2]) > 0).astype(np.uint8))
    with pytest.raises(DataError, match="is 255 foreground or ignored"):
        audit(run, mine, out=tmp_path / "again", show_progress=False)


def test_data_without_clean_masks_are_audited(run, data, tmp_path):
    mine = shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(mine / "clean")
    found = audit(run, mine, out=tmp_path / "audit", show_progress=False)
    assert len(found.cases) == 24
    assert "to train on" not in str(found)


@pytest.mark.skipif(sys.platform != "linux", reason="such names are of Linux")
def test_names_that_no_table_holds_are_refused_before_any_work(run, data, tmp_path):
    mine = shutil.copytree(data, tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match="names that cannot be audited"):
        audit(run, mine, out=tmp_path / "audit", show_progress=False)
    mine = shutil.copytree(data, tmp_path / "data")
    for folder in ("images", "noisy"):
        name = next((data / "noisy").iterdir()).name
        (mine / folder / name).rename(mine / folder / f"a\\{name}")
    with pytest.raises(DataError, match="an id with a backslash"):
        audit(run, mine, out=tmp_path / "audit", show_progress=False)
    assert not (tmp_path / "audit").exists()


def test_a_finished_audit_is_left_alone(run, data, audited):
    with pytest.raises(RunError, match="has finished already"):
        audit(run, data, out=audited.out, resume=True, show_progress=False)


def test_two_processes_do_not_write_one_audit(run, data, tmp_path):
    (tmp_path / "audit" / ".seen").mkdir(parents=True)
    with (
        exclusive_lock(tmp_path / "audit" / ".seen" / "lock", "it is free"),
        pytest.raises(RunError, match="audit: another process writes this audit; wait for its end"),
    ):
        audit(run, data, out=tmp_path / "audit", resume=True, show_progress=False)
    assert [path.name for path in (tmp_path / "audit").iterdir()] == [".seen"]
    assert len(audit(run, data, out=tmp_path / "audit", resume=True, show_progress=False).cases) == 24


def test_an_image_that_breaks_is_named_after_the_others_were_looked_at(run, data, tmp_path):
    mine = shutil.copytree(data, tmp_path / "data")
    broken = mine / "images" / next((mine / "noisy").iterdir()).name
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=re.escape(str(broken))):
        audit(run, mine, out=tmp_path / "audit", show_progress=False)
    assert len(list((tmp_path / "audit" / ".seen").glob("*.npz"))) == 23
    broken.write_bytes(whole)
    assert len(audit(run, mine, out=tmp_path / "audit", resume=True, show_progress=False).cases) == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smallest": 0}, "smallest must be 1 or more pixels, not 0"),
        ({"sure": 0.4}, "sure must be a probability from 0.5 to below 1, not 0.4"),
        ({"sure": float("nan")}, "sure must be"),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"weights": "first"}, "weights must be last or best, not 'first'"),
    ],
)
def test_numbers_that_cannot_be_are_named_and_nothing_is_written(run, data, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        audit(run, data, out=tmp_path / "audit", show_progress=False, **settings)
    assert not (tmp_path / "audit").exists()


def test_what_is_no_audit_or_a_later_one_is_refused(audited, tmp_path):
    with pytest.raises(RunError, match="not an audit"):
        read_audit_record(tmp_path)
    record = json.loads((audited.out / "audit.json").read_text(encoding="utf-8"))
    (tmp_path / "audit.json").write_text(json.dumps(record | {"format": 2}), encoding="utf-8")
    with pytest.raises(RunError, match=r"later pixeltrust \(format 2"):
        read_audit_record(tmp_path)
    for broken in ("{", "[]", "{}", '{"tilt": 3}'):
        (tmp_path / "audit.json").write_text(broken, encoding="utf-8")
        with pytest.raises(RunError, match=r"audit\.json"):
            read_audit_record(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 0),
        ("classes", 255),
        ("classes", "1"),
        ("ignore_label", 256),
        ("tilt", ["a"]),
        ("run", None),
        ("seconds", True),
        ("format", 0),
        ("gain", 3),
        ("gain", {"low": 2}),
        ("gain", {"pairs": "many"}),
    ],
)
def test_a_record_with_a_value_that_cannot_be_is_refused(name, value, audited, tmp_path):
    record = json.loads((audited.out / "audit.json").read_text(encoding="utf-8"))
    (tmp_path / "audit.json").write_text(json.dumps(record | {name: value}), encoding="utf-8")
    with pytest.raises(RunError, match=rf"audit\.json: not the record of an audit: {name} is"):
        read_audit_record(tmp_path)


def test_every_fault_of_the_table_is_named_with_its_row(tmp_path):
    table = pd.DataFrame({name: ["1"] * 6 for name in CASE_COLUMNS} | {"id": [*"abc", "../d", "e", "e"]})
    table.loc[0, "agreement"], table.loc[1, "rank"], table.loc[2, "height"], table.loc[3, "width"] = "good", "1.5", "inf", ""
    table.to_csv(tmp_path / "cases.csv", index=False)
    with pytest.raises(DataError) as raised:
        read_audit_cases(tmp_path)
    assert [fault.removeprefix(f"{tmp_path / 'cases.csv'}") for fault in raised.value.faults] == [
        ", row 3: rank '1.5' is not a whole number",
        ", row 2: agreement 'good' is not a number",
        ", row 4: height 'inf' is not a whole number",
        ", row 5: width '' is not a number",
        ", row 5: id '../d' is not a file name, so it names no file of the audit",
        ": id 'e' is there twice",
    ]


def test_the_page_draws_ignored_pixels_as_no_part_of_a_mask(with_pages, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "WORST", 3)
    data = discs(tmp_path / "data", foreground=1)
    for path in (data / "noisy").iterdir():
        values = read_labels(path)
        values[:6] = 255
        write_png(path, values)
    page = (report(audit_of(data, tmp_path / "audit", shifted_back))).read_text(encoding="utf-8")
    for path in (data / "noisy").iterdir():
        image, values = read_image(data / "images" / path.name), read_labels(path)
        assert set(np.unique(values)) == {0, 1, 255}
        assert png_source(draw_overlay(image, {"noisy": values == 1})) in page
        assert png_source(draw_overlay(image, {"predicted": shifted_back("", values) == 1})) in page


# --- values and names -------------------------------------------------------------------------------------------------


def test_mended_masks_have_the_values_that_the_given_file_has(run, data, tmp_path):
    mine = shutil.copytree(data, tmp_path / "data")
    for folder in ("noisy", "clean", "test"):
        for path in (mine / folder).iterdir():
            Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    ignoring = sorted((mine / "noisy").iterdir())[0]
    pixels = np.asarray(Image.open(ignoring)).copy()
    pixels[0, :5] = 255
    pixels[8, 8] = 1
    Image.fromarray(pixels).save(ignoring)
    audit(run, mine, out=tmp_path / "audit", show_progress=False)
    values = {path.name: set(np.unique(read_labels(path)).tolist()) for path in (tmp_path / "audit" / "mended").iterdir()}
    assert values.pop(ignoring.name) == {0, 1, 255}
    assert set.union(*values.values()) == {0, 1}
    np.testing.assert_array_equal(read_labels(tmp_path / "audit" / "mended" / ignoring.name)[0, :5], 255)
    assert (read_labels(tmp_path / "audit" / "confidence" / ignoring.name)[0, :5] == 255).all()


def test_a_mask_is_never_emptied(data, tmp_path):
    """A network that has learned nothing but background would take every lesion away; that is left to people."""
    blind = trained(data, tmp_path / "run", method="plain", epochs=1, model="tiny:blind")
    found = audit(blind, data, out=tmp_path / "audit", show_progress=False)
    assert (found.cases["changed_pixels"] == 0).all()
    assert (found.cases["doubtful_pixels"] > 0).all()
    for case in read_cases(data).of("noisy"):
        np.testing.assert_array_equal(read_labels(tmp_path / "audit" / "mended" / f"{case.id}.png"), read_labels(case.mask))


@pytest.mark.slow
def test_several_classes_are_mended_by_the_likeliest(tmp_path):
    data = draw(tmp_path / "data", noisy=12)
    for folder in ("noisy", "clean", "test"):
        for path in (data / folder).iterdir():
            labels = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
            labels[:, 8:] *= 2
            Image.fromarray(labels).save(path)
    run = trained(data, tmp_path / "run", method="trust", classes=3)
    found = audit(run, data, out=tmp_path / "audit", show_progress=False)
    values = set.union(*(set(np.unique(read_labels(path)).tolist()) for path in (tmp_path / "audit" / "mended").iterdir()))
    assert values <= {0, 1, 2}
    assert found.cases["agreement"].between(0, 1).all()
    assert len(read_audit_record(tmp_path / "audit").tilt) == 3


def test_ids_with_markup_and_other_letters_are_text(run, data, with_pages, tmp_path):
    mine = shutil.copytree(data, tmp_path / "data")
    for name in ("images", "noisy"):
        first = sorted((mine / "noisy").iterdir())[0] if name == "noisy" else mine / "images" / sorted((mine / "noisy").iterdir())[0].name
        first.rename(first.with_name("<b>ü&007.png"))
    audit(run, mine, out=tmp_path / "audit", show_progress=False)
    assert "<b>ü&007" in set(read_audit_cases(tmp_path / "audit")["id"])
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    assert "<b>ü" not in page
    assert "&lt;b&gt;ü&amp;007" in page


def test_ids_that_look_like_numbers_or_nothing_stay_texts(tmp_path):
    pd.DataFrame({name: ["1", "1"] for name in CASE_COLUMNS} | {"id": ["007", "NA"], "agreement": ["0.5", ""]}).to_csv(
        tmp_path / "cases.csv", index=False
    )
    assert read_audit_cases(tmp_path)["id"].tolist() == ["007", "NA"]
    with pytest.raises(DataError, match=re.escape(str(Path(tmp_path) / "regions.csv"))):
        read_audit_regions(tmp_path)


@pytest.mark.parametrize(
    ("files", "ignore_label", "value"),
    [
        ([[0, 1], [0, 0], [0, 1], [0, 7]], None, 1),
        ([[0, 255], [0, 0]], None, 255),
        ([[0, 1, 255], [0, 0]], None, 1),
        ([[9, 0, 200]], 200, 9),
        ([[0, 0]], None, 255),
        ([[0, 0]], 255, 1),
    ],
)
def test_foreground_is_written_as_most_given_masks_have_it(tmp_path, files, ignore_label, value):
    for number, values in enumerate(files):
        write_png(tmp_path / f"{number}.png", np.array([values], np.uint8))
    kinds = [decode_labels(tmp_path / f"{number}.png", classes=1, ignore_label=ignore_label)[1] for number in range(len(files))]
    assert find_foreground_value(kinds, ignore_label) == value
