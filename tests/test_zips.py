"""An archive that nobody need trust: it gives the bytes it promises, under our names, or a sentence for everything wrong with it."""

import stat
import struct
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from pixeltrust.datasets import zips
from pixeltrust.datasets.zips import files_in, open_zip
from pixeltrust.plumbing.errors import DataError


def zipped(file, members, compression=ZIP_DEFLATED):
    with ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def faults_of_zip(file):
    with pytest.raises(DataError) as caught:
        open_zip(file)
    return caught.value.faults


def of_kind(kind, name="link.jpg"):
    info = ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


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


@pytest.mark.parametrize(
    "name", ["../a.jpg", "x/../../a.jpg", "..\\a.jpg", "/a.jpg", "\\a.jpg", "\\\\host\\a.jpg", "C:a.jpg", "c:\\a.jpg", ".."]
)
def test_a_path_that_leads_out_of_the_folder_is_named(tmp_path, name):
    file = zipped(tmp_path / "a.zip", [(name, b"1"), ("b.jpg", b"2")])
    assert faults_of_zip(file) == [f"a.zip: {name!r} leads out of the folder"]


@pytest.mark.parametrize("name", ["a..b.jpg", "...jpg", "x/.hidden/a.jpg", "ä ö.jpg"])
def test_names_that_are_only_unusual_are_no_fault(tmp_path, name):
    open_zip(zipped(tmp_path / "a.zip", [(name, b"1")])).close()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_named(tmp_path, kind):
    file = zipped(tmp_path / "a.zip", [(of_kind(kind), b"/etc/passwd"), (of_kind(stat.S_IFREG, "file.jpg"), b"")])
    assert faults_of_zip(file) == ["a.zip: 'link.jpg' is a link or a device, not a file"]


def test_unusual_packing_is_named(tmp_path):
    assert faults_of_zip(zipped(tmp_path / "a.zip", [("a.jpg", b"1")], ZIP_BZIP2)) == ["a.zip: 'a.jpg' is packed by the unusual method 12"]


def test_encryption_is_named(tmp_path):
    file = zipped(tmp_path / "a.zip", [("a.jpg", b"1")])
    packed = bytearray(file.read_bytes())
    packed[packed.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry of the central list
    file.write_bytes(packed)
    assert faults_of_zip(file) == ["a.zip: 'a.jpg' is encrypted"]


def test_a_bomb_is_named_before_a_byte_is_unpacked(tmp_path, monkeypatch):
    file = zipped(tmp_path / "a.zip", [("a.jpg", bytes(3_000_000)), ("b.jpg", bytes(1_000_000))])
    assert file.stat().st_size < 10_000
    monkeypatch.setattr(zips, "MAX_MEMBER_BYTES", 2_000_000)
    monkeypatch.setattr(zips, "MAX_BYTES", 3_500_000)
    assert faults_of_zip(file) == [
        "a.zip: 'a.jpg' would unpack to 3.0 MB, more than 2.0 MB",
        "a.zip: would unpack to 4.0 MB, more than 3.5 MB",
    ]


def test_too_many_members_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MAX_MEMBERS", 2)
    file = zipped(tmp_path / "a.zip", [(f"{number}.jpg", b"") for number in range(3)])
    assert faults_of_zip(file) == ["a.zip: holds 3 members, more than 2"]


def test_all_dangers_of_an_archive_are_named(tmp_path):
    file = zipped(tmp_path / "a.zip", [("../a.jpg", b"1"), ("/b.jpg", b"2"), ("c.jpg", b"3")])
    assert len(faults_of_zip(file)) == 2


@pytest.mark.parametrize("said", [10, 999_999], ids=["smaller than it is", "larger than it is"])
def test_a_member_that_lies_about_its_size_is_refused_and_gives_no_more_than_it_said(tmp_path, said):
    file = zipped(tmp_path / "a.zip", [("a.jpg", bytes(100_000))])
    packed = bytearray(file.read_bytes())
    struct.pack_into("<L", packed, packed.index(b"PK\x01\x02") + 24, said)
    file.write_bytes(packed)
    with open_zip(file) as archive, pytest.raises(DataError, match=r"a\.zip: a\.jpg: cannot be unpacked"):
        files_in(archive)[0].save(tmp_path / "out.jpg")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip"}


def test_changed_bytes_are_noticed(tmp_path):
    file = zipped(tmp_path / "a.zip", [("a.jpg", bytes(range(256)) * 100)])
    packed = bytearray(file.read_bytes())
    packed[60] ^= 255
    file.write_bytes(packed)
    with open_zip(file) as archive, pytest.raises(DataError, match="cannot be unpacked"):
        files_in(archive)[0].save(tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_what_is_no_zip_file_is_named(tmp_path, content):
    file = tmp_path / "a.zip"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: (no whole zip file|cannot be read)"):
        open_zip(file)


def test_a_path_that_would_drive_the_terminal_is_shown_escaped(tmp_path):
    with open_zip(zipped(tmp_path / "a.zip", [("\x1b[31m/a.jpg", b"1")])) as archive:
        assert str(files_in(archive)[0]) == r"a.zip: '\x1b[31m/a.jpg'"
