"""The commands and the Python of the pages, run in their order, each page in a folder of its own, at toy size."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import notebook
from pixeltrust.demonstration.demo import Plan
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.noise.simulate import simulate
from test_docs import QUICK, ROOT
from tiny import draw_volumes

PAGES = (
    "tutorials/mend-and-train",
    "how-to/mend",
    "how-to/audit",
    "how-to/settings",
    "how-to/few-clean-masks",
    "how-to/label-studio",
    "how-to/volumes",
    "faq",
)
FENCE = re.compile(r"^```(sh|python)\n(.*?)^```", re.S | re.M)
TINY = {"image_size": 16, "epochs": 1, "updates_per_epoch": 3, "batch_size": 4, "clean_batch_size": 4}
IN_3D = {"model": "tiny:network_3d", "image_size": "[12,26,22]", "epochs": 1, "updates_per_epoch": 2, "batch_size": 2}
_WORDS = [word for key, value in (IN_3D | {"clean_batch_size": 2}).items() for word in ("--set", f"{key}={value}")]
QUICK_IN_3D = {"mend": _WORDS, "train": _WORDS}
QUESTION = ["--set", "image_size=16", "--set", "epochs=1", "--set", 'methods=["plain","clean"]', "--jobs", "1"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with all that the pages take for granted: lesions/, scans/ with other names, organs/ of several classes, project.json."""
    folder = tmp_path_factory.mktemp("workplace")
    write_source(folder / "source", cases=24, size=32, show_progress=False)
    simulate(folder / "source", folder / "lesions", noise="triangle", clean=12, show_progress=False)
    lesions, scans = folder / "lesions", folder / "scans"
    shutil.copytree(lesions / "images", scans / "images")
    for role, part in (("noisy", "masks"), ("clean", "corrected")):
        (scans / part).mkdir()
        for mask in (lesions / role).iterdir():
            shutil.copy(mask, scans / part / f"{mask.stem}_segmentation.png")
    make_organs(folder / "organs")
    (folder / "masks").mkdir()
    Image.fromarray(np.tri(32, dtype=np.uint8) * 255).save(folder / "masks" / "case.jpg")
    return folder


def make_organs(folder):
    draws = np.random.default_rng(0)
    for number in range(14):
        labels = np.kron(draws.integers(0, 4, (4, 4)), np.ones((8, 8))).astype(np.uint8)
        parts = {"images": 60 * labels, "clean" if number < 6 else "noisy": labels}
        for part, values in parts.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / part / f"organ-{number:02}.png")


def make_project(run_command):
    """Turn lesions/ into what Label Studio exports: a crowd has annotated everything, an expert some of it."""
    tasks = {}
    for role, who in (("noisy", "crowd@clinic.org"), ("clean", "expert@clinic.org")):
        code, _, error = run_command("convert", f"lesions/{role}", f"{role}.json", "--to", "label-studio")
        assert code == 0, error
        for task in json.loads(Path(f"{role}.json").read_text()):
            kept = tasks.setdefault(task["data"]["image"], {**task, "annotations": []})
            kept["annotations"] += [{**one, "completed_by": {"email": who}} for one in task["annotations"]]
        shutil.rmtree(f"lesions/{role}")
    Path("project.json").write_text(json.dumps(list(tasks.values())))


def runs(words):
    """Whether a command ends by itself; a review serves until it is stopped."""
    return words[0] == "pixeltrust" and (words[1] != "review" or "--export" in words)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs_in_its_order(page, workplace, tmp_path, monkeypatch, run_command):
    here = tmp_path / "here"
    shutil.copytree(workplace, here)
    monkeypatch.chdir(here)
    monkeypatch.setattr(Plan, "__init__", lambda plan: vars(plan).update({**PLAN, "cases": 24, "test_share": 0.3, "pairs": 6, "size": 32}))
    if page.endswith("label-studio"):
        make_project(run_command)
    if page.endswith("volumes"):
        pytest.importorskip("nibabel", reason="nibabel is not installed")
        draw_volumes(Path("hippocampus"), noisy=3, clean=6, test=2)
        shutil.rmtree("scans")
        shutil.copytree("hippocampus/images", "scans")
    quick = QUICK_IN_3D if page.endswith("volumes") else QUICK
    fences = FENCE.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    assert fences
    for language, code in fences:
        if language == "python":
            shutil.rmtree("mended", ignore_errors=True)
            code = code.replace('out=Path("mended")', f'out=Path("mended"), config={TINY}').replace("case-17", "v09")
            exec(code, {})
            continue
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if runs(words):
                more = QUESTION if "--question" in words else quick.get(words[1], [])
                ended, _, error = run_command(*words[1:], *more)
                assert ended == 0, f"{line}: {error}"


PLAN = vars(Plan())


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(Plan, "__init__", lambda plan: vars(plan).update({**PLAN, "cases": 24, "test_share": 0.3, "pairs": 6, "size": 32}))
    page = notebook.PAGE.read_text(encoding="utf-8")
    small = page.replace('{"image_size": 64, "epochs": 2}', str(TINY))
    small = small.replace('"model": "unet-small", "image_size": 64, "epochs": 6', '"model": "unet-tiny", "image_size": 16, "epochs": 1')
    assert small.count("16") > page.count("16") + 1
    cells = notebook.execute(notebook.codes(small), tmp_path)
    assert sum(len(cell.figures) for cell in cells) == page.count("![Figure")
    assert all(bool(cell.printed) == bool(shown) for cell, shown in zip(cells, printed_on(page), strict=True))


def printed_on(page):
    """Return what the page shows under each piece of code."""
    after = notebook.CODE.split(page)[2::2]
    return [re.match(r"\s*<!-- output -->\s*```text", text) for text in after]
