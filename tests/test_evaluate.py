"""Folders of masks against folders of masks: pairing, values, units, the table, and what is refused."""

import io
import math
import os
import unicodedata

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from pixeltrust import metrics
from pixeltrust.plumbing.errors import DataError
from pixeltrust.prediction.evaluate import evaluate, summarize

COLUMNS = ["id", "dice", "jaccard", "sensitivity", "specificity", "accuracy", "hausdorff95", "surface_distance", "surface_dice"]


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predicted", tmp_path / "truth"


def square(row=2, column=2, side=4, shape=(12, 16), value=1):
    mask = np.zeros(shape, np.uint8)
    mask[row : row + side, column : column + side] = value
    return mask


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, mask in files.items():
        Image.fromarray(mask).save(folder / f"{name}.png")


def write_nifti(folder, name, mask, spacing):
    folder.mkdir(exist_ok=True)
    row, column = spacing
    nibabel.save(nibabel.Nifti1Image(mask.T, np.diag([-column, -row, 1, 1])), folder / f"{name}.nii.gz")


def run(folders, **options):
    return evaluate(*folders, show_progress=False, **options)


def faults_of(folders, **options):
    with pytest.raises(DataError) as caught:
        run(folders, **options)
    return str(caught.value)


def test_every_case_has_its_row_and_every_metric_its_mean(folders):
    write(folders[0], b=square(), a=square(column=4))
    write(folders[1], b=square(), a=square())
    found = run(folders)
    assert list(found.cases.columns) == COLUMNS
    assert found.cases["id"].tolist() == ["a", "b"]
    assert found.cases["dice"].tolist() == [0.5, 1]  # half of a is where it should be
    assert found.cases["jaccard"].tolist() == [8 / 24, 1]
    summary = found.summary.set_index("metric")
    assert summary.index.tolist() == COLUMNS[1:]
    assert summary.loc["dice", ["mean", "median", "low", "high", "cases", "undefined"]].tolist() == [0.75, 0.75, 0.5, 1, 2, 0]


def test_a_rows_numbers_are_those_of_the_metrics(folders):
    predicted, truth = square(side=7), square(row=4, side=5)
    write(folders[0], case=predicted)
    write(folders[1], case=truth)
    expected = metrics.case_metrics(predicted=predicted, truth=truth)
    assert run(folders).cases.iloc[0].to_dict() == {"id": "case", **expected}


def test_prediction_and_truth_are_not_interchangeable(folders):
    write(folders[0], a=square(side=8))
    write(folders[1], a=square(side=4))
    row, swapped = run(folders).cases.iloc[0], run(folders[::-1]).cases.iloc[0]
    assert (row["sensitivity"], swapped["sensitivity"]) == (1, 0.25)
    assert row["dice"] == swapped["dice"]


def test_masks_are_paired_by_id_and_not_by_order(folders):
    write(folders[0], a0=square(), b=square(side=2), c=square(side=6))
    write(folders[1], b=square(side=2), c=square(side=6))
    found = run(folders)
    assert found.cases["dice"].tolist() == [1, 1]
    assert [note for note in found.notes if "lack of a true mask" in note] == ["Not measured, for lack of a true mask: 1 predicted (a0)."]


def test_masks_under_each_others_ids_are_seen_in_their_rows(folders):
    write(folders[0], a=square(side=2), b=square(row=8, side=3), c=square())
    write(folders[1], a=square(row=8, side=3), b=square(side=2), c=square())
    assert run(folders).cases["dice"].tolist() == [0, 0, 1]


def test_one_id_may_have_different_endings_and_spellings_of_an_accent(folders):
    name = "Läsion 3 皮膚"
    write(folders[0], **{unicodedata.normalize("NFC", name): square()})
    folders[1].mkdir()
    Image.fromarray(square()).save(folders[1] / f"{unicodedata.normalize('NFD', name)}.TIF")
    assert run(folders).cases[["id", "dice"]].values.tolist() == [[unicodedata.normalize("NFC", name), 1]]


def test_hidden_files_other_files_and_subfolders_are_no_masks(folders):
    for folder in folders:
        write(folder, a=square())
        write(folder / "probabilities", z=square())
        (folder / "notes.txt").write_text("not a mask")
        (folder / "._a.png").write_bytes(b"what macOS leaves behind")
    assert run(folders).cases["id"].tolist() == ["a"]


def test_foreground_may_be_any_one_value(folders):
    write(folders[0], a=square(value=255), b=square(value=7))
    write(folders[1], a=square(value=1), b=square(value=255))
    assert run(folders).cases["dice"].tolist() == [1, 1]


def test_255_beside_0_and_1_in_the_truth_is_ignored(folders):
    truth = square(side=4)
    truth[2:6, 6:9] = 255
    write(folders[0], a=square(side=4) | np.roll(square(side=4), 2, 1))  # two columns too far, all of them ignored
    write(folders[1], a=truth)
    assert run(folders).cases.loc[0, COLUMNS[1:]].tolist() == [1, 1, 1, 1, 1, 0, 0, 1]


def test_255_cannot_mean_ignored_in_one_file_and_foreground_in_another(folders):
    ignoring = square()
    ignoring[0, 0] = 255
    write(folders[0], a=square(), b=square(), c=square())
    write(folders[1], a=ignoring, b=square(value=255), c=square(value=1))
    text = faults_of(folders)
    assert "255" in text
    assert "b.png" in text
    assert "c.png" not in text


def test_ignore_label_says_what_255_means_in_such_a_mixture(folders):
    ignoring, filled = square(), square(value=255)
    ignoring[0] = 255
    write(folders[0], a=square(value=255), b=square())
    write(folders[1], a=ignoring, b=filled)
    assert "Set ignore_label" in faults_of(folders)
    cases = run(folders, ignore_label=255).cases
    assert cases["dice"].fillna(-1).tolist() == [1, -1]  # b's only foreground is ignored
    assert cases["accuracy"].tolist() == [1, 1]


def test_any_value_can_be_the_ignored_one(folders):
    truth = square(value=255)
    truth[0] = 9
    write(folders[0], a=square() | (truth == 9))
    write(folders[1], a=truth)
    assert run(folders, ignore_label=9).cases["dice"].tolist() == [1]
    with pytest.raises(ValueError, match="ignore_label is 256"):
        run(folders, ignore_label=256)


def test_a_prediction_ignores_nothing(folders):
    ignoring = square()
    ignoring[0, 0] = 255
    write(folders[0], a=ignoring)
    write(folders[1], a=ignoring)
    text = faults_of(folders)
    assert str(folders[0] / "a.png") in text
    assert str(folders[1] / "a.png") not in text


def test_masks_of_many_values_are_all_named_with_their_values(folders):
    many = np.arange(192, dtype=np.uint8).reshape(12, 16) // 12
    write(folders[0], a=many, b=square(), c=square())
    write(folders[1], a=square(), b=many, c=square())
    text = faults_of(folders)
    assert f"{folders[0] / 'a.png'}: holds 16 values (0, 1, 2, 3, 4, …)" in text
    assert f"{folders[1] / 'b.png'}: holds 16 values" in text
    assert "c.png" not in text


def test_values_beyond_the_classes_are_named(folders):
    write(folders[0], a=square(value=2))
    write(folders[1], a=square(value=3))
    text = faults_of(folders, classes=3)
    assert f"{folders[1] / 'a.png'}: holds 1 value (3)" in text
    assert str(folders[0] / "a.png") not in text
    assert run(folders, classes=4).cases["dice"].tolist() == [0]


def test_with_more_classes_a_case_is_the_mean_over_its_classes(folders):
    predicted, truth = square(value=1) + square(row=7, value=2), square(value=1) + square(row=7, column=4, value=2)
    truth[0] = 255
    write(folders[0], a=predicted)
    write(folders[1], a=truth)
    assert run(folders, classes=3).cases["dice"].tolist() == [(1 + 0.5) / 2]


def test_empty_cases_are_left_out_of_the_means_counted_and_said(folders):
    empty = square(value=0)
    write(folders[0], neither=empty, missed=empty, made_up=square(), right=square())
    write(folders[1], neither=empty, missed=square(), made_up=empty, right=square())
    found = run(folders)
    summary = found.summary.set_index("metric")
    assert summary.loc["dice", ["mean", "cases", "undefined"]].tolist() == [1 / 3, 3, 1]
    assert summary.loc["hausdorff95", ["mean", "cases", "undefined"]].tolist() == [0, 1, 3]
    assert summary.loc["hausdorff95", ["low", "high"]].isna().all()  # one value has no interval
    said = "\n".join(found.notes)
    assert "No foreground in either mask, so no Dice, Jaccard, sensitivity, distances: 1 case (neither)." in said
    assert "Foreground in only one of the two masks, so Dice 0 and no distances: 2 cases (made_up, missed)." in said


def test_few_cases_are_called_few_and_many_are_not(folders):
    few = {f"case{n}": square() for n in range(19)}
    for folder in folders:
        write(folder, **few)
    assert ["too narrow" in note for note in run(folders).notes] == [True]
    for folder in folders:
        write(folder, last=square())
    assert run(folders).notes == []


def test_all_missing_doubled_and_misplaced_masks_are_told_at_once(folders):
    write(folders[0], a=square(), c=square())
    write(folders[1], a=square(), b=square(), c=square(), d=square())
    Image.fromarray(square()).save(folders[0] / "a.tif")
    Image.fromarray(square()).save(folders[1] / "c.bmp")
    text = faults_of(folders)
    assert f"b: no mask in {folders[0]}" in text
    assert f"d: no mask in {folders[0]}" in text
    assert f"{folders[0]}: 2 files of one id, a: a.png, a.tif" in text
    assert f"{folders[1]}: 2 files of one id, c: c.bmp, c.png" in text


def test_all_sizes_that_differ_are_named(folders):
    write(folders[0], a=square(shape=(16, 12)), b=square(), c=square(shape=(24, 32)))
    write(folders[1], a=square(), b=square(), c=square())
    text = faults_of(folders)
    assert f"{folders[0] / 'a.png'}: 12 × 16 pixels, but its truth {folders[1] / 'a.png'} has 16 × 12" in text
    assert f"{folders[0] / 'c.png'}: 32 × 24 pixels" in text
    assert "b.png" not in text


def test_all_broken_files_are_named(folders):
    for folder in folders:
        write(folder, a=square(), b=square(), c=square())
    (folders[0] / "a.png").write_bytes(b"no picture")
    (folders[0] / "c.png").write_bytes(b"")
    text = faults_of(folders)
    assert "a.png" in text
    assert "c.png" in text
    for name in "ac":
        write(folders[0], **{name: square()})
    noise = np.random.default_rng(0).integers(0, 2, (12, 16), dtype=np.uint8)
    write(folders[1], b=noise)
    whole = (folders[1] / "b.png").read_bytes()
    (folders[1] / "b.png").write_bytes(whole[: len(whole) - 40])  # the header is whole, the pixels are not
    assert "b.png" in faults_of(folders)


def test_folders_that_cannot_be_used_are_named(folders, tmp_path):
    write(folders[0], a=square())
    assert f"{folders[1]}: there is no such folder" in faults_of(folders)
    folders[1].mkdir()
    assert f"{folders[1]}: no mask files" in faults_of(folders)
    assert f"{folders[1]}: no mask files" in faults_of(folders[::-1])
    assert "not a folder" in faults_of((folders[0], folders[0] / "a.png"))


def test_a_whole_data_folder_as_truth_is_told_where_its_test_masks_are(folders):
    write(folders[0], a=square())
    folders[1].mkdir()
    write(folders[1] / "test", a=square())
    assert f"probably {folders[1] / 'test'} was meant" in faults_of(folders)


@pytest.mark.parametrize("classes", [0, 256])
def test_an_impossible_number_of_classes_is_the_callers_mistake(folders, classes):
    with pytest.raises(ValueError, match=f"classes is {classes}"):
        run(folders, classes=classes)


def test_distances_are_in_mm_where_every_truth_says_so(folders):
    write(folders[0], a=square(row=0, column=0, side=1), b=square(row=0, column=0, side=1))
    write_nifti(folders[1], "a", square(row=2, column=0, side=1), spacing=(0.5, 4.0))
    write_nifti(folders[1], "b", square(row=0, column=2, side=1), spacing=(0.5, 4.0))
    found = run(folders)
    assert found.unit == "mm"
    assert found.cases["hausdorff95"].tolist() == [1, 8]


def test_distances_are_in_pixels_for_all_where_one_truth_does_not_say(folders):
    write(folders[0], a=square(row=0, column=0, side=1), b=square(row=0, column=0, side=1))
    write_nifti(folders[1], "a", square(row=2, column=0, side=1), spacing=(0.5, 4.0))
    write(folders[1], b=square(row=0, column=2, side=1))
    found = run(folders)
    assert found.unit == "px"
    assert found.cases["hausdorff95"].tolist() == [2, 2]
    assert "Distances are in pixels for all cases: 1 case of 2 without a pixel size in mm." in found.notes


def test_the_csv_holds_the_cases_and_empty_cells_where_undefined(folders, tmp_path):
    write(folders[0], ä=square(column=3), leer=square(value=0))
    write(folders[1], ä=square(), leer=square(value=0))
    out = tmp_path / "Übersicht.csv"
    out.write_text("an older table")
    found = run(folders, out=out)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1] == "leer,,,,1.0,1.0,,,"
    assert lines[2].startswith("ä,0.75,0.6,")
    # 1e-15: pandas' parser of decimals is not exact to the last bit unless asked
    pd.testing.assert_frame_equal(pd.read_csv(out), found.cases, rtol=1e-15)
    assert {path.name for path in tmp_path.iterdir()} == {"predicted", "truth", "Übersicht.csv"}


def test_a_file_name_that_is_no_text_does_not_spoil_the_csv(folders, tmp_path):
    for folder in folders:
        write(folder, a=square())
        try:
            os.rename(folder / "a.png", os.fsencode(folder) + b"/l\xe4sion.png")  # noqa: PTH104 (bytes)
        except OSError:
            pytest.skip("this file system takes only names that are text")
    run(folders, out=tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "l\\xe4sion,1.0,1.0,1.0,1.0,1.0,0.0,0.0,1.0"


def test_a_table_that_cannot_be_written_is_refused_before_any_mask_is_read(folders, tmp_path):
    write(folders[0], a=square())
    write(folders[1], a=square())
    (folders[0] / "a.png").write_bytes(b"broken, which would be noticed on reading")
    assert "name a file" in faults_of(folders, out=tmp_path)
    assert "no folder" in faults_of(folders, out=tmp_path / "missing" / "out.csv")
    assert "no folder" in faults_of(folders, out=folders[1] / "a.png" / "out.csv")


def test_a_failure_while_writing_leaves_the_old_table_and_nothing_else(folders, tmp_path, monkeypatch):
    write(folders[0], a=square())
    write(folders[1], a=square())
    out = tmp_path / "out.csv"
    out.write_text("old")

    def full_disk(self, path, **options):
        path.write_text("id,di")
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    assert "No space left" in faults_of(folders, out=out)
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"predicted", "truth", "out.csv"}


def test_the_same_folders_give_the_same_numbers_again(folders):
    generator = np.random.default_rng(0)
    for folder in folders:
        write(folder, **{f"case{n}": square(*generator.integers(1, 6, 2)) for n in range(12)})
    one, other = run(folders), run(folders)
    pd.testing.assert_frame_equal(one.cases, other.cases, check_exact=True)
    pd.testing.assert_frame_equal(one.summary, other.summary, check_exact=True)


def test_a_summary_of_nothing_defined_has_no_mean_and_warns_of_nothing():
    cases = pd.DataFrame([{"id": "a", **dict.fromkeys(metrics.METRICS, math.nan)}])
    summary = summarize(cases)
    assert summary["mean"].isna().all()
    assert summary["undefined"].tolist() == [1] * len(metrics.METRICS)


def test_the_printed_table_says_the_unit_the_means_and_what_is_undefined(folders):
    write(folders[0], a=square(column=4), b=square(value=0))
    write(folders[1], a=square(), b=square(value=0))
    console = Console(file=io.StringIO(), width=100)
    console.print(run(folders).table())
    lines = console.file.getvalue().splitlines()
    assert "2 cases, distances in px" in lines[0]
    assert [part.strip() for part in next(line for line in lines if "dice" in line).strip("│").split("│")] == [
        "dice", "0.5000", "–", "0.5000", "1", "1",
    ]  # fmt: skip


def test_progress_goes_to_standard_error_and_only_when_asked(folders, capsys):
    write(folders[0], a=square())
    write(folders[1], a=square())
    run(folders)
    assert capsys.readouterr() == ("", "")
    evaluate(*folders)
    assert capsys.readouterr().out == ""


def test_with_two_classes_a_truth_of_0_and_255_is_refused_with_the_ways_out(folders):
    write(folders[0], a=square(), b=square())
    write(folders[1], a=square(value=255), b=square(value=255))
    text = faults_of(folders, classes=2)
    assert "holds 0 and 255 alone" in text
    assert "--classes 1" in text
    assert "--ignore-label 255" in text
    assert run(folders).cases["dice"].tolist() == [1, 1]
    assert "Ignored, so counted nowhere: 8.3% of the true masks' pixels, in 2 cases." in run(folders, classes=2, ignore_label=255).notes


def test_with_two_classes_a_prediction_of_0_and_255_is_refused_with_the_way_out(folders):
    write(folders[0], a=square(value=255), b=square(value=255))
    write(folders[1], a=square(), b=square())
    text = faults_of(folders, classes=2)
    assert "2 masks of 0 and 255, in which nothing may be ignored: if 255 is the foreground, measure with classes = 1" in text


def test_without_ignored_pixels_none_are_spoken_of(folders):
    write(folders[0], a=square())
    write(folders[1], a=square())
    assert not [note for note in run(folders).notes if "Ignored" in note]
