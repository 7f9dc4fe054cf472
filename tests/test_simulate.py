"""From a folder with known truth to a data folder with noise."""

import csv
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pixeltrust.data.cases import read_cases
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.pictures import write_png
from pixeltrust.noise import simulate as simulate_module
from pixeltrust.noise.kinds import find_kind
from pixeltrust.noise.simulate import simulate
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError

ISIC = Path(__file__).parents[2] / "shared/data/isic2017"
SIZE = 48


def lesion(number):
    """A turned ellipse of its own place and size, uint8 0/1."""
    generator = np.random.default_rng(number)
    rows, columns = np.mgrid[:SIZE, :SIZE] - generator.uniform(20, 28, (2, 1, 1))
    angle, radii = generator.uniform(0, math.pi), generator.uniform(8, 18, 2)
    along, across = rows * math.cos(angle) + columns * math.sin(angle), columns * math.cos(angle) - rows * math.sin(angle)
    return ((along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1).astype(np.uint8)


def make_source(folder, train=20, test=4, foreground=255):
    """Made-up cases a00, a01, …: the last `test` of them are tests; no split.csv without tests."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows = ["id,split"]
    for number in range(train + test):
        mask = lesion(number)
        write_png(folder / "images" / f"a{number:02d}.png", np.repeat((200 - 120 * mask)[..., None], 3, axis=2).astype(np.uint8))
        write_png(folder / "masks" / f"a{number:02d}.png", mask * np.uint8(foreground))
        rows.append(f"a{number:02d},{'train' if number < train else 'test'}")
    if test:
        (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("made") / "lesions")


@pytest.fixture
def source(made, tmp_path):
    return shutil.copytree(made, tmp_path / "lesions")


def run(source, out, **settings):
    return simulate(source, out, **{"clean": 5, "show_progress": False} | settings)


def names(folder):
    return sorted(path.stem for path in folder.iterdir())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- what is written


def test_every_case_has_its_image_and_the_clean_ones_are_pairs(source, tmp_path):
    summary = run(source, tmp_path / "out")
    parts = {part: names(tmp_path / "out" / part) for part in ("images", "noisy", "clean", "test")}
    assert [len(parts[part]) for part in ("images", "noisy", "clean", "test")] == [24, 20, 5, 4]
    assert sorted(parts["noisy"] + parts["test"]) == parts["images"]
    assert set(parts["clean"]) < set(parts["noisy"])
    assert parts["test"] == ["a20", "a21", "a22", "a23"]
    assert (summary.noisy, summary.clean, summary.pairs, summary.test, summary.empty) == (15, 5, 5, 4, 0)
    cases = read_cases(tmp_path / "out", show_progress=False)
    assert [len(cases.of(role)) for role in ("noisy", "clean", "test")] == [15, 5, 4]
    assert cases.pairs == cases.of("clean")


def test_without_pairs_everything_else_is_the_same(source, tmp_path):
    with_pairs, without = run(source, tmp_path / "with", noise="shift"), run(source, tmp_path / "without", noise="shift", pairs=False)
    clean = {f"noisy/{name}.png" for name in names(tmp_path / "with/clean")}
    expected = {name: content for name, content in contents(tmp_path / "with").items() if name not in clean}
    made = contents(tmp_path / "without")
    assert made.keys() == expected.keys()
    assert {name for name in made if made[name] != expected[name]} == {"simulation.csv", "simulation.json"}
    assert without == replace(with_pairs, out=without.out, pairs=0)
    assert "15 noisy, 5 clean, 4 test cases" in str(without)


def test_without_a_split_every_case_trains(tmp_path):
    assert run(make_source(tmp_path / "lesions", test=0), tmp_path / "out").noisy == 15
    assert not (tmp_path / "out/test").exists()
    assert len(names(tmp_path / "out/noisy")) == 20


def test_other_splits_are_tests(source, tmp_path):
    (source / "split.csv").write_text((source / "split.csv").read_text().replace("a21,test", "a21,val"))
    assert run(source, tmp_path / "out").test == 4


@pytest.mark.parametrize("foreground", [1, 7, 255])
def test_masks_are_written_as_0_and_255_and_true_ones_are_true(tmp_path, foreground):
    source = make_source(tmp_path / "lesions", foreground=foreground)
    run(source, tmp_path / "out")
    for part in ("noisy", "clean", "test"):
        for path in (tmp_path / "out" / part).iterdir():
            labels = read_labels(path)
            assert set(np.unique(labels)) == {0, 255}
            assert part == "noisy" or ((labels > 0) == lesion(int(path.stem[1:]))).all()


def test_images_are_links_where_the_disk_allows_and_copies_elsewhere(source, tmp_path, monkeypatch):
    run(source, tmp_path / "linked")
    assert (tmp_path / "linked/images/a00.png").samefile(source / "images/a00.png")

    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    run(source, tmp_path / "copied")
    assert not (tmp_path / "copied/images/a00.png").samefile(source / "images/a00.png")
    assert contents(tmp_path / "linked") == contents(tmp_path / "copied")


def test_the_source_is_left_as_it_was(source, tmp_path):
    before = contents(source)
    run(source, tmp_path / "out")
    assert contents(source) == before


def test_simulation_csv_tells_how_each_mask_differs(source, tmp_path):
    summary = run(source, tmp_path / "out", noise="box")
    with (tmp_path / "out/simulation.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    clean = names(tmp_path / "out/clean")
    assert [row["id"] for row in rows] == [*(name for name in names(tmp_path / "out/noisy") if name not in clean), *clean]
    assert [row["role"] for row in rows] == ["noisy"] * 15 + ["clean"] * 5
    for row in rows:
        truth, noisy = lesion(int(row["id"][1:])), read_labels(tmp_path / "out/noisy" / f"{row['id']}.png") > 0
        assert float(row["dice"]) == pytest.approx(2 * (truth & noisy).sum() / (truth.sum() + noisy.sum()), abs=1e-6)  # 6 decimals
        assert float(row["false_positive_share"]) == pytest.approx(noisy.sum() / truth.sum() - 1, abs=1e-6)
        assert float(row["false_negative_share"]) == 0
    of_noisy = [float(row["dice"]) for row in rows[:15]]
    assert summary.mean_dice == pytest.approx(np.mean(of_noisy), abs=1e-6)
    assert summary.dice_quartiles == pytest.approx(np.quantile(of_noisy, (0.25, 0.5, 0.75)), abs=1e-6)


def test_simulation_json_holds_the_settings(source, tmp_path):
    run(source, tmp_path / "out", noise="box", strength=0.5, seed=3)
    record = json.loads((tmp_path / "out/simulation.json").read_text())
    assert {key: record[key] for key in ("source", "noise", "strength", "target_dice", "seed")} == {
        "source": "lesions",
        "noise": "box",
        "strength": 0.5,
        "target_dice": None,
        "seed": 3,
    }
    assert record["cases"] == {"noisy": 15, "clean": 5, "pairs": 5, "test": 4, "without_foreground": 0}


def test_the_summary_reads_as_text(source, tmp_path):
    text = str(run(source, tmp_path / "out", noise="box"))
    assert f"{tmp_path / 'out'}: 15 noisy, 5 clean (5 pairs), 4 test cases" in text
    assert "box, strength 1, seed 0" in text


# --- chance


def test_the_same_seed_writes_the_same_bytes(source, tmp_path):
    for out in ("one", "two"):
        run(source, tmp_path / out, noise="shift")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_noise_of_a_case_hangs_on_neither_the_clean_draw_nor_the_others(source, tmp_path):
    run(source, tmp_path / "all", noise="shift", clean=0)
    run(source, tmp_path / "some", noise="shift", clean=12)
    for part in ("images", "masks"):
        (source / part / "a00.png").unlink()
    (source / "split.csv").write_text((source / "split.csv").read_text().replace("a00,train\n", ""))
    run(source, tmp_path / "fewer", noise="shift", clean=0)
    every, some, fewer = (contents(tmp_path / out / "noisy") for out in ("all", "some", "fewer"))
    assert some == every
    assert fewer == {name: every[name] for name in every if name != "a00.png"}


def test_fewer_clean_cases_are_among_the_more(source, tmp_path):
    chosen = []
    for clean in (3, 8):
        run(source, tmp_path / str(clean), clean=clean)
        chosen.append(set(names(tmp_path / str(clean) / "clean")))
    assert chosen[0] < chosen[1]


def test_another_seed_draws_other_noise_and_other_clean_cases(source, tmp_path):
    for seed in (0, 1):
        run(source, tmp_path / str(seed), noise="shift", seed=seed)
    assert names(tmp_path / "0/clean") != names(tmp_path / "1/clean")
    assert contents(tmp_path / "0/noisy") != contents(tmp_path / "1/noisy")


# --- the noise


def test_strength_0_is_the_truth(source, tmp_path):
    assert run(source, tmp_path / "out", strength=0.0).mean_dice == 1


def test_a_named_kind_makes_its_noise(source, tmp_path):
    run(source, tmp_path / "out", noise="heptagon", clean=0)
    expected = find_kind("heptagon")(lesion(3), np.random.default_rng(0), 1.0, None)
    assert ((read_labels(tmp_path / "out/noisy/a03.png") > 0) == expected).all()


def test_any_function_can_be_the_noise_and_is_given_the_image(source, tmp_path):
    def upper_half(mask, generator, strength, image):
        assert image.shape == (SIZE, SIZE, 3)
        assert (mask == (image[..., 0] < 140)).all()
        half = mask.copy()
        half[SIZE // 2 :] = 0
        return half

    summary = run(source, tmp_path / "out", noise=upper_half)
    assert summary.false_positive_share == 0
    assert 0.2 < summary.false_negative_share < 0.8
    assert "upper_half" in summary.noise


def test_a_function_that_makes_no_mask_is_a_callers_mistake(source, tmp_path):
    with pytest.raises(ValueError, match="the noise function made"):
        run(source, tmp_path / "out", noise=lambda mask, *_: mask * np.uint8(255))
    assert not (tmp_path / "out").exists()


def test_unsupervised_noise_looks_at_the_image(source, tmp_path):
    assert run(source, tmp_path / "out", noise="unsupervised").mean_dice > 0.9  # the made-up images show the lesion plainly


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("triangle", 0.8),
        pytest.param("triangle", 0.985, marks=pytest.mark.slow),
        ("box", 0.95),
        pytest.param("dilate", 0.6, marks=pytest.mark.slow),
        pytest.param("erode", 0.5, marks=pytest.mark.slow),
        pytest.param("shift", 0.7, marks=pytest.mark.slow),
        ("drop", 0.75),
        pytest.param("coarse", 0.9, marks=pytest.mark.slow),
    ],
)
def test_a_target_dice_is_met_within_a_hundredth(source, tmp_path, kind, target):
    summary = run(source, tmp_path / "out", noise=kind, target_dice=target)
    assert abs(summary.mean_dice - target) <= 0.01
    if kind == "triangle":
        run(source, tmp_path / "again", noise=kind, strength=summary.strength)
        assert contents(tmp_path / "again/noisy") == contents(tmp_path / "out/noisy")


def test_a_target_is_met_on_all_cases_when_the_sample_differs(source, tmp_path, monkeypatch):
    monkeypatch.setattr(simulate_module, "_SAMPLE_CASES", 3)
    assert run(source, tmp_path / "out", noise="triangle", target_dice=0.75).mean_dice == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(("kind", "target"), [("box", 0.5), ("heptagon", 0.7)])
def test_a_target_out_of_reach_says_how_far_the_noise_goes(source, tmp_path, kind, target):
    with pytest.raises(ConfigError, match=rf"{kind} at its full strength gives a mean Dice of 0\.\d+; {target} cannot be reached"):
        run(source, tmp_path / "out", noise=kind, target_dice=target)
    assert names(tmp_path) == ["lesions"]


def test_truths_without_foreground_are_in_no_mean_and_counted(source, tmp_path):
    write_png(source / "masks/a00.png", np.zeros((SIZE, SIZE), dtype=np.uint8))
    without = run(source, tmp_path / "out", noise="box", clean=0)
    assert without.empty == 1
    assert not math.isnan(without.mean_dice)
    assert "1 without foreground" in str(without)
    assert "a00,noisy,,,\n" in (tmp_path / "out/simulation.csv").read_text()
    assert not read_labels(tmp_path / "out/noisy/a00.png").any()


def test_a_source_without_any_foreground_has_no_dice(tmp_path):
    source = make_source(tmp_path / "lesions", train=3, test=0)
    for path in (source / "masks").iterdir():
        write_png(path, np.zeros((SIZE, SIZE), dtype=np.uint8))
    assert math.isnan(run(source, tmp_path / "out", clean=1).mean_dice)
    assert json.loads((tmp_path / "out/simulation.json").read_text())["mean_dice"] is None
    with pytest.raises(ConfigError, match="no Dice to aim at"):
        run(source, tmp_path / "target", clean=1, target_dice=0.8)


# --- faults


def test_every_fault_of_the_source_is_named_at_once(source, tmp_path):
    (source / "masks/a00.png").unlink()
    (source / "images/a01.png").unlink()
    write_png(source / "masks/a02.png", np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE))
    write_png(source / "masks/a03.png", np.zeros((9, 9), dtype=np.uint8))
    shutil.copy(source / "masks/a04.png", source / "masks/a04.bmp.png")
    shutil.copy(source / "images/a05.png", source / "images/a05.jpg")
    (source / "masks/a06.png").write_bytes(b"broken")
    table = (source / "split.csv").read_text().replace("a07,train\n", "").replace("a08,train", "a08,")
    (source / "split.csv").write_text(table + "ghost,train\na09,train\n")
    with pytest.raises(DataError) as raised:
        run(source, tmp_path / "out")
    expected = [
        "images/a00.png: has no mask",
        "masks/a01.png: has no image",
        "masks/a02.png: holds 256 values (0, 1, 2, 3, 4, …) where classes = 1 allows 0 and one other",
        "masks/a03.png: of size (9, 9), its image of size (48, 48)",
        "masks/a04.bmp.png: has no image",
        "images: 2 files of one id, a05: a05.jpg, a05.png",
        "masks/a06.png: not an image",
        "images/a07.png: has no row",
        "split.csv: a08 has no split",
        "split.csv: ghost has no files",
        "split.csv: a09 has two rows",
    ]
    assert len(raised.value.faults) == len(expected)
    for text in expected:
        assert any(text in fault for fault in raised.value.faults), text
    assert names(tmp_path) == ["lesions"]


def test_hidden_and_foreign_files_are_passed_over(source, tmp_path):
    (source / "images/.DS_Store").write_bytes(b"")
    (source / "images/._a00.png").write_bytes(b"")
    (source / "masks/notes.txt").write_text("by hand")
    assert run(source, tmp_path / "out").noisy == 15


@pytest.mark.parametrize("clean", [20, 21])
def test_too_many_clean_cases_are_refused_with_the_counts(source, tmp_path, clean):
    with pytest.raises(DataError, match=f"{clean} clean cases asked for, but it has 20 for training"):
        run(source, tmp_path / "out", clean=clean)


def test_a_source_that_is_none_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"images: there is no such folder; a source has images/ and masks/"):
        run(tmp_path / "nowhere", tmp_path / "out")
    for part in ("images", "masks"):
        (tmp_path / "bare" / part).mkdir(parents=True)
    with pytest.raises(DataError, match="has no images in images/ with masks"):
        run(tmp_path / "bare", tmp_path / "out")


def test_a_split_table_of_other_columns_is_refused(source, tmp_path):
    (source / "split.csv").write_text("name,part\na00,train\n")
    with pytest.raises(DataError, match="needs the columns id and split, has name, part"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"noise": "triangel"}, r"noise: .*did you mean 'triangle'"),
        ({"clean": -1}, "clean: a number of cases from 0, not -1"),
        ({"seed": -1}, "seed: a whole number from 0, not -1"),
        ({"strength": -0.5}, "strength: a number from 0, not -0.5"),
        ({"target_dice": 1}, "target_dice: between 0 and 1, not 1"),
        ({"strength": 1.0, "target_dice": 0.8}, "give one of them"),
    ],
)
def test_settings_out_of_range_are_refused(source, tmp_path, settings, text):
    with pytest.raises(ConfigError, match=text):
        run(source, tmp_path / "out", **settings)


# --- the folder


def test_a_folder_with_something_in_it_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    assert run(source, tmp_path / "out").noisy == 15  # empty: fine
    before = contents(tmp_path / "out")
    with pytest.raises(RunError, match="exists and is not empty; choose another folder or remove it"):
        run(source, tmp_path / "out", seed=1)
    assert contents(tmp_path / "out") == before


def test_places_that_cannot_be_used_are_named(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="exists and is not a folder"):
        run(source, tmp_path / "file")
    with pytest.raises(RunError, match=r"file/out: cannot be (used|written)"):
        run(source, tmp_path / "file/out")
    for out in (source, source / "out"):
        with pytest.raises(RunError, match="is inside the source"):
            run(source, out)


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_leaves_nothing(source, tmp_path, end):
    def stop(mask, generator, strength, image):
        raise end

    with pytest.raises(end):
        run(source, tmp_path / "out", noise=stop)
    assert names(tmp_path) == ["lesions"]


def test_nothing_is_printed_without_the_bar_and_only_to_stderr_with_it(source, tmp_path, capfd):
    run(source, tmp_path / "one")
    assert capfd.readouterr() == ("", "")
    run(source, tmp_path / "two", show_progress=True)
    assert capfd.readouterr().out == ""


# --- real lesions


@pytest.fixture(scope="module")
def isic(tmp_path_factory):
    if not ISIC.is_dir():
        pytest.skip(f"needs the real lesions of {ISIC}")
    folder = tmp_path_factory.mktemp("isic")
    ids = sorted(path.stem for path in (ISIC / "images").iterdir())[::14][:150]
    for part, suffix in (("images", ".jpg"), ("masks", ".png")):
        (folder / part).mkdir()
        for one in ids:
            shutil.copy(ISIC / part / f"{one}{suffix}", folder / part)
    return folder


@pytest.mark.slow
def test_real_lesions_meet_a_target(isic, tmp_path):
    summary = run(isic, tmp_path / "out", noise="triangle", target_dice=0.75, clean=20)
    assert (summary.noisy, summary.clean, summary.test) == (130, 20, 0)
    assert abs(summary.mean_dice - 0.75) <= 0.01
    image = read_image(next((tmp_path / "out/images").iterdir()))
    assert image.shape == (256, 256, 3)


@pytest.mark.slow
def test_real_lesions_as_triangles_have_the_measured_dice(isic, tmp_path):
    # .613 on all 2,000 training masks at 256x256; .015 is about four standard errors of the mean of 130
    assert run(isic, tmp_path / "out", clean=20).mean_dice == pytest.approx(0.613, abs=0.015)
