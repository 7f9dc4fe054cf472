"""A file from the web is whole and the right one, or not there; what was received before a break is not received again."""

import hashlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from pixeltrust.datasets.downloads import UNFINISHED, Patience, bytes_on_disk, download, lock_folder, remote_size
from pixeltrust.plumbing.errors import FetchError, RunError
from waiting import TOO_LONG, wait_for
from web import serving

CHUNK = 1 << 16  # what is written at a time: of a chunk that breaks off nothing is kept
CONTENT = np.random.default_rng(0).bytes(5 * CHUNK + 123)
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
HASTY = Patience(tries=1, timeout_s=TOO_LONG)
PATIENT = Patience(tries=3, wait_s=0.001, timeout_s=TOO_LONG)


@pytest.fixture
def folder(tmp_path):
    with lock_folder(tmp_path / "archives"):
        yield tmp_path / "archives"


def part(folder):
    return folder / UNFINISHED / "a.zip.part"


def left_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {f"{UNFINISHED}/lock"}


def part_of(web, folder, after):
    """The address of a file of which an earlier call received that much."""
    url = web.put("a.zip", CONTENT, breaks=[after])
    with pytest.raises(FetchError, match="is kept in"):
        download(url, md5=MD5, folder=folder, patience=HASTY)
    assert part(folder).read_bytes() == CONTENT[:after]
    web.asked.clear()
    return url


def test_a_file_comes_whole_and_leaves_nothing_else(web, folder):
    url = web.put("a.zip", CONTENT)
    file = download(url, md5=MD5.upper(), folder=folder, patience=HASTY)
    assert (file, file.read_bytes()) == (folder / "a.zip", CONTENT)
    assert left_in(folder) == {"a.zip"}


def test_a_file_that_is_there_is_not_asked_for(web, folder):
    (folder / "a.zip").write_bytes(CONTENT)
    assert download(web.url("a.zip"), md5=MD5, folder=folder, patience=HASTY) == folder / "a.zip"
    assert web.asked == []


def test_after_a_break_only_the_rest_is_asked_for(web, folder):
    url = web.put("a.zip", CONTENT, breaks=[2 * CHUNK, 1 * CHUNK])
    assert download(url, md5=MD5, folder=folder, patience=PATIENT).read_bytes() == CONTENT
    assert web.ranges("a.zip") == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]


def test_a_later_call_resumes_where_an_earlier_one_gave_up(web, folder):
    url = part_of(web, folder, 2 * CHUNK)
    assert bytes_on_disk(url, folder) == 2 * CHUNK
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
    assert web.ranges("a.zip") == [f"bytes={2 * CHUNK}-"]
    assert left_in(folder) == {"a.zip"}


def test_a_later_call_resumes_where_ctrl_c_stopped_an_earlier_one(web, folder):
    def stop(held, _):
        if held >= 3 * CHUNK:
            raise KeyboardInterrupt

    url = web.put("a.zip", CONTENT)
    with pytest.raises(KeyboardInterrupt):
        download(url, md5=MD5, folder=folder, patience=HASTY, report=stop)
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
    assert web.ranges("a.zip") == [None, f"bytes={3 * CHUNK}-"]


def test_a_later_call_resumes_where_an_earlier_process_was_killed(web, tmp_path):
    folder = tmp_path / "archives"
    url = web.put("a.zip", CONTENT, stalls=[3 * CHUNK])
    code = (
        "import sys; from pathlib import Path; from pixeltrust.datasets.downloads import lock_folder, download\n"
        "folder = Path(sys.argv[3])\n"
        "with lock_folder(folder): download(sys.argv[1], md5=sys.argv[2], folder=folder)"
    )
    with subprocess.Popen([sys.executable, "-c", code, url, MD5, folder]) as child:
        wait_for(lambda: bytes_on_disk(url, folder) >= 3 * CHUNK, child)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    with lock_folder(folder):
        assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
        assert left_in(folder) == {"a.zip"}
    assert web.ranges("a.zip") == [None, f"bytes={3 * CHUNK}-"]


def test_nothing_is_received_again_when_the_stop_came_while_the_sum_was_checked(web, folder):
    def stop(_, doing):
        if doing == "checking":
            raise KeyboardInterrupt

    url = web.put("a.zip", CONTENT)
    with pytest.raises(KeyboardInterrupt):
        download(url, md5=MD5, folder=folder, patience=HASTY, report=stop)
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
    assert web.ranges("a.zip") == [None]


def test_a_server_that_knows_no_ranges_sends_all_again(web, folder):
    url = part_of(web, folder, 2 * CHUNK)
    web.put("a.zip", CONTENT, ranges=False)
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
    assert len(web.ranges("a.zip")) == 1


@pytest.mark.parametrize(
    ("content", "etag"),
    [(OTHER, '"2"'), (OTHER + b"more", '"1"'), (OTHER[:CHUNK], '"1"'), (OTHER[: 2 * CHUNK], '"1"')],
    ids=["another etag", "longer", "shorter than the part", "as long as the part"],
)
def test_a_file_that_has_changed_since_is_fetched_from_its_start(web, folder, content, etag):
    url = part_of(web, folder, 2 * CHUNK)
    web.put("a.zip", content, etag=etag)
    assert download(url, md5=hashlib.md5(content).hexdigest(), folder=folder, patience=HASTY).read_bytes() == content
    assert web.ranges("a.zip")[-1] is None


def test_a_part_without_its_record_is_not_resumed(web, folder):
    url = part_of(web, folder, 2 * CHUNK)
    part(folder).with_name("a.zip.json").write_text("{")
    part(folder).write_bytes(b"something else")
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
    assert web.ranges("a.zip") == [None]


def test_a_file_of_one_name_from_elsewhere_is_not_resumed(web, folder):
    part_of(web, folder, 2 * CHUNK)
    url = web.put("elsewhere/a.zip", CONTENT)
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT
    assert web.ranges("elsewhere/a.zip") == [None]


def test_a_server_that_does_not_say_the_size_is_believed_when_the_sum_is_right(web, folder):
    url = web.put("a.zip", CONTENT, says_size=False)
    assert remote_size(url, patience=HASTY) is None
    assert download(url, md5=MD5, folder=folder, patience=HASTY).read_bytes() == CONTENT


def test_a_wrong_sum_is_reported_with_both_sums_and_the_file_is_gone(web, folder):
    url = web.put("a.zip", OTHER)
    with pytest.raises(FetchError) as caught:
        download(url, md5=MD5, folder=folder, patience=PATIENT)
    for expected in (url, MD5, hashlib.md5(OTHER).hexdigest(), "call again"):
        assert expected in str(caught.value)
    assert left_in(folder) == set()
    assert len(web.asked) == 1


def test_a_file_of_the_users_with_a_wrong_sum_is_reported_and_left_alone(web, folder):
    (folder / "a.zip").write_bytes(OTHER)
    with pytest.raises(FetchError) as caught:
        download(web.put("a.zip", CONTENT), md5=MD5, folder=folder, patience=HASTY)
    for expected in (str(folder / "a.zip"), MD5, hashlib.md5(OTHER).hexdigest(), "remove it"):
        assert expected in str(caught.value)
    assert (folder / "a.zip").read_bytes() == OTHER
    assert web.asked == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_is_not_there_is_asked_for_once(web, folder, status):
    url = web.put("a.zip", CONTENT, statuses=[status])
    with pytest.raises(FetchError, match=rf"a\.zip: the server answers {status} .*; if it has moved"):
        download(url, md5=MD5, folder=folder, patience=PATIENT)
    assert len(web.asked) == 1


def test_a_server_in_trouble_is_asked_again(web, folder):
    url = web.put("a.zip", CONTENT, statuses=[503, 429])
    reports = []
    assert download(url, md5=MD5, folder=folder, patience=PATIENT, report=lambda _, doing: reports.append(doing)).read_bytes() == CONTENT
    assert len(web.asked) == 3
    assert reports[0] == "the server answers 503 Service Unavailable; again in 0.001 s"
    assert reports[1] == "the server answers 429 Too Many Requests; again in 0.002 s"


def test_a_server_that_stays_in_trouble_is_given_up(web, folder):
    url = web.put("a.zip", CONTENT, statuses=[500] * 9)
    with pytest.raises(FetchError, match="the server answers 500 Internal Server Error, 3 times in a row; check your connection"):
        download(url, md5=MD5, folder=folder, patience=PATIENT)
    assert len(web.asked) == 3


@pytest.mark.slow
def test_a_server_that_falls_silent_is_left_and_asked_for_the_rest(web, folder):
    url = web.put("a.zip", CONTENT, stalls=[2 * CHUNK])
    patience = Patience(tries=5, wait_s=0.001, timeout_s=2)
    assert download(url, md5=MD5, folder=folder, patience=patience).read_bytes() == CONTENT
    assert web.ranges("a.zip")[-1] == f"bytes={2 * CHUNK}-"


@pytest.mark.slow
def test_a_server_that_stays_silent_is_given_up(web, folder):
    url = web.put("a.zip", CONTENT, stalls=[2 * CHUNK, 0, 0])
    with pytest.raises(FetchError, match=r"no answer for 2 s, 2 times in a row; what was received is kept in .*a\.zip\.part"):
        download(url, md5=MD5, folder=folder, patience=Patience(tries=2, wait_s=0.001, timeout_s=2))
    assert part(folder).read_bytes() == CONTENT[: 2 * CHUNK]


def test_breaks_do_not_add_up_while_the_file_grows(web, folder):
    url = web.put("a.zip", CONTENT, breaks=[CHUNK] * 5)
    assert download(url, md5=MD5, folder=folder, patience=Patience(tries=2, wait_s=0.001)).read_bytes() == CONTENT


def test_breaks_add_up_where_every_connection_starts_over(web, folder):
    url = web.put("a.zip", CONTENT, ranges=False, breaks=[2 * CHUNK] * 9)
    with pytest.raises(FetchError, match="3 times in a row"):
        download(url, md5=MD5, folder=folder, patience=PATIENT)
    assert len(web.asked) == 3


def test_a_server_that_is_not_there_is_one_sentence(folder):
    with serving() as gone:
        url = gone.url("a.zip")
    with pytest.raises(FetchError) as caught:
        download(url, md5=MD5, folder=folder, patience=PATIENT)
    assert str(caught.value).startswith(f"{url}: the connection failed (")
    assert "refused" in str(caught.value)
    assert "check your connection" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_address_is_not_tried_again(folder):
    with pytest.raises(FetchError, match="if it has moved"):
        download("nothing://a.zip", md5=MD5, folder=folder, patience=Patience(tries=2, wait_s=1000))


def test_the_size_is_asked_for_without_the_file(web):
    assert remote_size(web.put("a.zip", CONTENT), patience=HASTY) == len(CONTENT)
    assert remote_size(web.put("b.zip", CONTENT, heads=False), patience=HASTY) is None
    with pytest.raises(FetchError, match="404 Not Found"):
        remote_size(web.url("missing.zip"), patience=HASTY)
    assert {method for method, _, _ in web.asked} == {"HEAD"}


def test_progress_is_reported(web, folder):
    reports = []
    download(web.put("a.zip", CONTENT), md5=MD5, folder=folder, patience=HASTY, report=lambda *words: reports.append(words))
    held = [number for number, _ in reports]
    assert held == sorted(held)
    assert (reports[0], reports[-1]) == ((0, ""), (len(CONTENT), "checking"))


def test_a_full_disk_is_named(web, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        download(web.put("a.zip", CONTENT), md5=MD5, folder=folder, patience=PATIENT, report=full)


def test_what_a_kill_between_two_moves_left_behind_is_removed(web, folder):
    url = part_of(web, folder, 2 * CHUNK)
    (folder / "a.zip").write_bytes(CONTENT)
    download(url, md5=MD5, folder=folder, patience=HASTY)
    assert left_in(folder) == {"a.zip"}


def test_two_processes_do_not_write_one_folder(tmp_path):
    with lock_folder(tmp_path / "a"), lock_folder(tmp_path / "b"):
        with pytest.raises(RunError, match="another process is downloading into it"), lock_folder(tmp_path / "a"):
            pass
        (tmp_path / "a" / UNFINISHED / "kept").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with lock_folder(tmp_path / "a"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="archives: cannot be written"), lock_folder(tmp_path / "file" / "archives"):
        pass
