"""Audit folders that know nothing yet: what a review of plain data begins with, and the order of its cases."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from audits import audit_of, discs, shifted_back
from pixeltrust.auditing.blank import find_audit, make_blank_audit
from pixeltrust.auditing.folder import Audit, read_audit_cases, read_audit_regions
from pixeltrust.auditing.page import read_audit_page
from pixeltrust.auditing.sampling import order_sample
from pixeltrust.data.cases import read_cases
from pixeltrust.data.images import read_image, read_labels, read_thumbnail
from pixeltrust.data.resizing import resize_image
from pixeltrust.formats.convert import convert
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError

pytestmark = pytest.mark.usefixtures("small_pictures")

# --- the order ----------------------------------------------------------------------------------------------------


def clouds(sizes, *, spread=0.05):
    """Rows about a few far points, and which point each is near."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(len(sizes), 20)) * 3
    near = draws.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return centres[near] + spread * draws.normal(size=(len(near), 20)), near


@pytest.mark.parametrize("number", [0, 1, 2, 3, 10, 57])
def test_an_order_has_every_row_once_and_is_that_of_its_seed(number):
    features = np.random.default_rng(1).normal(size=(number, 5))
    order = order_sample(features, seed=3)
    assert sorted(order) == list(range(number))
    assert (order_sample(features, seed=3) == order).all()
    assert number < 10 or (order_sample(features, seed=4) != order).any()


def test_the_first_rows_are_of_all_parts():
    features, near = clouds([64] * 8)
    for seed in range(20):
        assert len(set(near[order_sample(features, seed=seed)[:8]])) == 8
        assert set(np.bincount(near[order_sample(features, seed=seed)[:32]])) == {4}


@pytest.mark.parametrize("first", [pytest.param(1, marks=pytest.mark.slow), 7, pytest.param(16, marks=pytest.mark.slow)])
def test_every_row_is_among_the_first_with_the_same_probability(first):
    features, _ = clouds([20, 10, 7])
    features = np.concatenate([features, features[:6]])  # some are equal
    draws = 1000
    hits = sum(np.bincount(order_sample(features, seed=seed)[:first], minlength=43) for seed in range(draws))
    expected = draws * first / 43
    assert abs(hits - expected).max() < 5 * np.sqrt(expected) + 0.1 * expected


def test_what_is_measured_on_the_first_rows_varies_less_than_on_blind_draws():
    features, near = clouds([200, 120, 80])
    quality = np.array([0.5, 0.7, 0.9])[near] + 0.02 * np.random.default_rng(2).normal(size=400)
    sampled = [quality[order_sample(features, seed=seed)[:16]].mean() for seed in range(60)]
    blind = [np.random.default_rng(seed).permutation(quality)[:16].mean() for seed in range(60)]
    assert abs(np.mean(sampled) - quality.mean()) < 0.005
    assert np.std(sampled) < 0.6 * np.std(blind)


def test_rows_that_are_all_alike_are_drawn_blindly():
    assert len({order_sample(np.zeros((9, 4)), seed=seed)[0] for seed in range(60)}) == 9


# --- the folder ---------------------------------------------------------------------------------------------------


def test_the_folder_is_an_audit_that_knows_nothing(tmp_path):
    data = discs(tmp_path / "data", ids=[f"c{number}" for number in range(9)])
    rows = make_blank_audit(data, out=tmp_path / "audit", seed=1, show_progress=False)
    table = read_audit_cases(tmp_path / "audit")
    assert list(table["rank"]) == list(range(1, 10))
    assert list(table["id"]) == list(rows["id"])
    assert sorted(table["id"]) == [f"c{number}" for number in range(9)]
    assert set(table["evidence"]) == {"nothing yet"}
    assert (table[["agreement", "doubtful_pixels", "changed_pixels", "regions"]].to_numpy() == [1, 0, 0, 0]).all()
    assert (table[["height", "width"]].to_numpy() == [48, 64]).all()
    assert read_audit_regions(tmp_path / "audit").empty
    audit = Audit.read(tmp_path / "audit")
    assert (audit.data, audit.classes, audit.ignore_label) == (data, 1, None)
    for case in read_cases(data, show_progress=False).of("noisy"):
        assert (read_labels(audit.proposed_file(case.id)) == read_labels(case.mask)).all()
        assert set(read_labels(audit.confidence_file(case.id)).ravel()) == {128}
    assert not list((tmp_path / "audit" / "changed").iterdir())


def test_its_readers_take_it(tmp_path):
    make_blank_audit(discs(tmp_path / "data"), out=tmp_path / "audit", show_progress=False)
    assert "Nothing is known yet of the noisy masks of data" in read_audit_page(tmp_path / "audit")
    convert(tmp_path / "audit", tmp_path / "review.json", to="coco", show_progress=False)
    assert len(json.loads((tmp_path / "review.json").read_text())["images"]) == 3


def test_several_classes_and_ignored_pixels_are_kept(tmp_path):
    data = discs(tmp_path / "data", classes=3)
    mask = np.array(Image.open(data / "noisy" / "a.png"))
    mask[:4] = 99
    Image.fromarray(mask).save(data / "noisy" / "a.png")
    with pytest.raises(DataError, match="classes = 1"):
        make_blank_audit(data, out=tmp_path / "audit", show_progress=False)
    assert not (tmp_path / "audit").exists()
    make_blank_audit(data, out=tmp_path / "audit", classes=3, ignore_label=99, show_progress=False)
    audit = Audit.read(tmp_path / "audit")
    assert (audit.classes, audit.ignore_label) == (3, 99)
    assert (read_labels(audit.proposed_file("a")) == mask).all()


def test_no_clean_case_is_needed_and_every_fault_is_said(tmp_path):
    data = discs(tmp_path / "data", clean=(), test=())
    assert len(make_blank_audit(data, out=tmp_path / "audit", show_progress=False)) == 3
    for name in "ab":
        (data / "noisy" / f"{name}.png").write_bytes((data / "noisy" / f"{name}.png").read_bytes()[:-40])
    with pytest.raises(DataError, match="2 files that cannot be read"):
        make_blank_audit(data, out=tmp_path / "other", show_progress=False)
    assert not (tmp_path / "other").exists()


# --- found again --------------------------------------------------------------------------------------------------


def test_the_folder_stands_beside_the_data_and_is_found_again(tmp_path, monkeypatch):
    data = discs(tmp_path / "data")
    made = find_audit(data, show_progress=False)
    assert made == tmp_path / "data-review"
    (made / "cases.csv").touch()
    before = (made / "audit.json").stat().st_mtime_ns
    monkeypatch.chdir(data)
    assert find_audit(data.__class__("."), show_progress=False) == made
    assert (made / "audit.json").stat().st_mtime_ns == before
    assert find_audit(made, show_progress=False) == made


def test_a_table_and_other_layouts_are_reviewed_too(tmp_path):
    data = discs(tmp_path / "data")
    (data / "noisy").rename(data / "crowd")
    made = find_audit(data, noisy="crowd", show_progress=False)
    assert read_cases(Audit.read(made).data, show_progress=False).of("noisy").texts("id").tolist() == ["a", "b", "c"]
    with pytest.raises(RunError, match=r"layout was \['--noisy=?.*crowd.*\], now \[\]"):
        find_audit(data, show_progress=False)
    rows = [{"id": case, "image": f"images/{case}.png", "mask": f"crowd/{case}.png", "role": "noisy"} for case in "ab"]
    pd.DataFrame(rows).to_csv(data / "some.csv", index=False)
    assert find_audit(data / "some.csv", show_progress=False) == data / "some-review"
    assert sorted(read_audit_cases(data / "some-review")["id"]) == ["a", "b"]


def test_what_is_there_of_something_else_is_not_taken(tmp_path):
    data, other = discs(tmp_path / "data"), discs(tmp_path / "other")
    audit = audit_of(other, tmp_path / "audit", shifted_back)
    with pytest.raises(RunError, match="that no review of data has begun; name it itself"):
        find_audit(data, out=audit, show_progress=False)
    find_audit(other, out=tmp_path / "made", show_progress=False)
    with pytest.raises(RunError, match=r"data was .*other, now .*data"):
        find_audit(data, out=tmp_path / "made", show_progress=False)
    (tmp_path / "made" / ".begun.json").write_text("{")
    with pytest.raises(RunError, match=r"begun\.json: cannot be read"):
        find_audit(other, out=tmp_path / "made", show_progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(RunError, match="not empty"):
        find_audit(data, out=tmp_path / "full", show_progress=False)
    with pytest.raises(ConfigError, match="knows its data"):
        find_audit(audit, classes=3, show_progress=False)
    (audit / "audit.json").unlink()
    with pytest.raises(RunError, match="not an audit that has finished"):
        find_audit(audit, show_progress=False)


# --- small pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_thumbnail_is_the_small_image(tmp_path, ending, orientation):
    rows, columns = np.indices((400, 300))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.stack([rows // 2, columns // 2, 0 * rows], axis=-1).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / f"a.{ending}", exif=exif)
    small, whole = read_thumbnail(tmp_path / f"a.{ending}", (8, 8)), read_image(tmp_path / f"a.{ending}")
    assert small.shape == (8, 8, 3)
    assert abs(small.astype(int) - resize_image(whole, (8, 8))).max() <= 6


def test_a_thumbnail_of_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.jpg: not an image"):
        read_thumbnail(tmp_path / "a.jpg", (8, 8))
