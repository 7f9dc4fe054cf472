"""What `make reliability` does at length, in its short form; and the page that tells of it is made of the results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_all
from waiting import TOO_LONG

HERE = Path(run_all.__file__).parent
linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="processes are looked at by /proc")


def short(name, out, *words):
    """Run a script of tests/reliability in a process of its own; return what it wrote."""
    paths = os.pathsep.join(filter(None, [str(run_all.ROOT / "src"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(out), *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads((out / f"{name}.json").read_text())


@linux
@pytest.mark.slow
def test_what_is_killed_at_random_moments_comes_to_the_same_end(tmp_path):
    found = short("kills", tmp_path, "--points", "2", "--only", "train", "predict", "audit", "review")
    assert all(work["kills"] >= 2 for work in found.values())
    assert all(work["differ"] == [] for work in found.values())
    assert found["review"]["answered"] > 0


@linux
@pytest.mark.slow
def test_mishaps_of_the_disk_and_ctrl_c_are_one_line_and_the_work_goes_on(tmp_path):
    found = short("disks", tmp_path, "--points", "1", "--only", "train", "predict", "simulate", "convert")
    for command, mishaps in found.items():
        assert [mishap for mishap, met in mishaps.items() if met["faults"]] == [], command
    assert sum(met["mishaps"] for met in found["train"].values()) >= 3


@linux
@pytest.mark.slow
def test_open_files_do_not_grow_over_steps_and_requests(tmp_path):
    found = short("leaks", tmp_path, "--steps", "150", "--requests", "160")
    for part in ("training", "review"):
        assert found[part]["files_grown"] <= 1  # the kernel may show one that is just being closed
        assert found[part]["mib_grown"] < 100


@pytest.mark.slow
def test_many_people_at_once_lose_no_decision(tmp_path):
    found = short("load", tmp_path, "--people", "12", "--seconds", "4", "--thought", "0.5", "--cases", "60")
    assert found["decisions_answered"] >= 12
    assert (found["lost"], found["decisions_kept"]) == (0, found["decisions_answered"])


def test_the_page_tells_what_the_results_say():
    page = run_all.PAGE.read_text(encoding="utf-8")
    assert run_all.with_table(page, run_all.table(run_all.RESULTS)) == page, "python tests/reliability/run_all.py --table writes it"


def test_what_was_not_measured_is_said(tmp_path):
    assert run_all.table(tmp_path).count("not measured yet") == len(run_all.PARTS)
