"""Batches are made ahead in the background, and are the same as if they were not."""

import threading

import pytest
import torch

from pixeltrust.data.prefetch import Prefetcher
from pixeltrust.method.weights import Batch
from pixeltrust.plumbing.errors import DataError
from waiting import TOO_LONG


class Making:
    """Makes batches that tell their stream and update apart, and notes who asked for what."""

    def __init__(self, faulty=()):
        self.faulty, self.made, self.threads = faulty, [], {}

    def __call__(self, stream, update):
        self.threads[stream, update] = threading.current_thread()
        self.made.append((stream, update))
        if (stream, update) in self.faulty:
            raise DataError("1 of 4 cases cannot be used", [f"{stream} {update}"])
        return made(stream, update)


def made(stream, update):
    return Batch(torch.full((1, 1, 2, 2), float(update)), torch.full((1, 2, 2), len(stream)))


def same(one, other):
    return torch.equal(one.images, other.images) and torch.equal(one.masks, other.masks)


def test_what_is_asked_for_is_made_for_the_next_update_while_the_step_runs():
    begun, step_ran = threading.Event(), threading.Event()

    def make(stream, update):
        if update == 1:
            begun.set()
            assert step_ran.wait(TOO_LONG)
        return made(stream, update)

    with Prefetcher(make, 9) as ahead:
        ahead.batch("noisy", 0)
        assert begun.wait(TOO_LONG)  # nobody has asked for it yet
        step_ran.set()
        assert same(ahead.batch("noisy", 1), made("noisy", 1))


def test_one_thread_makes_every_batch_but_the_first_of_a_stream():
    making = Making()
    with Prefetcher(making, 5) as ahead:
        for update in range(5):
            for stream in ("noisy", "clean"):
                assert same(ahead.batch(stream, update), made(stream, update))
    assert sorted(making.made) == sorted((stream, update) for stream in ("noisy", "clean") for update in range(5))
    assert {making.threads[stream, 0] for stream in ("noisy", "clean")} == {threading.current_thread()}
    assert len({making.threads[stream, update] for stream in ("noisy", "clean") for update in range(1, 5)}) == 1
    assert threading.current_thread() not in {making.threads["noisy", update] for update in range(1, 5)}


@pytest.mark.parametrize("asked", [[0, 0, 1, 1], [0, 3, 7], [5, 2, 3], [8, 8]])
def test_what_was_not_foreseen_is_made_when_asked_for(asked):
    with Prefetcher(Making(), 9) as ahead:
        assert all(same(ahead.batch("pool", update), made("pool", update)) for update in asked)


def test_nothing_is_made_beyond_the_last_update():
    making = Making()
    with Prefetcher(making, 3) as ahead:
        for update in range(3):
            ahead.batch("noisy", update)
    assert making.made == [("noisy", 0), ("noisy", 1), ("noisy", 2)]


def test_a_fault_surfaces_where_the_batch_is_asked_for():
    with Prefetcher(Making(faulty=[("noisy", 1)]), 5) as ahead:
        ahead.batch("noisy", 0)
        ahead.batch("clean", 0)
        with pytest.raises(DataError, match="1 of 4 cases") as caught:
            ahead.batch("noisy", 1)
        assert caught.value.faults == ["noisy 1"]


def test_a_fault_in_a_batch_that_nobody_asks_for_is_not_raised():
    with Prefetcher(Making(faulty=[("noisy", 1)]), 5) as ahead:
        ahead.batch("noisy", 0)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, DataError])
def test_no_thread_is_left_behind(error):
    before = threading.active_count()
    try:
        with Prefetcher(Making(), 5) as ahead:
            ahead.batch("noisy", 0)
            ahead.batch("clean", 0)
            if error:
                raise error("stop")
    except (KeyboardInterrupt, DataError):
        pass
    assert threading.active_count() == before
