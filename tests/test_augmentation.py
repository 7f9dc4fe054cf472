"""How images are shown: turns are exact, lenses interpolate, and both know the way back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from pixeltrust.config import Config
from pixeltrust.data.views import (
    INVERSES,
    Views,
    draw_lenses,
    draw_turns,
    draw_views,
    turn_images,
)
from pixeltrust.method.addresses import address_map
from pixeltrust.method.batch import Batch

SIZE = 16


def configured(**settings):
    return Config(**({"image_size": SIZE, "jitter": "none"} | settings))


# --- turns --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
@examples(50)
def test_a_symmetry_is_quarter_turns_and_then_a_mirror(turns):
    values = torch.arange(len(turns) * 2 * 25, dtype=torch.uint8).reshape(len(turns), 2, 5, 5)
    for value, turn, result in zip(values, turns, turn_images(values, np.array(turns)), strict=True):
        quarters = torch.rot90(value, turn % 4, (-2, -1))
        assert torch.equal(result, quarters.flip(-1) if turn >= 4 else quarters)


def corner(turn):
    """Where the symmetry puts the pixels of a picture of 9 different ones."""
    return turn_images(torch.arange(9).reshape(1, 3, 3), np.array([turn]))[0]


def test_the_eight_turns_are_all_different_and_none_is_turn_0():
    assert len({tuple(corner(turn).ravel().tolist()) for turn in range(8)}) == 8
    assert torch.equal(corner(0), torch.arange(9).reshape(3, 3))
    assert corner(1).tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    assert corner(4).tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]


@pytest.mark.parametrize("turn", range(8))
def test_each_turn_is_undone_by_exactly_one_other(turn):
    picture = torch.arange(9).reshape(1, 3, 3)
    undoing = [back for back in range(8) if torch.equal(turn_images(turn_images(picture, np.array([turn])), np.array([back])), picture)]
    assert len(undoing) == 1


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
@examples(50)
def test_every_image_of_a_batch_has_its_own_turn(turns):
    values = torch.rand(len(turns), 2, 5, 5, generator=torch.Generator().manual_seed(0))
    result = turn_images(values, np.array(turns))
    for place, turn in enumerate(turns):
        assert torch.equal(result[place], turn_images(values[place : place + 1], np.array([turn]))[0])


@given(st.integers(1, 40), st.integers(0, 99), st.booleans())
@examples(50)
def test_images_that_are_not_square_get_no_quarter_turns(count, seed, square):
    size = (4, 4 if square else 6)
    turns = draw_turns(count, size, np.random.default_rng(seed))
    assert turn_images(torch.zeros(count, 1, *size), turns).shape == (count, 1, *size)
    assert set(turns.tolist()) <= (set(range(8)) if square else {0, 2, 4, 6})


@pytest.mark.parametrize(("size", "expected"), [((8, 8), {0, 1, 2, 3, 4, 5, 6, 7}), ((8, 9), {0, 2, 4, 6})])
def test_all_allowed_turns_are_equally_likely(size, expected):
    turns, counts = np.unique(draw_turns(8000, size, np.random.default_rng(0)), return_counts=True)
    assert set(turns.tolist()) == expected
    assert np.abs(counts * len(expected) / 8000 - 1).max() < 0.15  # 4 standard deviations of 1000 draws are 0.12


@pytest.mark.parametrize("turn", range(8))
def test_every_turn_has_its_inverse(turn):
    values = torch.arange(9.0).reshape(1, 3, 3)
    assert torch.equal(turn_images(turn_images(values, np.array([turn])), INVERSES[2][[turn]]), values)


def derived_batch(count=12, size=(SIZE, SIZE)):
    """A batch whose masks follow from their images, pixel by pixel."""
    images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))
    return Batch(images, (images[:, 0] > 0.5).to(torch.uint8))


def shown(batch, config, update, stream):
    return draw_views(len(batch.images), config, update, stream).show(batch)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (SIZE, 24)])
def test_a_mask_is_turned_as_its_image(size):
    batch = derived_batch(size=size)
    for update in range(5):
        result = shown(batch, configured(image_size=size), update, "noisy")
        assert torch.equal(result.masks, (result.images[:, 0] > 0.5).to(torch.uint8))
        assert not torch.equal(result.images, batch.images)
        assert torch.equal(result.images.flatten(2).sort().values, batch.images.flatten(2).sort().values)


@pytest.mark.parametrize("jitter", ["none", "all"])
def test_augmentation_depends_on_seed_stream_and_update_alone(jitter):
    batch = derived_batch()
    same = [shown(batch, configured(seed=3, jitter=jitter), 7, "noisy") for _ in range(2)]
    assert torch.equal(same[0].images, same[1].images)
    assert torch.equal(same[0].masks, same[1].masks)
    for other, update, stream in (({"seed": 4}, 7, "noisy"), ({"seed": 3}, 8, "noisy"), ({"seed": 3}, 7, "clean")):
        assert not torch.equal(shown(batch, configured(jitter=jitter, **other), update, stream).images, same[0].images)


def test_without_augmentation_a_batch_stays_as_it_is():
    batch = derived_batch()
    assert shown(batch, configured(augment="none"), 3, "noisy") is batch


# --- lenses and tints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jitter", "changed"),
    [("none", set()), ("clean", {"clean"}), ("all", {"clean", "noisy", "pool"})],
)
def test_jitter_is_of_the_clean_batches_of_all_or_of_none(jitter, changed):
    batch = derived_batch()
    for stream in ("clean", "noisy", "pool"):
        result = shown(batch, configured(jitter=jitter, augment="none"), 3, stream)
        assert (result is not batch) == (stream in changed)
        if stream in changed:
            assert (result.images != batch.images).float().mean() > 0.9
            assert result.images.min() >= 0
            assert result.images.max() <= 1
            assert set(result.masks.unique().tolist()) <= {0, 1, 255}


def lens(*rows):
    return torch.tensor([rows], dtype=torch.float64)


def through(views_lens, images):
    return Views(np.array([0]), views_lens).show(Batch(images, torch.zeros_like(images[:, 0]))).images


@pytest.mark.parametrize("size", [(5, 5), (5, 8)])
def test_a_lens_that_changes_nothing_changes_nothing(size):
    images = torch.rand(1, 2, *size, dtype=torch.float64, generator=torch.manual_seed(0))
    nothing = lens([1, 0, 0], [0, 1, 0])
    assert torch.allclose(through(nothing, images), images, atol=1e-12)
    assert torch.equal(Views(np.array([0]), nothing).show_addresses(size)[0], address_map(size))


def test_a_shift_by_whole_pixels_moves_them_and_ignores_what_lies_outside():
    size = (4, 8)
    batch = Batch(torch.arange(32.0).view(1, 1, *size) / 32, torch.arange(32).view(1, *size))
    views = Views(np.array([0]), lens([1, 0, 2 * 3 / 8], [0, 1, -2 * 1 / 4]))  # 3 to the right of what is shown, 1 up
    result = views.show(batch)
    assert torch.equal(result.masks[0, 1:, :5], batch.masks[0, :3, 3:])
    assert torch.allclose(result.images[0, 0, 1:, :5], batch.images[0, 0, :3, 3:], atol=1e-6)
    assert (result.masks[0, 0] == 255).all()
    assert (result.masks[0, :, 5:] == 255).all()
    assert torch.allclose(result.images[0, 0, 1:, 5:], batch.images[0, 0, :3, 5:].flip(-1), atol=1e-6)  # the image's reflection
    assert torch.equal(views.show_addresses(size), torch.where(result.masks == 255, -1, result.masks))


def test_a_lens_of_a_quarter_turn_is_a_quarter_turn():
    values = torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=torch.manual_seed(0))
    quarter = lens([0, -1, 0], [1, 0, 0])
    assert any(torch.allclose(through(quarter, values), turn_images(values, np.array([turn])), atol=1e-12) for turn in (1, 3))


def test_drawn_lenses_keep_shapes_whatever_the_aspect():
    """In pixels a lens is a rotation by up to 15 degrees times a zoom of .75 to 1.25, and a shift of up to 7.5 % of the side."""
    size = np.array([30, 90])
    lenses = draw_lenses(4000, tuple(size), np.random.default_rng(0)).numpy()
    sides = size[::-1] / 2  # x, y
    pixels = lenses[:, :, :2] * sides[:, None] / sides[None]
    zoom = np.sqrt(np.linalg.det(pixels))
    rotation = pixels / zoom[:, None, None]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(2), (4000, 2, 2)), atol=1e-12)
    angles = np.degrees(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    shifts = lenses[:, :, 2] / 2
    for values, low, high in ((zoom, 0.75, 1.25), (angles, -15, 15), (shifts[:, 0], -0.075, 0.075), (shifts[:, 1], -0.075, 0.075)):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high >= values.max() > high - 0.02 * (high - low)


@given(st.integers(0, 10_000), st.sampled_from([(24, 24), (24, 40)]))
@examples(20)
def test_addresses_say_which_pixel_is_shown(seed, size):
    masks = torch.randint(0, 200, (6, *size), generator=torch.manual_seed(seed))
    views = draw_views(6, configured(image_size=size, jitter="all", seed=seed), 0, "noisy")
    addresses, seen = views.show_addresses(size), views.show_masks(masks)
    assert torch.equal(addresses < 0, seen == 255)
    assert (addresses >= 0).float().mean() > 0.5
    found = masks.flatten(1).gather(1, addresses.clamp(min=0).flatten(1)).view(seen.shape)
    assert torch.equal(torch.where(addresses < 0, 255, found), seen)


@given(st.integers(0, 10_000))
@examples(20)
def test_a_mask_goes_through_the_same_lens_as_its_image(seed):
    square = torch.zeros(4, 1, 32, 32)
    square[..., 8:20, 10:26] = 1
    views = draw_views(4, configured(image_size=32, jitter="all", seed=seed), 0, "noisy")
    result = Views(views.turns, views.lenses).show(Batch(square, square[:, 0].byte()))
    known = result.masks != 255
    assert ((result.images[:, 0] - result.masks).abs() <= 0.5 + 1e-4)[known].float().mean() > 0.995  # corners differ


def test_a_tint_is_contrast_about_the_mean_and_an_addition_within_0_to_1():
    image = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(1, 1, 2, 2)
    views = Views(np.array([0]), tints=torch.tensor([[0.5, 0.3]]))
    result = views.show(Batch(image, torch.zeros(1, 2, 2)))
    assert torch.allclose(result.images.flatten(), torch.tensor([0.65, 0.75, 0.85, 0.95]))
    bright = Views(np.array([0]), tints=torch.tensor([[1.0, 0.5]])).show(Batch(image, torch.zeros(1, 2, 2)))
    assert torch.allclose(bright.images.flatten(), torch.tensor([0.7, 0.9, 1.0, 1.0]))


def test_grey_images_show_the_mean_of_their_channels():
    images = torch.rand(2, 3, 4, 4, generator=torch.manual_seed(0))
    result = Views(np.zeros(2, int), grey=torch.tensor([True, False])).show(Batch(images, torch.zeros(2, 4, 4)))
    assert torch.allclose(result.images[0], images[0].mean(0).expand(3, 4, 4))
    assert torch.equal(result.images[1], images[1])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_colours_change_as_far_as_the_setting_says(strength):
    """Contrast by up to the strength, each channel by .4 of it."""
    views = draw_views(4000, configured(jitter="all", colour_jitter=strength), 0, "noisy")
    contrast, tint = views.tints[:, 0].numpy() - 1, views.tints[:, 1:].numpy()
    for values, most in ((contrast, strength), (tint, 0.4 * strength)):
        assert 0.99 * most <= abs(values).max() <= most


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_share_of_the_pictures_is_shown_in_grey(share):
    views = draw_views(4000, configured(jitter="all", grey_share=share), 0, "noisy")
    assert abs(views.grey.float().mean() - share) < 0.03


def test_only_pictures_in_colour_are_shown_in_grey():
    assert draw_views(4, configured(jitter="all", grey_share=0.5, channels=1), 0, "noisy").grey is None
    volumes = configured(
        jitter="all", grey_share=0.5, channels=3, image_size=(8, 8, 8), spacing=(1.0, 1.0, 1.0), batch_size=2, clean_batch_size=2
    )
    assert draw_views(4, volumes, 0, "noisy").grey is None


def test_views_of_some_of_the_images_show_just_those():
    batch = derived_batch()
    views = draw_views(12, configured(jitter="all"), 5, "noisy")
    part = views[3:7].show(Batch(batch.images[3:7], batch.masks[3:7]))
    whole = views.show(batch)
    assert torch.equal(part.masks, whole.masks[3:7])
    assert torch.equal(part.images, whole.images[3:7])
    none = views[12:].show(Batch(batch.images[12:], batch.masks[12:]))
    assert none.images.shape == (0, 3, SIZE, SIZE)
