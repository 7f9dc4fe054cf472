"""The commands on bad input: one clear line or list on standard error, exit code 2, no traceback, nothing half-written."""

import ast
import dataclasses
import importlib
import os
import pkgutil
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import pixeltrust
from pixeltrust.cli import app
from pixeltrust.cli.app import ORDER
from pixeltrust.cli.options import GUIDE
from pixeltrust.config import HEADINGS, Config, describe_settings, show_default
from pixeltrust.noise.kinds import KINDS
from pixeltrust.plumbing.progress import Bar, progress_bar

TINY = ["--set", "model=unet-small", "--set", "image_size=16", "--set", "epochs=1", "--quiet"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A sound data folder: 6 noisy, 3 clean, 2 test cases of 24x20 pixels."""
    folder = tmp_path / "données à moitié sûres"
    random = np.random.default_rng(0)
    for number, role in enumerate(["noisy"] * 6 + ["clean"] * 3 + ["test"] * 2):
        for name in ("images", role):
            (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / "images" / f"é{number}.jpg")
        mask = np.zeros((20, 24), np.uint8)
        mask[5:15, 6:18] = 255
        Image.fromarray(mask).save(folder / role / f"é{number}.png")
    return folder


def missing_folder(data: Path) -> str:
    data.rename(data.with_name("elsewhere"))
    return "there is no such file or folder"


def unpaired_files(data: Path) -> str:
    (data / "images" / "é0.jpg").unlink()
    (data / "images" / "é7.jpg").unlink()
    return "é0.png: a mask without an image"


def truncated_jpeg(data: Path) -> str:
    image = data / "images" / "é1.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    return "é1.jpg"


def mask_of_another_size(data: Path) -> str:
    Image.fromarray(np.zeros((20, 23), np.uint8)).save(data / "noisy" / "é2.png")
    return "é2.png: 23x20 pixels"


def mask_with_17_values(data: Path) -> str:
    Image.fromarray((np.arange(480) % 17 * 15).astype(np.uint8).reshape(20, 24)).save(data / "noisy" / "é3.png")
    return "17 values"


def test_case_that_also_trains(data: Path) -> str:
    (data / "clean" / "é9.png").write_bytes((data / "test" / "é9.png").read_bytes())
    return "a test case that also trains"


test_case_that_also_trains.__test__ = False  # a fault, not a test


def zero_clean_masks(data: Path) -> str:
    for mask in (data / "clean").iterdir():
        mask.unlink()
    return "no usable clean mask"


FAULTS = [
    missing_folder,
    unpaired_files,
    truncated_jpeg,
    mask_of_another_size,
    mask_with_17_values,
    test_case_that_also_trains,
    zero_clean_masks,
]


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_data_folder_is_named_and_nothing_is_written(fault, command, data, tmp_path, run_command):
    said = fault(data)
    code, _, error = run_command(command, data, *(["--out", tmp_path / "run", *TINY] if command == "train" else []))
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_all_faults_come_in_one_list(data, run_command):
    faults = (unpaired_files, truncated_jpeg, mask_of_another_size, mask_with_17_values, test_case_that_also_trains)
    said = [fault(data) for fault in faults]
    _, _, error = run_command("check", data)
    assert all(text in error for text in said)


def test_a_sound_folder_is_described(data, run_command):
    code, output, error = run_command("check", data, "--quiet")
    assert (code, error) == (0, "")
    assert "no faults; 6 noisy, 3 clean, 2 test cases" in output


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lerning_rate=1", "did you mean 'learning_rate'?"),
        ("method=pixle", "did you mean 'pixel'?"),
        ("model=unet-smal", "did you mean 'unet-small'?"),
        ("epochs=many", "epochs must be a whole number, not 'many'"),
        ("epochs", "write it as key=value"),
        ("device=cuda", "device = 'auto' or 'cpu'"),
    ],
)
def test_a_bad_setting_is_named_before_anything_is_written(setting, said, data, tmp_path, run_command):
    code, _, error = run_command("train", data, "--out", tmp_path / "run", *TINY, "--set", setting)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("two_logits", "needs logits (1, 1, 16, 16)"),
        ("without_forward_mode", 'gains="finite-difference" may serve'),
        ("with_other_arguments", "in_channels"),
    ],
)
def test_a_network_that_does_not_fit_is_named_before_anything_is_written(network, said, data, tmp_path, run_command):
    code, _, error = run_command("train", data, "--out", tmp_path / "run", *TINY, "--set", f"model=tiny:{network}")
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--classes", "0"], ["--ignore-label", "999"]])
def test_options_out_of_their_range_are_refused(words, data, run_command):
    assert run_command("check", data, *words)[0] == 2
    assert run_command("evaluate", data / "noisy", data / "noisy", *words)[0] == 2


def test_a_demo_that_cannot_be_written_is_one_line(tmp_path, run_command):
    (tmp_path / "file").write_text("in the way")
    code, _, error = run_command("demo", "--out", tmp_path / "file" / "demo")
    assert code == 2
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_written_is_named(data, tmp_path, run_command):
    (tmp_path / "file").write_text("in the way")
    code, _, error = run_command("train", data, "--out", tmp_path / "file" / "run", *TINY)
    assert code == 2
    assert error.startswith("error: ")
    assert str(tmp_path / "file") in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_run_folder_that_exists_is_left_alone(data, tmp_path, monkeypatch, run_command):
    monkeypatch.setattr("pixeltrust.reports.report", lambda folder, **_: folder / "report.html")
    assert run_command("train", data, "--out", tmp_path / "run", *TINY)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    code, _, error = run_command("train", data, "--out", tmp_path / "run", *TINY)
    assert code == 2
    assert "--resume" in error
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "nowhere", "images", "--out", "masks"], "nowhere: not a run folder"),
        (["evaluate", "nowhere", "truth"], "nowhere"),
        (["simulate", "nowhere", "out"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["fetch", "isic2016", "out"], "no data set of the name 'isic2016' is known; known: isic2017, isic2018"),
        (["train", ".", "--out", "run", "--config", "no.toml"], "no.toml: cannot be read"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_what_is_not_there_is_named(words, said, tmp_path, monkeypatch, run_command):
    monkeypatch.chdir(tmp_path)
    code, output, error = run_command(*words)
    assert (code, output) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_an_example_and_every_noise_kind_is_in_the_help():
    commands = get_command(app).commands
    for name, command in commands.items():
        assert f"Example: pixeltrust {name}" in command.help
    (noise,) = (parameter.help for parameter in commands["simulate"].params if parameter.name == "noise")
    assert all(kind in noise for kind in KINDS)


def test_the_commands_are_said_in_a_line_each(run_command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, output, _ = run_command("--help")
    lines = output.partition("Commands:\n")[2].rstrip().splitlines()
    assert [line.split()[0] for line in lines] == list(ORDER)
    assert not [line for line in lines if line.endswith("...")]


def test_the_help_of_train_lists_every_setting_with_its_default_and_points_to_the_guide(run_command):
    _, output, _ = run_command("train", "--help")
    places = [output.index(f"\n  {name} = {show_default(name)}") for name in describe_settings()]
    assert places == sorted(places)
    assert list(describe_settings()) == [field.name for field in dataclasses.fields(Config)]
    headings = [output.index(f"\n{heading}:\n") for heading in HEADINGS.values()]
    assert headings == sorted(headings)
    assert GUIDE in output
    assert (Path(__file__).parents[1] / GUIDE).is_file()


def test_quiet_and_open_are_alike_on_all_commands():
    options = {name: {text for p in command.params for text in p.opts} for name, command in get_command(app).commands.items()}
    assert [name for name in options if not {"--quiet", "-q"} <= options[name]] == []
    assert {name for name in options if "--open" in options[name]} == {"audit", "benchmark", "demo", "mend", "report", "review", "train"}


def test_open_shows_the_page(tmp_path, monkeypatch, run_command):
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    monkeypatch.setattr("pixeltrust.reports.report", lambda folder, **_: folder / "report.html")
    for words in (["report", tmp_path], ["report", tmp_path, "--open"]):
        code, output, _ = run_command(*words)
        assert (code, output) == (0, f"the page is {tmp_path / 'report.html'}\n")
    assert shown == [(tmp_path / "report.html").as_uri()]


@pytest.mark.parametrize(
    ("words", "function", "said"),
    [
        (["train", "DATA", "--out", "run a", "--set", "epochs=3"], "training.train.train", "kept. To go on:\n  pixeltrust {} --resume\n"),
        (["train", "DATA", "--out", "run", "--resume"], "training.train.train", "kept. To go on:\n  pixeltrust {}\n"),
        (["mend", "DATA", "--out", "mended"], "mending.run.mend", "kept. To go on:\n  pixeltrust {} --resume\n"),
        (["mend", "--again", "mended"], "reviewing.again.mend_again", "half-written. To start anew:\n  pixeltrust {}\n"),
        (["demo"], "demonstration.demo.demo", "kept. To go on:\n  pixeltrust {}\n"),
        (["benchmark", "DATA", "--out", "o"], "benchmarking.run.benchmark", "kept. To go on:\n  pixeltrust {}\n"),
        (["check", "DATA"], "data.cases.check", "half-written. To start anew:\n  pixeltrust {}\n"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_ctrl_c_says_where_it_stopped_and_the_command_that_goes_on(words, function, said, data, monkeypatch, run_command):
    def stop(*_, **__):
        with progress_bar(False) as bar:
            bar.add_task("the work", total=20, completed=7)
            raise KeyboardInterrupt

    importlib.import_module(f"pixeltrust.{function.rpartition('.')[0]}")
    monkeypatch.setattr(f"pixeltrust.{function}", stop)
    monkeypatch.setattr(Bar, "stopped", [])
    words = [str(data) if word == "DATA" else word for word in words]
    code, output, error = run_command(*words)
    assert (code, output) == (130, "")
    assert (
        error
        == f"stopped at the work 7/20; {'what is finished is' if 'kept' in said else 'nothing is left'} {said.format(shlex.join(words))}"
    )


def completed(*words):
    """What the tab key offers after these words in bash."""
    line = " ".join(("pixeltrust", *words))
    environment = {**os.environ, "_PIXELTRUST_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    code = "import sys; from pixeltrust.cli import main; sys.argv[0] = 'pixeltrust'; main()"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    return answer.stdout.split()


def test_the_shell_completes_commands_and_settings():
    assert completed("re") == ["review", "report"]
    assert completed("train", "lesions", "--set", "clean_") == ["clean_batch_size=", "clean_weight="]


REFUSED = [
    ("demo", "--out", "run/config.toml/demo"),
    ("fetch", "isic2016", "out"),
    ("simulate", "nowhere", "out"),
    ("simulate", ".", "out", "--noise", "triangel"),
    ("check", "nowhere"),
    ("convert", "nowhere", "out"),
    ("convert", ".", "out", "--to", "cocoo"),
    ("train", "nowhere", "--out", "run"),
    ("train", ".", "--out", "run", "--set", "modle=unet"),
    ("train", ".", "--out", "run", "--config", "no.toml"),
    ("predict", "nowhere", ".", "--out", "out"),
    ("predict", "run", ".", "--out", "out", "--weights", "lst"),
    ("evaluate", ".", "nowhere"),
    ("benchmark", "nowhere", "--out", "out"),
    ("benchmark", ".", "--out", "out", "--set", "methods=[pixle]"),
    ("benchmark", ".", "--out", "out", "--set", "modle=unet"),
    ("benchmark", ".", "--out", "out", "--on", "cloud"),
    ("audit", ".", ".", "--out", "out"),
    ("review", "."),
    ("report", "nowhere"),
    ("export", "nowhere"),
    ("export", "run", "--format", "onx"),
]
LOADED_TO_COMPUTE = ("torch", "monai", "matplotlib", "scipy", "skimage")


def test_version_and_refusals_load_nothing_to_compute_with(tmp_path):
    """All in one process: what one of them loads is there from then on."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    code = f"""if True:
        import sys
        from pixeltrust.cli import main
        for words in {[("--version",), *REFUSED]}:
            sys.argv = ["pixeltrust", *words]
            try: main()
            except SystemExit as ended: print(*words, ended.code, [name for name in {LOADED_TO_COMPUTE} if name in sys.modules])"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    _, *lines = answer.stdout.splitlines()  # the version
    assert lines == ["--version 0 []", *(f"{' '.join(words)} 2 []" for words in REFUSED)], answer.stderr
    assert "Traceback" not in answer.stderr


COMMANDS = [
    "audit",
    "benchmark",
    "check",
    "convert",
    "demo",
    "evaluate",
    "export",
    "export_decisions",
    "fetch",
    "load",
    "mend",
    "predict",
    "question",
    "report",
    "review",
    "simulate",
    "train",
]
METHOD = [
    "Batch",
    "Trust",
    "Where",
    "address_map",
    "coordinate_map",
    "pixel_gains",
    "pixel_weights",
    "reweighted_step",
    "verify",
    "weighted_dice_cross_entropy",
]
TYPES = ["Config", "ConfigError", "DataError", "FetchError", "GainsWarning", "Grid", "PixeltrustError", "RunError"]


def test_the_public_names_are_these():
    assert pixeltrust.__all__ == sorted(["__version__", *COMMANDS, *METHOD, *TYPES])
    assert dir(pixeltrust) == pixeltrust.__all__


@pytest.mark.parametrize("name", [*COMMANDS, *METHOD, *TYPES])
def test_every_public_name_is_what_it_says(name):
    assert getattr(pixeltrust, name).__name__ == name


def test_type_checkers_see_the_names_that_are_loaded_when_asked_for():
    tree = ast.parse(Path(pixeltrust.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {(f"pixeltrust.{module}", name) for module, names in pixeltrust._MODULES.items() for name in names}


def test_the_name_of_a_command_stays_a_function_whatever_was_imported_before():
    for module in pkgutil.walk_packages(pixeltrust.__path__, "pixeltrust."):
        if not module.name.startswith("pixeltrust.adapters"):  # of frameworks that may not be here
            importlib.import_module(module.name)
    assert [name for name in COMMANDS if not callable(getattr(pixeltrust, name))] == []


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(pixeltrust, "nonsense")
