"""Trust in Lightning: the updates of a plain loop, by its automatic and manual optimisation, stopped and resumed, in two processes."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from pixeltrust.adapters.lightning import LightningTrust
from pixeltrust.method.addresses import Where, address_map
from pixeltrust.method.batch import Batch
from pixeltrust.method.trust import Trust
from test_ranks import torchrun
from tiny import network

lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),  # of workers, loggers and devices
    pytest.mark.filterwarnings("ignore:.*treespec.*"),  # its own use of torch
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SIZE = (6, 8)


def items(count, *, seed):
    """Cases as a data set gives them, the noisy ones with their addresses."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randn(3, *SIZE, generator=generator),
            "mask": torch.randint(2, SIZE, generator=generator),
            "id": f"{seed}-{number}",
            "addresses": address_map(SIZE).flip(number % 2),
        }
        for number in range(count)
    ]


NOISY, CLEAN = items(8, seed=0), items(4, seed=1)


def loaders(noisy_size=2, clean_size=1):
    return {"noisy": DataLoader(NOISY, noisy_size), "clean": DataLoader(CLEAN, clean_size)}


def batches(batch):
    noisy, clean = batch["noisy"], batch["clean"]
    return {
        "noisy": Batch(noisy["image"], noisy["mask"]),
        "clean": Batch(clean["image"], clean["mask"]),
        "where": Where(noisy["id"], noisy["addresses"]),
    }


def fresh_network():
    torch.manual_seed(0)
    return network(in_channels=3, out_channels=1, dropout=0)


class Lesions(lightning.LightningModule):
    def __init__(self, manual=False):
        super().__init__()
        self.network, self.trust = fresh_network(), LightningTrust()
        self.automatic_optimization = not manual
        self.losses, self.seen = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append([list(batch[stream]["id"]) for stream in ("noisy", "clean")])
        if self.automatic_optimization:
            step = self.trust.step(self.network, **batches(batch))
            self.log("loss", step.loss)
        else:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            step = self.trust.step(self.network, **batches(batch), backward=self.manual_backward)
            optimizer.step()
        self.losses.append(float(step.loss))
        return step.total

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.parameters(), lr=0.5, momentum=0.9)


def trainer(folder, **settings):
    chosen = {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False} | settings
    return lightning.Trainer(default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False, **chosen)


def plain_loop(*, epochs=2, accumulated=1, precision=None):
    """The same by hand: (network, trust, losses)."""
    return by_hand((zip(*loaders().values(), strict=True) for _ in range(epochs)), accumulated, precision)


def by_hand(epochs, accumulated, precision=None):
    """Train on epochs of (noisy, clean) batches: (network, trust, losses)."""
    model, trust, losses = fresh_network(), Trust(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for pairs in epochs:
        for number, (noisy, clean) in enumerate(pairs):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                step = trust.step(model, **batches({"noisy": noisy, "clean": clean}), backward=lambda loss: (loss / accumulated).backward())
            losses.append(float(step.loss))
            if (number + 1) % accumulated == 0:
                optimizer.step()
                optimizer.zero_grad()
    return model, trust, losses


def assert_alike(module, model, trust, **tolerance):
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(module.network.state_dict()[name], expected, **tolerance)
    assert module.trust.ids == trust.ids
    for case in trust.ids:
        torch.testing.assert_close(module.trust.values(case), trust.values(case))


@pytest.mark.parametrize(
    ("manual", "settings", "loop"),
    [
        (False, {}, {}),
        (True, {}, {}),
        (False, {"accumulate_grad_batches": 2}, {"accumulated": 2}),
        (False, {"precision": "bf16-mixed"}, {"precision": "bf16"}),
    ],
    ids=["automatic", "manual", "accumulated", "bf16"],
)
def test_lightning_makes_the_updates_of_a_plain_loop(tmp_path, manual, settings, loop):
    module = Lesions(manual)
    trainer(tmp_path, **settings).fit(module, loaders())
    model, trust, losses = plain_loop(**loop)
    assert module.losses == pytest.approx(losses, rel=1e-5)
    assert_alike(module, model, trust, rtol=1e-5, atol=1e-6)


def test_a_stopped_training_continues_to_the_same_weights_and_trust(tmp_path):
    first = trainer(tmp_path, max_epochs=1)
    first.fit(Lesions(), loaders())
    first.save_checkpoint(tmp_path / "last.ckpt")
    module = Lesions()
    trainer(tmp_path).fit(module, loaders(), ckpt_path=tmp_path / "last.ckpt")
    model, trust, _ = plain_loop()
    assert_alike(module, model, trust, rtol=0, atol=0)


def test_the_shorter_loader_starts_over(tmp_path):
    module = Lesions()
    trainer(tmp_path, max_epochs=1).fit(module, loaders(noisy_size=1))
    assert len(module.losses) == 8
    assert len(module.trust.ids) == 8


def test_clipping_sees_the_whole_gradient(tmp_path):
    module = Lesions()
    trainer(tmp_path, max_epochs=1, limit_train_batches=1, gradient_clip_val=1e-9).fit(module, loaders())
    before = fresh_network().state_dict()
    assert all(torch.allclose(value, before[name], atol=1e-8) for name, value in module.network.state_dict().items())


def test_several_processes_whose_gradients_nothing_joins_are_refused(monkeypatch):
    from pixeltrust.adapters import parallel
    from pixeltrust.plumbing.processes import Ranks

    monkeypatch.setattr(parallel, "current_ranks", lambda: Ranks(0, 2))
    batch = {name: next(iter(loader)) for name, loader in loaders().items()}
    with pytest.raises(ValueError, match="2 processes, but Sequential is not in DistributedDataParallel"):
        LightningTrust().step(fresh_network(), **batches(batch))


# --- two processes -------------------------------------------------------------------------------------------------


def train_in_processes(out):
    """Train under Lightning's own DDP; every process has half of each batch, and the first writes what came out."""
    for manual, accumulated in ((False, 1), (False, 2), (True, 1)):
        module = Lesions(manual)
        settings = {} if accumulated == 1 else {"accumulate_grad_batches": accumulated}
        fitted = trainer(out, devices=2, strategy="ddp", **settings)
        fitted.fit(module, {"noisy": DataLoader(NOISY, 2), "clean": DataLoader(CLEAN, 1)})
        state = {"network": module.network.state_dict(), "trust": module.trust.state_dict(), "losses": module.losses, "seen": module.seen}
        torch.save(state, Path(out) / f"{manual}-{accumulated}-{fitted.global_rank}.pt")


@pytest.fixture(scope="module")
def in_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("processes")
    ended = torchrun(2, __file__, out)
    assert ended.returncode == 0, ended.stderr
    return out


def replayed(seen, accumulated):
    """Train one process with the batches that several have seen, joined: (network, trust, losses)."""
    items_of = {item["id"]: item for item in NOISY + CLEAN}

    def joined(stream):
        return next(iter(DataLoader([items_of[case] for part in stream for case in part], 4)))

    return by_hand([[map(joined, zip(*parts, strict=True)) for parts in zip(*seen, strict=True)]], accumulated)


@pytest.mark.slow
@pytest.mark.parametrize(("manual", "accumulated"), [(False, 1), (False, 2), (True, 1)])
def test_two_processes_train_as_one_does_with_both_of_their_batches(in_processes, manual, accumulated):
    states = [torch.load(in_processes / f"{manual}-{accumulated}-{rank}.pt") for rank in range(2)]
    model, trust, losses = replayed([state["seen"] for state in states], accumulated)
    for state in states:
        assert state["losses"] == pytest.approx(losses, rel=1e-4)
        torch.testing.assert_close(state["network"], copy.deepcopy(model.state_dict()), rtol=1e-4, atol=1e-5)
        learned = Trust()
        learned.load_state_dict(state["trust"])
        for case in trust.ids:
            torch.testing.assert_close(learned.values(case), trust.values(case))


if __name__ == "__main__":
    train_in_processes(sys.argv[1])
