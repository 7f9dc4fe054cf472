import csv
import inspect
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from pixeltrust.data.images import read_image, read_labels
from pixeltrust.demonstration.synthetic import dermoscopy, source, write_source
from pixeltrust.demonstration.synthetic.artefacts import ARTEFACTS
from pixeltrust.demonstration.synthetic.camera import as_jpeg
from pixeltrust.demonstration.synthetic.drawing import cloud, grid
from pixeltrust.demonstration.synthetic.lesion import lesion_depth
from pixeltrust.plumbing.errors import RunError

CASES = 60


@pytest.fixture(scope="module")
def cases():
    return [dermoscopy(np.random.default_rng((0, i)), 64) for i in range(CASES)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_same_generator_draws_the_same_picture(cases):
    for i in range(5):
        image, mask = dermoscopy(np.random.default_rng((0, i)), 64)
        np.testing.assert_array_equal(image, cases[i][0])
        np.testing.assert_array_equal(mask, cases[i][1])


def test_numpys_global_random_state_is_neither_read_nor_moved():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    dermoscopy(np.random.default_rng(0), 64)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_different_cases_have_different_pictures_and_masks(cases):
    assert len({image.tobytes() for image, _ in cases}) == CASES
    assert len({mask.tobytes() for _, mask in cases}) == CASES


@pytest.mark.parametrize("size", [32, 50, 128])
def test_a_picture_has_the_size_asked_for(size):
    image, mask = dermoscopy(np.random.default_rng(3), size)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((size, size), np.uint8)
    assert set(np.unique(mask)) == {0, 1}


def test_a_picture_too_small_for_a_lesion_is_refused():
    with pytest.raises(ValueError, match="size is 31 px; at least 32"):
        dermoscopy(np.random.default_rng(0), 31)


def test_a_lesion_covers_half_a_percent_to_half_of_the_frame_and_a_tenth_typically(cases):
    shares = np.array([mask.mean() for _, mask in cases])
    assert shares.min() > 0.005
    assert shares.max() < 0.5
    assert 0.07 < np.median(shares) < 0.17
    assert shares.std() > 0.04  # small and large ones


def test_a_lesion_is_one_piece_without_holes():
    for i in range(10):
        inside = lesion_depth(np.random.default_rng(i), 64) > 0
        assert ndimage.label(inside)[1] == 1
        np.testing.assert_array_equal(ndimage.binary_fill_holes(inside), inside)


def test_some_lesions_touch_the_frame_but_most_do_not(cases):
    touching = [mask[[0, -1]].any() or mask[:, [0, -1]].any() for _, mask in cases]
    assert 1 <= sum(touching) <= CASES // 3


def test_lesions_are_darker_than_the_skin_around_them_some_by_much_and_some_by_little(cases):
    differences = np.array([surrounding_colour(*case) - case[0][case[1] == 1].mean(axis=0) for case in cases])
    assert (differences.mean(axis=0) > 20).all()  # of 255, in each of red, green and blue
    largest = np.abs(differences).max(axis=1)
    assert largest.min() > 5  # never invisible
    assert np.percentile(largest, 10) < 45
    assert np.percentile(largest, 90) > 80


def surrounding_colour(image, mask):
    near, far = (ndimage.binary_dilation(mask, iterations=steps) for steps in (2, 6))
    return image[far & ~near].mean(axis=0)


def test_skin_comes_in_many_tones(cases):
    skins = np.array([np.median(image[mask == 0], axis=0) for image, mask in cases])
    assert np.ptp(skins.mean(axis=1)) > 90
    assert (skins[:, 0] > skins[:, 2]).mean() > 0.9  # redder than blue


@pytest.mark.parametrize("element", [element for element, _ in ARTEFACTS])
def test_every_artefact_changes_the_picture_but_hides_no_large_part_of_the_lesion(element):
    size = 64
    y, x = grid(size)
    mask = np.hypot(y, x) < 0.2
    image = np.full((size, size, 3), 0.7, dtype=np.float32)
    changed = np.zeros((size, size), dtype=bool)
    for i in range(5):
        after = element(np.random.default_rng(i), image.copy(), mask)
        assert after.shape == image.shape
        changed |= (np.abs(after - image) > 0.02).any(axis=-1)
        assert (np.abs(after - image) > 0.1).any(axis=-1)[mask].mean() < 0.6
    assert changed.any()


def test_a_cloud_is_standardised_and_keeps_to_its_wavelengths():
    field = cloud(np.random.default_rng(0), 128, coarsest=0.1, finest=0.05)
    np.testing.assert_allclose([field.mean(), field.std()], [0, 1], atol=1e-5)  # float32
    power = np.abs(np.fft.fft2(field)) ** 2
    waves_per_frame = np.hypot(np.fft.fftfreq(128, 1 / 128)[:, None], np.fft.fftfreq(128, 1 / 128))
    assert power[(waves_per_frame > 8) & (waves_per_frame < 24)].sum() > 0.95 * power.sum()


def test_jpeg_losses_are_as_small_as_asked_and_never_none():
    image = np.random.default_rng(0).random((50, 50, 3), dtype=np.float32)
    errors = [np.abs(as_jpeg(image, coarseness=coarseness) - image).mean() for coarseness in (0.0001, 0.003, 0.01)]
    assert 0 < errors[0] < 0.001
    assert all(fewer < more for fewer, more in itertools.pairwise(errors))


def test_a_source_has_an_image_and_a_mask_per_case_and_a_split(tmp_path):
    write_source(tmp_path / "source", cases=8, size=32, test_share=0.25, show_progress=False)
    ids = [f"made-up-{i:05d}" for i in range(8)]
    expected = {f"{kind}/{name}.png" for kind in ("images", "masks") for name in ids} | {"split.csv"}
    assert set(files_of(tmp_path / "source")) == expected
    with (tmp_path / "source" / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ids
    assert [row["split"] for row in rows].count("test") == 2
    assert {row["split"] for row in rows} == {"train", "test"}


def test_what_is_written_is_what_was_drawn(tmp_path):
    write_source(tmp_path / "source", cases=2, seed=4, size=32, show_progress=False)
    image, mask = dermoscopy(np.random.default_rng((4, 1)), 32)
    np.testing.assert_array_equal(read_image(tmp_path / "source/images/made-up-00001.png"), image)
    np.testing.assert_array_equal(read_labels(tmp_path / "source/masks/made-up-00001.png"), mask * 255)


def test_a_case_is_the_same_however_many_are_made(tmp_path):
    for cases in (3, 7):
        write_source(tmp_path / str(cases), cases=cases, size=32, show_progress=False)
    few, many = files_of(tmp_path / "3"), files_of(tmp_path / "7")
    assert many.pop("split.csv").startswith(few.pop("split.csv"))
    assert few.items() <= many.items()


def test_another_seed_draws_other_cases(tmp_path):
    for seed in (0, 1):
        write_source(tmp_path / str(seed), cases=1, seed=seed, size=32, show_progress=False)
    assert files_of(tmp_path / "0")["images/made-up-00000.png"] != files_of(tmp_path / "1")["images/made-up-00000.png"]


@pytest.mark.parametrize(("share", "cases", "tests"), [(0, 20, 0), (1, 20, 20), (0.1, 100, 10), (0.29, 100, 29)])
def test_the_share_of_test_cases_is_met(share, cases, tests):
    assert sum(source._is_test(i, share) for i in range(cases)) == tests


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "source").mkdir()
    write_source(tmp_path / "source", cases=1, size=32, show_progress=False)
    assert (tmp_path / "source" / "split.csv").exists()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        write_source(tmp_path, cases=1, size=32, show_progress=False)
    assert files_of(tmp_path) == {"notes.txt": b"mine"}


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="source: cannot be written"):
        write_source(tmp_path / "file" / "source", cases=1, size=32, show_progress=False)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    drawn = iter([dermoscopy(np.random.default_rng(0), 32)])

    def fails_the_second_time(generator, size):
        for case in drawn:
            return case
        raise failure

    monkeypatch.setattr(source, "dermoscopy", fails_the_second_time)
    with pytest.raises(failure):
        write_source(tmp_path / "source", cases=3, size=32, show_progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"cases": 0}, {"cases": 1, "test_share": 1.5}, {"cases": 1, "test_share": -0.1}])
def test_impossible_numbers_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="cases is"):
        write_source(tmp_path / "source", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_on_standard_error_unless_told_otherwise(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal: elsewhere a bar that vanishes is never drawn
    write_source(tmp_path / "seen", cases=1, size=32)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "drawing" in shown.err
    write_source(tmp_path / "unseen", cases=1, size=32, show_progress=False)
    assert capsys.readouterr() == ("", "")
    assert inspect.signature(write_source).parameters["show_progress"].default is True
