"""Networks by name: what is built, what is refused and in which words."""

import pytest
import torch
from torch import nn

from pixeltrust.plumbing.errors import ConfigError
from pixeltrust.training.models import WIDTHS, build_model, parameters_along, trains_on_one, try_out


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize(("channels", "classes"), [(1, 3), (3, 1)])
def test_every_name_builds_a_network_from_images_to_logits(name, channels, classes):
    model = build_model(name, channels=channels, classes=classes).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, channels, 32, 48)).shape == (1, classes, 32, 48)


def test_a_patch_that_our_networks_cannot_halve_is_refused_with_the_least_side():
    model = build_model("unet-tiny", channels=1, classes=1, axes=3)
    with pytest.raises(ConfigError, match=r"images \(B, 1, 24, 24, 8\) fails: .*; our networks need sides of 16 or more"):
        try_out(model, channels=1, classes=1, size=(24, 24, 8))
    try_out(model, channels=1, classes=1, size=(16, 16, 16))


def test_the_paper_s_network_has_31_million_parameters_and_the_small_one_2():
    assert count(build_model("unet", channels=3, classes=1)) == pytest.approx(31e6, rel=0.03)
    assert count(build_model("unet-small", channels=3, classes=1)) == pytest.approx(2e6, rel=0.05)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_networks_have_no_batch_statistics_and_no_dropout(name):
    model = build_model(name, channels=1, classes=1)
    assert not list(model.buffers())
    assert not any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    assert {module.num_groups for module in model.modules() if isinstance(module, nn.GroupNorm)} == {4 if name == "unet-tiny" else 8}


def test_the_same_seed_builds_the_same_network():
    models = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(torch.cat([p.detach().flatten() for p in build_model("unet-small", channels=1, classes=1).parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_an_unknown_name_is_answered_with_the_nearest_and_the_known_ones():
    known = "known: unet, unet-small, unet-tiny, or package.module:function"
    with pytest.raises(ConfigError, match=rf"model = 'unet-smal' is not known \(did you mean 'unet-small'\?\); {known}"):
        build_model("unet-smal", channels=1, classes=1)
    with pytest.raises(ConfigError, match=f"model = 'transformer' is not known; {known}"):
        build_model("transformer", channels=1, classes=1)


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n\n"
        "def tiny(in_channels, out_channels):\n    return nn.Conv2d(in_channels, out_channels, 1)\n\n"
        "def words(in_channels, out_channels):\n    return 'a network'\n\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_networks"


def test_a_function_of_the_user_s_is_called_with_the_channels(users_module):
    model = build_model(f"{users_module}:tiny", channels=3, classes=5)
    assert isinstance(model, nn.Conv2d)
    assert (model.in_channels, model.out_channels) == (3, 5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package:f", "cannot be loaded: No module named 'no_such_package'"),
        ("my_networks:huge", "cannot be loaded: module 'my_networks' has no attribute 'huge'"),
        ("my_networks:words", "returned a str, not an nn.Module"),
        ("my_networks:number", "is of type int, not a function"),
        ("my_networks:", "cannot be loaded"),
        (":tiny", "cannot be loaded"),
        (".my_networks:tiny", "cannot be loaded"),
    ],
)
def test_a_wrong_function_is_a_config_error_that_names_it(users_module, name, said):
    with pytest.raises(ConfigError) as error:
        build_model(name, channels=1, classes=1)
    assert said in str(error.value)
    assert repr(name) in str(error.value)


def test_the_parameters_of_named_parts_whatever_wraps_the_network():
    network = build_model("unet-small", channels=1, classes=1)
    chosen = {id(p) for name, p in network.named_parameters() if name.startswith(("upcat_", "final_conv"))}
    assert len(chosen) > 10
    for model in (network, nn.Sequential(network)):
        assert {id(p) for p in parameters_along(model, "upcat_, final_conv")} == chosen
        assert parameters_along(model, "") is None


def test_a_part_that_is_not_in_the_network_is_an_error_that_names_those_that_are():
    with pytest.raises(ConfigError, match=r"along = 'final_conv,decoder'.*'decoder'; the network's parts: conv_0, down_1, .*final_conv"):
        parameters_along(build_model("unet-small", channels=1, classes=1), "final_conv,decoder")


def test_an_image_that_memory_cannot_hold_is_a_config_error():
    with pytest.raises(ConfigError, match=r"images \(B, 3, 10000000, 10000000\) fails: "):
        try_out(build_model("tiny:network", channels=3, classes=1), channels=3, classes=1, size=(10**7, 10**7))


def test_a_network_that_cannot_be_trained_on_one_image_says_so_and_stays_as_it_was():
    for name, wrong in (("tiny:pooling", True), ("tiny:with_batch_norm", False), ("tiny:network", False), ("unet-small", False)):
        model = build_model(name, channels=3, classes=1).eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random = torch.get_rng_state()
        said = trains_on_one(model, channels=3, size=(16, 16))
        assert ("more than 1 value per channel" in said) if wrong else (said == "")
        assert not model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), random)
