"""What is being written is seen by nobody until it is whole."""

import pytest

from pixeltrust.errors import RunError
from pixeltrust.files import check_free, replacing, whole_folder
from pixeltrust.images import image_suffix


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with replacing(path) as unfinished:
            unfinished.write_text("new")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unfinished_file_is_hidden_so_that_no_folder_takes_it_for_a_case(tmp_path):
    with replacing(tmp_path / "a.png") as unfinished:
        unfinished.write_bytes(b"")
        assert unfinished.name.startswith(".")
        assert image_suffix(unfinished) is None


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_when_everything_is_in_it(tmp_path, exists):
    out = tmp_path / "new" / "out"
    if exists:
        out.mkdir(parents=True)
    with whole_folder(out) as unfinished:
        (unfinished / "a.txt").write_text("whole")
        assert not out.exists() or not list(out.iterdir())
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_a_folder_that_is_not_finished_vanishes(tmp_path, end):
    def stopped():
        with whole_folder(tmp_path / "out") as unfinished:
            (unfinished / "a.txt").write_text("half")
            raise end

    with pytest.raises(end):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_folder_do_not_mix_and_the_slower_fails(tmp_path):
    out = tmp_path / "out"

    def slower():
        with whole_folder(out) as late:
            (late / "late.txt").write_text("")
            with whole_folder(out) as early:
                (early / "early.txt").write_text("")

    with pytest.raises(RunError, match="out: cannot be written"):
        slower()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["early.txt"]


def test_a_place_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    for place, said in ((tmp_path, "exists and is not empty"), (tmp_path / "a.txt", "exists and is no folder")):
        with pytest.raises(RunError, match=said):
            check_free(place)
        with pytest.raises(RunError, match=said), whole_folder(place):
            pass
    assert (tmp_path / "a.txt").read_text() == "mine"
    check_free(tmp_path / "b")
