"""Trust of every noisy pixel: what a visit changes, how it is kept, and the step that weighs by it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pixeltrust.config import Config
from pixeltrust.data.prefetch import Feed
from pixeltrust.method.batch import Batch
from pixeltrust.method.trust import TrustStore, find_evidence
from pixeltrust.method.weights import pixel_gains, reweighted_step
from pixeltrust.training.methods import build_step
from reference import PLACES, STREAMS, PlainUNet, assert_equal_to_rounding, batch, reference_gradients, seeded

SIZE = (4, 6)


def store(cases=5, *, memory=0.7, folder=None):
    return TrustStore(cases, SIZE, memory=memory, folder=folder)


def heard(*gains):
    """What gains say, one case's each and the same for all its pixels."""
    return find_evidence(torch.tensor(gains)[:, None, None].expand(-1, *SIZE))


def test_a_label_is_believed_until_something_speaks_against_it():
    assert (store().values(np.arange(5)) == 1).all()


def test_a_visit_moves_trust_towards_its_evidence_and_only_that_of_its_cases():
    kept = store()
    found = kept.learn(np.array([3, 1]), heard(2.5, -1e-30))
    assert (found[0] == 1).all()
    assert torch.allclose(found[1], torch.tensor(0.7), atol=2**-12)
    assert torch.equal(kept.values(np.array([3, 1])), found)
    assert (kept.values(np.array([0, 2, 4])) == 1).all()


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.7, 0.9, 0.99])
def test_many_visits_are_the_weighted_share_of_those_that_helped(memory):
    kept, draws = store(1, memory=memory), np.random.default_rng(0)
    expected = np.ones(SIZE)
    for _ in range(200):
        seen = draws.standard_normal(SIZE)
        expected = memory * expected + (1 - memory) * (seen > 0)
        kept.learn(np.array([0]), find_evidence(torch.from_numpy(seen)[None]))
    np.testing.assert_allclose(kept.values(np.array([0]))[0].numpy(), expected, atol=2**-12 / (1 - memory))


@pytest.mark.parametrize("nothing", [0.0, -0.0, float("nan")])
def test_a_gain_of_nothing_is_no_evidence(nothing):
    kept = store()
    kept.learn(np.array([0]), heard(-1.0))
    before = kept.values(np.array([0]))
    assert torch.equal(kept.learn(np.array([0]), heard(nothing)), before)


def test_trust_stays_between_0_and_1_and_reaches_both():
    kept = store(2, memory=0.5)
    for _ in range(40):
        kept.learn(np.array([0, 1]), heard(-1.0, 1.0))
    low, high = kept.values(np.array([0, 1]))
    assert (low == 0).all()
    assert (high == 1).all()


@pytest.mark.parametrize("memory", [-0.1, 1.1, float("nan")])
def test_a_memory_that_is_none_is_named(memory):
    with pytest.raises(ValueError, match=f"memory must be 0 to 1, not {memory}"):
        store(memory=memory)


def test_evidence_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"evidence \(1, 2, 4, 5\) does not fit 1 cases of \(4, 6\) pixels"):
        store().learn(np.array([0]), torch.zeros(1, 2, 4, 5))


def test_a_mapped_store_learns_the_same_and_is_no_copy_in_memory(tmp_path):
    here, mapped = store(), store(folder=tmp_path / "new")
    for seed in range(3):
        seen = find_evidence(torch.randn(2, *SIZE, generator=torch.manual_seed(seed)))
        assert torch.equal(here.learn(np.array([4, seed]), seen), mapped.learn(np.array([4, seed]), seen))
    for name, dtype in (("trust.float16", np.float16), ("visits.uint8", np.uint8)):
        expected, kept = (getattr(one, name.partition(".")[0]).numpy() for one in (here, mapped))
        np.testing.assert_array_equal(kept, expected)
        np.testing.assert_array_equal(np.fromfile(tmp_path / "new" / name, dtype).reshape(5, *SIZE), expected)
    mapped.load_state_dict(store().state_dict())
    assert (np.fromfile(tmp_path / "new" / "trust.float16", np.float16) == 1).all()


def test_a_cast_leaves_three_bytes_a_pixel():
    cast = store().double()
    assert (cast.trust.dtype, cast.visits.dtype) == (torch.half, torch.uint8)


def test_a_pixel_hears_those_it_was_mixed_into_if_half_of_that_is_evidence():
    kept = store(1, memory=0.5)
    said = torch.zeros(1, 2, *SIZE)
    said[0, :, 0, 0] = torch.tensor([0.25, 1.0])  # a quarter of what it was mixed into speaks for it
    said[0, :, 0, 1] = torch.tensor([0.4, 0.5])
    said[0, :, 0, 2] = torch.tensor([0.0, 0.49])  # most of it was out of sight
    found = kept.learn(np.array([0]), said)[0]
    assert found[0, :4].tolist() == pytest.approx([0.625, 0.9, 1.0, 1.0], abs=2**-11)
    assert kept.visits[0, 0, :4].tolist() == [1, 1, 0, 0]


def test_visits_are_counted_where_there_was_evidence_and_stop_at_255():
    kept = store(2, memory=0.9)
    said = heard(-1.0)
    said[:, :, 0] = 0.0
    for _ in range(300):
        kept.learn(np.array([1]), said)
    assert (kept.visits[0] == 0).all()
    assert (kept.visits[1, 0] == 0).all()
    assert (kept.visits[1, 1:] == 255).all()
    assert (kept.helped(np.array([1]))[0, 1:] < 1e-5).all()
    assert (kept.helped(np.array([1]))[0, 0] == 1).all()


# --- the step -----------------------------------------------------------------------------------------------------


def made(**settings):
    noisy, clean = batch(seed=1, images=4, size=16), batch(seed=2, images=3, size=16)
    config = Config(method="trust", image_size=16, **settings)
    model = seeded(PlainUNet, 2, 1, norm="group")
    feed = Feed(noisy=lambda: noisy, clean=lambda: clean, pool=lambda: noisy, origin=lambda: PLACES)
    return model, build_step(model, config, STREAMS), feed, config


def upright(values):
    return PLACES.views.to_upright(values)


@pytest.mark.parametrize(("sharpness", "clean_weight", "share"), [(1.0, None, 1.0), (3.0, 0.5, 0.5), (0.0, 0.0, 0.0)])
def test_a_step_weighs_by_trust_after_the_visit(sharpness, clean_weight, share):
    model, method, feed, config = made(trust_memory=0.6, trust_sharpness=sharpness, clean_weight=clean_weight)
    twin = seeded(PlainUNet, 2, 1, norm="group")
    noisy, clean = feed.noisy(), feed.clean()
    seen = pixel_gains(twin, noisy=noisy, clean=clean)
    trust = torch.where(seen == 0, 1.0, 0.6 + 0.4 * (seen > 0)).half().double()
    counts = torch.where(noisy.masks == 255, 0.0, trust**sharpness)
    outcome = method(model, feed, config)
    assert_equal_to_rounding(outcome.weights, counts / counts.sum())
    expected = reference_gradients(twin, weights=counts / counts.sum(), noisy=noisy, clean=clean, clean_weight=share)
    for name, parameter in model.named_parameters():
        assert_equal_to_rounding(parameter.grad, expected[name])
    assert torch.equal(method.store.values(PLACES.cases).double(), upright(trust))
    assert (method.store.values(np.array([2, 3])) == 1).all()


@pytest.mark.parametrize(
    ("clean", "memory", "expected"), [(100, None, 0.7), (30, None, 0.7), (29, None, 0.9), (29, 0.5, 0.5), (29, 0.0, 0.0)]
)
def test_few_clean_cases_are_heard_for_longer(clean, memory, expected):
    streams = SimpleNamespace(**{**vars(STREAMS), "clean": np.arange(clean)})
    method = build_step(seeded(PlainUNet, 2, 1), Config(method="trust", image_size=16, trust_memory=memory), streams)
    assert method.store.memory == expected


def test_without_a_clean_gradient_all_that_is_trusted_counts_alike():
    model, method, feed, config = made()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    halves = Batch(feed.clean().images, torch.arange(16).remainder(2).expand(3, 16, 16))  # at logits of 0 they cancel out
    outcome = method(model, replace(feed, clean=lambda: halves), config)
    counted = feed.noisy().masks != 255
    assert (method.store.trust == 1).all()
    assert_equal_to_rounding(outcome.weights, counted / counted.sum(dtype=torch.float64))
    assert not outcome.all_zero


def test_a_weighing_of_ones_own_is_normalised_over_the_counted_pixels():
    noisy, clean = batch(seed=1, images=4), batch(seed=2, images=3)
    model = seeded(PlainUNet, 2, 1, norm="group")
    step = reweighted_step(model, noisy=noisy, clean=clean, per=lambda gains: torch.ones_like(gains))
    counted = noisy.masks != 255
    assert_equal_to_rounding(step.weights, counted / counted.sum(dtype=torch.float64))


def test_trust_of_volumes_and_cases_as_a_list():
    volumes = TrustStore(3, (2, 3, 4), memory=0.5)
    gains = torch.randn(2, 2, 3, 4, generator=torch.manual_seed(0))
    after = volumes.learn([2, 0], find_evidence(gains))
    assert torch.equal(after, 0.5 + 0.5 * (gains > 0))
    assert torch.equal(volumes.values([0, 2]), after.flip(0))
    assert torch.equal(volumes.helped([2, 0]), (gains > 0).float())
