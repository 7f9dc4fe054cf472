"""What several test files use."""

import sys

import pytest

from pixeltrust import cli


@pytest.fixture
def run_command(capsys, monkeypatch):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pixeltrust", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run
