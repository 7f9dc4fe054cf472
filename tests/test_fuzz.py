"""Whatever a file holds, it is read or refused in a line: a moment of every target of `benchmarks/fuzz.py`, and what longer runs found."""

import fuzz
import pytest


@pytest.mark.parametrize("target", fuzz.targets(), ids=lambda target: target.name)
def test_whatever_is_in_a_file_it_is_read_or_refused_in_a_line(target, tmp_path):
    fuzz.run_of(target, tmp_path, derandomize=True, max_examples=40)()
