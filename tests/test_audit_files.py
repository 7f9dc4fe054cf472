"""An audit by files: of a run's own predictions it says what the audit by that run says; helped maps count; stops and faults."""

import ast
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from audits import discs
from pixeltrust import Batch, Trust, Where, address_map
from pixeltrust.auditing import run as run_module
from pixeltrust.auditing import run_source
from pixeltrust.auditing.folder import FAIR, Audit, read_audit_cases, read_audit_record
from pixeltrust.auditing.run import audit
from pixeltrust.data.cases import check, read_cases
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.pictures import write_png
from pixeltrust.formats.convert import convert
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.prediction.predict import predict
from pixeltrust.reports import report
from pixeltrust.reviewing.exports import export_decisions as export
from pixeltrust.training.train import train
from tiny import configured, draw, network

pytestmark = pytest.mark.usefixtures("small_pictures", "blank_charts")
NOISY = 8


@pytest.fixture(scope="module", autouse=True)
def short_pages():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixeltrust.auditing.page.WORST", 2)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("made") / "data", noisy=NOISY)


def trained(data, out, **settings):
    values = {"model": "tiny:without_dropout", "learning_rate": 0.05, "epochs": 12, "weight_map_cases": 0, "val_fraction": 0.0}
    train(data, out=out, config=configured(**values | {"batch_size": 8, "augment": "none"} | settings), show_progress=False)
    return out


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("run") / "run", method="trust")


@pytest.fixture(scope="module")
def softmax(run, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("predicted")
    predict(run, data / "images", out=out, probabilities=True, show_progress=False)
    return out / "probabilities"


@pytest.fixture
def by_the_network_alone(monkeypatch):
    """Audits by a run leave out its helped maps and its clean set."""
    monkeypatch.setattr(run_source, "read_helped_map", lambda *_: None)
    monkeypatch.setattr(run_source, "clean_set_of", lambda *_: (None, []))


def by_files(data, out, **more):
    return audit(data=data, out=out, show_progress=False, **more)


def confidence(folder, identity):
    return read_labels(folder / "confidence" / f"{identity}.png").astype(int)


def said(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "confidence").iterdir())}


def numbers(table):
    return table.set_index("id").sort_index().drop(columns=["evidence", "agreement", "rank"])


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_a_networks_predictions_say_what_the_audit_by_its_run_says(run, data, softmax, tmp_path, by_the_network_alone):
    files, of_run = by_files(data, tmp_path / "files", probabilities=softmax), audit(run, data, out=tmp_path / "run", show_progress=False)
    pd.testing.assert_frame_equal(numbers(files.cases), numbers(of_run.cases), check_exact=False, atol=0.02)
    assert set(files.cases["evidence"]) == {"probabilities"}
    for identity in files.cases["id"]:
        assert abs(confidence(files.out, identity) - confidence(of_run.out, identity)).max() <= 1
        mended = (read_labels(folder / "mended" / f"{identity}.png") for folder in (files.out, of_run.out))
        np.testing.assert_array_equal(*mended)
    assert {path.name for path in files.out.iterdir()} == {path.name for path in of_run.out.iterdir()}


def test_the_helped_maps_of_a_run_count_as_in_the_audit_by_it(run, data, softmax, tmp_path):
    files, of_run = (
        by_files(data, tmp_path / "files", probabilities=softmax, helped=run / "helped"),
        audit(run, data, out=tmp_path / "run", show_progress=False),
    )
    assert set(files.cases["evidence"]) == {"probabilities and training"}
    for identity in files.cases["id"]:
        assert abs(confidence(files.out, identity) - confidence(of_run.out, identity)).max() <= 1
    assert said(files.out) != said(by_files(data, tmp_path / "alone", probabilities=softmax).out)


def test_helped_maps_of_other_programs_masks_and_grids(run, data, softmax, tmp_path):
    maps, mine = shutil.copytree(run / "helped", tmp_path / "helped"), shutil.copytree(data, tmp_path / "data")
    ids = sorted(case.id for case in read_cases(data).of("noisy"))
    (maps / f"{ids[0]}.png").unlink()
    write_png(maps / f"{ids[1]}.png", np.full((32, 32), 204, np.uint8))  # another program's, on a finer grid
    changed = read_labels(mine / "noisy" / f"{ids[2]}.png").copy()
    changed[:5, :5] = 255
    write_png(mine / "noisy" / f"{ids[2]}.png", changed)
    found = by_files(mine, tmp_path / "audit", probabilities=softmax, helped=maps)
    by = found.cases.set_index("id")["evidence"]
    assert by[ids[0]] == "probabilities"
    assert by[ids[1]] == "probabilities and a helped map without its mask's fingerprint"
    assert by[ids[2]] == "probabilities alone, as the helped map is of another mask"
    assert (by[ids[3:]] == "probabilities and training").all()
    assert f"{maps}: no helped map of 1 mask" in found.notes
    assert "1 mask judged by probabilities alone, as the helped map is of another mask" in found.notes
    flat = by_files(mine, tmp_path / "flat", probabilities=softmax).out
    assert (confidence(found.out, ids[1]) >= confidence(flat, ids[1])).all()  # a share of .8 everywhere
    assert (confidence(found.out, ids[1]) > confidence(flat, ids[1])).any()


def test_the_maps_of_a_trust_in_ones_own_loop_count(data, softmax, tmp_path):
    trust, model = Trust(), network(in_channels=3, out_channels=1)
    cases = read_cases(data).of("noisy")
    images = torch.from_numpy(np.stack([read_image(case.image) for case in cases])).permute(0, 3, 1, 2).float() / 255
    batch = Batch(images, torch.from_numpy(np.stack([read_labels(case.mask) > 0 for case in cases])))
    where = Where([case.id for case in cases], address_map((16, 16)).expand(len(cases), 16, 16))
    trust.step(model, noisy=batch, clean=batch, where=where)
    trust.write_maps(tmp_path / "helped")
    found = by_files(data, tmp_path / "audit", probabilities=softmax, helped=tmp_path / "helped")
    assert set(found.cases["evidence"]) == {"probabilities and a helped map without its mask's fingerprint"}


def test_a_map_of_another_program_in_other_proportions_is_refused(data, softmax, tmp_path):
    (tmp_path / "helped").mkdir()
    write_png(tmp_path / "helped" / "000.png", np.full((16, 20), 204, np.uint8))
    with pytest.raises(DataError, match=r"000\.png: 20x16 pixels, its mask 16x16: other proportions"):
        by_files(data, tmp_path / "audit", probabilities=softmax, helped=tmp_path / "helped")


@pytest.mark.slow
def test_a_maps_own_grid_may_have_other_proportions_than_the_mask(tmp_path):
    """As those of training have, where images are not square."""
    data = discs(tmp_path / "data", size=(24, 40), ids=[*"abcdef"], clean=[*"kl"])
    run = trained(data, tmp_path / "run", method="trust", epochs=2)
    predict(run, data / "images", out=tmp_path / "predicted", probabilities=True, show_progress=False)
    found = by_files(data, tmp_path / "audit", probabilities=tmp_path / "predicted" / "probabilities", helped=run / "helped")
    assert set(found.cases["evidence"]) == {"probabilities and training"}


def test_several_classes_of_an_nnunet_folder_are_audited_as_they_lie(tmp_path):
    """Its file names and folds, labels 0 to 2, 9 for ignored pixels, and probabilities on half the grid."""
    data = discs(tmp_path / "data", size=(48, 64), classes=3, ids=[*"abcd"], clean=())
    data.joinpath("images").rename(data / "imagesTr")
    data.joinpath("noisy").rename(data / "labelsTr")
    for number, mask in enumerate(sorted((data / "labelsTr").iterdir())):
        true = np.roll(read_labels(mask), -6, axis=1)
        true[:12, -6:], true[:12, :16] = 0, 2
        soft = np.stack([0.1 + 0.7 * (true[::2, ::2] == label) for label in range(3)])[:, None]
        place = tmp_path / "trainer" / f"fold_{number % 2}" / "validation"
        place.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(place / f"{mask.stem}.npz", probabilities=soft.astype(np.float32))
        write_png(place / mask.name, true)
        ignoring = read_labels(mask).copy()
        ignoring[-4:] = 9
        write_png(mask, ignoring)
    for image in list((data / "imagesTr").iterdir()):
        image.rename(image.with_name(f"{image.stem}_0000.png"))
    names = {"images": "imagesTr", "noisy": "labelsTr", "image_suffix": "_0000"}
    found = by_files(data, tmp_path / "audit", probabilities=tmp_path / "trainer", classes=3, ignore_label=9, **names)
    record = read_audit_record(found.out)
    assert (record.classes, record.ignore_label, record.run, len(record.tilt)) == (3, 9, "", 3)
    assert (found.cases["changed_pixels"] > 0).all()
    assert "--set classes=3 --set ignore_label=9" in found.to_train or not found.to_train
    for case in read_cases(data, needed=("noisy",), **names).of("noisy"):
        given, mended = read_labels(case.mask), read_labels(found.out / "mended" / case.mask.name)
        np.testing.assert_array_equal(given == 9, mended == 9)
        true = np.roll(given, -6, axis=1)
        assert (mended[4:40, 20:50] == true[4:40, 20:50]).mean() > 0.95 > (given[4:40, 20:50] == true[4:40, 20:50]).mean()


# --- what is written, and read again ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audited(data, softmax, tmp_path_factory):
    return by_files(data, tmp_path_factory.mktemp("audit") / "audit", probabilities=softmax)


def test_the_end_and_the_page_say_when_the_verdict_is_fair(audited, softmax, tmp_path):
    assert FAIR in str(audited)
    page = (audited.out / "report.html").read_text(encoding="utf-8")
    assert f"were judged by the probabilities in {softmax.parent.name}/probabilities" in page
    assert FAIR[1:] in page
    assert FAIR[1:] in report(audited.out, out=tmp_path / "again.html").read_text(encoding="utf-8")


def test_an_audit_by_files_is_reviewed_trained_on_and_converted(audited, data, softmax, tmp_path):
    record = read_audit_record(audited.out)
    assert (record.run, record.probabilities, record.helped) == ("", str(softmax.resolve()), "")
    assert Audit.read(audited.out).data == data
    check(audited.out / "mended.csv", show_progress=False)
    copied = shutil.copytree(audited.out, tmp_path / "audit")
    export(copied, tmp_path / "reviewed", show_progress=False)
    assert len(read_cases(tmp_path / "reviewed").of("noisy")) == NOISY
    convert(copied, tmp_path / "masks", to="png", show_progress=False)
    assert len(list((tmp_path / "masks").rglob("*.png"))) == NOISY


def test_a_record_needs_no_run_and_one_of_before_no_probabilities(audited, tmp_path):
    values = json.loads((audited.out / "audit.json").read_text(encoding="utf-8"))
    for absent, present in ((("run", "weights"), {}), (("probabilities", "helped"), {"run": "/runs/a", "weights": "last"})):
        kept = {name: value for name, value in values.items() if name not in absent} | present
        (tmp_path / "audit.json").write_text(json.dumps(kept), encoding="utf-8")
        assert Audit.read(tmp_path).is_by_files == ("probabilities" in kept)
    assert Audit.read(tmp_path).judge == "the run a"


# --- stops and faults -------------------------------------------------------------------------------------------------


def stop(*_):
    raise KeyboardInterrupt


@pytest.fixture
def stopped(data, softmax, tmp_path, monkeypatch):
    """An audit that was stopped after it had read every file; and copies of what it reads."""
    mine, files = shutil.copytree(data, tmp_path / "data"), shutil.copytree(softmax, tmp_path / "softmax")
    with monkeypatch.context() as patched:
        patched.setattr(run_module, "estimate_tilt", stop)
        with pytest.raises(KeyboardInterrupt):
            by_files(mine, tmp_path / "audit", probabilities=files)
    return mine, files, tmp_path / "audit"


def test_a_stopped_audit_reads_what_is_new_alone_and_ends_the_same(stopped, audited, data, softmax, monkeypatch):
    mine, files, out = stopped
    changed = sorted((mine / "noisy").iterdir())[0]
    assert len(list((out / ".seen").glob("*.npz"))) == NOISY
    write_png(changed, 255 - read_labels(changed))  # and back: another file
    write_png(changed, read_labels(data / "noisy" / changed.name))
    looked = []
    real = run_module.FileSource._look
    monkeypatch.setattr(run_module.FileSource, "_look", lambda self, case: looked.append(case.id) or real(self, case))
    by_files(mine, out, probabilities=files, resume=True)
    assert looked == [changed.stem]
    assert said(out) == said(audited.out)
    assert (out / "regions.csv").read_bytes() == (audited.out / "regions.csv").read_bytes()


def test_files_are_read_again_where_python_has_lost_count_of_what_its_threads_parse(stopped, audited, monkeypatch):
    mine, files, out = stopped
    seen, headers, parse = iter([True, False] * 1000), [], ast.literal_eval

    def fails_at_every_second_header(text):
        headers.append(text)
        if next(seen):
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(text)

    monkeypatch.setattr("ast.literal_eval", fails_at_every_second_header)
    by_files(mine, out, probabilities=files, resume=True)
    assert headers
    assert said(out) == said(audited.out)


def test_a_stopped_audit_is_not_gone_on_with_by_others(stopped, softmax, run, tmp_path):
    mine, files, out = stopped
    for others in ({"probabilities": softmax}, {"ignore_label": 7}, {"helped": run / "helped"}):
        with pytest.raises(RunError, match=f"started with others.*{next(iter(others))} was"):
            by_files(mine, out, resume=True, **{"probabilities": files} | others)
    with pytest.raises(RunError, match=r"started with others.*run was None"):
        audit(run, mine, out=out, resume=True, show_progress=False)


def test_a_file_that_changes_while_it_is_judged_is_named(stopped, monkeypatch):
    mine, files, out = stopped
    real = run_module.estimate_tilt

    def change(confusions):
        write_png(files / "000.png", read_labels(mine / "noisy" / "000.png"))
        return real(confusions)

    monkeypatch.setattr(run_module, "estimate_tilt", change)
    with pytest.raises(DataError, match=r"000\.png: it, or what it is judged by, has changed since this audit looked at it"):
        by_files(mine, out, probabilities=files, resume=True)


def test_every_fault_is_named_after_the_others_were_looked_at(data, softmax, tmp_path):
    files = tmp_path / "softmax"
    files.mkdir()
    for path in sorted(softmax.iterdir()):
        foreground = np.full((16, 16), 0.3)
        np.save(files / f"{path.stem}.npy", foreground * {"001": 9, "002": np.nan, "003": -7}.get(path.stem, 1))
    np.save(files / "004.npy", np.full((16, 12), 0.3))
    with pytest.raises(DataError, match=f"4 of {NOISY} cases cannot be used; the others were looked at") as raised:
        by_files(data, tmp_path / "audit", probabilities=files)
    text = str(raised.value)
    assert "2 files of other values than probabilities: are these logits?" in text
    assert "002.npy: holds values that are not finite" in text
    assert "004.npy: 12x16 pixels, its mask 16x16" in text
    assert len(list((tmp_path / "audit" / ".seen").glob("*.npz"))) == NOISY - 4
    for name in ("001", "002", "003", "004"):
        np.save(files / f"{name}.npy", np.full((16, 16), 0.3))
    assert len(by_files(data, tmp_path / "audit", probabilities=files, resume=True).cases) == NOISY


def test_missing_files_are_named_before_anything_is_written(data, softmax, run, tmp_path):
    files = shutil.copytree(softmax, tmp_path / "softmax")
    (files / "003.png").unlink()
    with pytest.raises(DataError, match=rf"{NOISY - 1} of {NOISY} noisy masks have probabilities there\s+003: no PNG file"):
        by_files(data, tmp_path / "audit", probabilities=files)
    with pytest.raises(DataError, match=r"no helped map, <id>\.png, of any of the noisy masks; is \S+helped meant\?"):
        by_files(data, tmp_path / "audit", probabilities=softmax, helped=run)
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "needs data, and either a run or a folder of probabilities"),
        ({"run": "r", "probabilities": "p"}, "either a run or a folder of probabilities"),
        ({"data": None, "probabilities": "p"}, "needs data"),
        ({"probabilities": "p", "weights": "best", "batch_size": 3}, "weights, batch_size: for a run, not for probabilities"),
        ({"run": "r", "classes": 2, "helped": "h"}, "helped, classes: for probabilities, not for a run"),
        ({"probabilities": "p", "classes": 0}, "classes"),
        ({"probabilities": "p", "ignore_label": 300}, "ignore_label"),
    ],
)
def test_what_does_not_go_together_is_refused(data, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        audit(**{"data": data, "out": tmp_path / "audit"} | wrong)


def test_the_command(data, softmax, run, tmp_path, run_command):
    code, text, error = run_command("audit", data, "--probabilities", softmax, "--helped", run / "helped", "--out", tmp_path / "a", "-q")
    assert code == 0, error
    assert error == ""
    assert f"{NOISY} masks judged by probabilities and training" in text
    assert len(read_audit_cases(tmp_path / "a")) == NOISY
    for words in ((data,), (run, data, "--probabilities", softmax), (data, run, data)):
        code, _, error = run_command("audit", *words, "--out", tmp_path / "b")
        assert code == 2
        assert "give RUN and DATA, or DATA alone with --probabilities" in error
    assert "no such file or folder" in run_command("audit", data, "--probabilities", tmp_path / "x", "--out", tmp_path / "b")[2]
    assert "cross-validation" in " ".join(run_command("audit", "--help")[1].split())
