"""Whatever a file holds, it is read or refused in a line: every target of tests/reliability/fuzz.py, and what longer runs found."""

import json
from contextlib import closing

import pytest

import fuzz
from odd_making import parquet
from pixeltrust.auditing.folder import Audit, read_audit_record
from pixeltrust.config import setting
from pixeltrust.datasets.zips import files_in, open_zip
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.tables import read_table
from pixeltrust.reviewing.decisions import Decisions


@pytest.mark.parametrize("target", fuzz.targets(), ids=lambda target: target.name)
def test_whatever_is_in_a_file_it_is_read_or_refused_in_a_line(target, tmp_path):
    fuzz.run_of(target, tmp_path, derandomize=True, max_examples=15)()


def refused(read):
    with pytest.raises(PixeltrustError) as caught:
        read()
    lines = caught.value.faults if isinstance(caught.value, DataError) and caught.value.faults else [str(caught.value)]
    assert all(line.isprintable() for line in lines)


def test_a_setting_with_a_control_character_is_refused_in_one_line():
    refused(lambda: setting("\0"))


def test_parquet_texts_that_are_no_text_are_refused(tmp_path):
    path = parquet(lambda rows: rows.assign(group="abcdefgh"))(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"abcdefgh", b"abc\x80efgh"))
    assert path.read_bytes() != content
    refused(lambda: read_table(path))


def test_a_member_that_lies_before_its_archive_is_refused(tmp_path):
    content = fuzz.zipped(a=b"1", b=b"2")
    (tmp_path / "a.zip").write_bytes(content[1:])  # every place in it is one too far
    with open_zip(tmp_path / "a.zip") as archive:
        refused(lambda: files_in(archive)[0].save(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_the_record_of_an_audit_with_a_value_that_it_cannot_have_is_refused(tmp_path):
    fuzz.audit_folder(tmp_path)
    record = json.loads((tmp_path / "audit.json").read_text())
    (tmp_path / "audit.json").write_text(json.dumps(record | {"data": None}))
    refused(lambda: read_audit_record(tmp_path))


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"at TEXT NOT", b"A  TEXT NOT"), (b"who TEXT NOT", b"\x80ho TEXT NOT"), (b"CREATE TABLE masks", b"CREATE TABLE \x80asks")],
    ids=["another column", "a column whose name is no text", "a table whose name is no text"],
)
def test_a_broken_file_of_decisions_is_refused(tmp_path, before, after):
    fuzz.audit_folder(tmp_path)
    content = fuzz.decided()
    assert before in content
    (tmp_path / "review.sqlite").write_bytes(content.replace(before, after))

    def review():
        with closing(Decisions(Audit.read(tmp_path))) as decisions:
            for decision in decisions.all_in_force().values():
                decisions.mask(decision.after)

    refused(review)


@pytest.mark.parametrize("page", range(1, 14))
def test_a_file_of_decisions_with_a_page_of_garbage_is_read_or_refused(tmp_path, page):
    content = bytearray(fuzz.decided())
    content[4096 * page : 4096 * (page + 1)] = b"\xff" * len(content[4096 * page : 4096 * (page + 1)])
    fuzz.check_audit(("review.sqlite", bytes(content)), tmp_path)
