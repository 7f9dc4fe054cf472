"""Trust of every noisy pixel: what a visit changes, how it is kept, and the step that weighs by it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.prefetch import Feed
from pixeltrust.method.addresses import Where, address_map
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import weighted_dice_cross_entropy
from pixeltrust.method.trust import Trust
from pixeltrust.method.weights import pixel_gains, reweighted_step
from pixeltrust.training.methods import build_step
from reference import PLACES, STREAMS, PlainUNet, assert_equal_to_rounding, batch, reference_gradients, seeded

SIZE = (4, 6)
LEVEL = 1 / 1023
"""Of T as it is kept."""


def whole(*ids, shape=SIZE):
    """Where the pixels of upright cases are."""
    return Where.of(ids, shape)


def told(*gains, shape=SIZE):
    """Gains of images, the same for all pixels of one."""
    return torch.tensor(gains).view(-1, *(1,) * len(shape)).expand(-1, *shape)


# --- what a visit changes ------------------------------------------------------------------------------------------


def test_a_visit_moves_trust_towards_its_evidence_and_only_that_of_its_cases():
    trust = Trust(memory=0.7)
    trust.reserve("abcde", SIZE)
    found = trust.learn(told(2.5, -1e-30), whole("d", "b"))
    assert (found[0] == 1).all()
    assert torch.allclose(found[1], torch.tensor(0.7), atol=LEVEL / 2)
    assert torch.equal(torch.stack([trust.values("d"), trust.values("b")]), found)
    assert all((trust.values(case) == 1).all() for case in "ace")
    assert trust.ids == tuple("abcde")


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.7, 0.9])
def test_many_visits_are_the_weighted_share_of_those_that_helped(memory):
    trust, draws = Trust(memory), np.random.default_rng(0)
    expected = np.ones(SIZE)
    for _ in range(200):
        seen = draws.standard_normal(SIZE)
        expected = memory * expected + (1 - memory) * (seen > 0)
        trust.learn(torch.from_numpy(seen)[None], whole("a"))
    np.testing.assert_allclose(trust.values("a").numpy(), expected, atol=LEVEL / 2 / (1 - memory) + 1e-6)


@pytest.mark.parametrize("nothing", [0.0, -0.0, float("nan")])
def test_a_gain_of_nothing_is_no_evidence(nothing):
    trust = Trust()
    before = trust.learn(told(-1.0), whole("a"))
    assert torch.equal(trust.learn(told(nothing), whole("a")), before)
    assert (trust.visits("a") == 1).all()


def test_trust_stays_between_0_and_1_and_reaches_both():
    trust = Trust(memory=0.5)
    for _ in range(40):
        trust.learn(told(-1.0, 1.0), whole("a", "b"))
    assert (trust.values("a") == 0).all()
    assert (trust.values("b") == 1).all()


def test_visits_are_counted_where_there_was_evidence_and_stop_at_63():
    trust = Trust(memory=0.9)
    seen = told(-1.0).clone()
    seen[:, 0] = 0.0
    for _ in range(80):
        trust.learn(seen, whole("a"))
    assert (trust.visits("a")[0] == 0).all()
    assert (trust.visits("a")[1:] == 63).all()
    assert (trust.helped("a")[1:] < 0.01).all()
    assert (trust.helped("a")[0] == 1).all()


@pytest.mark.parametrize("memory", [0.3, 0.7])
def test_helped_is_the_share_of_the_visits_that_helped(memory):
    trust = Trust(memory)
    for gain in (1.0, -1.0, 1.0):
        trust.learn(told(gain), whole("a"))
    shares = memory ** np.arange(2, -1, -1) * (1 - memory) / (1 - memory**3)
    assert torch.allclose(trust.helped("a"), torch.tensor(shares[[0, 2]].sum()).float(), atol=0.003)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"memory": -0.1}, "memory must be 0 to 1, not -0.1"),
        ({"memory": float("nan")}, "not nan"),
        ({"sharpness": -1}, "sharpness must be 0 or more"),
    ],
)
def test_a_setting_that_is_none_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        Trust(**arguments)


# --- addresses -------------------------------------------------------------------------------------------------------


def test_turned_and_cropped_batches_are_learned_where_they_belong():
    trust, gains = Trust(memory=0.5), torch.randn(2, *SIZE, generator=torch.manual_seed(0))
    where = Where.of(["a", "b"], SIZE, crops=[((1, 3), (2, 4)), ((0, 2), (0, 2))], flips=[(0,), ()], turns=[1, 2])
    shown = gains.flatten(1).gather(1, where.addresses.flatten(1)).view(2, 2, 2)
    assert torch.allclose(trust.learn(shown, where), torch.where(shown > 0, 1.0, 0.5), atol=LEVEL)
    for case, gain, crop in zip("ab", gains, ((slice(1, 3), slice(2, 4)), (slice(2), slice(2))), strict=True):
        expected = torch.ones(SIZE)
        expected[crop] = torch.where(gain[crop] > 0, 1.0, 0.5)
        assert torch.allclose(trust.values(case), expected, atol=LEVEL)


def test_pixels_that_show_one_pixel_are_one_visit_of_their_mean_evidence():
    trust = Trust(memory=0.5)
    addresses = torch.tensor([[[0, 0, 0, 0], [1, 1, -1, 2]]])
    gains = torch.tensor([[[1.0, -1.0, -2.0, 0.0], [3.0, 1.0, -5.0, -1.0]]])
    found = trust.learn(gains, Where(["a"], addresses, (1, 4)))
    third, none, half = 0.5 + 0.5 / 3, 0.0, 0.5
    expected = torch.tensor([[[third] * 4, [1.0, 1.0, none, half]]])
    assert torch.allclose(found, expected, atol=LEVEL)
    assert torch.allclose(trust.values("a"), torch.tensor([[third, 1.0, half, 1.0]]), atol=LEVEL)
    assert trust.visits("a").tolist() == [[1, 1, 1, 0]]


def test_two_crops_of_a_case_in_one_batch_are_one_visit():
    trust = Trust(memory=0.5)
    where = Where.of(["a", "a"], (1, 4), crops=[((0, 1), (0, 3)), ((0, 1), (1, 4))])
    found = trust.learn(torch.tensor([[[1.0, 1.0, -1.0]], [[-1.0, -1.0, 1.0]]]), where)
    assert torch.allclose(trust.values("a"), torch.tensor([[1.0, 0.75, 0.5, 1.0]]), atol=LEVEL)
    assert torch.allclose(found, torch.tensor([[[1.0, 0.75, 0.5]], [[0.75, 0.5, 1.0]]]), atol=LEVEL)
    assert (trust.visits("a") == 1).all()


def test_a_part_of_a_batch_without_images_changes_nothing():
    trust = Trust()
    trust.learn(told(-1.0), whole("a"))
    found = trust.learn(torch.zeros(0, *SIZE), Where([], torch.zeros(0, *SIZE, dtype=torch.int64), SIZE))
    assert found.shape == (0, *SIZE)
    assert (trust.visits("a") == 1).all()


def test_cases_of_many_grids_in_two_and_three_axes():
    trust = Trust(memory=0.5)
    flat = Where.of(["flat", "large"], [(3, 3), (40, 50)], crops=[((0, 2), (0, 2)), ((38, 40), (48, 50))])
    trust.learn(-torch.ones(2, 2, 2), flat)
    trust.learn(-torch.ones(1, 2, 2, 2), Where.of(["volume"], (90, 60, 70), crops=[((0, 2), (58, 60), (1, 3))]))
    assert trust.values("flat").shape == (3, 3)
    assert trust.values("large").shape == (40, 50)
    assert torch.allclose(trust.values("large")[38:, 48:], torch.tensor(0.5), atol=LEVEL)
    volume = trust.values("volume")
    assert volume.shape == (90, 60, 70)
    assert torch.allclose(volume[:2, 58:, 1:3], torch.tensor(0.5), atol=LEVEL)
    assert (volume < 1).sum() == 8
    assert (trust.values("flat") < 1).sum() == 4  # growing has kept it


def test_another_grid_than_before_is_refused_and_nothing_is_learned():
    trust = Trust()
    trust.learn(told(-1.0), whole("a"))
    kept = trust.values("a").clone()
    with pytest.raises(ValueError, match=r"case 'a' has the grid \(6, 4\), but had \(4, 6\) before"):
        trust.learn(-torch.ones(2, 6, 4), whole("b", "a", shape=(6, 4)))
    assert torch.equal(trust.values("a"), kept)
    assert trust.ids == ("a",)
    with pytest.raises(KeyError, match="no batch has shown the case 'z'; 1 were shown"):
        trust.helped("z")


# --- how it is kept --------------------------------------------------------------------------------------------------


def visits(trust, first=0, last=8):
    """Some visits of five cases, by chance, through crops and turns."""
    for seed in range(first, last):
        draws = np.random.default_rng(seed)
        ids = [f"case {number}" for number in draws.integers(0, 5, 3)]
        crops = [[(start, start + 30) for start in draws.integers(0, 170, 2)] for _ in ids]
        gains = torch.from_numpy(draws.standard_normal((3, 30, 30)))
        trust.learn(gains, Where.of(ids, (200, 200), crops=crops, turns=draws.integers(0, 4, 3)))
    return trust


def same(one, other):
    assert one.ids == other.ids
    assert all(torch.equal(one.values(case), other.values(case)) and torch.equal(one.visits(case), other.visits(case)) for case in one.ids)


def test_a_fresh_trust_takes_a_state_and_goes_on_bit_for_bit(tmp_path):
    torch.save(visits(Trust(memory=0.6), 0, 4).state_dict(), tmp_path / "state.pt")
    fresh = visits(Trust(memory=0.9), 50, 52)  # whatever it knew
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert fresh.memory == 0.6
    same(visits(fresh, 4, 8), visits(Trust(memory=0.6), 0, 8))


def test_a_mapped_trust_learns_the_same_and_its_pixels_are_in_the_file(tmp_path):
    here, mapped = visits(Trust()), visits(Trust(folder=tmp_path / "new"))
    same(here, mapped)
    in_file = np.fromfile(tmp_path / "new" / "trust.int16", np.int16)
    assert np.array_equal(in_file[1 : 1 + 200 * 200], here.pixels[1 : 1 + 200 * 200].numpy())
    fresh, state = Trust(folder=tmp_path / "other"), mapped.state_dict()
    assert state["_extra_state"]["pixels"].data_ptr() == mapped.pixels[1:].data_ptr(), "gigabytes would be copied into memory"
    fresh.load_state_dict(state)
    same(fresh, here)
    same(visits(fresh.to("cpu"), 8, 9), visits(here, 8, 9))


def test_a_pixel_takes_two_bytes_and_a_cast_changes_nothing():
    trust = Trust()
    trust.reserve([str(number) for number in range(100)], (100, 100))
    assert trust.pixels.element_size() * trust.pixels.numel() == pytest.approx(2 * 100 * 100 * 100, rel=0.01)
    assert trust.double().pixels.dtype == torch.int16


@pytest.mark.parametrize("broken", ["format", "pixels", "ids"])
def test_what_is_no_state_is_refused(broken):
    state = visits(Trust()).state_dict()
    other = {"format": 2, "pixels": torch.zeros(3, dtype=torch.int16), "ids": ["a"]}[broken]
    with pytest.raises((RuntimeError, ValueError), match="not the state of a Trust"):
        Trust().load_state_dict({"_extra_state": {**state["_extra_state"], broken: other}})


def test_helped_maps_are_pictures_of_two_axes_and_arrays_of_three(tmp_path):
    trust = Trust()
    trust.learn(torch.tensor([[[1.0, -1.0], [0.0, -2.0]]]), whole("a.b", shape=(2, 2)))
    trust.learn(-torch.ones(1, 2, 2, 2), whole("volume", shape=(2, 2, 2)))
    trust.write_maps(tmp_path / "helped")
    assert np.asarray(Image.open(tmp_path / "helped" / "a.b.png")).tolist() == [[255, 0], [255, 0]]
    assert np.load(tmp_path / "helped" / "volume.npy").tolist() == np.zeros((2, 2, 2)).tolist()
    assert {file.name for file in (tmp_path / "helped").iterdir()} == {"a.b.png", "volume.npy"}


def test_an_id_that_is_no_name_of_a_file_writes_nothing(tmp_path):
    trust = Trust()
    trust.learn(told(1.0), whole("../up"))
    with pytest.raises(ValueError, match=r"not the name of a file, so there can be no helped map of it: '\.\./up'"):
        trust.write_maps(tmp_path / "helped")
    assert not list(tmp_path.iterdir())


# --- the step -----------------------------------------------------------------------------------------------------


def made(**settings):
    noisy, clean = batch(seed=1, images=4, size=16), batch(seed=2, images=3, size=16)
    config = Config(method="trust", image_size=16, **settings)
    model = seeded(PlainUNet, 2, 1, norm="group")
    feed = Feed(noisy=lambda: noisy, clean=lambda: clean, pool=lambda: noisy, where=lambda: PLACES)
    return model, build_step(model, config, STREAMS), feed, config


@pytest.mark.parametrize(("sharpness", "clean_weight", "share"), [(1.0, None, 1.0), (3.0, 0.5, 0.5), (0.0, 0.0, 0.0)])
def test_a_step_weighs_by_trust_after_the_visit(sharpness, clean_weight, share):
    model, method, feed, config = made(trust_memory=0.6, trust_sharpness=sharpness, clean_weight=clean_weight)
    twin = seeded(PlainUNet, 2, 1, norm="group")
    noisy, clean = feed.noisy(), feed.clean()
    seen = pixel_gains(twin, noisy=noisy, clean=clean)
    levels = torch.where(seen == 0, 1.0, 0.6 + 0.4 * (seen > 0)).mul(1023).round()
    trust = (levels.float() / 1023).double()
    counts = torch.where(noisy.masks == 255, 0.0, trust**sharpness)
    outcome = method(model, feed, config)
    assert_equal_to_rounding(outcome.weights, counts / counts.sum())
    expected = reference_gradients(twin, weights=counts / counts.sum(), noisy=noisy, clean=clean, clean_weight=share)
    for name, parameter in model.named_parameters():
        assert_equal_to_rounding(parameter.grad, expected[name])
    for case, addresses, shown in zip(PLACES.ids, PLACES.addresses, trust, strict=True):
        assert torch.equal(method.trust.values(case).double().flatten()[addresses], shown)
    assert all((method.trust.values(f"case {number}") == 1).all() for number in (2, 3))


def test_the_step_in_any_loop_is_that_of_the_method():
    model, method, feed, config = made()
    twin, trust = seeded(PlainUNet, 2, 1, norm="group"), Trust()
    for _ in range(3):
        outcome = method(model, feed, config)
        step = trust.step(twin, noisy=feed.noisy(), clean=feed.clean(), where=feed.where())
        assert torch.equal(step.weights, outcome.weights)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


def test_the_parts_are_the_step():
    noisy, clean = batch(seed=1, images=4, size=16), batch(seed=2, images=3, size=16)
    model, trust, other = seeded(PlainUNet, 2, 1, norm="group"), Trust(), Trust()
    weights = trust.weights(pixel_gains(model, noisy=noisy, clean=clean), PLACES, counted=noisy.masks != 255)
    step = other.step(model, noisy=noisy, clean=clean, where=PLACES)
    assert_equal_to_rounding(weights, step.weights)
    same(trust, other)


def test_a_pixel_of_no_case_has_no_weight():
    noisy, clean = batch(seed=1, images=4, size=16), batch(seed=2, images=3, size=16)
    addresses = PLACES.addresses.clone()
    addresses[:, :, :5] = -1
    for loss in (None, weighted_dice_cross_entropy):
        model = seeded(PlainUNet, 2, 1, norm="group")
        step = Trust().step(model, noisy=noisy, clean=clean, where=Where(PLACES.ids, addresses), loss=loss)
        assert (step.weights[:, :, :5] == 0).all()
        assert step.weights.sum().item() == pytest.approx(1)


def test_a_place_that_does_not_fit_is_refused_before_anything_is_done():
    noisy, clean = batch(seed=1, images=4, size=16), batch(seed=2, images=3, size=16)
    model = seeded(PlainUNet, 2, 1, norm="batch")
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit a batch"):
        Trust().step(model, noisy=noisy, clean=clean, where=whole("a", "b", "c", "d", shape=(8, 8)))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize(
    ("clean", "memory", "expected"), [(100, None, 0.7), (30, None, 0.7), (29, None, 0.9), (29, 0.5, 0.5), (29, 0.0, 0.0)]
)
def test_few_clean_cases_are_heard_for_longer(clean, memory, expected):
    streams = SimpleNamespace(**{**vars(STREAMS), "clean": np.arange(clean)})
    method = build_step(seeded(PlainUNet, 2, 1), Config(method="trust", image_size=16, trust_memory=memory), streams)
    assert method.trust.memory == expected


def test_without_a_clean_gradient_all_that_is_trusted_counts_alike():
    model, method, feed, config = made()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    halves = Batch(feed.clean().images, torch.arange(16).remainder(2).expand(3, 16, 16))  # at logits of 0 they cancel out
    outcome = method(model, replace(feed, clean=lambda: halves), config)
    counted = feed.noisy().masks != 255
    assert all((method.trust.values(case) == 1).all() for case in method.trust.ids)
    assert_equal_to_rounding(outcome.weights, counted / counted.sum(dtype=torch.float64))
    assert not outcome.all_zero


def test_a_weighing_of_ones_own_is_normalised_over_the_counted_pixels():
    noisy, clean = batch(seed=1, images=4), batch(seed=2, images=3)
    model = seeded(PlainUNet, 2, 1, norm="group")
    step = reweighted_step(model, noisy=noisy, clean=clean, per=lambda gains: torch.ones_like(gains))
    counted = noisy.masks != 255
    assert_equal_to_rounding(step.weights, counted / counted.sum(dtype=torch.float64))


def test_trust_of_volumes():
    trust = Trust(memory=0.5)
    gains = torch.randn(2, 2, 3, 4, generator=torch.manual_seed(0))
    after = trust.learn(gains, Where(["2", "0"], torch.stack([address_map((2, 3, 4))] * 2)))
    assert torch.allclose(after, 0.5 + 0.5 * (gains > 0), atol=LEVEL)
    assert torch.equal(trust.values("2"), after[0])
    assert torch.allclose(trust.helped("0"), (gains[1] > 0).float(), atol=2 * LEVEL)


def test_pixels_are_no_buffer_which_processes_would_send_each_other_and_follow_the_module():
    trust = Trust()
    assert not list(trust.buffers())
    assert nn.Sequential(trust).to("meta")[0].pixels.device.type == "meta"
