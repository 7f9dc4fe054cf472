"""Every second belongs to one part."""

from contextlib import suppress

import pytest

from pixeltrust.training import history as clock_module
from pixeltrust.training.history import PARTS, Clock, time_shares


@pytest.fixture
def now(monkeypatch):
    """The time, [seconds], that the test sets."""
    time = [100.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: time[0])
    return time


def none_yet():
    return dict.fromkeys(PARTS, 0.0)


def test_what_runs_inside_a_part_is_taken_off_it(now):
    seconds = none_yet()
    clock = Clock(seconds)
    now[0] += 1
    with clock.part("step"):
        now[0] += 2
        with clock.part("batches"):
            now[0] += 4
        now[0] += 8
    now[0] += 16
    assert clock.read() == 31
    assert seconds == none_yet() | {"step": 10, "batches": 4, "other": 17}


def test_a_part_that_fails_ends_all_the_same(now):
    clock = Clock(none_yet())
    with suppress(OSError), clock.part("saving"):
        now[0] += 1
        raise OSError("full")
    now[0] += 2
    assert clock.read() == 3
    assert clock.seconds == none_yet() | {"saving": 1, "other": 2}


def test_reading_within_a_part_counts_what_there_was_so_far(now):
    clock = Clock(none_yet())
    with clock.part("saving"):
        now[0] += 3
        assert clock.read() == 3
        now[0] += 4
    assert clock.seconds["saving"] == 7


def test_a_clock_adds_to_what_earlier_sittings_took(now):
    clock = Clock(none_yet() | {"step": 5.0})
    with clock.part("step"):
        now[0] += 1
    assert clock.seconds["step"] == 6


def test_the_time_shares_are_said_in_one_line():
    told = time_shares(none_yet() | {"step": 186.0, "batches": 2.0, "optimiser": 4.0, "validation": 6.0, "saving": 2.0})
    assert told == "time: step 93 %, optimiser 2 %, batches 1 %, validation 3 %, saving 1 %, other 0 %"


def test_where_no_time_went_all_time_shares_are_0():
    assert "step 0 %" in time_shares(none_yet())
