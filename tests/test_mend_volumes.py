"""Mending and auditing volumes: files on the grid of the masks, regions in three axes, pages of slices."""

import html
import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest

import pixeltrust
from pixeltrust.auditing.folder import Audit
from pixeltrust.auditing.page import read_audit_page
from pixeltrust.auditing.regions import list_regions
from pixeltrust.data import fitting
from pixeltrust.data.cases import read_cases
from pixeltrust.data.fitting import threads_for
from pixeltrust.data.images import read_header, read_labels
from pixeltrust.mending.menders import Menders, look
from pixeltrust.mending.pairs import look_at_pairs
from pixeltrust.mending.settings import read_mender_config
from pixeltrust.method.trust import Trust
from pixeltrust.plumbing.errors import ConfigError, DataError
from pixeltrust.plumbing.processes import ALONE
from tiny import draw, draw_volumes, of_volumes
from volumes import write_nifti

QUICK = ["model=tiny:network_3d", "classes=3", "image_size=[12, 26, 22]", "epochs=1", "updates_per_epoch=2", "clean_batch_size=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_volumes(tmp_path_factory.mktemp("volumes") / "data", noisy=3, clean=6, channels=2)


def noisy_cases(data):
    return read_cases(data, may_be_volumes=True, show_progress=False).of("noisy")


def assert_on_the_grid_of_the_masks(out, data):
    for case in noisy_cases(data):
        for name in ("confidence", "mended"):
            file = out / name / f"{case.id}.nii.gz"
            assert read_header(file).grid.difference(read_header(case.mask).grid) == ""
            assert (read_header(file).grid.steps == read_header(case.mask).grid.steps).all()
        mended, given = read_labels(out / "mended" / f"{case.id}.nii.gz"), read_labels(case.mask)
        changed = out / "changed" / f"{case.id}.nii.gz"
        assert changed.exists() == (mended != given).any()
        if changed.exists():
            assert ((read_labels(changed) == 255) == (mended != given)).all()


@pytest.mark.slow
def test_mending_of_volumes(data, tmp_path):
    mended = pixeltrust.mend(data, out=tmp_path / "out", config=read_mender_config(settings=QUICK), show_progress=False)
    assert_on_the_grid_of_the_masks(tmp_path / "out", data)
    assert set(mended.cases["id"]) == {case.id for case in noisy_cases(data)}
    assert (mended.cases["depth"] == mended.cases["id"].map({case.id: read_labels(case.mask).shape[0] for case in noisy_cases(data)})).all()
    assert "image_size=[12,26,22]" in mended.to_train
    assert "--set method=finetuned" in mended.to_train
    assert mended.to_train.split(".csv ")[1] in html.unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    audit = Audit.read(tmp_path / "out")
    assert (audit.axes, audit.patch) == (3, (12, 26, 22))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("the mended mask of v") == 6
    assert "cannot be read any more" not in page
    assert {path.name for path in (tmp_path / "out" / "pairs").iterdir()} == {f"v{number:02}.nii.gz" for number in range(3, 9)}
    table = pd.read_csv(tmp_path / "out" / "mended.csv")
    assert set(table["channels"]) == {2}
    done = pixeltrust.train(
        tmp_path / "out" / "mended.csv", out=tmp_path / "run", config=of_volumes(method="plain", epochs=1), show_progress=False
    )
    assert done.updates == 1


class Stranger:
    """A mender that sees more foreground where the image is bright, and where the given mask has it."""

    batch_size = 2

    def __init__(self, config, turns):
        self.config, self.turns, self.looked = config, turns, 0

    def probabilities_over_turns(self, images, given, turns):
        self.looked += len(images)
        marked = [np.full(image.shape[1:], 0.5) if given is None else given[number] % 255 > 0 for number, image in enumerate(images)]
        bright = np.stack(
            [1 / (1 + np.exp(-image.mean(0, dtype=np.float32) / 50 + 2 - mask)) for image, mask in zip(images, marked, strict=True)]
        )
        return np.stack([1 - bright, bright * 0.7, bright * 0.3], 1).astype(np.float32)


def test_menders_with_one_view_of_a_volume_look_at_pairs_once(data, tmp_path):
    cases = read_cases(data, may_be_volumes=True, show_progress=False)
    config = fitting.settle(read_mender_config(settings=QUICK), cases)
    by_turns = {}
    for turns in ((0,), (0, 0)):
        stranger, folder = Stranger(config, turns), tmp_path / str(len(turns))
        menders = Menders(cases, folder, config)
        by_turns[turns] = look_at_pairs(cases, menders, [stranger] * menders.count, folder, ALONE, show_progress=False)
        assert stranger.looked == 6 * 2 * len(turns)  # without and with the given mask
    once, again = by_turns.values()
    for way, values in once.measured.items():
        np.testing.assert_allclose(values, again.measured[way], atol=1e-3)
    for known, values in once.soft_given.items():
        assert 0 < values.min() < 1
        np.testing.assert_allclose(values, again.soft_given[known], atol=1e-3)


@pytest.mark.slow
def test_an_audit_of_volumes_by_a_run(data, tmp_path):
    config = of_volumes(method="trust", epochs=1, augment="none", image_size=(8, 24, 20))
    pixeltrust.train(data, out=tmp_path / "run", config=config, show_progress=False)
    audited = pixeltrust.audit(tmp_path / "run", data, out=tmp_path / "out", show_progress=False)
    assert_on_the_grid_of_the_masks(tmp_path / "out", data)
    assert set(audited.cases["evidence"]) == {"network and training"}
    regions = pd.read_csv(tmp_path / "out" / "regions.csv")
    assert {"slice", "first", "last", "mm3"} <= set(regions)
    assert ((regions["first"] <= regions["slice"]) & (regions["slice"] < regions["last"])).all()
    np.testing.assert_allclose(regions["mm3"], regions["area"] * 5 * 0.8 * 0.8, rtol=1e-3)
    assert read_audit_page(tmp_path / "out").count("the doubt in the mask of v") == 3
    (tmp_path / "run" / "helped" / "v00.nii.gz").unlink()  # then the clean set is asked, patch by patch
    again = pixeltrust.audit(tmp_path / "run", data, out=tmp_path / "again", show_progress=False)
    assert set(again.cases["evidence"]) == {"network and training", "network and clean set"}


@pytest.mark.parametrize("form", ["npz", pytest.param("nii.gz", marks=pytest.mark.slow)])
def test_an_audit_of_volumes_by_probabilities(data, tmp_path, form):
    for case in noisy_cases(data):
        labels = read_labels(case.mask)
        planes = np.stack([np.where(labels == label, 0.9, 0.05) for label in range(3)]).astype(np.float32)
        planes[:, 2:6, 8:14, 6:10] = np.array([0.05, 0.05, 0.9]).reshape(3, 1, 1, 1)
        if form == "npz":
            (tmp_path / "p").mkdir(exist_ok=True)
            np.savez(tmp_path / "p" / f"{case.id}.npz", probabilities=planes)
            continue
        for label, plane in enumerate(planes):
            write_nifti(tmp_path / "p" / str(label) / f"{case.id}.nii.gz", plane, nibabel.load(case.mask).affine)
    trust = Trust()
    trust.reserve([case.id for case in noisy_cases(data)], [read_labels(case.mask).shape for case in noisy_cases(data)])
    trust.write_maps(tmp_path / "helped")
    more = {"classes": 3, "helped": tmp_path / "helped", "show_progress": False}
    audited = pixeltrust.audit(data=data, probabilities=tmp_path / "p", out=tmp_path / "out", **more)
    assert_on_the_grid_of_the_masks(tmp_path / "out", data)
    assert set(audited.cases["evidence"]) == {"probabilities and a helped map without its mask's fingerprint"}
    for case in noisy_cases(data):
        mended, given = read_labels(tmp_path / "out" / "mended" / f"{case.id}.nii.gz"), read_labels(case.mask)
        assert (mended[2:6, 8:14, 6:10] == 2).all()
        mended[2:6, 8:14, 6:10] = given[2:6, 8:14, 6:10]
        assert (mended == given).all()


def test_probabilities_on_another_grid_are_refused(data, tmp_path):
    for case in noisy_cases(data):
        for label in range(3):
            plane = np.full(read_labels(case.mask).shape, 1 / 3 + (label - 1) / 10, np.float32)
            write_nifti(tmp_path / "p" / str(label) / f"{case.id}.nii.gz", plane, np.diag([0.8, 0.8, 6, 1]))
    with pytest.raises(DataError) as caught:
        pixeltrust.audit(data=data, probabilities=tmp_path / "p", out=tmp_path / "out", classes=3, show_progress=False)
    assert "not on the grid of" in "".join(caught.value.faults)


def test_regions_of_a_volume_are_connected_through_slices():
    given, confidence = np.zeros((6, 8, 8), np.uint8), np.full((6, 8, 8), 255, np.uint8)
    given[0, 0, 0] = 1
    seen = given.copy()
    for place, side in ((1, 2), (2, 4), (3, 3)):
        seen[place, 2 : 2 + side, 2 : 2 + side] = 1
    confidence[seen != given] = 50
    seen[5, 7, 7], confidence[5, 7, 7] = 1, 10
    rows = list_regions(given, seen, seen, confidence, 2, (5.0, 0.5, 0.5))
    assert len(rows) == 1
    row = rows[0]
    assert (row["area"], row["slice"], row["first"], row["last"], row["mm3"]) == (29, 2, 1, 4, 29 * 1.25)
    assert (row["top"], row["left"], row["bottom"], row["right"]) == (2, 2, 6, 6)
    assert row["kind"] == "missing"


def test_patches_of_menders_make_batches_of_about_as_many_voxels_as_those_of_pictures():
    assert read_mender_config(settings=["image_size=[32, 48, 32]"]).clean_batch_size == 3
    assert read_mender_config(settings=["image_size=[96, 96, 96]"]).clean_batch_size == 2
    assert read_mender_config(settings=["image_size=[32, 48, 32]", "clean_batch_size=5"]).clean_batch_size == 5
    assert read_mender_config().clean_batch_size == 16

    assert read_mender_config(settings=["image_size=[96, 96, 96]"]).batch_size == 2


@pytest.mark.parametrize(("size", "batches"), [((12, 26, 22), [2, 2, 2]), ((8, 24, 20), [1] * 6)])
def test_menders_hold_no_more_voxels_at_once_than_a_batch_of_patches_has_or_one_volume(data, size, batches):
    seen = []

    def see(images, *_):
        seen.append(len(images))
        return np.zeros((len(images), 3, *images[0].shape[1:]), np.float32)

    config = of_volumes(image_size=size, batch_size=2, spacing=(5.0, 0.8, 0.8), channels=2)
    network = SimpleNamespace(config=config, batch_size=2, probabilities_over_turns=see)
    pairs = read_cases(data, may_be_volumes=True, show_progress=False).pairs
    looked = look([network], pairs, turns=[(0,)], known=True, text="", show_progress=False)
    assert [each.place for each in looked] == list(range(len(pairs)))
    assert seen == batches


def test_as_many_cases_are_in_work_at_once_as_their_probabilities_leave_room_for(data, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "THREADS", 8)
    assert threads_for(noisy_cases(data), 3) == 8
    largest = max(read_labels(case.mask).size for case in noisy_cases(data))
    for room, threads in ((largest, 1), (6 * largest, 2), (7 * largest, 2), (9 * largest, 3)):
        monkeypatch.setattr(fitting, "HELD", room)
        assert threads_for(noisy_cases(data), 3) == threads
    pictures = read_cases(draw(tmp_path, noisy=2, clean=2), show_progress=False).of("noisy")
    monkeypatch.setattr(fitting, "HELD", 2**28)
    assert threads_for(pictures, 1) == 8


def test_what_cannot_be_is_refused_in_one_line(data, tmp_path):
    with pytest.raises(ConfigError, match=r"set image_size = \[depth, height, width\], such as \[16, 16, 16\]"):
        pixeltrust.mend(data, out=tmp_path / "out", show_progress=False)
    pixeltrust.train(data, out=tmp_path / "run", config=of_volumes(method="plain", epochs=1), show_progress=False)
    pictures = draw(tmp_path / "pictures", noisy=2, clean=2)
    with pytest.raises(DataError, match=r"holds pictures, and .*run was trained on volumes"):
        pixeltrust.audit(tmp_path / "run", pictures, out=tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_records_of_audits_of_pictures_are_those_of_before(tmp_path):
    record = {"data": "d", "run": "r", "classes": 1, "ignore_label": None, "channels": 3, "tilt": [0.0, 0.1], "seconds": 1.0}
    (tmp_path / "audit.json").write_text(json.dumps(record))
    audit = Audit.read(tmp_path)
    assert (audit.axes, audit.patch, audit.proposed_file("a").name) == (2, (), "a.png")
