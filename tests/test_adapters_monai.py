"""Trust in MONAI: addresses through its transforms, and SupervisedTrainer's iteration with a step of Trust in it."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from pixeltrust.method.addresses import Where, address_map
from pixeltrust.method.batch import Batch
from pixeltrust.method.losses import weighted_dice_cross_entropy
from pixeltrust.method.trust import Trust
from test_ranks import torchrun
from tiny import network

pytest.importorskip("monai", reason="MONAI is not installed")
ignite = pytest.importorskip("ignite", reason="pytorch-ignite is not installed, which MONAI's trainers need")

from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate  # noqa: E402
from monai.engines import SupervisedTrainer  # noqa: E402
from monai.engines.utils import IterationEvents  # noqa: E402
from monai.handlers import CheckpointLoader, CheckpointSaver  # noqa: E402
from monai.inferers import SimpleInferer  # noqa: E402
from monai.losses import DiceLoss  # noqa: E402
from monai.transforms import (  # noqa: E402
    Compose,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    RandSpatialCropd,
    RandZoomd,
    Spacingd,
    SpatialPadd,
)  # fmt: skip

from pixeltrust.adapters.monai import AddAddressesd, trust_update, where_of  # noqa: E402

SIZE = (6, 8)
BOTH = ("label", "addresses")


def shown(where, case):
    """What the pixels of a batch show of a case (C, *G), and 0 outside."""
    addresses = where.addresses
    return torch.where(addresses >= 0, case.flatten()[addresses.clamp(min=0)], 0)


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 24), (10, 12, 8)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("lazy", [False, True])
def test_addresses_tell_what_random_transforms_have_made_of_a_label(shape, lazy):
    label = torch.randint(1, 200, (1, *shape), generator=torch.manual_seed(0)).float()
    transforms = Compose(
        [
            AddAddressesd("label"),
            RandFlipd(BOTH, prob=1),
            RandRotate90d(BOTH, prob=1),
            RandAffined(BOTH, prob=1, rotate_range=1.0, scale_range=0.3, translate_range=3, mode="nearest", padding_mode="zeros"),
            RandZoomd(BOTH, prob=1, min_zoom=0.5, max_zoom=0.8, mode="nearest", padding_mode="constant", constant_values=0),
            SpatialPadd(BOTH, [30] * len(shape)),
            RandSpatialCropd(BOTH, [16] * len(shape), random_size=False),
        ],
        lazy=lazy,
        overrides={key: {"mode": "nearest", "padding_mode": "zeros"} for key in BOTH} if lazy else None,
    ).set_random_state(0)
    items = [transforms({"label": MetaTensor(label), "id": "a"}) for _ in range(3)]
    batch = list_data_collate(items)
    where = where_of(batch)
    assert where.ids == ("a",) * 3
    assert where.shapes == (shape,) * 3
    assert 0.05 < (where.addresses < 0).float().mean() < 0.95
    assert torch.equal(shown(where, label), batch["label"][:, 0].as_tensor())


def test_crops_of_one_case_and_cases_of_different_grids_stand_in_one_batch():
    transforms = Compose([
        AddAddressesd("label"),
        RandCropByPosNegLabeld(BOTH, label_key="label", spatial_size=SIZE, pos=1, neg=1, num_samples=2),
    ])  # fmt: skip
    labels = {"a": torch.arange(12.0 * 14).view(1, 12, 14), "b": torch.arange(9.0 * 8).view(1, 9, 8)}
    batch = list_data_collate([transforms({"label": MetaTensor(label), "id": name}) for name, label in labels.items()])
    where = where_of(batch)
    assert where.ids == ("a", "a", "b", "b")
    assert where.shapes == ((12, 14), (12, 14), (9, 8), (9, 8))
    for place, name in enumerate(where.ids):
        assert torch.equal(labels[name].flatten()[where.addresses[place]], batch["label"][place, 0].as_tensor())


def test_addresses_are_of_the_grid_where_the_transform_stands_and_know_its_place_in_the_world():
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    item = {"label": MetaTensor(torch.ones(1, 8, 10, 4), affine=affine), "id": "a"}
    spaced = Compose([Spacingd("label", pixdim=(1, 1, 1), mode="nearest"), AddAddressesd("label")])(item)
    assert tuple(spaced["addresses_shape"]) == tuple(spaced["label"].shape[1:]) == (15, 19, 10)
    assert torch.equal(spaced["addresses"].affine, spaced["label"].affine)
    given = Compose([AddAddressesd("label"), Spacingd(BOTH, pixdim=(4, 4, 3), mode="nearest")])(item)
    where = where_of(list_data_collate([given]))
    assert where.shapes == ((8, 10, 4),)
    assert where.addresses.shape[1:] == given["label"].shape[1:] == (4, 6, 4)


def test_an_inverse_brings_addresses_back():
    transforms = Compose([AddAddressesd("label"), RandFlipd(BOTH, prob=1, spatial_axis=0), RandRotate90d(BOTH, prob=1, max_k=1)])
    item = transforms({"label": MetaTensor(torch.ones(1, *SIZE)), "id": "a"})
    assert not torch.equal(where_of(list_data_collate([item])).addresses[0], address_map(SIZE))
    assert torch.equal(where_of(list_data_collate([transforms.inverse(item)])).addresses[0], address_map(SIZE))


def test_a_volume_of_more_voxels_than_float32_can_number_takes_two_channels():
    shape = (2, 2**12, 2**11 + 1)
    item = RandFlipd("addresses", prob=1, spatial_axis=2)(AddAddressesd("label")({"label": torch.zeros(1).expand(1, *shape), "id": "a"}))
    assert item["addresses"].dtype == torch.float32
    where = where_of({"id": ["a"], **{key: item[key][None] for key in ("addresses", "addresses_shape")}})
    assert torch.equal(where.addresses[0], address_map(shape).flip(2))


def test_what_is_missing_or_interpolated_is_said():
    item = AddAddressesd("label")({"label": torch.ones(1, *SIZE)})
    with pytest.raises(KeyError, match="no 'id': give every item of the noisy cases an 'id'"):
        where_of(list_data_collate([item]))
    turned = RandAffined("addresses", prob=1, rotate_range=(0.5, 0.5), mode="bilinear", padding_mode="zeros")({**item, "id": "a"})
    with pytest.raises(ValueError, match="nearest neighbour"):
        where_of(list_data_collate([turned]))
    with pytest.raises(ValueError, match="give one key"):
        AddAddressesd(["image", "label"])
    with pytest.raises(KeyError, match="nothing"):
        AddAddressesd("nothing")(item)


def test_without_ignite_the_adapter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ignite", None)
    monkeypatch.delitem(sys.modules, "pixeltrust.adapters.monai")
    with pytest.raises(ImportError, match="pip install monai pytorch-ignite"):
        import pixeltrust.adapters.monai  # noqa: F401


# --- training --------------------------------------------------------------------------------------------------------


def items(count, *, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": MetaTensor(torch.randn(3, *SIZE, generator=generator)),
            "label": MetaTensor(torch.randint(2, (1, *SIZE), generator=generator)),
            "id": f"{seed}-{number}",
        }
        for number in range(count)
    ]


NOISY = Dataset([AddAddressesd("label")(item) for item in items(8, seed=0)])
CLEAN = Dataset(items(4, seed=1))


def fresh_network():
    torch.manual_seed(0)
    return network(in_channels=3, out_channels=1, dropout=0)


def trainer(model, trust, *, clean=CLEAN, optimizer=None, noisy_size=2, settings=None, **chosen):
    chosen = {
        "max_epochs": 2,
        "loss_function": None,
        "decollate": False,
        "train_data_loader": DataLoader(NOISY, batch_size=noisy_size),
    } | chosen
    return SupervisedTrainer(
        device="cpu",
        network=model,
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        iteration_update=trust_update(trust, DataLoader(clean, batch_size=1), **(settings or {})),
        **chosen,
    )


def plain_loop(*, epochs=2, accumulated=1, size=2, clean_size=1, **settings):
    model, trust, losses = fresh_network(), Trust(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(epochs):
        for number in range(8 // size):
            (noisy,) = DataLoader(Dataset([NOISY[number * size + place] for place in range(size)]), batch_size=size)
            (clean,) = DataLoader(Dataset([CLEAN[(number * clean_size + place) % 4] for place in range(clean_size)]), batch_size=clean_size)
            step = trust.step(
                model,
                noisy=Batch(noisy["image"].as_tensor(), noisy["label"].as_tensor()),
                clean=Batch(clean["image"].as_tensor(), clean["label"].as_tensor()),
                where=Where.of(noisy["id"], SIZE),
                backward=lambda loss: (loss / accumulated).backward(),
                **settings,
            )
            losses.append(float(step.loss))
            if (number + 1) % accumulated == 0:
                optimizer.step()
                optimizer.zero_grad()
    return model, trust, losses


def assert_alike(model, trust, expected, learned, **tolerance):
    torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()), **tolerance)
    for case in learned.ids:
        torch.testing.assert_close(trust.values(case), learned.values(case))


@pytest.mark.parametrize(
    ("chosen", "settings", "loop"),
    [
        ({}, {}, {}),
        pytest.param({"loss_function": weighted_dice_cross_entropy}, {}, {"loss": weighted_dice_cross_entropy}, marks=pytest.mark.slow),
        pytest.param({"optim_set_to_none": True}, {"clean_weight": 0.5}, {"clean_weight": 0.5}, marks=pytest.mark.slow),
        ({"accumulation_steps": 2}, {}, {"accumulated": 2}),
    ],
    ids=["cross-entropy", "dice", "settings", "accumulated"],
)
def test_the_trainer_makes_the_updates_of_a_plain_loop(chosen, settings, loop):
    model, trust, losses = fresh_network(), Trust(), []
    training = trainer(model, trust, settings=settings, **chosen)
    training.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item()))
    training.run()
    expected, learned, known = plain_loop(**loop)
    assert losses == pytest.approx(known, rel=1e-5)
    assert_alike(model, trust, expected, learned, rtol=1e-5, atol=1e-6)


def test_events_and_outputs_are_those_of_the_default_iteration():
    seen = []

    def run(**chosen):
        model = fresh_network()
        training = SupervisedTrainer(
            device="cpu", max_epochs=1, train_data_loader=DataLoader(NOISY, batch_size=2), network=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1), decollate=False, **chosen,
        )  # fmt: skip
        for event in IterationEvents:
            training.add_event_handler(event, lambda engine, event: seen.append((event, sorted(engine.state.output))), event)
        training.run()
        told, output = list(seen), training.state.output
        seen.clear()
        return told, {name: tuple(value.shape) for name, value in output.items()}

    default = run(loss_function=DiceLoss(sigmoid=True))
    assert run(loss_function=None, iteration_update=trust_update(Trust(), DataLoader(CLEAN, batch_size=1))) == default
    assert len(default[0]) == 4 * 4  # forward, loss, backward, model


def test_the_inferer_is_used_and_gives_one_network_to_check(monkeypatch):
    calls = []

    class Counting(SimpleInferer):
        def __call__(self, inputs, network, *args, **kwargs):
            calls.append(type(network).__name__)
            return super().__call__(inputs, network, *args, **kwargs)

    model, trust = fresh_network(), Trust()
    trainer(model, trust, inferer=Counting()).run()
    assert set(calls) == {"Sequential"}
    checks = len(calls) - 2 * 2 * 4  # every way to the gains is held against the backward at steps 1, 2, 4 and 8 alone
    assert checks <= 4
    expected, learned, _ = plain_loop()
    assert_alike(model, trust, expected, learned, rtol=1e-5, atol=1e-6)


def test_a_stopped_training_continues_to_the_same_weights_and_trust(tmp_path):
    def parts():
        model = fresh_network()
        return {"network": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), "trust": Trust()}

    first = parts()
    saver = CheckpointSaver(str(tmp_path), first, save_final=True, final_filename="last.pt")
    trainer(first["network"], first["trust"], optimizer=first["optimizer"], max_epochs=1, train_handlers=[saver]).run()
    second = parts()
    loader = CheckpointLoader(str(tmp_path / "last.pt"), second)
    trainer(second["network"], second["trust"], optimizer=second["optimizer"], max_epochs=1, train_handlers=[loader]).run()
    expected, learned, _ = plain_loop()
    assert_alike(second["network"], second["trust"], expected, learned, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("chosen", "error", "words"),
    [
        ({"loss_function": DiceLoss()}, TypeError, "loss_function DiceLoss takes no weights"),
        ({"clean": Dataset([])}, ValueError, "clean_loader is empty"),
        (
            {"prepare_batch": lambda batch, *_, **__: (batch["image"], batch["label"], (1,), {})},
            ValueError,
            "prepare_batch must give images and labels alone",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_had_is_said(chosen, error, words, caplog):
    with pytest.raises(error, match=words):
        trainer(fresh_network(), Trust(), **chosen).run()


# --- two processes -----------------------------------------------------------------------------------------------------


def train_in_processes(out):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for accumulated in (1, 2):
        model, trust = DistributedDataParallel(fresh_network()), Trust()
        part = Dataset([NOISY[place] for place in range(8) if place // 2 % 2 == rank])
        clean = Dataset([CLEAN[place] for place in range(4) if place % 2 == rank])
        chosen = {} if accumulated == 1 else {"accumulation_steps": accumulated}
        trainer(model, trust, clean=clean, train_data_loader=DataLoader(part, batch_size=2), **chosen).run()
        torch.save({"network": model.module.state_dict(), "trust": trust.state_dict()}, Path(out) / f"{accumulated}-{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # all is written; at the end of Python a process with gloo's threads once waited for ever


@pytest.mark.slow
def test_two_processes_with_a_model_in_ddp_train_as_one_does_with_both_of_their_batches(tmp_path):
    ended = torchrun(2, __file__, tmp_path)
    assert ended.returncode == 0, ended.stderr
    for accumulated in (1, 2):
        expected, learned, _ = plain_loop(size=4, clean_size=2, accumulated=accumulated)
        for rank in range(2):
            state = torch.load(tmp_path / f"{accumulated}-{rank}.pt")
            torch.testing.assert_close(dict(state["network"]), dict(expected.state_dict()), rtol=1e-4, atol=1e-5)
            trust = Trust()
            trust.load_state_dict(state["trust"])
            for case in learned.ids:
                torch.testing.assert_close(trust.values(case), learned.values(case))


if __name__ == "__main__":
    train_in_processes(sys.argv[1])
