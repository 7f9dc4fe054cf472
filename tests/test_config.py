"""Settings are checked when they are made, and the file saved with a run is the file that repeats it."""

import ast
import dataclasses
import inspect
import typing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from pixeltrust import config as config_module
from pixeltrust.config import Config, config_from, read_config, to_toml
from pixeltrust.method_table import METHODS
from pixeltrust.plumbing.errors import ConfigError

NAMES = [field.name for field in dataclasses.fields(Config)]
DEFAULTS = dataclasses.asdict(Config())

sides = st.integers(16, 4096)
shares = st.floats(0, 1)
positive = st.floats(0, 1e300)
counts = st.integers(1, 64)  # of the largest sides a batch of 64 has as many pixels as one may
LITERALS = {
    name: (*typing.get_args(part), *([None] if type(None) in typing.get_args(kind) else []))
    for name, kind in typing.get_type_hints(Config).items()
    for part in (kind, *typing.get_args(kind))
    if typing.get_origin(part) is typing.Literal
} | {"method": tuple(METHODS)}
VALUES = {
    "model": st.text(),
    "classes": st.integers(1, 254),
    "ignore_label": st.none() | st.integers(0, 255),
    "channels": st.sampled_from([1, 3]),
    "image_size": sides | st.tuples(sides, sides) | st.tuples(*[st.integers(4, 128)] * 3),
    "spacing": st.none() | st.tuples(*[st.floats(1e-3, 100)] * 3),
    "normalise": st.sampled_from(["image", "ct:-160,240", ("image", "ct:0.5,1e3")]),
    "batch_size": counts,
    "clean_batch_size": counts,
    "clean_weight": st.none() | positive,
    "trust_memory": st.none() | shares,
    "trust_sharpness": st.floats(0, 100),
    "along": st.text(),
    "finetune_share": shares,
    "epochs": st.integers(1, 10**9),
    "updates_per_epoch": st.none() | st.integers(1, 10**9),
    "given_dropped": shares,
    "colour_jitter": shares,
    "grey_share": shares,
    "crop_around_given": st.none() | positive,
    "coarse_share": shares,
    "stronger_below": shares,
    "learning_rate": st.floats(1e-300, 1e300),
    "momentum": shares,
    "weight_decay": positive,
    "seed": st.integers(0, 2**32 - 1),
    "val_fraction": st.floats(0, 0.9),
    "cache_gib": positive | st.just(float("inf")),
    "checkpoint_minutes": positive | st.just(float("inf")),
    "weight_map_cases": st.integers(0, 64),
} | {name: st.sampled_from(choices) for name, choices in LITERALS.items()}
valid = st.fixed_dictionaries({}, optional=VALUES)


def refused(act, *words):
    with pytest.raises(ConfigError) as caught:
        act()
    for word in words:
        assert str(word) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_values_above_are_those_of_every_setting():
    assert set(VALUES) == set(NAMES)


@given(valid)
@examples(200)
def test_the_saved_file_is_the_file_that_repeats(tmp_path_factory, values):
    file = tmp_path_factory.getbasetemp() / "round-trip.toml"
    config = Config(**values)
    file.write_text(to_toml(config), encoding="utf-8")
    assert read_config(file) == config
    assert to_toml(read_config(file)) == to_toml(config)


@given(valid)
@examples(50)
def test_settings_are_kept_as_given(values):
    config = Config(**values)
    assert {name: getattr(config, name) for name in values} == values
    assert dataclasses.asdict(config) == DEFAULTS | values


def test_settings_override_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("epochs = 3\nseed = 4\n")
    config = read_config(file, ["epochs=5", "epochs = 6"])
    assert (config.epochs, config.seed, config.batch_size) == (6, 4, DEFAULTS["batch_size"])
    assert read_config() == Config()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("method=plain", "method", "plain"),
        ("model=unet-small", "model", "unet-small"),
        ("model=my.package:network", "model", "my.package:network"),
        ('model="quoted=1"', "model", "quoted=1"),
        ("model=a=b", "model", "a=b"),
        ("precision=32", "precision", "32"),
        ("channels=1", "channels", 1),
        ("image_size=64", "image_size", 64),
        ("image_size=[64, 80]", "image_size", (64, 80)),
        ("image_size=[32, 64, 80]", "image_size", (32, 64, 80)),
        ("spacing=[5, 0.5, 0.5]", "spacing", (5.0, 0.5, 0.5)),
        ("normalise=ct:-160,240", "normalise", "ct:-160,240"),
        ('normalise=["image", "ct:0,80"]', "normalise", ("image", "ct:0,80")),
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        ("clean_weight=1", "clean_weight", 1.0),
        ("cache_gib=inf", "cache_gib", float("inf")),
        (" seed = 1_000 ", "seed", 1000),
    ],
)
def test_set_takes_toml_and_bare_words(text, name, value):
    found = getattr(read_config(settings=[text]), name)
    assert found == value
    assert type(found) is type(value)


def test_a_size_of_one_number_is_a_square():
    assert Config(image_size=48).size == (48, 48)
    assert Config(image_size=(48, 64)).size == (48, 64)
    assert Config(image_size=[48, 64]).image_size == (48, 64)
    assert Config(image_size=[8, 48, 64]).size == (8, 48, 64)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_from_windows_is_read(tmp_path, newline, encoding):
    file = tmp_path / "c.toml"
    file.write_bytes(newline.join(['model = "ä:b"', "epochs = 3", ""]).encode(encoding))
    assert read_config(file) == Config(model="ä:b", epochs=3)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("epoch", "epochs"), ("lerning_rate", "learning_rate"), ("Method", "method"), ("clean_batchsize", "clean_batch_size")],
)
def test_an_unknown_setting_names_the_nearest(wrong, near):
    refused(lambda: config_from({wrong: 1}), repr(wrong), f"did you mean {near!r}?")


def test_a_setting_like_no_other_lists_the_known_ones():
    refused(lambda: config_from({"xyzzy": 1}), "'xyzzy'", *NAMES)


def test_an_unknown_setting_is_laid_to_where_it_stands(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("epochs = 3\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file, ["sede=3"])
    assert str(file) not in str(caught.value)
    file.write_text("sede = 3\n")
    refused(lambda: read_config(file), file, "'sede'", "'seed'")


WRONG_TYPES = {
    "a whole number": (1.0, "1", True, [1], {}),
    "a number": ("1", True, [1.0], float("nan")),
    "a text": (1, True, ["unet"]),
    "[height, width]": ("64", 64.0, [64], [64, 64, 64, 64], [64.0, 64], [True, 64], True),
    "three numbers": ("1", 1.0, [1, 1], [1, 1, 1, 1], ["1", 1, 1], [True, 1, 1], []),
    "a list of texts": (1, True, [], ["image", 1], {}),
    "one of": ("no such choice", 7, True, [], 1.5),
}


def wording(name):
    kind = typing.get_type_hints(Config)[name]
    if name in LITERALS:
        return "one of"
    words = {int: "a whole number", float: "a number", str: "a text", int | None: "a whole number", float | None: "a number"}
    words |= {tuple[float, float, float] | None: "three numbers", str | tuple[str, ...]: "a list of texts"}
    return words.get(kind, "[height, width]")


@pytest.mark.parametrize("name", NAMES)
def test_a_value_of_the_wrong_type_is_refused_by_every_setting(name):
    for value in WRONG_TYPES[wording(name)]:
        refused(lambda value=value: Config(**{name: value}), f"{name} must be", wording(name), repr(value))
    if type(None) not in typing.get_args(typing.get_type_hints(Config)[name]):
        refused(lambda: Config(**{name: None}), name, "None")


def test_a_wrong_choice_names_the_choices_and_the_nearest():
    refused(lambda: Config(method="pixels"), "plain, clean, joint, finetuned", "'pixels'", "did you mean 'pixel'?")


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("classes", 1, 254),
        ("ignore_label", 0, 255),
        ("image_size", 16, None),
        ("batch_size", 1, None),
        ("clean_batch_size", 1, None),
        ("clean_weight", 0.0, 1e308),
        ("epochs", 1, 10**9),
        ("learning_rate", 5e-324, 1e308),
        ("momentum", 0.0, 1.0),
        ("weight_decay", 0.0, 1e308),
        ("seed", 0, 2**32 - 1),
        ("val_fraction", 0.0, 0.9),
        ("cache_gib", 0.0, float("inf")),
        ("checkpoint_minutes", 0.0, float("inf")),
        ("weight_map_cases", 0, 64),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_limits_are_not(name, lowest, highest):
    step = 1 if isinstance(lowest, int) else 1e-9
    assert getattr(Config(**{name: lowest}), name) == lowest
    refused(lambda: Config(**{name: lowest - step}), f"{name} must be", repr(lowest - step))
    if highest is not None:
        assert getattr(Config(**{name: highest}), name) == highest
        beyond = highest + step if highest < 1e300 else float("inf")
        if highest != float("inf"):
            refused(lambda: Config(**{name: beyond}), f"{name} must be", repr(beyond))


@pytest.mark.parametrize("size", [(64, 15), (15, 64), (64, 16385), 16385, 10**10])
def test_both_sides_of_the_size_have_the_limits(size):
    refused(lambda: Config(image_size=size), "image_size must be 16 to 16384", size)
    assert Config(image_size=(16, 16384)).size == (16, 16384)


@pytest.mark.parametrize("name", ["batch_size", "clean_batch_size"])
def test_a_batch_has_no_more_pixels_than_memory_could_hold(name):
    rest = {"batch_size": 1, "clean_batch_size": 1, "image_size": (8192, 16384)}
    assert getattr(Config(**rest | {name: 8}), name) == 8
    refused(lambda: Config(**rest | {name: 9}), f"{name} = 9 and image_size = (8192, 16384): 1,207,959,552 pixels in a batch")
    refused(lambda: Config(**{name: 10**400}), f"{name} must be 1 to 1000000000")


@pytest.mark.parametrize("settings", [{"method": "a" * 10**6}, {"b" * 10**6: 1}, {"epochs": "c" * 10**6}, {"epochs": 10**4000}])
def test_a_value_without_end_is_refused_in_a_line_that_can_be_read(settings):
    with pytest.raises(ConfigError) as caught:
        config_from(settings)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["epochs", "epochs:3", ""])
def test_set_without_an_equals_sign_is_told_its_form(text):
    refused(lambda: read_config(settings=[text]), "key=value")


def test_a_value_that_is_missing_is_no_value():
    refused(lambda: read_config(settings=["epochs="]), "epochs must be a whole number", "''")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    refused(lambda: read_config(tmp_path / "gone.toml"), tmp_path / "gone.toml", "No such file")
    file = tmp_path / "c.toml"
    file.write_text("epochs = \n")
    refused(lambda: read_config(file), file, "not valid TOML")
    file.write_bytes(b'model = "\xff"')
    refused(lambda: read_config(file), file, "cannot be read")
    file.write_text("[training]\nepochs = 3\n")
    refused(lambda: read_config(file), file, "'training'")


def test_settings_cannot_be_changed_once_made():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3


def test_every_setting_says_in_a_docstring_what_it_is():
    body = ast.parse(inspect.getsource(config_module.Config)).body[0].body
    documented = [
        field.target.id
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value.value, str)
    ]
    assert documented == NAMES
