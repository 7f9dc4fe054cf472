"""Simulated noise: what holds for every kind, and cases worked by hand."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from examples import examples
from pixeltrust.data.images import read_image, read_labels
from pixeltrust.data.resizing import resize_image, resize_labels
from pixeltrust.noise.kinds import KINDS, VOLUME_KINDS, Kind, axes, find_kind, polygon
from pixeltrust.noise.structures import LABEL_KINDS

COMMANDS = Path(__file__).parents[1] / "docs/reference/commands.md"
ISIC = Path(__file__).parents[2] / "shared/data/isic2017"
ALL_KINDS = (*KINDS, "polygon-12", "axes-3")
NESTED = tuple(kind for kind in ALL_KINDS if kind not in ("shift", "mixture"))

kinds = st.sampled_from(ALL_KINDS)
shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))
masks = shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))


def made(kind, mask, strength=1.0, seed=0):
    """The noise of a kind; its image is random, and the same for masks of one shape."""
    image = np.random.default_rng(99).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    return find_kind(kind)(mask, np.random.default_rng(seed), strength, image)


def ellipse(shape=(96, 96), centre=(48, 48), radii=(20, 32), turned=0.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]] - np.reshape(centre, (2, 1, 1))
    along = rows * math.cos(turned) + columns * math.sin(turned)
    across = columns * math.cos(turned) - rows * math.sin(turned)
    return ((along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1).astype(np.uint8)


def dice(truth, noisy):
    return 2 * int((truth & noisy).sum()) / (int(truth.sum()) + int(noisy.sum()))


@given(kinds, masks, st.floats(0, 4), st.integers(0, 5))
@examples(300)
def test_noise_is_a_binary_mask_of_the_same_shape(kind, mask, strength, seed):
    noisy = made(kind, mask, strength, seed)
    assert noisy.shape == mask.shape
    assert noisy.dtype == np.uint8
    assert np.isin(noisy, (0, 1)).all()


@given(kinds, masks)
@examples(100)
def test_no_strength_is_the_truth(kind, mask):
    assert (made(kind, mask, 0.0) == mask).all()


@given(kinds, masks, st.floats(0, 2))
@examples(100)
def test_equal_generators_make_equal_noise_and_leave_the_mask_alone(kind, mask, strength):
    before = mask.copy()
    assert (made(kind, mask, strength) == made(kind, mask.astype(bool), strength)).all()
    assert (mask == before).all()


@given(st.sampled_from(NESTED), masks, st.lists(st.floats(0, 3), min_size=2, max_size=2).map(sorted))
@examples(300)
def test_errors_at_a_strength_contain_those_at_a_lower_one(kind, mask, strengths):
    lower, higher = (made(kind, mask, strength) != mask for strength in strengths)
    assert not (lower & ~higher).any()


@given(kinds, shapes, st.floats(0, 4))
@examples(100)
def test_a_mask_without_foreground_comes_back_as_it_is(kind, shape, strength):
    assert not made(kind, np.zeros(shape, dtype=np.uint8), strength).any()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_drawn_does_not_hang_on_the_strength(kind):
    states = []
    for strength in (0.0, 0.3, 1.0):
        generator = np.random.default_rng(0)
        find_kind(kind)(ellipse(), generator, strength, np.zeros((96, 96, 3), dtype=np.uint8))
        states.append(generator.random())
    assert len(set(states)) == 1


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("triangle", "box", "erode", "human") else pytest.mark.slow) for kind in ALL_KINDS]
)
def test_dice_falls_as_the_strength_grows(kind):
    image = np.where(ellipse(radii=(14, 22)) > 0, np.uint8(60), np.uint8(200))
    steps = [
        np.mean([dice(ellipse(), find_kind(kind)(ellipse(), np.random.default_rng(seed), strength, image)) for seed in range(8)])
        for strength in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert steps[0] == 1 > steps[-1]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 5 or kind == "polygon-12"  # which is so near to the truth that some steps move no pixel


@pytest.mark.parametrize("kind", ["polygon-3", "heptagon", "axes", "box", "coarse"])
def test_shapes_stay_at_their_full_form_above_strength_1(kind):
    assert (made(kind, ellipse(), 3.0) == made(kind, ellipse(), 1.0)).all()


# --- worked by hand


def test_the_box_of_a_disc_is_its_square():
    disc = ellipse(radii=(20, 20))
    square = np.zeros_like(disc)
    square[28:69, 28:69] = 1
    assert (made("box", disc) == square).all()


def test_a_box_half_way_has_half_of_the_way_to_the_corner():
    # The disc's outline is 20 from the centre, the corner of its square 28.3: half way is 24.1, within a pixel's diagonal.
    half = made("box", ellipse(radii=(20, 20)), 0.5)
    diagonal = np.flatnonzero(np.diagonal(half)) - 48
    assert abs(diagonal.max() * math.sqrt(2) - 24.1) < 1.5


def test_the_axes_of_an_ellipse_span_its_rhombus():
    # The rhombus has 2/π of the ellipse's area: Dice 2 · .637 / 1.637 = .778. Pixels of a radius of 40 blur that by about 2 %.
    for turned in (0.0, 0.5, 1.2):
        truth = ellipse((192, 192), (96, 96), (40, 80), turned)
        noisy = made("axes", truth)
        assert not (noisy & ~truth & 1).any()
        assert dice(truth, noisy) == pytest.approx(0.778, abs=0.02)


def test_the_ends_of_the_axes_are_on_the_outline():
    noisy = made("axes", ellipse(radii=(20, 32)))
    rows, columns = (np.flatnonzero(noisy.any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((28, 68, 16, 80), abs=1)


@pytest.mark.parametrize(("count", "share"), [(2, 2 / math.pi), (3, 0.827), (4, 0.900)])
def test_more_axes_span_the_inscribed_polygon_of_an_ellipse(count, share):
    # n corners on an ellipse at even angles of its circle: n / 2π · sin(2π / n) of the area. 2 % for pixels.
    truth = ellipse((192, 192), (96, 96), (40, 80))
    assert made(f"axes-{count}", truth).sum() / truth.sum() == pytest.approx(share, abs=0.02)


def test_a_polygon_finds_the_corners_of_a_polygon():
    square = np.zeros((40, 40), dtype=np.uint8)
    square[10:30, 5:35] = 1
    noisy = made("polygon-8", square)  # the outline at half-pixel steps cuts each of the four corners: eight points
    assert (noisy == square).all()


def test_more_vertices_are_nearer_to_the_truth():
    truth = ellipse(turned=0.4)
    falls = [dice(truth, made(f"polygon-{count}", truth)) for count in (3, 4, 5, 7, 12, 30)]
    assert falls == sorted(falls)
    # No triangle within an ellipse has more than 3√3/4π of it, Dice .585, and pixels allow 2 % more; greedy removal gets less.
    assert 0.4 < falls[0] < 0.605
    assert falls[-1] > 0.98


def test_polygon_names_mean_their_vertices():
    truth = ellipse()
    assert (made("triangle", truth) == made("polygon-3", truth)).all()
    assert (made("heptagon", truth) == polygon(7)(truth, np.random.default_rng(0))).all()


def test_dilation_and_erosion_go_a_quarter_of_the_radius():
    disc = ellipse((160, 160), (80, 80), (40, 40))
    for kind, radius in (("dilate", 50), ("erode", 30)):
        # a pixel's width around the whole outline, of 40, is 5 % of the area
        assert made(kind, disc).sum() == pytest.approx(math.pi * radius**2, rel=0.05)


def test_erosion_leaves_the_deepest_pixels():
    eroded = made("erode", ellipse(), 50.0)
    assert 0 < eroded.sum() < 30
    assert eroded[48, 48]


def test_a_shift_goes_half_the_radius_and_keeps_the_form():
    disc = ellipse(radii=(20, 20))
    moved = made("shift", disc, seed=3)
    centre = np.argwhere(moved).mean(axis=0)
    assert np.hypot(*(centre - 48)) == pytest.approx(10, abs=0.5)
    assert moved.sum() == pytest.approx(disc.sum(), rel=0.05)


def test_the_frame_is_not_an_outline_for_biases():
    half = np.zeros((40, 40), dtype=np.uint8)
    half[:, :20] = 1  # a straight outline from top to bottom
    for kind in ("dilate", "erode"):
        noisy = made(kind, half)
        assert (noisy != half).any()
        assert (noisy == noisy[0]).all()


def test_a_drop_takes_one_component_before_the_next():
    two = ellipse(centre=(25, 25), radii=(12, 12)) | ellipse(centre=(70, 70), radii=(12, 12))
    for seed in range(20):
        noisy = find_kind("drop")(two, np.random.default_rng(seed))
        lost = (noisy[:48].sum() < 441, noisy[48:].sum() < 441)  # 441: the pixels of each disc
        assert not all(lost) or 0 in (noisy[:48].sum(), noisy[48:].sum())


def test_a_drop_is_a_hole_of_half_the_area_on_average():
    shares = [find_kind("drop")(ellipse(), np.random.default_rng(seed)).sum() / ellipse().sum() for seed in range(200)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)  # 3.5 standard errors of a uniform number


def test_a_coarse_mask_consists_of_whole_cells():
    truth = ellipse(radii=(20, 20))
    noisy = find_kind("coarse")(truth, np.random.default_rng(0))
    runs = np.diff(np.flatnonzero(np.diff(noisy[noisy.any(axis=1)][0], prepend=0, append=0)))
    assert (runs % 20 <= 1).all() or (runs % 20 == 19).all()  # a cell is 20 pixels wide, rounded


def test_unsupervised_finds_a_dark_spot_whatever_the_mask_says():
    spot = ellipse(radii=(25, 25))
    wrong = ellipse(centre=(20, 20), radii=(5, 5))
    for image in (200 - 120 * spot, np.stack([200 - 40 * spot, 160 - 80 * spot, 150 - 120 * spot], axis=-1)):
        found = find_kind("unsupervised")(wrong, np.random.default_rng(0), 1.0, image.astype(np.uint8))
        assert dice(spot, found) > 0.95


# --- edges


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind not in ("unsupervised", "drop")])
def test_one_pixel_stays_where_there_is_nothing_to_draw(kind):
    one = np.zeros((9, 9), dtype=np.uint8)
    one[4, 4] = 1
    assert (made(kind, one) == one).all()


@pytest.mark.parametrize("kind", ["dilate", "erode", "shift", "box", "coarse"])
def test_a_full_mask_has_nothing_to_be_wrong_about(kind):
    assert made(kind, np.ones((12, 9), dtype=np.uint8)).all()


@pytest.mark.parametrize("kind", ["triangle", "axes"])
def test_shapes_of_a_full_mask_end_at_the_frame(kind):
    noisy = made(kind, np.ones((40, 40), dtype=np.uint8))
    assert 0.3 < noisy.mean() < 0.6


@pytest.mark.parametrize("kind", ["triangle", "heptagon", "axes", "box"])
def test_every_component_has_its_own_shape(kind):
    left, right = ellipse(centre=(30, 20), radii=(12, 9)), ellipse(centre=(60, 70), radii=(15, 20))
    assert (made(kind, left | right) == (made(kind, left) | made(kind, right))).all()


def test_a_box_fills_holes_and_stops_at_the_frame():
    ring = ellipse((50, 50), (10, 25), (20, 20)) - ellipse((50, 50), (10, 25), (8, 8))
    noisy = find_kind("box")(ring, np.random.default_rng(0))
    assert noisy[:31, 5:46].all()
    assert noisy.sum() == 31 * 41


# --- mistakes


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [("triangel", "triangle"), ("heptogon", "heptagon"), ("bbox", "box"), ("polygon-2", "polygon-12"), ("axes-1", "axes")],
)
def test_an_unknown_kind_names_the_nearest(kind, nearest):
    with pytest.raises(ValueError, match=rf"'{kind}'; did you mean '{nearest}"):
        find_kind(kind)


def test_a_kind_unlike_all_names_them():
    with pytest.raises(ValueError, match=r"There are triangle, heptagon, .*polygon-N"):
        find_kind("qqqqqq")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_masks_and_strengths_out_of_range_are_refused(kind):
    for mask in (np.full((4, 4), 255, dtype=np.uint8), np.zeros((4, 4)), np.zeros((1, 1, 4, 4), dtype=np.uint8)):
        with pytest.raises(ValueError, match=r"0 and 1|image of the mask's size"):
            made(kind, mask)
    for strength in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="strength"):
            made(kind, ellipse(), strength)


def test_counts_that_span_nothing_are_refused():
    with pytest.raises(ValueError, match="3 vertices or more, not 2"):
        polygon(2)
    with pytest.raises(ValueError, match="2 axes or more"):
        axes(1)


def test_unsupervised_needs_an_image_of_the_masks_size():
    for image in (None, np.zeros((9, 9, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match=r"image of the mask's size \(96, 96\)"):
            find_kind("unsupervised")(ellipse(), np.random.default_rng(0), 1.0, image)


def test_help_texts_name_only_what_exists():
    assert all(callable(find_kind(kind)) for kind in KINDS)


def test_the_table_of_the_docs_is_that_of_the_kinds():
    described = {name: kind.help for name, kind in (KINDS | VOLUME_KINDS | LABEL_KINDS).items()} | {
        "polygon-N": polygon(3).help.replace("3", "N"),
        "axes-K": axes(2).help.replace("2", "K"),
    }
    table = COMMANDS.read_text(encoding="utf-8").partition("### Which kinds of noise are there?")[2].partition("\n#")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(f"| `{name}` | {text} |" for name, text in described.items())


def test_a_kind_of_ones_own_is_an_entry(monkeypatch):
    def blocks(truth, *_):
        return np.kron(truth[::4, ::4], np.ones((4, 4)))[: len(truth), : truth.shape[1]]

    monkeypatch.setitem(KINDS, "blocky", Kind(blocks, "the mask in blocks of 4 pixels", is_shape=True))
    assert dice(ellipse(), made("blocky", ellipse())) < dice(ellipse(), made("blocky", ellipse(), 0.5)) < 1
    with pytest.raises(ValueError, match="did you mean 'blocky'"):
        find_kind("blocks")


# --- real lesions

# Mean Dice on 160 lesions at 96x96. Those of all 2,000 training masks lie near the middle of each band; half its width is
# about three standard errors of the mean of 160, and at least .01.
BANDS = {
    "triangle": (0.60, 0.63),
    "heptagon": (0.945, 0.965),
    "axes": (0.75, 0.78),
    "box": (0.82, 0.855),
    "unsupervised": (0.69, 0.83),
    "dilate": (0.775, 0.81),
    "erode": (0.69, 0.73),
    "shift": (0.65, 0.70),
    "drop": (0.55, 0.68),
    "coarse": (0.72, 0.77),
    "human": (0.74, 0.82),
    "annotators": (0.70, 0.80),
    "mixture": (0.85, 0.93),
    "axes-3": (0.87, 0.90),
    "polygon-12": (0.975, 0.99),
}


@pytest.fixture(scope="module")
def lesions():
    if not ISIC.is_dir():
        pytest.skip(f"needs the real lesions of {ISIC}")
    with (ISIC / "split.csv").open() as opened:
        ids = [row["id"] for row in csv.DictReader(opened) if row["split"] == "train"][::13][:160]
    size = (96, 96)
    truths = [(resize_labels(read_labels(ISIC / "masks" / f"{one}.png"), size) > 0).astype(np.uint8) for one in ids]
    return list(zip(truths, [resize_image(read_image(ISIC / "images" / f"{one}.jpg"), size) for one in ids], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", BANDS)
def test_real_lesions_have_the_measured_dice(lesions, kind):
    found = [dice(truth, find_kind(kind)(truth, np.random.default_rng(i), 1.0, image)) for i, (truth, image) in enumerate(lesions)]
    low, high = BANDS[kind]
    assert low < np.mean(found) < high


def test_people_differ_as_people_do(lesions):
    """Quartiles and tail of the Dice of IMA++'s pairs of human masks."""
    draws = [(truth, np.random.default_rng([i, 0])) for i, (truth, _) in enumerate(lesions)]
    found = [dice(truth, find_kind("human")(truth, generator, 1.0, None)) for truth, generator in draws]
    np.testing.assert_allclose(np.quantile(found, [0.25, 0.5]), [0.736, 0.857], atol=0.03)
    assert np.quantile(found, 0.05) == pytest.approx(0.251, abs=0.1)  # of 160 draws
    assert np.mean(found) == pytest.approx(0.781, abs=0.03)


def test_people_draw_too_much_and_too_little(lesions):
    for kind in ("human", "annotators"):
        ratios = [find_kind(kind)(truth, np.random.default_rng(i), 1.0, None).sum() / truth.sum() for i, (truth, _) in enumerate(lesions)]
        assert 0.3 < np.mean(np.array(ratios) > 1) < 0.7


def test_a_fifth_of_a_mixture_is_perfect(lesions):
    same = [
        (find_kind("mixture")(truth, np.random.default_rng([7, i]), 1.0, image) == truth).all() for i, (truth, image) in enumerate(lesions)
    ]
    assert 0.15 < np.mean(same) < 0.45  # a weak shape of few pixels is none
