"""What a step sees is decoded once and is a function of seed, stream and update alone."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples import examples
from pixeltrust.config import Config
from pixeltrust.data import batches as data_module
from pixeltrust.data import fitting
from pixeltrust.data.batches import (
    MIN_HELD_OUT,
    CaseCache,
    Streams,
    endless_order,
    epoch_order,
    hold_out,
)
from pixeltrust.data.cases import Case, CaseList, read_cases
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.seeds import generator
from tiny import draw

SIZE = 16
IN_MEMORY, MAPPED = {"cache_gib": 4.0}, {"cache_gib": 0.0}
STORES = pytest.mark.parametrize("store", [IN_MEMORY, MAPPED], ids=["memory", "mapped"])


def configured(**options):
    return Config(**{"image_size": SIZE, "model": "unet-small", "val_fraction": 0.2, **options})


def made(root, count=6, size=(SIZE, SIZE), channels=3):
    """Cases of random images and masks of 0 and 255."""
    root.mkdir(exist_ok=True)
    draws = np.random.default_rng(0)
    cases = []
    for number in range(count):
        case = Case(f"{number}", root / f"{number}-image.png", root / f"{number}-mask.png", "noisy")
        Image.fromarray(draws.integers(0, 256, (*size, channels), dtype=np.uint8).squeeze()).save(case.image)
        Image.fromarray(255 * draws.integers(0, 2, size, dtype=np.uint8)).save(case.mask)
        cases.append(case)
    return cases


def split(root):
    """A data folder of 5 noisy and 3 clean cases, as `Streams` wants it: (all, clean, held out)."""
    cases = read_cases(draw(root / "data", noisy=5, clean=3), show_progress=False)
    return cases, *hold_out(cases.of("clean"), configured())


def stored(case):
    return np.asarray(Image.open(case.image)), np.asarray(Image.open(case.mask))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images decoded so far."""
    names = []
    real = fitting.read_image

    def counting(path, channels):
        names.append(path.name)
        return real(path, channels)

    monkeypatch.setattr(fitting, "read_image", counting)
    return names


# Pixels


@STORES
def test_a_batch_holds_the_files_values_in_the_order_asked_for(tmp_path, store):
    cases = made(tmp_path / "data")
    batch = CaseCache(cases, configured(**store), tmp_path / "cache").batch(np.array([4, 1, 4]))
    assert batch.images.dtype == torch.float32
    assert batch.masks.dtype == torch.uint8
    assert batch.images.shape == (3, 3, SIZE, SIZE)
    for place, index in enumerate((4, 1, 4)):
        image, mask = stored(cases[index])
        assert torch.equal(batch.images[place], torch.tensor(image.copy()).permute(2, 0, 1) / 255)
        assert torch.equal(batch.masks[place], torch.tensor(mask // 255))


def test_memory_and_map_give_the_same_bits(tmp_path):
    cases = made(tmp_path / "data", size=(20, 30))
    indices = np.array([5, 0, 3])
    batches = [
        CaseCache(cases, configured(image_size=(16, 24), channels=1, **store), tmp_path / "cache").batch(indices)
        for store in (IN_MEMORY, MAPPED)
    ]
    assert batches[0].images.shape == (3, 1, 16, 24)
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].masks, batches[1].masks)


def test_beyond_the_cache_size_a_map_is_used_and_not_before(tmp_path):
    cases = made(tmp_path / "data")
    gib = 6 * 4 * SIZE * SIZE / 2**30
    inside, beyond = (CaseCache(cases, configured(cache_gib=limit), tmp_path / "cache") for limit in (gib, gib * 0.999))
    assert not inside.mapped
    assert beyond.mapped
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) == gib * 2**30


@STORES
def test_every_case_is_decoded_once_and_only_when_needed(tmp_path, decoded, store):
    pixels = CaseCache(made(tmp_path / "data"), configured(**store), tmp_path / "cache")
    assert decoded == []
    pixels.batch(np.array([2, 2, 5, 2]))
    assert sorted(decoded) == ["2-image.png", "5-image.png"]
    pixels.decode(range(6))
    pixels.batch(np.arange(6))
    assert sorted(decoded) == [f"{number}-image.png" for number in range(6)]


@STORES
def test_bytes_go_to_the_device_and_become_numbers_there(tmp_path, monkeypatch, store):
    sent = []
    monkeypatch.setattr(data_module, "to_device", lambda values, device: sent.append((values.dtype, device)) or values.to(device))
    batch = CaseCache(made(tmp_path / "data"), configured(**store), tmp_path / "cache").batch(np.arange(3), torch.device("meta"))
    assert sent == [(torch.uint8, torch.device("meta"))] * 2
    assert (batch.images.device.type, batch.masks.device.type) == ("meta", "meta")


def test_threads_that_want_the_same_case_decode_it_once(tmp_path, decoded):
    pixels = CaseCache(made(tmp_path / "data"), configured(), tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: pixels.batch(np.arange(6)), range(4)))
    assert len(decoded) == 6
    assert all(torch.equal(batch.images, batches[0].images) for batch in batches)


@STORES
def test_a_batch_may_be_changed_without_changing_what_is_stored(tmp_path, store):
    pixels = CaseCache(made(tmp_path / "data"), configured(**store), tmp_path / "cache")
    first = pixels.batch(np.array([0, 1]))
    kept = first.images.clone(), first.masks.clone()
    first.images.zero_(), first.masks.zero_()
    again = pixels.batch(np.array([0, 1]))
    assert torch.equal(again.images, kept[0])
    assert torch.equal(again.masks, kept[1])


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path):
    cases = made(tmp_path / "data")
    cases[1].image.write_bytes(b"")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(cases[4].mask)
    with pytest.raises(DataError, match="2 of 6 cases") as caught:
        CaseCache(cases, configured(), tmp_path / "cache").decode(range(6))
    assert len(caught.value.faults) == 2
    assert str(cases[1].image) in caught.value.faults[0]
    assert str(cases[4].mask) in caught.value.faults[1]


def test_two_meanings_of_255_are_found_across_batches_too(tmp_path):
    cases = made(tmp_path / "data")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[0, :2] = 1, 255
    Image.fromarray(mask).save(cases[3].mask)
    pixels = CaseCache(cases, configured(**MAPPED), tmp_path / "cache")
    pixels.batch(np.array([0]))
    with pytest.raises(DataError, match="ignore_label"):
        pixels.batch(np.array([3]))
    one_meaning = CaseCache(cases, configured(ignore_label=255), tmp_path / "cache").batch(np.arange(6))
    assert set(one_meaning.masks.unique().tolist()) == {0, 1, 255}


@STORES
def test_with_two_classes_cases_without_a_label_are_refused_once_all_are_known(tmp_path, store):
    """Masks of 0 and 255: before all have been seen, another may hold the labels."""
    cases = made(tmp_path / "data")
    pixels = CaseCache(cases, configured(classes=2, **store), tmp_path / "cache")
    pixels.decode(range(5))
    with pytest.raises(DataError, match="cannot be understood") as caught:
        pixels.decode(range(6))
    assert "--classes 1" in str(caught.value)
    Image.fromarray(stored(cases[5])[1] // 255).save(cases[5].mask)
    CaseCache(cases, configured(classes=2, **store), tmp_path / "other").decode(range(6))
    CaseCache(cases, configured(classes=2, ignore_label=255, **store), tmp_path / "told").decode(range(6))


def test_ignored_pixels_stay_ignored_at_another_size(tmp_path):
    cases = made(tmp_path / "data", count=1, size=(32, 32))
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 8:16], mask[:, 16:] = 1, 255
    Image.fromarray(mask).save(cases[0].mask)
    masks = CaseCache(cases, configured(), tmp_path / "cache").batch(np.array([0])).masks
    assert masks[0].tolist() == [[0] * 4 + [1] * 4 + [255] * 8] * SIZE


# Orders

orders = st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(0, 3), st.sampled_from(["noisy", "clean", "pool"]))


@given(orders, st.integers(0, 8))
@examples(100)
def test_an_endless_stream_gives_every_case_once_in_every_round(order, round_):
    count, batch_size, seed, stream = order
    cases = np.arange(100, 100 + count)
    updates = range(-(-(round_ + 1) * count // batch_size))
    drawn = np.concatenate([endless_order(cases, batch_size, update, seed, stream) for update in updates])
    assert {len(endless_order(cases, batch_size, update, seed, stream)) for update in updates} == {batch_size}
    for number in range(round_ + 1):
        assert sorted(drawn[number * count : (number + 1) * count]) == cases.tolist()


@given(orders, st.integers(0, 5))
@examples(100)
def test_an_epoch_gives_every_case_once_and_its_last_batch_may_be_short(order, epoch):
    count, batch_size, seed, stream = order
    cases = np.arange(100, 100 + count)
    per_epoch = -(-count // batch_size)
    batches = [epoch_order(cases, batch_size, epoch * per_epoch + number, seed, stream) for number in range(per_epoch)]
    assert sorted(np.concatenate(batches)) == cases.tolist()
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (per_epoch - 1)
    assert len(batches[-1]) == (count % batch_size or batch_size)


@pytest.mark.parametrize("order", [endless_order, epoch_order])
def test_an_order_continues_exactly_from_any_update(order):
    cases = np.arange(37)
    straight = [order(cases, 8, update, 5, "noisy").tolist() for update in range(40)]
    data_module._permutation.cache_clear()
    assert [order(cases, 8, update, 5, "noisy").tolist() for update in reversed(range(40))] == straight[::-1]


@pytest.mark.parametrize("order", [endless_order, epoch_order])
def test_an_order_depends_on_seed_stream_and_round(order):
    cases = np.arange(50)
    assert len({tuple(order(cases, 50, *rest)) for rest in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))}) == 4


def test_drawing_leaves_the_cases_as_they_were():
    cases = np.arange(9)
    endless_order(cases, 30, 2, 0, "clean")[:] = -1
    epoch_order(cases, 4, 1, 0, "noisy")[:] = -1
    assert cases.tolist() == list(range(9))
    assert min(endless_order(cases, 30, 2, 0, "clean")) == 0


@pytest.fixture
def shuffled(monkeypatch):
    """How many numbers each shuffle has put in order so far."""
    counts = []

    class Counting:
        def __init__(self, *name):
            self.real = generator(*name)

        def permutation(self, count):
            counts.append(count)
            return self.real.permutation(count)

    monkeypatch.setattr(data_module, "generator", Counting)
    data_module._permutation.cache_clear()
    return counts


@pytest.mark.parametrize("few", [1, 3, 40])
def test_no_update_shuffles_all_cases_again_however_few_the_clean_ones_are(shuffled, few):
    many, clean = np.arange(10_000), np.arange(few)
    for update in range(20):
        epoch_order(many, 16, update, 0, "noisy")
        endless_order(many, 16, update, 0, "pool")
        endless_order(clean, 40, update, 0, "clean")
    assert shuffled.count(len(many)) == 2
    assert sum(shuffled) - 2 * len(many) <= 21 * 40


def test_the_pool_is_put_together_once(tmp_path, monkeypatch):
    streams = Streams(*split(tmp_path), configured(batch_size=4), tmp_path / "cache")
    first = streams.batch("pool", 0)
    assert streams.pool.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert streams.pool is streams.pool
    assert torch.equal(streams.batch("pool", 0).images, first.images)


# Held-out cases


def clean_cases(count, group=lambda number: None):
    return CaseList.of(Case(f"{number:03}", Path("i.png"), Path("m.png"), "clean", group(number)) for number in range(count))


@pytest.mark.parametrize(
    ("count", "share", "wanted"), [(100, 0.2, 20), (50, 0.2, 10), (49, 0.2, 10), (47, 0.2, 0), (47, 0.25, 12), (9, 0.9, 0), (100, 0.0, 0)]
)
def test_as_many_are_held_out_as_the_share_says_and_none_below_10(count, share, wanted):
    cases = clean_cases(count)
    train, held = hold_out(cases, configured(val_fraction=share))
    assert len(held) == wanted
    assert sorted((*train, *held), key=lambda case: case.id) == cases
    assert not set(train) & set(held)
    assert [case.id for case in train] == sorted(case.id for case in train)


@given(st.lists(st.sampled_from(["", *"abcdefghij"]), max_size=80), st.floats(0, 0.9), st.integers(0, 50))
@examples(200)
def test_no_case_and_no_group_trains_and_chooses(groups, share, seed):
    cases = clean_cases(len(groups), lambda number: groups[number] or None)
    train, held = hold_out(cases, configured(val_fraction=share, seed=seed))
    assert sorted(case.id for case in (*train, *held)) == [case.id for case in cases]
    assert not {case.group for case in train if case.group} & {case.group for case in held if case.group}
    assert len(held) in (0, *range(MIN_HELD_OUT, round(share * len(cases)) + 1))


def test_held_out_cases_depend_on_the_seed_and_not_on_the_order_of_the_cases():
    cases = clean_cases(60, lambda number: f"patient {number // 2}")
    first, again, other = (
        {case.id for case in hold_out(given_, configured(seed=seed))[1]} for given_, seed in ((cases, 0), (cases[::-1], 0), (cases, 1))
    )
    assert len(first) == 12
    assert first == again != other


def test_nothing_is_held_out_where_whole_groups_leave_fewer_than_10():
    cases = clean_cases(64, lambda number: f"patient {number // 8}")  # 13 are wanted; of groups of 8, one fits
    assert hold_out(cases, configured()) == (cases, [])


def test_a_group_with_noisy_cases_is_not_held_out():
    cases = clean_cases(60, lambda number: f"patient {number}")
    noisy = CaseList.of(replace(case, id=f"noisy {case.id}", role="noisy") for case in cases[:40])
    train, held = hold_out(cases, configured(), noisy=noisy)
    assert len(held) == 12
    assert not {case.group for case in held} & {case.group for case in noisy}
    assert sorted(case.id for case in [*train, *held]) == [case.id for case in cases]


def test_a_group_that_is_called_as_an_ungrouped_case_is_another():
    cases = clean_cases(60, lambda number: f"{number - 30:03}" if number >= 30 else None)
    held = {case.id for case in hold_out(cases, configured())[1]}
    assert len(held) == 12
    assert any((f"{number:03}" in held) != (f"{number + 30:03}" in held) for number in range(30))


# Seeds


def test_streams_of_different_names_and_seeds_are_different():
    names = [(), ("a",), ("b",), ("ab",), ("a", "b"), ("b", "a"), ("a", 1), ("a", 2), ("a", "b", 1), ("a", 1, "b"), (1, "a")]
    drawn = {generator(seed, *name).integers(2**62) for seed in (0, 1, 2**32 - 1) for name in names}
    assert len(drawn) == 3 * len(names)


def test_streams_stay_what_they_were():
    # A change of these numbers changes every run: held-out cases, order, augmentation, simulated noise.
    assert generator(0, "held out").permutation(10).tolist() == [2, 7, 8, 6, 9, 5, 3, 0, 4, 1]
    assert generator(7, "augment", "noisy", 17).integers(0, 8, 10).tolist() == [2, 4, 3, 5, 3, 5, 0, 7, 6, 7]
    assert generator(2**32 - 1, "parameters").integers(2**31) == 1119149790


def test_a_streams_draws_move_no_other_stream():
    alone = generator(0, "b").random()
    generator(0, "a").random(1000)
    assert generator(0, "b").random() == alone
