"""What is being written is seen by nobody until it is whole."""

import errno
import os
import stat

import numpy as np
import pytest

from pixeltrust.data.image_files import image_suffix
from pixeltrust.plumbing import files
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import (
    append_text,
    fill_folder_atomically,
    make_folder,
    mapped_array,
    require_free,
    write_atomically,
    write_file,
)


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with write_atomically(path) as unfinished:
            unfinished.write_text("new")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_its_folder_after(tmp_path, monkeypatch):
    synced, path, fsync = [], tmp_path / "a.txt", os.fsync

    def syncing(descriptor):
        found = os.fstat(descriptor)
        synced.append(("folder" if stat.S_ISDIR(found.st_mode) else found.st_size, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    write_file(path, "whole")
    assert synced == [(5, False), ("folder", True)]


def test_what_is_added_to_a_file_is_on_the_disk_and_its_name_too(tmp_path, monkeypatch):
    synced, path, fsync = [], tmp_path / "a.txt", os.fsync

    def syncing(descriptor):
        found = os.fstat(descriptor)
        synced.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    append_text(path, "ä")
    append_text(path, "more")
    assert path.read_text(encoding="utf-8") == "ämore"
    assert synced == [2, "folder", 6]


def test_many_files_are_brought_to_the_disk_in_the_end(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def syncing(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    places = [tmp_path / name for name in ("a", "b", "in/c")]
    (tmp_path / "in").mkdir()
    for place in places:
        with write_atomically(place, synced=False) as unfinished:
            unfinished.write_text("whole")
    assert not synced
    files.sync_files(tmp_path)
    assert sorted(synced) == sorted(place.stat().st_ino for place in (tmp_path, tmp_path / "in", *places))


def test_a_file_that_another_process_finishes_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    with write_atomically(tmp_path / "a", synced=False) as unfinished:
        unfinished.write_text("whole")
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: [(place, folders, [*names, ".b.unfinished"]) for place, folders, names in walk(top)])
    files.sync_files(tmp_path)
    assert (tmp_path / "a").read_text() == "whole"


def test_folders_that_are_made_are_on_the_disk_by_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
    with fill_folder_atomically(tmp_path / "out") as unfinished:
        (unfinished / "masks").mkdir()
    assert synced[2:] == [unfinished, unfinished / "masks", tmp_path]


def test_a_disk_that_knows_no_syncing_of_folders_is_written_to_all_the_same(tmp_path, monkeypatch):
    def refusing(number):
        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, "refused")

        return fsync

    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    write_file(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(OSError, match="refused"):
        write_file(tmp_path / "b.txt", "whole")


def test_an_array_in_a_file_is_of_zeros_and_has_its_room_from_the_start(tmp_path):
    array = mapped_array(tmp_path / "new" / "a.uint8", np.uint8, (3, 5, 1000))
    assert array.shape == (3, 5, 1000)
    assert not array.any()
    found = (tmp_path / "new" / "a.uint8").stat()
    assert found.st_size == 15_000
    if hasattr(os, "posix_fallocate"):
        assert found.st_blocks * 512 >= 15_000  # not a file of holes, which a full disk would not fill
    array[2, 4] = 7
    array.flush()
    assert (np.fromfile(tmp_path / "new" / "a.uint8", np.uint8)[-1000:] == 7).all()


def test_an_unfinished_file_is_hidden_so_that_no_folder_takes_it_for_a_case(tmp_path):
    with write_atomically(tmp_path / "a.png") as unfinished:
        unfinished.write_bytes(b"")
        assert unfinished.name.startswith(".")
        assert image_suffix(unfinished) is None


@pytest.mark.parametrize("write", [lambda path: write_file(path, "new"), lambda path: mapped_array(path, np.uint8, (3,))])
def test_nothing_is_written_through_a_link_that_lies_where_a_file_is_made(tmp_path, write):
    """As in a folder that a stranger has made."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for name in (".a.unfinished", "a"):
        (theirs / name).symlink_to(mine)
    write(theirs / "a")
    assert mine.read_text() == "mine"
    assert not (theirs / "a").is_symlink()


def test_an_array_that_is_made_anew_leaves_the_old_one_to_those_who_have_it(tmp_path):
    old = mapped_array(tmp_path / "a.uint8", np.uint8, (10_000,))
    old[:] = 7
    assert not mapped_array(tmp_path / "a.uint8", np.uint8, (3,)).any()
    assert (old == 7).all()


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_when_everything_is_in_it(tmp_path, exists):
    out = tmp_path / "new" / "out"
    if exists:
        out.mkdir(parents=True)
    with fill_folder_atomically(out) as unfinished:
        (unfinished / "a.txt").write_text("whole")
        assert not out.exists() or not list(out.iterdir())
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_a_folder_that_is_not_finished_vanishes(tmp_path, end):
    def stopped():
        with fill_folder_atomically(tmp_path / "out") as unfinished:
            (unfinished / "a.txt").write_text("half")
            raise end

    with pytest.raises(end):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_folder_do_not_mix_and_the_slower_fails(tmp_path):
    out = tmp_path / "out"

    def slower():
        with fill_folder_atomically(out) as late:
            (late / "late.txt").write_text("")
            with fill_folder_atomically(out) as early:
                (early / "early.txt").write_text("")

    with pytest.raises(RunError, match="out: cannot be written"):
        slower()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["early.txt"]


def test_a_place_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    for place, said in ((tmp_path, "exists and is not empty"), (tmp_path / "a.txt", "exists and is not a folder")):
        with pytest.raises(RunError, match=said):
            require_free(place)
        with pytest.raises(RunError, match=said), fill_folder_atomically(place):
            pass
    assert (tmp_path / "a.txt").read_text() == "mine"
    require_free(tmp_path / "b")
