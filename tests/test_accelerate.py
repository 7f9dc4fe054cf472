"""Trust with Hugging Face Accelerate: its backward, accumulation, checkpoints and processes, with nothing but the recipe of the docs."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from pixeltrust.adapters.parallel import parallel_step
from pixeltrust.method.trust import Trust
from test_ranks import torchrun

accelerate = pytest.importorskip("accelerate", reason="Accelerate is not installed")
pytest.importorskip("lightning", reason="Lightning is not installed, whose tests make the cases")

from test_adapters_lightning import CLEAN, NOISY, batches, fresh_network, plain_loop, replayed  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _fresh_state():
    """What Accelerate keeps for the whole process is of one test."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def training(*, accumulated=1, **settings):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated, **settings)
    model, trust = fresh_network(), Trust()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model, optimizer, noisy, clean = accelerator.prepare(model, optimizer, DataLoader(NOISY, 2), DataLoader(CLEAN, 1))
    accelerator.register_for_checkpointing(trust)
    return accelerator, model, trust, optimizer, noisy, clean


def train(accelerator, model, trust, optimizer, noisy, clean, *, epochs=2):
    seen = []
    for _ in range(epochs):
        for batch in zip(noisy, clean, strict=True):
            parts = dict(zip(("noisy", "clean"), batch, strict=True))
            seen.append([list(part["id"]) for part in batch])
            with accelerator.accumulate(model), accelerator.autocast():
                parallel_step(trust, model, **batches(parts), backward=accelerator.backward)
                optimizer.step()
                optimizer.zero_grad()
    return seen


def assert_alike(model, trust, expected, learned, **tolerance):
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), **tolerance)
    for case in learned.ids:
        torch.testing.assert_close(trust.values(case), learned.values(case))


@pytest.mark.parametrize(
    ("settings", "loop"),
    [({}, {}), ({"accumulated": 2}, {"accumulated": 2}), ({"mixed_precision": "bf16"}, {"precision": "bf16"})],
    ids=["plain", "accumulated", "bf16"],
)
def test_accelerate_makes_the_updates_of_a_plain_loop(settings, loop):
    parts = training(**settings)
    train(*parts)
    expected, learned, _ = plain_loop(**loop)
    assert_alike(parts[1], parts[2], expected, learned, rtol=1e-5, atol=1e-6)


def test_a_stopped_training_continues_to_the_same_weights_and_trust(tmp_path):
    first = training()
    train(*first, epochs=1)
    first[0].save_state(tmp_path)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    second = training()
    second[0].load_state(tmp_path)
    train(*second, epochs=1)
    expected, learned, _ = plain_loop()
    assert_alike(second[1], second[2], expected, learned, rtol=0, atol=0)


def train_in_processes(out):
    for accumulated in (1, 2):
        parts = training(accumulated=accumulated)
        seen = train(*parts)
        state = {"network": parts[0].unwrap_model(parts[1]).state_dict(), "trust": parts[2].state_dict(), "seen": seen}
        torch.save(state, Path(out) / f"{accumulated}-{parts[0].process_index}.pt")
        accelerate.state.GradientState._reset_state()
    torch.distributed.barrier()
    os._exit(0)  # all is written; at the end of Python a process with gloo's threads once waited for ever


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_both_of_their_batches(tmp_path):
    ended = torchrun(2, __file__, tmp_path, ACCELERATE_USE_CPU="true")
    assert ended.returncode == 0, ended.stderr
    for accumulated in (1, 2):
        states = [torch.load(tmp_path / f"{accumulated}-{rank}.pt") for rank in range(2)]
        model, trust, _ = replayed([state["seen"] for state in states], accumulated)
        for state in states:
            learned = Trust()
            learned.load_state_dict(state["trust"])
            torch.testing.assert_close(state["network"], model.state_dict(), rtol=1e-4, atol=1e-5)
            assert sorted(learned.ids) == sorted(trust.ids)
            for case in trust.ids:
                torch.testing.assert_close(learned.values(case), trust.values(case))


if __name__ == "__main__":
    train_in_processes(sys.argv[1])
