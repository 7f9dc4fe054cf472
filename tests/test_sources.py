"""A folder with known truth becomes cases, or a list of all its faults."""

import numpy as np
import pytest

from pixeltrust.data.known_truth import read_source
from pixeltrust.data.masks import read_binary
from pixeltrust.data.pictures import write_png
from pixeltrust.plumbing.errors import DataError

MASK = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)


def source(folder, **foregrounds):
    """One case for each name, whose mask has that foreground value."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for name, foreground in foregrounds.items():
        write_png(folder / "images" / f"{name}.png", np.zeros((2, 3, 3), np.uint8))
        write_png(folder / "masks" / f"{name}.png", MASK * np.uint8(foreground))
    return folder


def test_cases_come_in_the_order_of_their_ids_and_all_train_without_a_split(tmp_path):
    cases = read_source(source(tmp_path, b=1, a=255), show_progress=False)
    assert [(case.id, case.image.name, case.mask.parent.name, case.trains) for case in cases] == [
        ("a", "a.png", "masks", True),
        ("b", "b.png", "masks", True),
    ]


def test_every_split_but_train_is_for_tests(tmp_path):
    source(tmp_path, a=1, b=1, c=1)
    (tmp_path / "split.csv").write_text("id,split\na,train\nb,val\nc,test\n")
    assert [case.trains for case in read_source(tmp_path, show_progress=False)] == [True, False, False]


@pytest.mark.parametrize("foreground", [0, 1, 7, 255])
def test_a_truth_is_0_and_1_whatever_its_foreground_is_in_the_file(tmp_path, foreground):
    (case,) = read_source(source(tmp_path, a=foreground), show_progress=False)
    truth = read_binary(case.mask)
    assert truth.dtype == np.uint8
    assert truth.tolist() == (MASK * bool(foreground)).tolist()


def test_all_faults_of_one_file_are_listed(tmp_path):
    source(tmp_path, a=1)
    write_png(tmp_path / "masks/a.png", np.array([[0, 1, 2, 3]], np.uint8))
    with pytest.raises(DataError) as caught:
        read_source(tmp_path, show_progress=False)
    assert len(caught.value.faults) == 2
    assert "a.png: of size (1, 4), its image of size (2, 3)" in caught.value.faults[0]
    assert "a.png: holds 4 values (0, 1, 2, 3)" in caught.value.faults[1]


def test_an_ending_that_all_masks_have_is_named(tmp_path):
    source(tmp_path, a=1, b=1)
    for name in ("a", "b"):
        (tmp_path / f"masks/{name}.png").rename(tmp_path / f"masks/{name}_segmentation.png")
    with pytest.raises(DataError, match="masks and images match once `_segmentation` is taken off their names; rename them"):
        read_source(tmp_path, show_progress=False)


def test_a_truth_ignores_nothing(tmp_path):
    source(tmp_path, a=1)
    write_png(tmp_path / "masks/a.png", np.array([[0, 1, 1], [0, 0, 255]], np.uint8))
    with pytest.raises(DataError, match=r"3 values \(0, 1, 255\)"):
        read_source(tmp_path, show_progress=False)
