"""One page about a run or a demo: complete, alone, true to the files, and fit for a phone."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from pixeltrust.config import Config, to_toml
from pixeltrust.data.cases import Case, table_of
from pixeltrust.data.pictures import write_png
from pixeltrust.mending.estimate import Estimate, Quality
from pixeltrust.mending.ways import WAYS
from pixeltrust.metrics import METRICS, bootstrap_interval
from pixeltrust.plumbing.errors import RunError
from pixeltrust.reports import report
from waiting import TOO_LONG

MARKUP = "a<img src=x onerror=alert(1)>&b"
LONG = "a-name-without-any-place-to-break-it-" * 4
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Sources(HTMLParser):
    """What a page loads, and its pictures without words."""

    def __init__(self, html):
        super().__init__()
        self.loaded, self.wordless = [], 0
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a":  # a link loads nothing
            return
        self.loaded += [values[name] for name in ("src", "href", "srcset", "data", "action") if values.get(name)]
        self.wordless += tag == "img" and not values.get("alt")


def words(html):
    """The text a reader sees, in one line."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def assert_alone(html):
    page = Sources(html)
    assert page.loaded
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert page.wordless == 0
    assert not re.search(r"https?://|@import|url\(|<script [^>]|fetch\(|import\(", html)


pytestmark = pytest.mark.usefixtures("blank_charts", "smaller_pictures")  # but for those of `pages`
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at the page with")


@pytest.fixture
def smaller_pictures(monkeypatch):
    monkeypatch.setattr("pixeltrust.pages.pictures.PANEL_PIXELS", 64)


def seen_in_chromium(pages, folder, *, widths):
    """(name, width, width that the page needs, broken pictures) of every page at every width, as a browser shows them."""
    see = folder / "see"
    see.mkdir()
    measure = "<script>onload=()=>{const d=document,e=d.documentElement;parent.postMessage([location.pathname,innerWidth,e.scrollWidth,"
    measure += "[...d.images].filter(i=>!i.naturalWidth).length],'*')}</script>"
    for name, page in pages.items():
        (see / f"{name}.html").write_text(page.read_text(encoding="utf-8") + measure, encoding="utf-8")
    frames = [f'<iframe src="{name}.html" style="width:{width}px;border:0"></iframe>' for name in pages for width in widths]
    note = "<script>onmessage=e=>{const p=document.createElement('p');p.textContent=e.data.join(' ');document.body.append(p)}</script>"
    (see / "all.html").write_text(f"<body>{note}{''.join(frames)}</body>")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    flags += " --disable-sync --virtual-time-budget=20000 --dump-dom"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'profile'}", f"file://{see / 'all.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG).stdout
    measured = [(name, *map(int, rest)) for name, *rest in re.findall(r"<p>\S*/(\w+)\.html (\d+) (\d+) (\d+)</p>", shown)]
    assert sorted((name, width) for name, width, *_ in measured) == sorted((name, width) for name in pages for width in widths)
    return measured


def write_case(folder, one, *, radius=9, size=24):
    """An image and a mask file of the id, in folder/images and folder/masks."""
    y, x = np.ogrid[:size, :size]
    mask = (y - size / 2) ** 2 + (x - size / 2) ** 2 < radius**2
    for part, pixels in (("images", np.where(mask[..., None], 90, 200) + np.zeros(3)), ("masks", mask * 255)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_png(folder / part / f"{one}.png", pixels.astype(np.uint8))
    return folder / "images" / f"{one}.png", folder / "masks" / f"{one}.png"


def history(epochs=3, *, method="pixel", val_dice=0.6, idle=0):
    weighted = method in ("pixel", "trust")
    rows = [
        {
            "epoch": epoch,
            "update": 10 * epoch,
            "loss": 1 / epoch,
            "zero_share": 0.1 * epoch if weighted else np.nan,
            "effective_pixels": 900.0 if weighted else np.nan,
            "all_zero_steps": idle,
            "val_dice": val_dice + 0.01 * epoch,
            "seconds": (4.0 if weighted else 2.0) * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows)


def write_run(folder, cases, *, method="pixel", epochs=3, held=2, val_fraction=0.0, finished=True, **of_history):
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(Config(method=method, epochs=epochs, image_size=16, val_fraction=val_fraction)))
    held_ids = [case.id for case in cases if case.role == "clean"][:held]
    table_of(cases, held_ids).to_csv(folder / "cases.csv", index=False)
    history(epochs, method=method, **of_history).to_csv(folder / "history.csv", index=False)
    noisy = [case.id for case in cases if case.role == "noisy"]
    if method == "pixel":
        maps = np.random.default_rng(0).exponential(size=(epochs, len(noisy), 16, 16)).astype(np.float16)
        maps[:, :, :4] = 0
        np.savez(folder / "weight_maps.npz", ids=np.array(noisy), epochs=np.arange(1, epochs + 1), maps=maps)
    if finished:
        (folder / "model.pt").touch()
    return folder


def make_cases(folder, noisy=(MARKUP, LONG)):
    roles = [*((one, "noisy") for one in noisy), *((f"c{i}", "clean") for i in range(3)), *((f"t{i}", "test") for i in range(6))]
    return [Case(one, *write_case(folder, one), role) for one, role in roles]


def write_demo(folder, *, advantage=0.1, shown=(MARKUP, LONG)):
    """A finished demo of six test cases in which training on mended masks is better by about `advantage`; the first mask got better."""
    source = folder / "source"
    cases = make_cases(source, shown)
    for masks in ("given", "mended"):
        write_run(folder / "runs" / masks, cases, method="plain")
        shutil.copytree(source / "masks", folder / "predictions" / masks)
        dice = 0.6 + 0.03 * np.arange(6) + (masks == "mended") * (advantage + 0.02 * np.array([-1, 1, 0, 0, 2, -2]))
        scores = pd.DataFrame({"id": [f"t{i}" for i in range(6)]} | dict.fromkeys(METRICS, 0.5) | {"dice": dice})
        scores.to_csv(folder / f"{masks}.csv", index=False)
    (folder / "data").mkdir()
    shutil.copytree(source / "masks", folder / "data" / "noisy")
    shutil.copytree(source / "masks", folder / "mended" / "mended")
    given, expected = Quality(dice=0.52, low=0.45, high=0.59), Quality(dice=0.6, low=0.5, high=0.7)
    Estimate(
        pairs=7, cases=len(shown), way="mender", changed=len(shown), ways=dict.fromkeys(WAYS, given), expected=expected,
        below={"dice": 0.7, "cases": 1}, more=None, history=(),
    ).write(folder / "mended")  # fmt: skip
    mended = np.linspace(0.7, 0.4, len(shown))
    masks = pd.DataFrame({"id": shown, "given": 0.5, "mended": mended, "expected_given": 0.52, "expected": 0.6})
    masks.to_csv(folder / "masks.csv", index=False)
    record = {"format": 3, "finished": True, "plan": {"noise": "triangle", "model": "unet-small"}}
    (folder / "demo.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run and of a demo, read by several tests."""
    folder = tmp_path_factory.mktemp("pages")
    run, demo = write_run(folder / "run", make_cases(folder)), write_demo(folder / "demo")
    return {"run": report(run), "demo": report(demo)}


def test_a_runs_page_stands_alone_and_lies_in_its_folder(pages):
    assert pages["run"].name == "report.html"
    assert not list(pages["run"].parent.glob(".*"))
    html = pages["run"].read_text(encoding="utf-8")
    assert_alone(html)
    assert 'name="viewport"' in html


def test_a_runs_page_tells_counts_numbers_and_settings(pages):
    text = words(pages["run"].read_text(encoding="utf-8"))
    assert "2 noisy cases and 1 clean case" in text
    assert "Dice of 0.630 on the held-out clean cases" in text
    assert "mean of 2 held-out clean cases" in text
    assert "Seconds per update 0.4" in text
    assert "learning_rate 0.001" in text


def test_weight_maps_are_shown_early_midway_and_late(tmp_path):
    text = words(report(write_run(tmp_path / "run", make_cases(tmp_path), epochs=9)).read_text(encoding="utf-8"))
    assert re.findall(r"epoch (\d+) \d+% at 0", text)[:3] == ["1", "5", "9"]
    assert text.count("noisy mask epoch 1") == 2


def test_files_that_are_gone_are_said_to_be_gone(tmp_path):
    run = write_run(tmp_path / "run", make_cases(tmp_path))
    shutil.rmtree(tmp_path / "images")
    html = report(run).read_text(encoding="utf-8")
    assert f"the mask of {MARKUP}, {LONG} cannot be read any more" in words(html)
    assert html.count("image/png") == 6  # the maps of two cases at three moments


def test_steps_without_weights_are_counted_and_explained(tmp_path):
    text = words(report(write_run(tmp_path / "run", make_cases(tmp_path), idle=2)).read_text(encoding="utf-8"))
    assert "In 6 of 30 steps (20%) no noisy pixel would have lowered" in text


def test_a_run_without_held_out_cases_says_what_measures_its_network(tmp_path):
    cases = make_cases(tmp_path)
    run = write_run(tmp_path / "run", cases, held=0, val_dice=np.nan)
    text = words(report(run).read_text(encoding="utf-8"))
    assert "Pixel training, 30 updates" in text
    assert "nothing on this page says how good the network is. 6 test cases can tell" in text
    assert "To be typed in the folder that holds “run”" in text
    assert "pixeltrust report run" in text
    assert "The test cases could not be measured" in text  # there are no weights in this run
    assert not any(absent in text for absent in ("Dice at the last weights", "Too few", "--question"))
    without = write_run(tmp_path / "without", [case for case in cases if case.role != "test"], held=0, val_dice=np.nan)
    assert "pixeltrust benchmark DATA --question --out answer" in words(report(without).read_text(encoding="utf-8"))


def test_a_run_with_too_few_cases_to_hold_out_says_that_nothing_was_chosen(tmp_path):
    run = write_run(tmp_path / "run", make_cases(tmp_path), held=0, val_dice=np.nan, val_fraction=0.2)
    assert "Too few clean cases (3) to hold any out with val_fraction = 0.2" in words(report(run).read_text(encoding="utf-8"))


def test_an_unfinished_run_has_a_page_that_says_so(tmp_path):
    text = words(report(write_run(tmp_path / "run", make_cases(tmp_path), finished=False)).read_text(encoding="utf-8"))
    assert "The run is not finished" in text


def test_a_plain_run_has_a_page_without_weights(tmp_path):
    html = report(write_run(tmp_path / "run", make_cases(tmp_path), method="plain")).read_text(encoding="utf-8")
    assert "Weights over training" not in html
    assert "Share of pixels" not in html


def test_a_demos_page_stands_alone_and_tells_its_numbers(pages):
    html = pages["demo"].read_text(encoding="utf-8")
    assert_alone(html)
    text = words(html)
    given, mended = (pd.read_csv(pages["demo"].parent / f"{masks}.csv")["dice"].to_numpy() for masks in ("given", "mended"))
    for values, sign in ((given, ""), (mended, ""), (mended - given, "+")):
        low, high = bootstrap_interval(values)
        assert f"{values.mean():{sign}.3f} {low:{sign}.3f} … {high:{sign}.3f}" in text
    assert "7 more have both such a mask and the true one" in text


@pytest.mark.parametrize(
    ("advantage", "said"),
    [
        (0.1, "learns more"),
        pytest.param(-0.1, "learns less", marks=pytest.mark.slow),
        pytest.param(0.0, "cannot be told apart", marks=pytest.mark.slow),
    ],
)
def test_the_headlines_say_what_came_out(tmp_path, advantage, said):
    html = report(write_demo(tmp_path / "demo", advantage=advantage, shown=("n",))).read_text(encoding="utf-8")
    assert words(html.split("<h1>")[1].split("</h1>")[0]) == "7 corrected masks mended 1 others: from a Dice of 0.50 to 0.70"
    assert said in words(html.split("<h2>")[2].split("</h2>")[0])


def test_typical_test_cases_are_shown_before_the_worst(pages):
    html = pages["demo"].read_text(encoding="utf-8")
    shown = re.findall(r"<h3>(t\d) <small>difference in Dice ([+−][\d.]+)", html)
    assert [identity for identity, _ in shown] == ["t2", "t3", "t1", "t5", "t0"]
    assert shown[3] == ("t5", "+0.060")


def test_a_demos_page_shows_mended_masks_against_the_truth_and_what_to_type_next(pages):
    html = pages["demo"].read_text(encoding="utf-8")
    text = words(html)
    assert "True Dice, as given 0.500 expected 0.520 (0.450 … 0.590)" in text
    assert "True Dice, once mended 0.550 expected 0.600 (0.500 … 0.700)" in text
    assert "lies within the interval of the estimate" in text
    assert "Nearer to the truth 1 of 2 masks; 1 are farther from it" in text
    assert re.findall(r"given mask Dice 0\.500 mended mask Dice ([\d.]+) true mask", text) == ["0.700", "0.400"]
    assert '<a href="mended/report.html">' in html
    assert "<pre><code>pixeltrust review demo/mended</code></pre>" in html
    assert "in the folder that holds “demo”" in text


def test_an_estimate_that_missed_the_truth_is_said_to_have(tmp_path):
    demo = write_demo(tmp_path / "demo")
    masks = pd.read_csv(demo / "masks.csv")
    masks.assign(mended=0.45).to_csv(demo / "masks.csv", index=False)
    assert "lies below the interval of the estimate" in words(report(demo).read_text(encoding="utf-8"))


def test_markup_in_an_id_is_text(pages):
    for page in pages.values():
        html = page.read_text(encoding="utf-8")
        assert "<img src=x" not in html
        assert MARKUP in words(html)


def test_out_names_the_file_and_one_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    run = write_run(tmp_path / "run", make_cases(tmp_path))
    assert report(run, out=tmp_path / "page.html") == tmp_path / "page.html"
    assert not (run / "report.html").exists()
    with pytest.raises(RunError, match="cannot be written"):
        report(run, out=tmp_path / "nowhere" / "page.html")


def test_a_folder_that_is_neither_is_told_what_was_wanted(tmp_path):
    wanted = r"not a run folder \(it has no config.toml\), benchmark .*, audit \(no audit.json\) or demo \(no demo.json\)"
    with pytest.raises(RunError, match=wanted):
        report(tmp_path)


def test_a_run_before_its_first_epoch_has_nothing_to_report(tmp_path):
    run = write_run(tmp_path / "run", make_cases(tmp_path))
    (run / "history.csv").unlink()
    with pytest.raises(RunError, match="no epoch has ended"):
        report(run)


@pytest.mark.parametrize("record", ["{", '{"finished": false}', "[]"])
def test_a_demo_that_is_broken_or_not_at_its_end_is_refused(tmp_path, record):
    (tmp_path / "demo.json").write_text(record)
    with pytest.raises(RunError, match="demo"):
        report(tmp_path)


def test_a_demo_without_its_images_names_the_folder_that_is_gone(tmp_path):
    demo = write_demo(tmp_path / "demo")
    shutil.rmtree(demo / "source" / "images")
    with pytest.raises(RunError, match="images: cannot be read"):
        report(demo)


def test_numbers_of_other_cases_are_refused(tmp_path):
    demo = write_demo(tmp_path / "demo")
    pd.read_csv(demo / "given.csv")[1:].to_csv(demo / "given.csv", index=False)
    with pytest.raises(RunError, match="have different cases"):
        report(demo)


@needs_chromium
def test_pages_fit_a_phone_and_a_desktop_without_sideways_scrolling(pages, tmp_path):
    for name, width, needed, broken in seen_in_chromium(pages, tmp_path, widths=(390, 1200)):
        assert needed <= width, f"{name} needs {needed} px of {width}"
        assert broken == 0
