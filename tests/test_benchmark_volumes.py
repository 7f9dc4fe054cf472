"""Grids on volumes with known truth: each cell trains on patches, and is measured on the grid of its files."""

import numpy as np
import pandas as pd
import pytest

from pixeltrust.benchmarking.run import benchmark
from pixeltrust.data.batches import Streams
from pixeltrust.data.cases import read_cases
from pixeltrust.data.images import read_header
from pixeltrust.plumbing.errors import ConfigError
from test_benchmark import Here
from tiny import draw_volumes, of_volumes

GRID = {
    "methods": ["trust", "mended", "ceiling"],
    "noise": ["erode"],
    "clean": [6],
    "seeds": [0],
    "model": "tiny:network_3d",
    "classes": 3,
    "image_size": [8, 16, 16],
    "epochs": 1,
    "batch_size": 3,
    "clean_batch_size": 2,
    "device": "cpu",
    "mender": {"model": "tiny:network_3d", "epochs": 1, "updates_per_epoch": 2, "clean_batch_size": 2},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Nine training and two test volumes of two channels, with known truth."""
    folder = draw_volumes(tmp_path_factory.mktemp("made") / "source", noisy=0, clean=9, test=2, channels=2)
    ids = {role: [file.name.removesuffix(".nii.gz") for file in sorted((folder / role).iterdir())] for role in ("clean", "test")}
    (folder / "clean").rename(folder / "masks")
    for file in (folder / "test").iterdir():
        file.rename(folder / "masks" / file.name)
    for role in ("noisy", "test"):
        for file in (folder / role).iterdir():
            file.unlink()
        (folder / role).rmdir()
    rows = [(case, "train" if role == "clean" else "test") for role, cases in ids.items() for case in cases]
    pd.DataFrame(rows, columns=["id", "split"]).to_csv(folder / "split.csv", index=False)
    return folder


@pytest.mark.slow
def test_volumes_are_benchmarked_as_pictures_are(source, tmp_path):
    result = benchmark(source, out=tmp_path / "out", grid=GRID, launcher=Here(), show_progress=False)
    cells = result.cells.set_index("method")
    assert (cells["status"] == "done").all(), cells["error"].tolist()
    assert cells["masks_given"].notna()["mended"]
    for cell in (tmp_path / "out" / "cells").iterdir():
        measured = pd.read_csv(cell / "test.csv")
        assert {"dice_1", "dice_2", "surface_dice"} <= set(measured.columns)
        for case in measured["id"]:
            truth = read_header(source / "masks" / f"{case}.nii.gz")
            assert read_header(cell / "predicted" / f"{case}.nii.gz").grid.difference(truth.grid) == ""
    classes = pd.read_csv(tmp_path / "out" / "classes.csv").set_index(["method", "class"])
    assert set(classes.index) == {(method, number) for method in GRID["methods"] for number in (1, 2)}
    shares = pd.read_csv(tmp_path / "out" / "shares.csv").set_index("method")
    steps = pd.read_csv(tmp_path / "out" / "cells" / "trust-erode-6-0" / "run" / "steps.csv")
    assert steps[["wrong_weight", "wrong_weighed", "right_weighed"]].apply(lambda values: values.between(0, 1)).all(axis=None)
    assert 0 < shares["wrong_pixels"]["trust"] < 0.2
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "surface Dice, class 2" in page
    assert page.count('class="panel"') >= 2 * 4  # both test volumes: image, true mask, two predictions


def test_labels_are_found_where_a_batch_shows_their_voxels(tmp_path):
    """Patches of volumes follow the foreground of the mask that is trained on: the truth is read at the same voxels."""
    cases = draw_volumes(tmp_path / "data", noisy=3, clean=2, channels=2)
    config = of_volumes(image_size=(8, 16, 16), batch_size=3, spacing=(5.0, 0.8, 0.8), channels=2, jitter="all")
    found = read_cases(cases, may_be_volumes=True, show_progress=False)
    streams = Streams(found, found.of("clean"), found.of("clean")[:0], config, tmp_path / "cache")
    for update in range(3):
        assert (streams.pixels.labels_at(streams.where(update)) == streams.batch("noisy", update).masks).all()
        assert len(np.unique(streams.batch("noisy", update).masks)) > 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 16}, r"image_size = 16, and .* holds volumes: set \[depth, height, width\]"),
        ({"methods": ["pruned"]}, "works on pictures"),
    ],
)
def test_a_grid_of_pictures_is_refused_before_anything_is_made(source, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        benchmark(source, out=tmp_path / "out", grid={**GRID, **changes}, launcher=Here(), show_progress=False)
    assert not (tmp_path / "out").exists()
