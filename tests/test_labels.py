"""What the values of a mask file mean: classes, ignored, or a fault."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples import examples
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults, read_values, role_faults
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.labels import most_probable


def put(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("values", "classes", "ignore_label", "labels"),
    [
        ([0, 1], 1, None, [0, 1]),
        ([0, 255], 1, None, [0, 1]),
        ([0, 77], 1, None, [0, 1]),
        ([0, 0], 1, None, [0, 0]),
        ([255, 255], 1, None, [1, 1]),
        ([0, 1, 255], 1, None, [0, 1, 255]),
        ([0, 255], 1, 255, [0, 255]),
        ([0, 77, 255], 1, 255, [0, 1, 255]),
        ([0, 128, 255], 1, 128, [0, 255, 1]),
        ([0, 1, 2, 255], 3, None, [0, 1, 2, 255]),
        ([0, 1, 2, 9], 3, 9, [0, 1, 2, 255]),
        ([0, 1, 255], 2, None, [0, 1, 255]),
        ([0, 1, 253], 254, None, [0, 1, 253]),
    ],
)
def test_values_become_labels(tmp_path, values, classes, ignore_label, labels):
    decoded, _ = decode_labels(put(tmp_path / "m.png", [values]), classes=classes, ignore_label=ignore_label)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [labels]


@pytest.mark.parametrize(
    ("values", "classes", "ignore_label", "expected"),
    [
        ([0, 1, 2], 1, None, "3 values (0, 1, 2)"),
        ([0, 2, 255], 1, None, "3 values (0, 2, 255)"),
        ([0, 1, 255], 1, 9, "3 values (0, 1, 255)"),
        ([0, 3], 3, None, "1 value (3)"),
        ([0, 255], 3, 9, "1 value (255)"),
    ],
)
def test_values_that_no_class_has_are_refused_with_the_file(tmp_path, values, classes, ignore_label, expected):
    path = put(tmp_path / "m.png", [values])
    with pytest.raises(DataError) as caught:
        decode_labels(path, classes=classes, ignore_label=ignore_label)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("values", "classes", "may_ignore", "labels"),
    [
        ([0, 0], 1, True, [0, 0]),
        ([0, 255], 1, True, [0, 1]),
        ([0, 128], 1, False, [0, 1]),
        ([255, 255], 1, True, [1, 1]),
        ([0, 1, 255], 1, True, [0, 1, 255]),
        ([0, 1, 2, 255], 3, True, [0, 1, 2, 255]),
        ([0, 255], 2, True, [0, 255]),
    ],
)
def test_the_values_of_truth_and_prediction_become_labels(values, classes, may_ignore, labels):
    found, _ = read_values(np.array([values], np.uint8), classes=classes, may_ignore=may_ignore)
    assert found.dtype == np.uint8
    assert found.tolist() == [labels]


@pytest.mark.parametrize(
    ("values", "classes", "may_ignore"),
    [([0, 1, 255], 1, False), ([0, 1, 2], 1, True), ([1, 255], 1, True), ([0, 3], 3, True), ([0, 255], 2, False)],
)
def test_values_that_mean_nothing_are_refused_of_truth_and_prediction(values, classes, may_ignore):
    with pytest.raises(ValueError, match="holds"):
        read_values(np.array([values], np.uint8), classes=classes, may_ignore=may_ignore)


def test_the_values_given_are_not_changed():
    values = np.array([[0, 1, 9]], np.uint8)
    for classes in (1, 2):
        labels, _ = read_values(values, classes=classes, ignore_label=9)
        assert labels.tolist() == [[0, 1, 255]]
    assert values.tolist() == [[0, 1, 9]]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=12), st.integers(1, 4), st.none() | st.sampled_from([0, 1, 128, 255]))
@examples(200)
def test_labels_are_classes_or_ignored_whatever_a_file_holds(tmp_path_factory, values, classes, ignore_label):
    path = put(tmp_path_factory.getbasetemp() / "any.png", [values])
    try:
        labels, kind = decode_labels(path, classes=classes, ignore_label=ignore_label)
    except DataError:
        return
    assert set(labels.ravel().tolist()) <= {*range(max(classes, 2)), 255}
    assert (kind.meaning == "absent") or 255 in values
    one_to_one = set(zip(values, labels.ravel().tolist(), strict=True))
    assert len(one_to_one) == len(set(values)) == len({label for _, label in one_to_one})


@pytest.mark.parametrize(
    ("values", "classes", "may_ignore", "repair"),
    [
        ([0, 1, 2], 1, True, "set classes = 3 (--classes 3)"),
        ([0, 3], 3, True, "set classes = 4"),
        (range(0, 256, 3), 1, True, "cut them at 128"),
        (range(0, 256, 3), 3, True, "without smoothing"),
        ([0, 1, 3, 252, 255], 1, True, "cut them at 128"),
        ([0, 2, 255], 1, True, "set classes = 3 (--classes 3) (255 is then ignored)"),
        ([0, 255], 2, False, "classes = 1"),
        ([0, 1, 255], 1, False, "ignores nothing"),
        ([0, 128, 255], 1, True, "number the labels"),
    ],
)
def test_what_repairs_a_mask_stands_behind_what_is_wrong_with_it(tmp_path, values, classes, may_ignore, repair):
    with pytest.raises(DataError) as caught:
        decode_labels(put(tmp_path / "m.png", [list(values)]), classes=classes, ignore_label=None, may_ignore=may_ignore)
    assert repair in caught.value.fault.repair
    assert str(caught.value).endswith(f"; {caught.value.fault.repair}")


def kind(path, values, **options):
    return decode_labels(put(path, [values]), **{"classes": 2, "ignore_label": None, **options})[1]


def test_with_two_classes_masks_of_0_and_255_alone_are_a_fault_as_no_label_is_left(tmp_path):
    full, empty = kind(tmp_path / "full.png", [0, 255]), kind(tmp_path / "empty.png", [0, 0])
    (fault,) = mixture_faults([empty, full])
    assert str(tmp_path / "full.png") in fault
    assert "0 and 255 alone" in fault
    assert "--classes 1" in fault.repair
    assert "--ignore-label 255" in fault.repair
    assert mixture_faults([empty]) == []
    assert mixture_faults([full, kind(tmp_path / "other.png", [0, 1])]) == []
    assert mixture_faults([kind(tmp_path / "full.png", [0, 255], ignore_label=255)]) == []
    assert mixture_faults([kind(tmp_path / "full.png", [0, 255], classes=1)]) == []


def test_the_masks_of_each_role_must_hold_a_label(tmp_path):
    full, labelled = kind(tmp_path / "full.png", [0, 255]), kind(tmp_path / "labelled.png", [0, 1])
    assert role_faults({"noisy": [labelled, full], "clean": [labelled]}) == []
    (fault,) = role_faults({"noisy": [labelled], "clean": [full]})
    assert "clean masks" in fault
    both = [MaskMeaning(tmp_path / "a.png", "ignored"), MaskMeaning(tmp_path / "b.png", "foreground")]
    assert len(role_faults({"noisy": both[:1], "clean": both[1:]})) == 1


@pytest.mark.parametrize(
    ("planes", "labels"),
    [
        ([[0.4, 0.5, 0.6]], [0, 0, 1]),
        ([[0.4, 0.5, 0.6], [0.6, 0.5, 0.4]], [1, 0, 0]),
        ([[0.2, 0.4, 0.3], [0.5, 0.4, 0.3], [0.3, 0.2, 0.4]], [1, 0, 2]),
    ],
)
def test_the_most_probable_label_is_the_first_of_the_largest(planes, labels):
    found = most_probable(np.array(planes, np.float32))
    assert found.tolist() == labels
    assert found.dtype == np.uint8
