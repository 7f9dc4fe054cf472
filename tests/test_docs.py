"""The documentation is kept true: commands run, tables equal the code."""

import json
import re
import shlex
import shutil
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import made_pages
import notebook
import wrap
from pixeltrust import Batch, address_map, metrics
from pixeltrust.benchmarking.grid import Grid
from pixeltrust.config import Config
from pixeltrust.data.images import read_labels
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.mending.settings import DEFAULTS
from pixeltrust.noise import kinds
from pixeltrust.noise.simulate import simulate

ROOT = Path(__file__).parents[1]
LABORATORY = ("benchmarks", "experiments", "tests/reliability", "docs/make")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *(ROOT / folder / "README.md" for folder in LABORATORY)]
OF_TODAY = [page for page in PAGES if page.name not in ("lab.md", "CHANGELOG.md")]
_SMALL = ["--set", "image_size=32", "--set", "epochs=1", "--set", "batch_size=8", "--set", "clean_batch_size=8"]
QUICK = {"train": _SMALL, "mend": [*_SMALL, "--set", "updates_per_epoch=4"]}
"""Further words of commands that would take long."""


CODE = re.compile(r"^```(?:sh|text|toml)?\n(.*?)^```|((?:^    .*\n)+)|`(pixeltrust [^`]+)`", re.S | re.M)
SPOKEN = re.compile(r"^\s*(?:torchrun .*--no-python\s+)?pixeltrust ([a-z].*)")


def blocks(language: str, file: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(encoding="utf-8"), re.S | re.M)


def spoken_commands(page: Path) -> list[list[str]]:
    """Return the words of every command of ours that a page shows, in code of any form."""
    text = page.read_text(encoding="utf-8")
    code = "\n".join("".join(found) for found in CODE.findall(text)).replace("\\\n", " ")
    return [shlex.split(line[1], comments=True) for line in map(SPOKEN.match, code.splitlines()) if line]


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_pages_have_the_names_options_and_settings_that_there_are(page):
    from typer.main import get_command

    from pixeltrust.cli import app

    commands = get_command(app).commands
    for name, *words in spoken_commands(page):
        assert name in commands, name
        options = {spelling for parameter in commands[name].params for spelling in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, f"{name} {words}"
        keys = {value.partition("=")[0] for option, value in pairwise(words) if option == "--set"}
        assert keys <= {field.name for field in (*fields(Config), *fields(Grid))}, f"{name} {words}"


@pytest.mark.slow
def test_the_readme_runs_from_another_folder_with_spaces_and_umlauts(tmp_path, monkeypatch, run_command):
    here = tmp_path / "Läsionen und mehr"
    here.mkdir()
    monkeypatch.chdir(here)
    write_source(Path("source"), cases=40, size=32, test_share=0.25, show_progress=False)
    simulate(Path("source"), Path("lesions"), noise="triangle", clean=10, show_progress=False)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "pixeltrust"
        if words[0] != "review":  # it serves until it is stopped
            code, _, error = run_command(*words, *QUICK.get(words[0], []))
            assert code == 0, f"{line}: {error}"
    assert len(list(Path("predicted").glob("*.png"))) == 40
    assert len(pd.read_csv("dice.csv")) == 10
    assert Path("mended/report.html").stat().st_size > 10_000
    for folder in ("mended", "runs/mended"):
        shutil.rmtree(folder)
    names = {"image": np.zeros((32, 32, 3), np.uint8)}
    tiny = '{"image_size": 16, "epochs": 1, "updates_per_epoch": 3, "model": "unet-tiny"'
    exec(blocks("python")[0].replace('out="mended")', f'out="mended", config={tiny}}})').replace('{"method"', f'{tiny}, "method"'), names)
    assert names["mask"].shape == (32, 32)


def test_the_loop_of_the_readme_trains():
    model = torch.nn.Conv2d(3, 1, 3, padding=1)
    batch = (torch.randn(2, 3, 8, 8), torch.randint(0, 2, (2, 8, 8)))
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "SHAPE": (8, 8),
        "noisy_loader": [(*batch, ["a", "b"], address_map((8, 8)).expand(2, 8, 8))],
        "clean_batches": iter([Batch(*batch)]),
    }
    before = model.weight.detach().clone()
    exec(blocks("python")[1], names)
    assert not torch.equal(before, model.weight)
    assert set(names["trust"].ids) == {"a", "b"}


@pytest.mark.parametrize("page", made_pages.PAGES, ids=lambda page: page.name)
def test_pages_made_from_the_code_equal_it(page):
    assert page.read_text(encoding="utf-8") == made_pages.PAGES[page](), "python docs/make/made_pages.py writes it"


def test_the_settings_of_menders_with_other_defaults_are_all_documented():
    page = (ROOT / "docs/reference/commands.md").read_text()
    written = page[page.index("### Which settings have other defaults?") : page.index("## audit\n")]
    for name, value in DEFAULTS.items():
        assert f"`{name} = {value}`" in written


def test_every_option_of_every_command_is_documented():
    from typer.main import get_command

    from pixeltrust.cli import app

    text = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
        assert section, f"docs/reference/commands.md has no section {name}"
        for parameter in command.params:
            if parameter.opts[0].startswith("--") and parameter.name not in ("help", "quiet"):
                assert f"`{parameter.opts[0]}" in section.group(1), f"{name}: {parameter.opts[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_is_left_half_merged(page):
    assert not re.search("^(<<<<<<<|=======|>>>>>>>)", page.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("page", [page for page in wrap.pages() if page.name != "lab.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_is_wrapped(page):
    text = page.read_text(encoding="utf-8")
    assert wrap.wrapped(text) == text, "python docs/make/wrap.py wraps it"


def test_wrapping_changes_no_word_and_opens_no_list():
    page = (
        "# A heading\n\nwords "
        + "and more " * 20
        + "- 1\n\n- an item\n  of two lines with `code that stays in one`\n\n    code   as it is\n"
    )
    made = wrap.wrapped(page)
    assert made.split() == page.split()
    assert max(map(len, made.splitlines())) <= wrap.WIDTH
    assert [line for line in made.splitlines() if line.startswith("-")] == ["- an item of two lines with `code that stays in one`"]
    assert "    code   as it is" in made
    assert wrap.wrapped(made) == made


def test_the_notebook_is_that_of_its_page():
    page = notebook.PAGE.read_text(encoding="utf-8")
    cells = json.loads(notebook.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [one.rstrip() for one in notebook.codes(page)], "python docs/make/notebook.py WORK executes it"
    text = [" ".join("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown"]
    assert text == [" ".join(one.split()) for one in notebook.texts(page) if one]


@pytest.mark.parametrize("folder", LABORATORY)
def test_every_folder_of_the_laboratory_says_what_it_is_for_and_is_in_the_file_map(folder):
    assert (ROOT / folder / "README.md").read_text(encoding="utf-8").startswith(f"# {folder}: ")
    assert f"`{folder}/`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            file = page.parent / target if target else page
            assert file.exists(), target
            if heading and file.suffix == ".md":
                headings = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.M)
                assert heading.strip("-") in {anchor(one) for one in headings}, f"{target}#{heading}"


def anchor(heading: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


def test_every_folder_and_module_at_the_top_is_in_the_file_map():
    listed = set(re.findall(r"`(\w+(?:\.py|/))`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    source = ROOT / "src/pixeltrust"
    rooms = {path.name for path in source.glob("*.py")} | {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    assert rooms - {"__init__.py"} <= listed


def test_everything_that_can_be_added_is_added_as_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kinds, "KINDS", table := dict(kinds.KINDS))
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    write_source(Path("source"), cases=16, size=32, show_progress=False)
    names = {}
    for code in blocks("python", "docs/how-to/extend.md"):
        if file := re.match(r"# (\w+\.py)\n", code):
            Path(file[1]).write_text(code)
        else:
            exec(code, names)
    assert "blocks" in table
    given, again = ({path.name: read_labels(path) for path in Path(where).iterdir()} for where in ("lesions/noisy", "noisy-again"))
    assert given.keys() == again.keys()
    assert all(np.array_equal(given[name], again[name]) for name in given)
    assert pd.read_csv("scores.csv")["precision"].dropna().eq(1).all()  # of masks by themselves
    assert all(Path("runs", run, "model.pt").is_file() for run in ("mostly-clean", "mine"))
    assert "8 noisy, 4 clean (4 pairs), 4 test cases" in capsys.readouterr().out
