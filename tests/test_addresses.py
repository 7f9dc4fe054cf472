"""Addresses: every pixel of a batch, and the pixel of its own case that it shows, through anybody's augmentation."""

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAffined, RandFlipd, RandRotate90d, RandSpatialCropd
from torch.nn.functional import affine_grid, grid_sample

from pixeltrust.method.addresses import Where, address_map, coordinate_map

GRIDS = pytest.mark.parametrize("shape", [(5, 7), (3, 4, 6)])


@GRIDS
def test_every_pixel_has_its_number(shape):
    numbers = address_map(shape)
    assert numbers.shape == shape
    assert numbers.dtype == torch.int64
    assert numbers.flatten().tolist() == list(range(int(np.prod(shape))))


@GRIDS
def test_crops_flips_and_turns_show_what_the_image_shows(shape):
    images = torch.rand(3, *shape, generator=torch.manual_seed(0))
    crops = [[(1, 3)] + [(1, 4)] * (len(shape) - 1), [(0, 2)] + [(0, 3)] * (len(shape) - 1), [(1, 3)] + [(0, 3)] * (len(shape) - 1)]
    flips, turns = [(0,), (), (-1, 0)], [2, 0, 4]
    shown = torch.stack([
        torch.rot90(image[tuple(slice(*part) for part in crop)].flip(axes), turn, (-2, -1))
        for image, crop, axes, turn in zip(images, crops, flips, turns, strict=True)
    ])  # fmt: skip
    where = Where.of(["a", "b", "c"], shape, crops=crops, flips=flips, turns=turns)
    assert torch.equal(images.flatten(1).gather(1, where.addresses.flatten(1)).view(shown.shape), shown)


def test_a_crop_beyond_the_image_shows_no_pixel_there():
    where = Where.of(["a", "b"], [(2, 3), (9, 9)], crops=[((-1, 2), (1, 4)), ((0, 3), (0, 3))])
    assert where.addresses[0].tolist() == [[-1, -1, -1], [1, 2, -1], [4, 5, -1]]
    assert where.addresses[1].tolist() == [[0, 1, 2], [9, 10, 11], [18, 19, 20]]
    assert (Where.of(["a"], (2, 3), crops=[((5, 8), (0, 3))]).addresses == -1).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_addresses_of_any_number_and_framework_are_taken(dtype):
    addresses = np.arange(12).reshape(1, 3, 4).astype(dtype)
    assert torch.equal(Where(["a"], addresses).addresses, torch.arange(12).view(1, 3, 4))
    assert torch.equal(Where(torch.tensor([3]), addresses[:, None]).on(torch.Size([1, 3, 4]))[0], torch.arange(12).view(1, 3, 4))
    assert Where(torch.tensor([3]), addresses).ids == ("3",)


@GRIDS
def test_a_map_through_a_frameworks_own_augmentation_says_what_the_mask_shows(shape):
    """MONAI crops, flips, turns and warps picture, mask and addresses; the mask's values are those of the addresses."""
    mask = torch.randint(1, 250, (1, *shape), generator=torch.manual_seed(1)).float()
    keys, size = ("mask", "addresses"), tuple(length - 1 for length in shape)
    augment = Compose([
        RandFlipd(keys, prob=0.5, spatial_axis=0),
        RandRotate90d(keys, prob=0.5, spatial_axes=(0, 1)),
        RandAffined(keys, prob=1.0, rotate_range=0.5, scale_range=0.2, mode="nearest", padding_mode="zeros"),
        RandSpatialCropd(keys, size, random_size=False),
    ])  # fmt: skip
    augment.set_random_state(0)
    for _ in range(5):
        shown = augment({"mask": mask, "addresses": address_map(shape)[None].float() + 1})  # 0 is then outside
        addresses = Where(["a"], shown["addresses"] - 1, shape).on(torch.Size([1, *shown["mask"].shape[1:]]))[0][0]
        expected = torch.where(addresses < 0, 0.0, mask.flatten()[addresses.clamp(min=0)])
        assert torch.equal(expected, torch.as_tensor(shown["mask"])[0])
        assert (addresses >= 0).any()


@GRIDS
def test_interpolated_coordinates_are_rounded_and_what_mixes_with_outside_is_outside(shape):
    axes = len(shape)
    rotation = torch.eye(axes, axes + 1)[None].clone()
    rotation[0, :2, :2] = torch.tensor([[0.9, -0.3], [0.3, 0.9]])
    grid = affine_grid(rotation, [1, 1, *shape], align_corners=False)
    coordinates = grid_sample(coordinate_map(shape)[None], grid, "bilinear", "zeros", align_corners=False)
    found = Where.from_coordinates(["a"], coordinates, shape).addresses
    nearest = grid_sample(address_map(shape)[None, None].float() + 1, grid, "nearest", "zeros", align_corners=False)[:, 0].long() - 1
    inside = found >= 0
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(found[inside], nearest[inside])
    whole = Where.from_coordinates(["a", "b"], torch.stack([coordinate_map(shape)] * 2), shape)
    assert torch.equal(whole.addresses, torch.stack([address_map(shape)] * 2))


def test_coordinates_beyond_the_grid_or_of_nothing_are_outside():
    coordinates = coordinate_map((2, 2))[None].clone()
    coordinates[0, 1, 0, 0], coordinates[0, 2, 0, 1], coordinates[0, 0, 1, 0] = torch.nan, 2.0, 0.5
    assert Where.from_coordinates(["a"], coordinates, (2, 2)).addresses.tolist() == [[[-1, -1], [-1, 3]]]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Where("ab", torch.zeros(2, 3, 3)), TypeError, "a list of texts or whole numbers, one for each image, not 'ab'"),
        (lambda: Where([1.5], torch.zeros(1, 3, 3)), TypeError, "one for each image"),
        (lambda: Where(["a"], torch.zeros(2, 3, 3)), ValueError, r"addresses \(2, 3, 3\), 1 ids"),
        (lambda: Where(["a"], torch.zeros(9)), ValueError, r"addresses \(9,\)"),
        (lambda: Where(["a"], torch.full((1, 2, 2), 0.5)), ValueError, "by nearest neighbour"),
        (lambda: Where(["a"], torch.full((1, 2, 2), torch.nan)), ValueError, "not whole numbers"),
        (lambda: Where(["a"], torch.full((1, 2, 2), 2.0**24)), ValueError, "torch.float32 holds whole numbers up to 16,777,216 only"),
        (lambda: Where(["a"], torch.zeros(1, 2, 2, dtype=torch.bool)), ValueError, "not torch.bool"),
        (lambda: Where(["a"], torch.zeros(1, 2, 2), [(2, 2), (2, 2)]), ValueError, "1 ids, but 2 shapes"),
        (lambda: Where.of(["a", "b"], (4, 5), turns=[0]), ValueError, "2 ids, but 1 turns"),
        (lambda: Where.of(["a", "b"], (4, 5), turns=[0, 1]), ValueError, r"these have \(4, 5\), \(5, 4\)"),
        (lambda: Where.of(["a"], (4, 5), crops=[((2, 2), (0, 3))]), ValueError, "a first index and the one after the last"),
        (lambda: Where.from_coordinates(["a"], torch.zeros(1, 3, 2, 2), (2, 2, 2)), ValueError, "do not agree with 1 ids"),
    ],
)
def test_what_is_no_address_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_address_beyond_the_case_names_it_and_the_way_out():
    where = Where(["a", "b"], torch.stack([address_map((2, 2)), address_map((2, 2)) + 1]))
    with pytest.raises(ValueError, match=r"case 'b' are 1 … 4, but its grid \(2, 2\) has 0 … 3, .* then give shapes="):
        where.on(torch.Size([2, 2, 2]))
    with pytest.raises(ValueError, match=r"'a' are -2 … 1"):
        Where(["a"], address_map((2, 2))[None] - 2).on(torch.Size([1, 2, 2]))
    with pytest.raises(ValueError, match=r"addresses \(1, 2, 2\) do not fit a batch of \(1, 4, 4\)"):
        Where(["a"], address_map((2, 2))[None]).on(torch.Size([1, 4, 4]))
