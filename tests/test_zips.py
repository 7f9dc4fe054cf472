"""An archive gives the bytes that it promises, under our names, or a sentence about what is broken."""

import struct
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import pytest

from pixeltrust.datasets.zips import files_in, open_zip
from pixeltrust.plumbing.errors import DataError


def zipped(file, members, compression=ZIP_DEFLATED):
    with ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def test_members_come_out_as_they_went_in_under_the_name_that_is_given(tmp_path):
    file = zipped(tmp_path / "a.zip", [("folder/", b""), ("folder/one.jpg", b"1" * 1000), ("two.jpg", b"")])
    with open_zip(file) as archive:
        members = files_in(archive)
        assert [(member.name, str(member)) for member in members] == [
            ("one.jpg", "a.zip: folder/one.jpg"),
            ("two.jpg", "a.zip: two.jpg"),
        ]
        for member in members:
            member.save(tmp_path / f"my {member.name}")
    assert (tmp_path / "my one.jpg").read_bytes() == b"1" * 1000
    assert (tmp_path / "my two.jpg").read_bytes() == b""
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "my one.jpg", "my two.jpg"}


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "..\\a.jpg", "C:a.jpg", "a..b.jpg", "x/.hidden/a.jpg", "ä ö.jpg"])
def test_no_path_in_an_archive_decides_where_a_member_goes(tmp_path, name):
    (tmp_path / "in").mkdir()
    file = zipped(tmp_path / "in" / "a.zip", [(name, b"1")])
    with open_zip(file) as archive:
        files_in(archive)[0].save(tmp_path / "in" / "b.jpg")
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "a.zip", "b.jpg"}


def save_first(file, to):
    with open_zip(file) as archive:
        files_in(archive)[0].save(to)


def test_unusual_packing_is_named(tmp_path):
    file = zipped(tmp_path / "a.zip", [("a.jpg", b"1")], ZIP_BZIP2)
    with pytest.raises(DataError, match=r"a\.zip: a\.jpg: cannot be unpacked: it is packed by the unusual method 12"):
        save_first(file, tmp_path / "a.jpg")


def test_encryption_is_named(tmp_path):
    file = zipped(tmp_path / "a.zip", [("a.jpg", b"1")])
    packed = bytearray(file.read_bytes())
    packed[packed.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry of the central list
    file.write_bytes(packed)
    with pytest.raises(DataError, match=r"a\.zip: a\.jpg: cannot be unpacked: .*encrypted"):
        save_first(file, tmp_path / "a.jpg")


@pytest.mark.parametrize("expected", [10, 999_999], ids=["smaller than it is", "larger than it is"])
def test_a_member_that_lies_about_its_size_is_refused_and_gives_no_more_than_listed(tmp_path, expected):
    file = zipped(tmp_path / "a.zip", [("a.jpg", bytes(100_000))])
    packed = bytearray(file.read_bytes())
    struct.pack_into("<L", packed, packed.index(b"PK\x01\x02") + 24, expected)
    file.write_bytes(packed)
    with pytest.raises(DataError, match=r"a\.zip: a\.jpg: cannot be unpacked"):
        save_first(file, tmp_path / "out.jpg")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


def test_changed_bytes_are_noticed(tmp_path):
    file = zipped(tmp_path / "a.zip", [("a.jpg", bytes(range(256)) * 100)])
    packed = bytearray(file.read_bytes())
    packed[60] ^= 255
    file.write_bytes(packed)
    with pytest.raises(DataError, match="cannot be unpacked"):
        save_first(file, tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_not_a_zip_file_is_named(tmp_path, content):
    file = tmp_path / "a.zip"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: (not a whole zip file|cannot be read)"):
        open_zip(file)


def test_a_path_that_would_drive_the_terminal_is_shown_escaped(tmp_path):
    with pytest.raises(DataError) as caught:
        save_first(zipped(tmp_path / "a.zip", [("\x1b[31m/a.jpg", b"1")], ZIP_BZIP2), tmp_path / "a.jpg")
    assert str(caught.value).startswith(r"a.zip: \x1b[31m/a.jpg: cannot")
