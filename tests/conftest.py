"""What several test files use.

Loads nothing to compute with: the process that hands the tests out to others reads this file, too.
"""

import gc
import shutil
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# Where tests run in the background of a shell, SIGINT is ignored, by all that they start too: Ctrl-C is to stop it all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails for taking long: the machine may be busy. Among the quick tests examples are always the same ones, and few.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("new"), derandomize=True, max_examples=12)
settings.load_profile("new")

# What is loaded before the first test stays to the end: to look through it for garbage again and again takes seconds.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture
def run_command(capsys, monkeypatch):
    """Run a command in this process: (exit code, standard output, standard error)."""
    from pixeltrust import cli

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pixeltrust", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def small_pictures():
    """Draw the pictures of pages at a sixteenth of their area: for modules that look at everything else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixeltrust.pages.pictures.PANEL_PIXELS", 64)
        yield


@pytest.fixture
def blank_charts(monkeypatch):
    """Leave the charts of pages and figures blank, which are most of what a page takes; their titles and words are there."""
    for module in ("pages.charts", "benchmarking.outcome.figures"):
        monkeypatch.setattr(f"pixeltrust.{module}.to_svg", lambda figure: "<svg/>")
    monkeypatch.setattr("pixeltrust.benchmarking.outcome.writing.to_png", lambda figure: b"")


@pytest.fixture(scope="module")
def no_figures():
    """Write the tables of a benchmark without its figures and its page: most of what a tiny benchmark takes."""
    from tiny import leave_figures_out

    with pytest.MonkeyPatch.context() as patch:
        leave_figures_out(patch)
        yield


@pytest.fixture(scope="session")
def made_audit(tmp_path_factory):
    from audits import audit_of, discs, shifted_back

    folder = tmp_path_factory.mktemp("made")
    audit_of(discs(folder / "data"), folder / "audit", shifted_back)
    return folder


@pytest.fixture
def audit_to_review(made_audit, tmp_path):
    """A copy of an audit of three discs, and of its data."""
    shutil.copytree(made_audit, tmp_path, copy_function=shutil.copy, dirs_exist_ok=True)
    for file in (tmp_path / "audit" / "cases.csv", tmp_path / "audit" / "audit.json"):
        file.write_text(file.read_text().replace(str(made_audit), str(tmp_path)))
    return tmp_path / "audit"


@pytest.fixture
def web(monkeypatch):
    """Serve files on this machine, without any proxy in between."""
    from web import serving

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server
