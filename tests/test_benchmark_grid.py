"""What a benchmark compares, and which cases and masks its cells get."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pixeltrust.benchmarking.cell_masks import FOLDS, FolderMasks, SourceMasks, without_pairs
from pixeltrust.benchmarking.grid import VARIANTS, Cell, Grid, read_grid
from pixeltrust.benchmarking.mended import require_pairs
from pixeltrust.data.cases import read_cases
from pixeltrust.data.folds import assign_folds
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.mending.settings import DEFAULTS
from pixeltrust.method_table import METHODS
from pixeltrust.plumbing.errors import ConfigError, DataError
from tiny import draw


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """17 training and 7 test cases with known truth."""
    folder = tmp_path_factory.mktemp("made") / "source"
    write_source(folder, cases=24, size=32, test_share=0.3, seed=0, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("made") / "data", noisy=8, clean=13, test=3)


def cell(**axes):
    return Cell(**{"method": "plain", "noise": "triangle", "clean": 5, "seed": 0, **axes})


# The grid


def test_a_grid_has_a_cell_for_every_combination_and_each_a_folder_of_its_own():
    grid = Grid(methods=("plain", "pixel"), noise=("triangle", "axes-3"), clean=(10, 20), seeds=(0, 7))
    cells = grid.cells()
    assert len(cells) == len({cell.name for cell in cells}) == 16
    assert cells[0] == Cell(method="plain", noise="triangle", clean=10, seed=0)
    assert [cell.noise for cell in cells] == ["triangle"] * 8 + ["axes-3"] * 8


def test_a_file_gives_axes_settings_and_variants_and_set_stands_above_it(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text('methods = ["plain", "mine"]\nclean = [50]\nepochs = 7\n[variants.mine]\nmethod = "pixel"\nclean_weight = 0.5\n')
    grid = read_grid(file, ["epochs=9", "seeds=[3]"])
    assert (grid.methods, grid.clean, grid.seeds, grid.noise) == (("plain", "mine"), (50,), (3,), ())
    config = grid.config(cell(method="mine", seed=3))
    assert (config.method, config.clean_weight, config.epochs, config.seed) == ("pixel", 0.5, 9, 3)
    assert grid.config(cell(seed=3)).clean_weight is None


@pytest.mark.parametrize("method", [*METHODS, *VARIANTS])
def test_every_method_of_training_and_every_variant_can_be_compared(method):
    Grid(methods=(method,))


def test_pixel_with_the_clean_loss_is_pixel_with_a_share_of_it():
    config = Grid().config(cell(method="pixel+clean"))
    assert (config.method, config.clean_weight) == ("pixel", 1.0)


def test_menders_have_their_own_settings_at_the_size_of_the_cell_up_to_a_largest():
    grid = Grid(settings={"image_size": [64, 128], "classes": 3, "channels": 1, "epochs": 7, "device": "cpu"}, mender={"epochs": 2})
    mender = grid.mender_config(grid.config(cell(method="mended", seed=4)))
    assert (mender.method, mender.model, mender.size, mender.epochs) == ("mender", DEFAULTS["model"], (64, 96), 2)
    assert (mender.classes, mender.channels, mender.device, mender.seed) == (3, 1, "cpu", 4)


def test_menders_train_as_long_as_mend_would_with_as_few_pairs():
    grid = Grid(settings={"epochs": 50})
    assert grid.mender_config(grid.config(cell()), 10).epochs == 4
    assert grid.mender_config(grid.config(cell()), 100).epochs == DEFAULTS["epochs"]


def test_menders_of_volumes_get_as_many_patches_as_mend_takes():
    grid = Grid(settings={"image_size": [32, 48, 32], "clean_batch_size": 5}, mender={"image_size": [40, 56, 40]})
    assert grid.mender_config(grid.config(cell(method="mended"))).clean_batch_size == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["mender={epohcs=3}"], "mender: unknown setting 'epohcs'; did you mean 'epochs'?"),
        (["mender={seed=3}"], "mender: a table of settings of menders, without method, classes"),
        (["mender=3"], "mender: a table of settings of menders"),
        (["methods=[]"], "methods is empty"),
        (['methods=["plian"]'], "methods: 'plian' is not known; did you mean 'plain'?"),
        (['methods=["plain", "plain"]'], "methods: plain is there twice"),
        (['noise=["trangle"]'], "noise: no noise of the kind 'trangle'; did you mean 'triangle'?"),
        (['clean=["ten"]'], "clean must be a list of whole numbers"),
        (["seeds=[0, -1]"], "seeds: whole numbers from 0, not -1"),
        (["seeds=[true]"], "seeds must be a list of whole numbers"),
        (["epohcs=3"], "unknown setting 'epohcs'; did you mean 'epochs'?"),
        (["methods=plain", "epochs=0"], "epochs must be 1 to 1000000000, not 0"),
        (["method=plain"], "method: a grid has methods, a list"),
        (["seed=1"], "seed: a grid has seeds, a list"),
        (['variants={plain = {method = "pixel"}}'], "variants.plain: choose another name"),
        (['variants={"../x" = {method = "pixel"}}'], "variants.../x: choose another name"),
        (["variants={mine = {clean_weight = 1.0}}"], "variants.mine: needs a method"),
        (['variants={mine = {method = "pixle"}}'], "method must be one of"),
    ],
)
def test_a_wrong_grid_is_one_line_that_names_the_value(settings, said):
    with pytest.raises(ConfigError) as error:
        read_grid(None, settings).filled(methods=("plain",))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.toml: cannot be read"):
        read_grid(tmp_path / "absent.toml")


# The masks of a source


def test_a_cell_of_a_source_has_noisy_masks_its_clean_ones_pairs_and_the_tests(source, tmp_path):
    masks = SourceMasks(source, tmp_path, show_progress=False)
    masks.prepare(cell())
    table = masks.table(cell())
    assert Counter(table["role"]) == {"noisy": 12 + 5, "clean": 5, "test": 7}
    for row in table.itertuples():
        true = row.mask.parent == source / "masks"
        assert true == (row.role != "noisy")
    noisy = table[table.role == "noisy"]
    changed = [
        (np.asarray(Image.open(row.mask)) != np.asarray(Image.open(source / "masks" / f"{row.id}.png"))).any() for row in noisy.itertuples()
    ]
    assert np.mean(changed) > 0.9
    table.to_csv(tmp_path / "cases.csv", index=False)
    cases = read_cases(tmp_path / "cases.csv", show_progress=False)
    assert [len(cases.of(role)) for role in ("noisy", "clean", "test")] == [12, 5, 7]
    assert cases.pairs == cases.of("clean")
    assert {case.given.parent for case in cases.pairs} == {tmp_path / "noise" / "triangle-0" / "noisy"}
    alone = without_pairs(table)
    assert Counter(alone["role"]) == {"noisy": 12, "clean": 5, "test": 7}
    assert alone["id"].is_unique
    alone.to_csv(tmp_path / "alone.csv", index=False)
    assert read_cases(tmp_path / "alone.csv", show_progress=False).cases == [replace(case, given=None) for case in cases.cases]


def test_all_methods_of_a_seed_have_the_same_cases_and_few_clean_ones_are_among_more(source, tmp_path):
    masks = SourceMasks(source, tmp_path, show_progress=False)
    tables = [masks.table(one) for one in (cell(), cell(method="pixel"), cell(noise="box"), cell(clean=8), cell(seed=1))]
    first, same, other_noise, more, other_seed = ({*table["id"][table["role"] == "clean"]} for table in tables)
    assert first == same == other_noise
    assert first < more
    assert first != other_seed


def test_the_ceiling_learns_from_true_masks_and_needs_no_noise(source, tmp_path):
    masks = SourceMasks(source, tmp_path, show_progress=False)
    masks.prepare(cell(method="ceiling"))
    assert not (tmp_path / "noise").exists()
    table = masks.table(cell(method="ceiling"), true=True)
    assert {path.parent for path in table["mask"]} == {source / "masks"}
    assert table["id"].tolist() == without_pairs(masks.table(cell()))["id"].tolist()


def test_noise_is_made_once_for_a_kind_and_seed(source, tmp_path):
    masks = SourceMasks(source, tmp_path, show_progress=False)
    masks.prepare(cell())
    made = (tmp_path / "noise" / "triangle-0" / "simulation.csv").stat().st_mtime_ns
    masks.prepare(cell(clean=3, method="pixel"))
    assert (tmp_path / "noise" / "triangle-0" / "simulation.csv").stat().st_mtime_ns == made


def test_a_source_fills_empty_axes_and_refuses_what_it_cannot_give(source, tmp_path):
    masks = SourceMasks(source, tmp_path, show_progress=False)
    with pytest.raises(DataError, match="100 clean cases asked for, but it has 17 for training"):
        masks.complete(Grid(methods=("plain",)))
    assert masks.complete(Grid(methods=("plain",), clean=(4,))).noise == ("triangle",)
    with pytest.raises(ConfigError, match="'given' is for a data folder"):
        masks.complete(Grid(methods=("plain",), noise=("given",), clean=(4,)))
    with pytest.raises(ConfigError, match="clean: numbers from 1, not 0"):
        masks.complete(Grid(methods=("plain",), clean=(0,)))


def test_a_source_without_tests_or_with_an_overlapping_split_is_refused(source, tmp_path):
    write_source(tmp_path / "plain", cases=4, size=32, show_progress=False)
    (tmp_path / "plain" / "split.csv").unlink(missing_ok=True)
    with pytest.raises(DataError, match="has no test cases to measure on"):
        SourceMasks(tmp_path / "plain", tmp_path, show_progress=False).complete(Grid(methods=("plain",), clean=(1,)))
    ids = [path.stem for path in (tmp_path / "plain" / "images").iterdir()]
    rows = [{"id": one, "split": "train"} for one in ids] + [{"id": ids[0], "split": "val"}]
    pd.DataFrame(rows).to_csv(tmp_path / "plain" / "split.csv", index=False)
    with pytest.raises(DataError, match=f"{ids[0]} has two rows"):
        SourceMasks(tmp_path / "plain", tmp_path, show_progress=False)


# The masks of a data folder


def test_a_data_folder_gives_its_noise_as_it_is_and_some_or_all_of_its_clean_cases(data):
    masks = FolderMasks(data, show_progress=False)
    grid = masks.complete(Grid(methods=("plain",)))
    assert (grid.noise, grid.clean) == (("given",), (13,))
    table = masks.table(cell(noise="given", clean=6))
    assert Counter(table["role"]) == {"noisy": 8, "clean": 6, "test": 3}
    assert {path.is_absolute() for path in table["mask"]} == {True}


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"noise": ("box",)}, "has noisy masks of its own"),
        ({"methods": ("ceiling",)}, "'ceiling' needs true masks"),
        ({"clean": (14,)}, "has 13 clean cases, so 1 to 13, not 14"),
    ],
)
def test_a_data_folder_refuses_what_it_cannot_give(data, axes, said):
    with pytest.raises(ConfigError, match=said):
        FolderMasks(data, show_progress=False).complete(Grid(**{"methods": ("plain",), **axes}))


def test_a_data_folder_without_tests_is_told_of_the_question(tmp_path):
    draw(tmp_path / "data", test=0)
    with pytest.raises(DataError, match="--question"):
        FolderMasks(tmp_path / "data", show_progress=False).complete(Grid(methods=("plain",)))


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """Five of the 13 clean cases have a noisy mask too."""
    folder = draw(tmp_path_factory.mktemp("made") / "data", noisy=8, clean=13, test=3)
    for path in sorted((folder / "clean").iterdir())[:5]:
        shutil.copy(path, folder / "noisy" / path.name)
    return folder


def test_the_pairs_of_a_data_folder_are_those_of_its_cells(paired, tmp_path):
    masks = FolderMasks(paired, show_progress=False)
    for clean in (13, 6):
        table = masks.table(cell(noise="given", clean=clean))
        assert Counter(without_pairs(table)["role"]) == {"noisy": 8, "clean": clean, "test": 3}
        table.to_csv(tmp_path / "cases.csv", index=False)
        pairs = read_cases(tmp_path / "cases.csv", show_progress=False).pairs
        chosen = set(table["id"][table["role"] == "clean"])
        assert pairs == [case for case in masks.cases.pairs if case.id in chosen]


def test_too_few_pairs_to_mend_are_told_with_the_training_that_has_them(source, paired, data, tmp_path):
    def require(masks, data, **axes):
        require_pairs([cell(noise="given", clean=13), cell(**{"method": "mended", "noise": "given", "clean": 13, **axes})], masks, data)

    require(SourceMasks(source, tmp_path, show_progress=False), source, noise="triangle", clean=5)
    require(FolderMasks(paired, show_progress=False), paired)
    with pytest.raises(DataError, match=r"`mended` learns from pairs .* its training mended-triangle-4-0 has 4 pairs"):
        require(SourceMasks(source, tmp_path, show_progress=False), source, noise="triangle", clean=4)
    with pytest.raises(DataError, match=r"mended-given-13-0 has 0 pairs; keep the noisy masks of clean cases in noisy/"):
        require(FolderMasks(data, show_progress=False), data)
    with pytest.raises(DataError, match=r"-fold0 has [34] pairs"):
        require(FolderMasks(paired, show_progress=False), paired, fold=0)


# Folds


def test_a_clean_case_that_a_fold_tests_is_no_pair(paired, tmp_path):
    masks = FolderMasks(paired, show_progress=False)
    for fold in range(FOLDS):
        table = masks.table(cell(noise="given", clean=13, fold=fold))
        tested = set(table["id"][table["role"] == "test"])
        assert (table["id"].isin(tested)).sum() == len(tested)
        table.to_csv(tmp_path / "cases.csv", index=False)
        assert read_cases(tmp_path / "cases.csv", show_progress=False).pairs == [
            case for case in masks.cases.pairs if case.id not in tested
        ]


def test_every_clean_case_is_tested_in_one_fold_and_trained_on_in_all_others(data):
    masks = FolderMasks(data, show_progress=False)
    tables = [masks.table(cell(noise="given", clean=13, fold=fold)) for fold in range(FOLDS)]
    tested = [set(table["id"][table["role"] == "test"]) for table in tables]
    clean = {case.id for case in masks.clean}
    assert set.union(*tested) == clean
    assert sum(map(len, tested)) == 13
    for table, out in zip(tables, tested, strict=True):
        assert set(table["id"][table["role"] == "clean"]) == clean - out
        assert (table["role"] == "noisy").sum() == 8


def test_folds_keep_groups_together_and_are_as_equal_as_that_allows():
    groups = ["a"] * 5 + ["b"] * 3 + list("cdefghij")
    folds = assign_folds(groups, 0, FOLDS)
    assert len(set(folds[:5])) == len(set(folds[5:8])) == 1
    assert sorted(np.bincount(folds, minlength=FOLDS)) == [3, 4, 4, 5]
    assert (folds == assign_folds(groups, 0, FOLDS)).all()
    assert (folds != assign_folds(groups, 1, FOLDS)).any()


def test_noisy_cases_of_a_tested_group_are_left_out(tmp_path):
    folder = draw(tmp_path / "data", noisy=8, clean=12, test=0)
    rows = [
        {
            "id": path.stem,
            "image": f"images/{path.name}",
            "mask": f"{role}/{path.name}",
            "role": role,
            "group": f"patient {int(path.stem) % 8}",
        }
        for role in ("noisy", "clean")
        for path in sorted((folder / role).iterdir())
    ]
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    masks = FolderMasks(folder, show_progress=False)
    for fold in range(FOLDS):
        table = masks.table(cell(noise="given", clean=12, fold=fold))
        table.to_csv(tmp_path / "fold.csv", index=False)
        read_cases(tmp_path / "fold.csv", show_progress=False)  # a group on both sides would be a fault
        out = set(table["group"][table["role"] == "test"])
        assert (table["role"] == "noisy").sum() == 8 - len(out)
