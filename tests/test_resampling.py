"""Volumes are resampled along each axis by itself, masks stay in register with images, and intensities get one scale."""

import numpy as np
import pytest
from PIL import Image

from pixeltrust.config import Config
from pixeltrust.data.resampling import normalise, resample, resample_labels, resampled_shape
from pixeltrust.data.resizing import resize_labels
from pixeltrust.plumbing.errors import ConfigError

RANDOM = np.random.default_rng(0)


def ramp(shape, spacing=(1.0, 1.0, 1.0)):
    """The place of every voxel's centre in mm along each axis, from the outer face of the first, (3, *shape)."""
    return np.stack(np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "spacing", "to", "wanted"),
    [
        ((40, 512, 512), (5.0, 0.7, 0.7), (5.0, 1.4, 1.4), (40, 256, 256)),
        ((36, 50, 36), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (36, 50, 36)),
        ((20, 100, 100), (5.0, 0.5, 0.5), (1.0, 1.0, 1.0), (100, 50, 50)),  # 10 to 1
        ((1, 7, 3), (1.0, 1.0, 1.0), (9.0, 2.0, 2.0), (1, 4, 2)),
    ],
)
def test_a_shape_follows_from_the_spacing(shape, spacing, to, wanted):
    assert resampled_shape(shape, spacing, to) == wanted


@pytest.mark.parametrize("to", [(20, 12, 15), (9, 12, 30), (40, 11, 7), (4, 24, 30)])
def test_places_stay_where_they_are(to):
    shape = (20, 24, 30)
    moved = resample(ramp(shape), to)
    inside = (slice(None), *(slice(max(1, n // 5), -max(1, n // 5)) for n in to))  # a triangle has less of a ramp at its end
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[inside], ramp(to, np.divide(shape, to))[inside], atol=0.05)  # mm


def test_the_filter_is_that_of_pictures():
    plane = RANDOM.random((37, 50)).astype(np.float32)
    for height, width in ((20, 21), (50, 13), (80, 100)):
        wanted = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for axis in range(3):
            volume = np.repeat(np.expand_dims(plane, axis), 3, axis)
            shape = [height, width]
            shape.insert(axis, 3)
            np.testing.assert_allclose(resample(volume[None], shape)[0].take(1, axis), wanted, atol=1e-5)


def test_labels_go_the_way_of_pictures_and_no_label_appears():
    labels = RANDOM.choice(np.array([0, 2, 255], np.uint8), (24, 30))
    for size in ((12, 15), (11, 40), (60, 60)):
        wanted = resize_labels(labels, size)
        found = resample_labels(np.repeat(labels[None], 4, 0), (4, *size))
        assert (found == wanted).mean() > 0.99  # they round apart at equal shares
        assert set(np.unique(found)) <= {0, 2, 255}
    assert resample_labels(np.zeros((3, 4, 5), np.uint8), (6, 4, 5)).shape == (6, 4, 5)


def test_a_ball_between_thick_slices_is_a_ball_again():
    fine = ((ramp((60, 60, 60)) - 30) ** 2).sum(0) < 20**2
    thick = resample_labels(fine.astype(np.uint8), (12, 60, 60))
    back = resample_labels(thick, (60, 60, 60))
    assert 2 * (back & fine).sum() / (back.sum() + fine.sum()) > 0.94
    planes = np.stack([~fine, fine]).astype(np.float32)
    shares = resample(resample(planes, (12, 30, 30)), (60, 60, 60))
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (700, -3), (1e-4, 5)])
def test_an_image_gets_one_scale_whatever_its_own_with_or_without_a_background(scale, shift):
    tissue = RANDOM.normal(0, 1, (20, 20, 20)).astype(np.float32)
    image = np.zeros((1, 40, 40, 40), np.float32) - 9
    image[0, 10:30, 10:30, 10:30] = tissue
    image[0, 12, 12, 12] = 1e4  # a hot voxel
    inside = normalise(image * scale + shift, ("image",))[0, 10:30, 10:30, 10:30].copy()
    inside[2, 2, 2] = 0
    assert abs(inside.mean()) < 0.05
    assert 0.95 < inside.std() < 1.1


def test_windows_and_channels_of_their_own():
    image = np.stack([np.linspace(-1000, 1000, 27).reshape(3, 3, 3)] * 2).astype(np.float32)
    window, own = normalise(image, ("ct:-100,300", "image"))
    assert (window.min(), window.max(), window.dtype, own.dtype) == (-1, 1, np.float32, np.float32)
    assert window[image[0] > 300].min() == 1
    np.testing.assert_allclose(own, normalise(image[:1], ("image",))[0])
    assert not normalise(np.full((1, 2, 2, 2), 7.0, np.float32), ("image",)).any()


@pytest.mark.parametrize("wrong", ["ct", "ct:1", "ct:2,1", "ct:1,nan", "zscore", "-160,240", "ct:a,b"])
def test_another_normalisation_is_refused_in_one_line(wrong):
    with pytest.raises(ConfigError, match="normalise must be image, or a window as ct:-160,240"):
        Config(normalise=wrong)
