"""What is kept of the steps is the same for ten as for a million, and says what all of them would."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pixeltrust.plumbing.errors import RunError
from pixeltrust.training.history import Reported, Steps


def step(update, **more):
    usual = {"update": update, "learning_rate": 0.1 / update, "loss": 1 / update, "clean_loss": math.nan, "all_zero": update % 3 == 0}
    return usual | more


def reported(steps, *rows):
    steps.reported += [Reported(row) for row in rows]
    steps.settle()
    return steps


def test_the_means_of_an_epoch_are_of_the_numbers_in_its_steps():
    steps, random = Steps(), np.random.default_rng(0)
    for epoch in range(2):
        rows = [step(7 * epoch + number, clean_loss=random.choice([math.nan, number]), nu=random.random()) for number in range(1, 8)]
        means, table = reported(steps, *rows).end_epoch(), pd.DataFrame(rows)
        assert list(means) == ["learning_rate", "loss", "clean_loss", "nu", "all_zero_steps"]
        assert means["learning_rate"] == rows[-1]["learning_rate"]
        assert means["all_zero_steps"] == table["all_zero"].sum()
        for name in ("loss", "clean_loss", "nu"):
            assert means[name] == pytest.approx(table[name].mean(), rel=1e-12)
    assert math.isnan(reported(steps, step(15, nu=0.0)).end_epoch()["clean_loss"])


def test_tensors_become_numbers():
    steps = reported(Steps(), step(3, loss=torch.tensor(0.25), all_zero=torch.tensor(True)))
    assert steps.rows == [steps.last.row]
    assert (steps.last.row["loss"], steps.last.row["all_zero"]) == (0.25, True)
    assert {type(value) for value in steps.last.row.values()} == {int, float, bool}
    assert (steps.idle.steps, steps.idle.longest) == (1, 1)


def test_a_step_may_leave_out_what_the_first_reported_and_bring_nothing_new():
    steps = reported(Steps(), step(1, nu=2.0), step(2))
    assert steps.columns[-1] == "nu"
    with pytest.raises(RunError, match="update 3 reports 'consistency', which the first one did not"):
        reported(steps, step(3, consistency=1.0))
    assert steps.end_epoch()["nu"] == 2.0


def test_counting_goes_on_from_what_was_packed():
    straight, stopped = Steps(), Steps()
    for update in range(1, 12):
        for steps in (straight, stopped):
            reported(steps, step(update, all_zero=update > 4))
        stopped = Steps.unpacked({"steps": stopped.pack()})
    assert stopped.pack() == straight.pack()
    assert (stopped.idle.steps, stopped.idle.longest, stopped.idle.first, stopped.idle.last) == (7, 7, 5, 11)
    for steps in (straight, stopped):
        reported(steps, step(12))
    assert stopped.end_epoch() == straight.end_epoch()
