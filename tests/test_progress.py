"""Many files at once: in order, every fault kept, and nothing left running."""

import threading

import pytest

from pixeltrust.plumbing import progress
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.progress import AHEAD, THREADS, Bar, attempt_in_threads, map_in_threads, progress_bar
from waiting import TOO_LONG, wait_for


def square(number):
    return number * number


def odd_is_wrong(number):
    if number % 2:
        raise DataError(f"{number} is odd")
    return number


def test_results_come_in_the_order_of_the_items():
    second = threading.Event()

    def first_ends_late(number):
        if number == 1:
            second.set()
        assert number > 0 or THREADS == 1 or second.wait(TOO_LONG)
        return number * number

    assert list(attempt_in_threads(first_ends_late, range(20), text="squares", shown=False)) == [(n, n * n) for n in range(20)]


def test_no_items_are_no_results():
    assert list(attempt_in_threads(abs, [], text="nothing", shown=False)) == []


def test_the_work_is_shared_by_several_threads():
    together = threading.Barrier(THREADS, timeout=TOO_LONG)  # passed only when so many wait at once
    assert len(list(attempt_in_threads(lambda _: together.wait(), range(THREADS), text="waiting", shown=False))) == THREADS


def test_an_error_of_the_users_takes_the_place_of_the_result():
    outcomes = [outcome for _, outcome in attempt_in_threads(odd_is_wrong, range(4), text="looking", shown=False)]
    assert [str(outcome) for outcome in outcomes] == ["0", "1 is odd", "2", "3 is odd"]
    assert isinstance(outcomes[1], DataError)


def test_an_error_of_our_own_ends_the_work():
    started = []

    def fails(number):
        started.append(number)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(attempt_in_threads(fails, range(1000), text="failing", shown=False))
    assert len(started) <= AHEAD


def test_work_that_is_no_longer_wanted_is_not_begun():
    started = []

    def work(number):
        started.append(number)

    before = threading.active_count()
    outcomes = attempt_in_threads(work, range(1000), text="working", shown=False)
    next(outcomes)
    outcomes.close()
    assert len(started) <= AHEAD
    assert threading.active_count() == before


def test_work_is_not_begun_long_before_its_turn():
    begun = []
    outcomes = attempt_in_threads(begun.append, range(1000), text="working", shown=False)
    next(outcomes)
    wait_for(lambda: len(begun) >= AHEAD)
    assert len(begun) == AHEAD
    assert len(list(outcomes)) == 999
    assert sorted(begun) == list(range(1000))


def test_all_results_or_the_faults_of_all():
    assert map_in_threads(square, range(3), text="squares", complaint="wrong", shown=False) == [0, 1, 4]
    with pytest.raises(DataError) as caught:
        map_in_threads(odd_is_wrong, range(4), text="looking", complaint="2 are odd", shown=False)
    assert caught.value.faults == ["1 is odd", "3 is odd"]
    assert str(caught.value) == "2 are odd\n  1 is odd\n  3 is odd"


def test_a_list_of_faults_is_not_nested():
    def work(number):
        raise DataError("several", ["a", "b"]) if number else RunError("one")

    with pytest.raises(DataError) as caught:
        map_in_threads(work, range(2), text="looking", complaint="wrong", shown=False)
    assert caught.value.faults == ["one", "a", "b"]


@pytest.mark.parametrize("shown", [True, False])
def test_nothing_of_the_bar_goes_to_standard_output(capsys, shown):
    list(attempt_in_threads(square, range(3), text="squares", shown=shown))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert shown or captured.err == ""


def test_a_bar_says_what_how_many_how_fast_and_its_note(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with progress_bar() as bar:
        task = bar.add_task("training", total=10, note="epoch 1/2 [loss 0.5]")
        bar.update(task, completed=3)
        bar.console.width = 160
        with bar.console.capture() as captured:
            bar.console.print(bar.get_renderable())
    for part in ("training", "3/10", "epoch 1/2 [loss 0.5]"):
        assert part in captured.get()


@pytest.mark.parametrize("shown", [True, False])
def test_without_a_terminal_lines_say_how_far_a_work_is_and_how_long_it_will_take(monkeypatch, shown):
    told = []
    monkeypatch.setattr(progress, "LINE_EVERY", 0.001)
    monkeypatch.setattr(progress, "print", lambda text, **_: told.append(text), raising=False)
    before = threading.active_count()
    with progress_bar(shown) as bar:
        task = bar.add_task("training", total=10, completed=2, note="epoch 1/2")
        if shown:
            wait_for(lambda: "training: 2 of 10, epoch 1/2" in told)
        bar.update(task, completed=4)
        bar.tasks[0].start_time -= 80.0  # 2 took 80 seconds, so the other 6 will take 4 minutes
        if shown:
            wait_for(lambda: "training: 4 of 10, 4 minutes left, epoch 1/2" in told)
    wait_for(lambda: threading.active_count() == before)
    assert shown == bool(told)


def test_the_first_step_of_many_says_nothing_of_the_time_left():
    with progress_bar(False) as bar:
        bar.add_task("training", total=1000)
        for done, known in ((1, False), (9, False), (10, True)):
            bar.update(bar.tasks[0].id, completed=done)
            bar.tasks[0].start_time -= 60.0
            assert bool(progress._left(bar.tasks[0])) == known


def test_a_work_that_ctrl_c_ends_says_how_far_it_was(monkeypatch):
    monkeypatch.setattr(Bar, "stopped", [])

    def work():
        with progress_bar(False) as outer, progress_bar(False) as inner:
            outer.add_task("mending", total=4, completed=1)
            inner.advance(inner.add_task("training", total=1000, completed=250))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert Bar.stopped == ["training 251/1,000", "mending 1/4"]
