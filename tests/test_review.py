"""The review: what is decided and kept, who is let in, and the data folder that comes of it."""

import asyncio
import io
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlencode

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient

import pixeltrust.reviewing.decisions as decisions_module
from audits import audit_of, discs, shifted_back
from pixeltrust.auditing.folder import Audit, AuditRecord, read_audit_cases
from pixeltrust.data.cases import check, read_cases
from pixeltrust.data.images import read_labels
from pixeltrust.data.pictures import decode_png, encode_image
from pixeltrust.plumbing.errors import ConfigError, DataError, RunError
from pixeltrust.plumbing.files import stamp
from pixeltrust.reviewing.access import AccessPolicy
from pixeltrust.reviewing.decisions import Conflict, Decisions, clean_name
from pixeltrust.reviewing.exports import export_decisions as export
from pixeltrust.reviewing.masks import MaskCache, allowed_labels, digest, labels_of_runs
from pixeltrust.reviewing.pages import application
from pixeltrust.reviewing.queue import SORTS, Filter, Queue
from pixeltrust.reviewing.server import review
from waiting import TOO_LONG, wait_for

SIZE = (48, 64)
HOME = "http://127.0.0.1:8765"
STRANGE = "<img src=x onerror=alert(1)>&\"'é"


@pytest.fixture
def audit(audit_to_review):
    return audit_to_review


@pytest.fixture
def client(audit):
    yield from clients(audit)


def clients(audit, policy=None):
    read = Audit.read(audit)
    decisions = Decisions(read)
    app = application(read, decisions, policy=policy or AccessPolicy.of("127.0.0.1"), who="ann")
    with TestClient(app, base_url=HOME, headers={"Origin": HOME}) as client:
        yield client
    decisions.close()


def runs_of(mask):
    flat = mask.ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, flat.size])
    return (lengths.astype("<u4") << 8 | flat[starts]).astype("<u4").tobytes()


def decide(client, identity, what, *, seen=0, who="ann", mask=None, **more):
    query = urlencode({"id": identity, "what": what, "seen": seen, "who": who})
    return client.post(f"/decide?{query}", content=b"" if mask is None else runs_of(mask), **more)


def given_of(audit, identity):
    rows = read_audit_cases(audit).set_index("id")
    return (read_labels(Path(rows["mask"][identity])) > 0).astype(np.uint8)


def rows_of(audit):
    connection = sqlite3.connect(audit / "review.sqlite")
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute("SELECT * FROM decisions ORDER BY number")]
    connection.close()
    return rows


# --- decisions ----------------------------------------------------------------------------------------------------


def test_every_decision_is_a_row_with_who_when_what_before_and_after(audit, client):
    painted = np.zeros(SIZE, np.uint8)
    painted[5:20, 7:30] = 1
    first = decide(client, "a", "mended", mask=painted).json()
    second = decide(client, "a", "rejected", seen=first["number"], who="bob").json()
    one, two = rows_of(audit)
    assert (one["number"], one["case_id"], one["who"], one["what"], one["seen"]) == (first["number"], "a", "ann", "mended", 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", one["at"])
    assert (one["before"], one["after"]) == (digest(given_of(audit, "a")), digest(painted))
    assert (two["number"], two["who"], two["before"], two["after"]) == (second["number"], "bob", digest(painted), None)
    decisions = Decisions(Audit.read(audit))
    assert (decisions.mask(one["after"]) == painted).all()
    assert (decisions.mask(one["before"]) == given_of(audit, "a")).all()
    decisions.close()


def test_undoing_is_a_further_row_and_brings_back_what_held_before(audit, client):
    painted = np.ones(SIZE, np.uint8)
    first = decide(client, "a", "proposed").json()["number"]
    second = decide(client, "a", "mended", seen=first, mask=painted).json()["number"]
    undone = client.post(f"/undo?id=a&who=bob&seen={second}").json()
    assert undone["what"] == "undone"
    rows = rows_of(audit)
    assert [row["what"] for row in rows] == ["proposed", "mended", "undone"]
    assert (rows[2]["undoes"], rows[2]["before"], rows[2]["after"]) == (second, digest(painted), rows[0]["after"])
    assert 'class="state proposed"' in client.get("/case?id=a").text
    again = client.post(f"/undo?id=a&who=bob&seen={undone['number']}").json()["number"]
    assert rows_of(audit)[3]["after"] == digest(given_of(audit, "a"))
    assert "nothing to undo" in client.post(f"/undo?id=a&who=bob&seen={again}").json()["error"].lower()


def test_no_row_is_ever_changed_or_removed(audit, client):
    decide(client, "a", "given")
    connection = sqlite3.connect(audit / "review.sqlite")
    for statement in ("UPDATE decisions SET who = 'eve'", "DELETE FROM decisions"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
    connection.close()


def test_who_decides_on_what_another_has_decided_meanwhile_is_told_and_may_decide_anyway(audit, client):
    first = decide(client, "a", "given", who="ann").json()["number"]
    refused = decide(client, "a", "proposed", who="bob")
    assert refused.status_code == 409
    (later,) = refused.json()["later"]
    assert (later["number"], later["who"], later["what"]) == (first, "ann", "given accepted")
    assert len(rows_of(audit)) == 1
    assert decide(client, "a", "proposed", who="bob", seen=later["number"]).status_code == 200
    assert [(row["who"], row["what"]) for row in rows_of(audit)] == [("ann", "given"), ("bob", "proposed")]
    assert client.post("/undo?id=a&who=ann&seen=1").status_code == 409


def test_of_many_who_decide_at_once_one_is_written_and_the_others_are_told(audit):
    read = Audit.read(audit)
    stores = [Decisions(read) for _ in range(4)]  # as four processes would
    given, outcomes, barrier = given_of(audit, "a"), [], threading.Barrier(8)

    def attempt(number):
        barrier.wait()
        try:
            outcomes.append(stores[number % 4].decide("a", "given", who=f"p{number}", seen=0, given=given, decided=given).who)
        except Conflict as conflict:
            outcomes.append(conflict.later[0].who)

    threads = [threading.Thread(target=attempt, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    (row,) = rows_of(audit)
    assert outcomes == [row["who"]] * 8


def test_different_people_decide_on_different_cases_at_once_without_losing_one(tmp_path):
    names = [f"case{number}" for number in range(24)]
    audit = audit_of(discs(tmp_path / "data", ids=names, size=(16, 16)), tmp_path / "audit", shifted_back)
    given = np.zeros((16, 16), np.uint8)

    def work(part):
        store = Decisions(Audit.read(audit))
        for name in part:
            store.decide(name, "given", who=part[0], seen=0, given=given, decided=given)
        store.close()

    threads = [threading.Thread(target=work, args=[names[start::4]]) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["case_id"] for row in rows_of(audit)) == sorted(names)


@contextmanager
def waiting(store, audit, cases):
    """Decisions that all wait until another process has finished its own, and then the outcome of each."""
    given, outcomes, begun = np.zeros((16, 16), np.uint8), {}, []

    def attempt(case_id):
        begun.append(case_id)
        try:
            outcomes[case_id] = store.decide(case_id, "given", who="ann", seen=0, given=given, decided=given).case_id
        except (Conflict, OSError) as error:
            outcomes[case_id] = type(error)

    other = sqlite3.connect(audit / "review.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    threads = [threading.Thread(target=attempt, args=[case_id]) for case_id in cases]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(begun) == len(cases))
    yield outcomes
    other.execute("COMMIT")
    other.close()
    for thread in threads:
        thread.join()


def test_decisions_that_wait_for_another_process_are_all_written_and_each_gets_its_own_answer(audit):
    store = Decisions(Audit.read(audit))
    given = np.zeros((16, 16), np.uint8)
    store.decide("b", "rejected", who="bob", seen=0, given=given, decided=None)
    with waiting(store, audit, ["a", "b", "c"]) as outcomes:
        assert outcomes == {}
    assert outcomes == {"a": "a", "b": Conflict, "c": "c"}
    assert sorted((row["case_id"], row["who"]) for row in rows_of(audit)) == [("a", "ann"), ("b", "bob"), ("c", "ann")]
    store.close()


def test_a_decision_that_cannot_be_written_fails_alone(audit, monkeypatch):
    store = Decisions(Audit.read(audit))
    write = decisions_module._write

    def failing(connection, **values):
        made = write(connection, **values)
        if values["case_id"] == "c":
            raise OSError(28, "No space left on device")
        return made

    with waiting(store, audit, ["a", "b", "c"]) as outcomes:
        monkeypatch.setattr(decisions_module, "_write", failing)
    assert outcomes == {"a": "a", "b": "b", "c": OSError}
    assert sorted(row["case_id"] for row in rows_of(audit)) == ["a", "b"]
    store.close()


def test_a_connection_is_used_again_unless_it_failed(audit, monkeypatch):
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *values, **how: opened.append(connect(*values, **how)) or opened[-1])
    store = Decisions(Audit.read(audit))
    assert store.history("a") == store.history("b") == []
    assert len(opened) == 1
    with pytest.raises(sqlite3.OperationalError, match="no such table"), store.reading() as connection:
        connection.execute("SELECT * FROM nowhere")
    assert store.history("a") == []
    assert len(opened) == 2
    store.close()
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_decisions_outlive_the_server_and_an_audit_made_anew(audit, client):
    decide(client, "a", "given")
    table = pd.read_csv(audit / "cases.csv")
    table[table["id"] != "b"][::-1].to_csv(audit / "cases.csv", index=False)
    decisions = Decisions(Audit.read(audit))
    queue = Queue(decisions)
    assert queue.counts() == {"all": 2, "undecided": 1, "given": 1, "proposed": 0, "mended": 0, "rejected": 0, "skipped": 0}
    assert [row["id"] for row in queue.page(Filter(show="all"), 1).rows] == list(table[table["id"] != "b"]["id"])[::-1]
    decisions.close()


def test_originals_are_left_as_they_are(audit, client, tmp_path):
    before = {path: path.read_bytes() for folder in ("data", "audit/mended", "audit/trust") for path in (tmp_path / folder).rglob("*.*")}
    decide(client, "a", "mended", mask=np.ones(SIZE, np.uint8))
    decide(client, "b", "proposed")
    export(audit, tmp_path / "out", show_progress=False)
    assert before
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(("text", "name"), [(" Ann  Lee\n", "Ann Lee"), ("\x1b[1mé", "[1mé")])
def test_a_name_is_kept_without_what_cannot_be_printed(text, name):
    assert clean_name(text) == name


@pytest.mark.parametrize("text", ["", " \n", "x" * 61])
def test_a_name_that_is_none_is_refused(audit, client, text):
    with pytest.raises(ValueError, match="1 to 60"):
        clean_name(text)
    assert decide(client, "a", "given", who=text).status_code == 400
    assert rows_of(audit) == []


def test_a_full_disk_is_said_and_nothing_is_half_written(audit):
    store = Decisions(Audit.read(audit))
    noise = np.random.default_rng(0).integers(0, 2, (900, 900)).astype(np.uint8)
    reading = store.reading

    @contextmanager
    def full():
        with reading() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")
            yield connection

    store.reading = full
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.decide("a", "mended", who="ann", seen=0, given=noise, decided=noise)
    store.reading = reading
    assert store.history("a") == []
    store.decide("a", "mended", who="ann", seen=0, given=noise, decided=noise)
    store.close()


_BEGIN = """
import sys
from pathlib import Path
from pixeltrust.auditing.folder import Audit
from pixeltrust.reviewing.decisions import Decisions
print("ready", flush=True)
sys.stdin.readline()
Decisions(Audit.read(Path(sys.argv[1]))).close()
"""


@pytest.mark.slow
def test_processes_that_begin_on_an_audit_at_once_all_begin(audit):
    begun = [python(_BEGIN, audit) for _ in range(4)]
    for process in begun:
        process.stdout.readline()
    for process in begun:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [(process.communicate(timeout=TOO_LONG)[1], process.returncode) for process in begun] == [("", 0)] * 4


_DECIDE = """
import sys
from pathlib import Path
import numpy as np
from pixeltrust.auditing.folder import Audit
from pixeltrust.reviewing.decisions import Decisions
store, seen = Decisions(Audit.read(Path(sys.argv[1]))), 0
for number in range(10**9):
    mask = np.random.default_rng(number).integers(0, 2, (64, 64)).astype(np.uint8)
    seen = store.decide("a", "mended", who="ann", seen=seen, given=mask, decided=mask).number
    print(seen, flush=True)
"""


@pytest.mark.slow
def test_what_was_answered_outlives_a_kill(audit):
    process = python(_DECIDE, audit)
    for _ in range(5):
        answered = int(process.stdout.readline())
    process.kill()
    answered = max([answered, *map(int, process.stdout.read().split())])
    process.communicate()
    store = Decisions(Audit.read(audit))
    history = store.history("a")
    assert [made.number for made in history] in ([*range(1, answered + 1)], [*range(1, answered + 2)])  # the last one unanswered
    assert all(digest(store.mask(made.after)) == made.after for made in history)
    store.close()


def python(program, audit):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", program, str(audit)], text=True, env=environment, **pipes)


# --- the queue ----------------------------------------------------------------------------------------------------


def many(tmp_path, number):
    """An audit of made-up rows, whose files need not exist."""
    folder = tmp_path / "many"
    folder.mkdir()
    rows = pd.DataFrame({"rank": range(1, number + 1), "id": [f"c{place:05}" for place in range(number)]})
    rows = rows.assign(image="/nowhere.png", mask="/nowhere.png", agreement=0.5, doubtful_share=0.1, height=8, width=8, evidence="network")
    for name in ("doubtful_pixels", "changed_pixels", "added_pixels", "removed_pixels", "regions"):
        rows[name] = 1
    rows.to_csv(folder / "cases.csv", index=False)
    regions = pd.DataFrame({"id": rows["id"], "kind": np.where(np.arange(number) % 3 == 0, "missing", "too much"), "mended": True})
    for name in ("region", "area", "share", "top", "left", "bottom", "right", "row", "column", "doubt"):
        regions[name] = 1
    regions.to_csv(folder / "regions.csv", index=False)
    about = {"weights": "last", "classes": 1, "ignore_label": None, "channels": 3, "tilt": (0.0, 0.0), "seconds": 1.0}
    (folder / "audit.json").write_text(AuditRecord(data="/nowhere", run="", **about).text())
    return folder


def test_the_queue_is_worst_first_in_pages_and_by_filters(tmp_path):
    decisions = Decisions(Audit.read(many(tmp_path, 130)))
    queue = Queue(decisions)
    page = queue.page(Filter(), 2)
    assert ([row["id"] for row in page.rows], page.pages, page.total) == ([f"c{n:05}" for n in range(50, 100)], 3, 130)
    assert queue.page(Filter(), 99).number == 3
    assert queue.page(Filter(kind="missing"), 1).total == 44
    assert [row["id"] for row in queue.page(Filter(find="C0012"), 1).rows] == [f"c{n:05}" for n in range(120, 130)]
    blank = np.zeros((8, 8), np.uint8)
    decisions.decide("c00001", "skipped", who="ann", seen=0, given=blank, decided=blank)
    assert queue.page(Filter(), 1).total == 129
    assert [row["id"] for row in queue.page(Filter(show="skipped"), 1).rows] == ["c00001"]
    assert queue.neighbours(Filter(), 2) == ("c00000", "c00002")
    assert queue.neighbours(Filter(show="all"), 3) == ("c00001", "c00003")
    assert queue.neighbours(Filter(kind="missing"), 1) == (None, "c00003")
    assert queue.next_to_decide(Filter(), 130) == ("c00000", False)  # and again from the worst
    decisions.close()


def test_the_queue_is_sorted_by_a_column_and_gone_through_in_that_order(tmp_path):
    decisions = Decisions(Audit.read(many(tmp_path, 60)))
    queue, names = Queue(decisions), [f"c{number:05}" for number in range(60)]
    backwards = Filter().sorted_by("id").sorted_by("id")
    assert backwards.sort == "-id"
    assert [row["id"] for row in queue.page(backwards, 1).rows] == names[:9:-1]
    assert queue.neighbours(backwards, 3) == (names[3], names[1])
    assert queue.next_to_decide(backwards, 1) == (names[-1], False)  # behind the last comes the first
    alike = Filter().sorted_by("size")  # all the same: the order is that of the queue
    assert (alike.sort, alike.query()) == ("-size", "show=undecided&sort=-size")
    assert [row["id"] for row in queue.page(alike, 1).rows] == names[:50]
    assert queue.neighbours(alike, 3) == (names[1], names[3])
    for name in SORTS:
        assert queue.page(Filter(sort=name), 1).total == 60
    decisions.close()


def test_what_was_skipped_comes_back_once_all_else_is_decided(client, audit):
    first, second, third = read_audit_cases(audit)["id"]
    assert decide(client, first, "skipped").json()["next"] == second
    assert decide(client, second, "given").json()["next"] == third
    assert "1 of 3 decided" in client.get("/").text
    answer = decide(client, third, "proposed").json()
    assert (answer["next"], answer["again"]) == (first, True)
    assert "Go through the 1 skipped" in client.get("/").text
    assert decide(client, first, "skipped", seen=1).json()["next"] is None


def test_a_thumbnail_shows_what_was_decided(audit, client):
    def seen():
        version = re.search(r"id=a&amp;v=([\w-]+)", client.get("/?show=all").text)[1]
        answer = client.get(f"/thumbnail?id=a&v={version}")
        assert "immutable" in answer.headers["Cache-Control"]
        return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)

    before = seen()
    painted = np.zeros(SIZE, np.uint8)
    painted[30:46, 4:24] = 1
    number = decide(client, "a", "mended", mask=painted).json()["number"]
    after = seen()
    assert (abs(after - before).sum(-1) > 120)[30:46, 4:24].any()
    client.post(f"/undo?id=a&who=ann&seen={number}")
    assert (seen() == before).all()


def test_the_page_exports_what_the_command_does(audit, client, tmp_path):
    decide(client, "a", "proposed")
    for number, name in enumerate(("data-reviewed", "data-reviewed-2")):
        made = client.post("/export").json()
        assert made["words"].startswith(f"{tmp_path / name}: 2 noisy, 2 clean (1 pair), 1 test case")
        assert made["command"] == f"pixeltrust train {tmp_path / name} --out RUN", number
    export(audit, tmp_path / "by-command", show_progress=False)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")} for name in (name, "by-command")
    ]
    assert files[0] == files[1]
    assert client.get("/export").status_code == 405
    assert client.post("/export", headers={"Origin": "http://elsewhere"}).status_code == 403


def test_pages_link_to_pages_with_the_filter_kept(tmp_path):
    for client in clients(many(tmp_path, 130)):
        text = client.get("/?show=all&kind=too+much&page=1").text
        assert "/?show=all&amp;kind=too+much&amp;page=2" in text
        assert text.count('class="case"') == 50
        assert "87 of" not in text
        assert "Page 1 of 2" in text


def test_the_next_case_follows_by_the_filter(client, audit):
    order = list(read_audit_cases(audit)["id"])
    assert decide(client, order[0], "given").json()["next"] == order[1]
    assert decide(client, order[2], "given").json()["next"] == order[1]
    assert decide(client, order[1], "given").json()["next"] is None
    assert "All cases are decided" in client.get("/").text


def test_a_case_without_an_agreement_has_a_dash(tmp_path):
    audit = many(tmp_path, 3)
    table = pd.read_csv(audit / "cases.csv", dtype=str)
    table.loc[2, "agreement"] = ""
    table.to_csv(audit / "cases.csv", index=False)
    for client in clients(audit):
        assert client.get("/").text.count("<small>–</small>") == 1
        assert "<dt>Agreement</dt><dd>–</dd>" in client.get("/case?id=c00002").text


# --- what the page is given ----------------------------------------------------------------------------------------


def test_planes_are_the_pixels_of_the_files(audit, client):
    given = given_of(audit, "a")
    for name, wanted in (
        ("given", given),
        ("proposed", shifted_back("a", given)),
        ("confidence", np.asarray(Image.open(audit / "confidence" / "a.png"))),
    ):
        answer = client.get(f"/plane/{name}?id=a")
        assert (np.frombuffer(answer.content, np.uint8).reshape(SIZE) == wanted).all()
        assert client.get(f"/plane/{name}?id=a", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert client.get("/plane/decided?id=a").status_code == 404
    assert client.get("/plane/other?id=a").status_code == 404


def test_the_masks_that_were_asked_for_last_are_kept_up_to_a_number_of_bytes():
    cache, read = MaskCache(250), []

    def mask(name, size=100):
        return cache.get(name, lambda: read.append(name) or np.zeros((1, size), np.uint8))

    for name in ("a", "b", "a", "c", "a", "b"):
        mask(name)
    assert read == ["a", "b", "c", "b"]  # b had to go for c, as a was asked for after it
    with pytest.raises(ValueError, match="read-only"):
        mask("a")[0, 0] = 1
    mask("larger than all", 300)
    mask("larger than all", 300)
    assert read[4:] == ["larger than all"] * 2


def test_pictures_are_kept_by_browsers_and_made_anew_when_a_file_changes(audit, client, tmp_path):
    version = Audit.read(audit).version()
    first = client.get(f"/thumbnail?id=a&v={version}")
    assert first.headers["Content-Type"] == "image/jpeg"
    assert "immutable" in first.headers["Cache-Control"]
    assert "no-cache" in client.get("/thumbnail?id=a&v=old").headers["Cache-Control"]
    assert len(list((audit / ".thumbnails").iterdir())) == 1
    tag = client.get("/image?id=a").headers["ETag"]
    assert client.get("/image?id=a", headers={"If-None-Match": tag}).status_code == 304
    Image.new("RGB", SIZE[::-1], "white").save(tmp_path / "data/images/a.png")
    renewed = client.get("/image?id=a", headers={"If-None-Match": tag})
    assert renewed.status_code == 200
    assert client.get("/thumbnail?id=a").content != first.content


def test_an_image_that_no_browser_shows_is_sent_as_png(audit, client, tmp_path):
    grey = np.linspace(0, 60_000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "data/images/a.tif")
    table = pd.read_csv(audit / "cases.csv", dtype=str)
    table.loc[table["id"] == "a", "image"] = str(tmp_path / "data/images/a.tif")
    table.to_csv(audit / "cases.csv", index=False)
    for fresh in clients(audit):
        answer = fresh.get("/image?id=a")
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.content.startswith(b"\x89PNG")


def test_a_missing_or_broken_file_is_said_and_the_rest_goes_on(audit, client, tmp_path):
    (tmp_path / "data/images/a.png").write_bytes(b"no picture")
    (audit / "confidence/a.png").unlink()
    Image.new("L", (9, 9)).save(audit / "mended/a.png")
    assert "a.png" in client.get("/image?id=a").json()["error"]
    assert "there is no such file" in client.get("/plane/confidence?id=a").json()["error"]
    assert "9x9 pixels, 64x48 when it was audited" in client.get("/plane/proposed?id=a").json()["error"]
    assert decide(client, "a", "proposed").status_code == 500
    assert decide(client, "a", "given").status_code == 200
    assert [row["what"] for row in rows_of(audit)] == ["given"]


def test_a_mask_that_cannot_be_read_is_rejected_or_skipped_but_not_accepted(audit, client, tmp_path):
    for identity in "ab":
        (tmp_path / f"data/noisy/{identity}.png").write_bytes(b"no mask")
    assert "a.png" in decide(client, "a", "given").json()["error"]
    assert decide(client, "a", "rejected").status_code == 200
    assert decide(client, "b", "skipped").status_code == 200
    assert [(row["what"], row["before"], row["after"]) for row in rows_of(audit)] == [("rejected", None, None), ("skipped", None, None)]
    assert client.post("/undo?id=b&seen=2&who=ann").status_code == 200
    assert client.get("/case?id=b").status_code == 200


def test_a_picture_is_not_taken_for_that_of_another_audit_or_file(audit, client, tmp_path):
    """Of one time and size, as archives and copies that keep the time leave them."""
    mask = tmp_path / "data/noisy/a.png"
    shown = client.get("/plane/given?id=a").headers["ETag"]
    moved = tmp_path / "elsewhere.png"
    shutil.copy2(mask, moved)
    assert stamp(moved) != stamp(mask)
    moved.replace(mask)
    assert client.get("/plane/given?id=a", headers={"If-None-Match": shown}).status_code == 200
    query = urlencode({"id": "a", "what": "given", "seen": 0, "who": "ann", "shown": shown})
    assert client.post(f"/decide?{query}").status_code == 412


@pytest.mark.parametrize("folder", ["audit/mended", "data/noisy", "data/images"])
def test_the_thumbnail_of_a_case_without_a_file_is_crossed_out_and_names_it(audit, client, tmp_path, folder):
    version = Audit.read(audit).version()
    whole = client.get(f"/thumbnail?id=b&v={version}")
    assert "X-Fault" not in whole.headers
    file = tmp_path / folder / "b.png"
    content = file.read_bytes()
    file.unlink()
    answer = client.get(f"/thumbnail?id=b&v={version}")
    assert (answer.status_code, answer.headers["Content-Type"], answer.headers["Cache-Control"]) == (200, "image/jpeg", "no-store")
    assert unquote(answer.headers["X-Fault"]) == f"{file}: there is no such file"
    assert Image.open(io.BytesIO(answer.content)).size == Image.open(io.BytesIO(whole.content)).size
    assert answer.content != whole.content
    file.write_bytes(content)
    assert client.get(f"/thumbnail?id=b&v={version}").content == whole.content


def test_an_image_that_is_a_bomb_is_named(client, tmp_path):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    (tmp_path / "data/images/a.png").write_bytes(bomb)
    answer = client.get("/image?id=a")
    assert answer.status_code == 500
    assert "a.png: more than 300,000,000 pixels" in answer.json()["error"]


@pytest.mark.parametrize(("what", "file"), [("given", "data/noisy/a.png"), ("proposed", "audit/mended/a.png")])
def test_a_mask_that_has_changed_since_it_was_shown_is_not_accepted(audit, client, tmp_path, what, file):
    shown = client.get(f"/plane/{what}?id=a").headers["ETag"]
    Image.fromarray(np.full(SIZE, 255, np.uint8) * (np.indices(SIZE)[0] > 9).astype(np.uint8)).save(tmp_path / file)
    query = urlencode({"id": "a", "what": what, "seen": 0, "who": "ann", "shown": shown})
    refused = client.post(f"/decide?{query}")
    assert (refused.status_code, rows_of(audit)) == (412, [])
    assert "has changed since it was shown" in refused.json()["error"]
    query = urlencode({"id": "a", "what": what, "seen": 0, "who": "ann", "shown": client.get(f"/plane/{what}?id=a").headers["ETag"]})
    assert client.post(f"/decide?{query}").status_code == 200


# --- painted masks -------------------------------------------------------------------------------------------------


def test_runs_are_the_mask():
    mask = np.random.default_rng(0).integers(0, 3, (13, 17)).astype(np.uint8)
    assert (labels_of_runs(runs_of(mask), mask.shape, {0, 1, 2}) == mask).all()
    assert (decode_png(encode_image(mask, "PNG")) == mask).all()


def test_a_mask_of_another_size_or_with_strange_labels_is_refused(audit, client):
    for body in [
        b"",
        b"\0\0\0",
        np.array([(48 * 64 - 1) << 8], "<u4").tobytes(),  # a pixel too few
        np.array([(48 * 64 + 1) << 8], "<u4").tobytes(),
        np.array([0xFFFFFF00] * 2000, "<u4").tobytes(),  # 33 thousand million pixels in 8 kB
        np.array([0, (48 * 64) << 8], "<u4").tobytes(),  # a run of nothing
        np.array([(48 * 64) << 8 | 2], "<u4").tobytes(),  # a label there is not
        np.array([(48 * 64) << 8 | 255], "<u4").tobytes(),  # ignored, which these data have no way to write
    ]:
        answer = client.post("/decide?id=a&what=mended&seen=0&who=ann", content=body)
        assert answer.status_code == 400
        assert "cannot be taken" in answer.json()["error"]
        assert rows_of(audit) == []


@pytest.mark.parametrize("what", ["mended", "given"])
def test_of_a_body_longer_than_any_mask_no_more_is_read(audit, client, what):
    asked, answers = 0, []

    async def endless():
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"\0" * 65_536, "more_body": True}

    async def answered(message):
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/decide",
        "query_string": f"id=a&what={what}&seen=0&who=ann".encode(),
        "headers": [(b"host", b"127.0.0.1:8765"), (b"origin", HOME.encode())],
        "scheme": "http",
    }
    asyncio.run(client.app(scope, endless, answered))
    assert (asked, answers[0]["status"]) == (1, 413)
    assert rows_of(audit) == []


def test_strange_requests_are_refused(audit, client):
    for query in ["id=a&what=undone", "id=a&what=<b>", "id=a", "id=a&what=given&seen=x"]:
        assert client.post(f"/decide?{query}&who=ann").status_code == 400
        assert rows_of(audit) == []


# --- safety --------------------------------------------------------------------------------------------------------


def test_a_change_must_come_from_a_page_of_the_review(audit, client):
    for headers in [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": HOME, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:9999", "Sec-Fetch-Site": "same-site"},
        {"Origin": ""},
    ]:
        assert decide(client, "a", "given", headers=headers).status_code == 403
        assert client.post("/undo?id=a&who=ann&seen=0", headers=headers).status_code == 403
        assert rows_of(audit) == []


def test_a_change_that_says_nothing_of_where_it_comes_from_is_refused(audit, client):
    del client.headers["Origin"]
    assert decide(client, "a", "given").status_code == 403
    assert decide(client, "a", "given", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_host_that_is_not_this_server_is_refused(client):
    for host in ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "a@127.0.0.1", "", "[::1"]:
        assert client.get("/", headers={"Host": host}).status_code == 421


def test_the_names_of_this_machine_are_answered_to(client):
    for host in ["localhost:8765", "127.0.0.1", "[::1]:8765"]:
        assert client.get("/", headers={"Host": host}).status_code == 200


def test_beyond_this_machine_a_token_is_asked_for(audit):
    policy = AccessPolicy.of("0.0.0.0")
    assert len(policy.token) >= 40
    assert policy.token != AccessPolicy.of("0.0.0.0").token
    for client in clients(audit, policy):
        assert client.get("/").status_code == 401
        assert client.get("/static/review.css").status_code == 401
        assert decide(client, "a", "given").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get(f"/case?id=a&token={policy.token}").status_code == 401
        let_in = client.get(f"/?token={policy.token}")
        cookie = let_in.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert policy.token not in let_in.text
        assert client.get("/").status_code == 200
        assert decide(client, "a", "given").status_code == 200
        assert client.get("/", headers={"Host": "192.0.2.7:8765"}).status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


def test_cookies_of_other_servers_do_not_lock_out(audit):
    policy = AccessPolicy.of("0.0.0.0")
    for client in clients(audit, policy):
        name = client.get(f"/?token={policy.token}").headers["Set-Cookie"].split("=")[0]
        client.cookies.clear()
        for cookies in (f'theirs={{"a": [1, 2]}}; {name}={policy.token}', f"a b=c; {name}={policy.token}", f"{name}={policy.token}; ä"):
            assert client.get("/", headers={"Cookie": cookies.encode()}).status_code == 200
        assert client.get("/", headers={"Cookie": f"{name}=wrong"}).status_code == 401


def test_on_this_machine_none_is_asked_for():
    assert [AccessPolicy.of(host).token for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2")] == [None] * 4


def test_every_answer_has_the_headers_that_keep_browsers_safe(client):
    for path in ("/", "/case?id=a", "/image?id=a", "/static/case.js", "/nowhere", "/case?id=nobody"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"]


def test_no_page_has_a_script_or_a_style_in_it(client):
    for path in ("/", "/case?id=a"):
        text = client.get(path).text
        assert re.findall(r"<script[^>]*>", text) == [tag for tag in re.findall(r"<script[^>]*>", text) if "src=" in tag]
        assert not re.search(r"<[^>]*\s(style|on\w+)=", text)
        assert "<style" not in text


def test_names_with_markup_do_no_harm(tmp_path):
    names = (STRANGE, "a&amp;b", "007", "NA", "x..%2f..%2fetc", "a\\..\\b", "?id=x#y", "Läsion 7")
    audit = audit_of(discs(tmp_path / "data", ids=names), tmp_path / "audit", shifted_back)
    for client in clients(audit):
        for page in ("/", f"/case?{urlencode({'id': STRANGE})}", f"/?{urlencode({'find': STRANGE})}"):
            text = client.get(page).text
            assert "<img src=x" not in text
            assert "&lt;img src=x" in text
        for name in names:
            assert client.get(f"/thumbnail?{urlencode({'id': name})}").status_code == 200
            assert decide(client, name, "given", who=STRANGE).status_code == 200
        text = client.get(f"/case?{urlencode({'id': STRANGE})}").text
        assert "<img src=x" not in text
        told = client.get(f"/case?{urlencode({'id': names[0]})}").text
        assert "&lt;img src=x onerror=alert(1)&gt;" in told
    assert export(audit, tmp_path / "out", show_progress=False).decided == {"given": len(names)}
    assert {path.name for path in (tmp_path / "out/clean").iterdir()} == {f"{name}.png" for name in (*names, "k")}


def test_only_ids_of_the_audit_are_found(audit, client):
    for identity in ["../../../etc/passwd", "/etc/passwd", "a/../a", "", "A", "a.png", "a\0"]:
        (audit.parent / "secret.png").write_bytes((audit / "confidence/a.png").read_bytes())
        query = urlencode({"id": identity})
        for path in ("/case", "/image", "/thumbnail", "/plane/confidence"):
            assert client.get(f"{path}?{query}").status_code == 404
        assert client.post(f"/decide?{query}&what=given&seen=0&who=ann").status_code == 404


def test_nothing_but_the_static_files_is_served(client):
    for path in ["/static/../pages.py", "/static/%2e%2e/pages.py", "/static/..%2f..%2fcases.py", "/static//etc/passwd"]:
        assert client.get(path).status_code == 404


def test_an_audit_whose_ids_lead_elsewhere_is_refused(audit):
    table = pd.read_csv(audit / "cases.csv")
    table["id"] = ["../a", "b", "b"]
    table.to_csv(audit / "cases.csv", index=False)
    with pytest.raises(DataError, match="2 faults") as error:
        Decisions(Audit.read(audit))
    assert "'../a' is not a file name" in str(error.value)
    assert "'b' is there twice" in str(error.value)


# --- export --------------------------------------------------------------------------------------------------------


def test_the_export_is_a_data_folder_of_what_was_decided(tmp_path):
    data = discs(tmp_path / "data", ids=("a", "b", "c", "d", "e", "f"))
    audit = audit_of(data, tmp_path / "audit", shifted_back)
    painted = np.random.default_rng(1).integers(0, 2, SIZE).astype(np.uint8)
    for client in clients(audit):
        decide(client, "a", "given")
        decide(client, "b", "proposed")
        decide(client, "c", "mended", mask=painted)
        decide(client, "d", "rejected")
        decide(client, "e", "skipped")
    summary = export(audit, tmp_path / "out", show_progress=False)
    assert (summary.noisy, summary.clean, summary.pairs, summary.test, summary.rejected) == (2, 4, 3, 1, 1)
    assert summary.decided == {"given": 1, "proposed": 1, "mended": 1}
    assert "rejected, left out    1" in str(summary)
    names = {role: sorted(path.stem for path in (tmp_path / "out" / role).iterdir()) for role in ("images", "noisy", "clean", "test")}
    assert names == {"images": list("abcefkt"), "noisy": list("abcef"), "clean": ["a", "b", "c", "k"], "test": ["t"]}
    written = {name: np.asarray(Image.open(tmp_path / f"out/clean/{name}.png")) for name in "abc"}
    assert (written["a"] == 255 * given_of(audit, "a")).all()
    assert (written["b"] == 255 * shifted_back("b", given_of(audit, "b"))).all()
    assert (written["c"] == 255 * painted).all()
    for kept in ("noisy/a.png", "noisy/c.png", "noisy/e.png", "clean/k.png", "test/t.png", "images/a.png"):
        assert (tmp_path / "out" / kept).read_bytes() == (data / kept).read_bytes()
    counted = check(tmp_path / "out", show_progress=False)
    assert [len(counted.of(role)) for role in ("noisy", "clean", "test")] == [2, 4, 1]
    assert counted.pairs.texts("id").tolist() == ["a", "b", "c"]


def test_an_export_keeps_the_pairs_that_the_data_have(tmp_path):
    data = discs(tmp_path / "data")
    given = data / "noisy/k.png"
    Image.fromarray(255 * np.eye(*SIZE, dtype=np.uint8)).save(given)
    audit = audit_of(data, tmp_path / "audit", shifted_back)
    for client in clients(audit):
        decide(client, "b", "proposed")
    summary = export(audit, tmp_path / "out", show_progress=False)
    assert "2 noisy, 2 clean (2 pairs), 1 test case" in str(summary)
    pairs = read_cases(tmp_path / "out", show_progress=False).pairs
    assert pairs.texts("id").tolist() == ["b", "k"]
    assert pairs[1].given.read_bytes() == given.read_bytes()


def test_the_mask_that_was_decided_on_is_exported_even_where_its_file_has_changed(audit, client, tmp_path):
    proposed = shifted_back("a", given_of(audit, "a"))
    decide(client, "a", "proposed")
    Image.new("L", SIZE[::-1]).save(audit / "mended/a.png")
    export(audit, tmp_path / "out", show_progress=False)
    assert (np.asarray(Image.open(tmp_path / "out/clean/a.png")) == 255 * proposed).all()


def test_a_decided_mask_of_another_size_than_its_image_by_now_is_not_exported(audit, client, tmp_path):
    decide(client, "a", "given")
    for folder in ("images", "noisy"):
        Image.new("L", (9, 8)).save(tmp_path / f"data/{folder}/a.png")
    with pytest.raises(DataError, match="9x8 pixels, but the mask decided on has 64x48"):
        export(audit, tmp_path / "out", show_progress=False)
    assert not (tmp_path / "out").exists()


def test_masks_with_ignored_pixels_are_written_as_the_others(tmp_path):
    data = discs(tmp_path / "data", foreground=1)
    for file in [*data.glob("noisy/*.png"), *data.glob("clean/*.png")]:
        mask = np.array(Image.open(file))
        mask[:4] = 255
        Image.fromarray(mask).save(file)
    audit = audit_of(data, tmp_path / "audit", shifted_back)
    painted = np.zeros(SIZE, np.uint8)
    painted[:4], painted[20:30] = 255, 1
    for client in clients(audit):
        assert decide(client, "a", "mended", mask=painted).status_code == 200
        assert decide(client, "b", "proposed").status_code == 200
    summary = export(audit, tmp_path / "out", show_progress=False)
    assert (np.asarray(Image.open(tmp_path / "out/clean/a.png")) == painted).all()
    assert sorted(np.unique(np.asarray(Image.open(tmp_path / "out/clean/b.png")))) == [0, 1, 255]
    assert "ignore_label=255" in str(summary)
    check(tmp_path / "out", show_progress=False)
    check(tmp_path / "out", ignore_label=255, show_progress=False)


@pytest.mark.parametrize("ignore_label", [255, 100])
def test_the_value_of_ignored_pixels_is_that_of_the_audit(tmp_path, ignore_label):
    data = discs(tmp_path / "data", foreground=1)
    audit = audit_of(data, tmp_path / "audit", shifted_back, ignore_label=ignore_label)
    painted = np.zeros(SIZE, np.uint8)
    painted[:4], painted[20:30] = 255, 1
    for client in clients(audit):
        assert decide(client, "a", "mended", mask=painted).status_code == 200
    export(audit, tmp_path / "out", show_progress=False)
    written = np.asarray(Image.open(tmp_path / "out/clean/a.png"))
    assert ((written == ignore_label) == (painted == 255)).all()
    check(tmp_path / "out", ignore_label=ignore_label, show_progress=False)


def test_several_classes_keep_their_labels(tmp_path):
    data = discs(tmp_path / "data", classes=3)
    audit = audit_of(data, tmp_path / "audit", shifted_back, classes=3)
    painted = np.random.default_rng(1).integers(0, 3, SIZE).astype(np.uint8)
    painted[0] = 255
    for client in clients(audit):
        assert 'value="2"' in client.get("/case?id=a").text
        assert decide(client, "a", "mended", mask=painted).status_code == 200
        assert decide(client, "b", "mended", mask=np.full(SIZE, 3, np.uint8)).status_code == 400
    export(audit, tmp_path / "out", show_progress=False)
    assert (np.asarray(Image.open(tmp_path / "out/clean/a.png")) == painted).all()
    check(tmp_path / "out", classes=3, show_progress=False)


def test_groups_of_a_table_are_kept(tmp_path):
    data = discs(tmp_path / "data")
    rows = [
        {"id": path.stem, "image": f"images/{path.name}", "mask": f"{role}/{path.name}", "role": role, "group": f"p-{path.stem}"}
        for role in ("noisy", "clean", "test")
        for path in sorted((data / role).iterdir())
    ]
    pd.DataFrame(rows).to_csv(data / "cases.csv", index=False)
    audit = audit_of(data / "cases.csv", tmp_path / "audit", shifted_back)
    for client in clients(audit):
        decide(client, "a", "given")
    export(audit, tmp_path / "out", show_progress=False)
    cases = check(tmp_path / "out", show_progress=False)
    assert {case.id: (case.role, case.group) for case in cases.cases} == {
        "a": ("clean", "p-a"),
        "b": ("noisy", "p-b"),
        "c": ("noisy", "p-c"),
        "k": ("clean", "p-k"),
        "t": ("test", "p-t"),
    }
    assert [case.given for case in cases.pairs] == [tmp_path / "out/noisy/a.png"]


def test_masks_whose_names_are_no_images_are_kept(tmp_path):
    data = discs(tmp_path / "data")
    rows = pd.DataFrame(
        [{"id": case.id, "image": case.image, "mask": case.mask, "role": case.role} for case in read_cases(data, show_progress=False).cases]
    )
    for row in rows.index[rows["id"].isin(["a", "b", "k"])]:
        renamed = rows["mask"][row].with_suffix(".label")
        rows["mask"][row].rename(renamed)
        rows.loc[row, "mask"] = renamed
    rows.to_csv(tmp_path / "cases.csv", index=False)
    for client in clients(audit_of(tmp_path / "cases.csv", tmp_path / "audit", shifted_back)):
        decide(client, "a", "given")
    summary = export(tmp_path / "audit", tmp_path / "out", show_progress=False)
    counted = check(tmp_path / "out", show_progress=False)
    assert [len(counted.of(role)) for role in ("noisy", "clean", "test")] == [summary.noisy, summary.clean, summary.test] == [2, 2, 1]
    assert counted.pairs.texts("id").tolist() == ["a"]


@pytest.mark.parametrize(("classes", "ignore_label", "labels"), [(3, 0, [1, 2, 255]), (3, None, [0, 1, 2, 255]), (1, 0, [0, 1, 255])])
def test_what_is_ignored_is_no_class_to_paint(audit, classes, ignore_label, labels):
    of = replace(Audit.read(audit), classes=classes, ignore_label=ignore_label)
    assert allowed_labels(of, np.zeros(SIZE, np.uint8)) == labels


def test_what_leaves_no_noisy_case_or_is_of_no_use_is_said(audit, client, tmp_path):
    for name in "abc":
        decide(client, name, "given")
    assert "no noisy case is left" in str(export(audit, tmp_path / "out", show_progress=False))
    (tmp_path / "data/noisy/b.png").unlink()
    assert "1 decision on cases that are no longer noisy" in str(export(audit, tmp_path / "other", show_progress=False))


def test_an_export_is_whole_or_nothing(audit, client, tmp_path, monkeypatch):
    decide(client, "a", "given")

    def failing(path, labels, *, like):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pixeltrust.reviewing.exports.write_labels", failing)
    with pytest.raises(RunError, match="No space left"):
        export(audit, tmp_path / "out", show_progress=False)
    assert not list(tmp_path.glob("*out*"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(RunError, match="not empty"):
        export(audit, tmp_path / "full", show_progress=False)


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "not a data folder"),
        ("{", "cannot be read"),
        ('{"format": 2, "data": "x", "classes": 1}', "later pixeltrust (format 2"),
        ('{"format": 1}', "not the record of an audit"),
    ],
)
def test_what_is_no_audit_is_said(tmp_path, run_command, record, said):
    if record is not None:
        (tmp_path / "audit.json").write_text(record)
    code, _, error = run_command("review", tmp_path, "--port", "0")
    assert code == 2
    assert said in error
    assert run_command("review", tmp_path / "nowhere")[0] == 2


def test_a_later_review_file_is_refused(audit):
    connection = sqlite3.connect(audit / "review.sqlite")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(DataError, match="later pixeltrust"):
        review(audit)


def test_tables_with_faults_are_said(audit):
    table = pd.read_csv(audit / "cases.csv", dtype=str)
    table.drop(columns="height").to_csv(audit / "cases.csv", index=False)
    with pytest.raises(DataError, match="no column height"):
        review(audit)
    table.assign(height="tall").to_csv(audit / "cases.csv", index=False)
    with pytest.raises(DataError, match="not a number"):
        review(audit)


def test_a_port_in_use_is_said(audit):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} of 127.0.0.1 is in use; choose another one"):
            review(audit, port=port)


def test_a_name_is_needed(audit):
    with pytest.raises(ConfigError, match="who"):
        review(audit, who=" ")


def test_the_command_serves_until_ctrl_c_and_ends_well(audit):
    command = [sys.executable, "-m", "pixeltrust.cli", "review", str(audit), "--port", "0", "--who", "Ann"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        import httpx2

        with httpx2.Client(trust_env=False, timeout=TOO_LONG) as people:
            assert 'value="Ann"' in people.get(address).text
            made = people.post(f"{address}decide?id=a&what=given&seen=0&who=Ann", headers={"Origin": address.rstrip("/")})
        assert made.status_code == 200
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=TOO_LONG)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error.startswith("stopped; what is finished is kept")
    assert error.splitlines()[1].split()[:2] == ["pixeltrust", "review"]  # how to go on
    assert "1 of 3 cases decided (1 given)" in out
    assert not (audit / "review.sqlite-wal").exists()


def test_the_browser_is_opened_where_asked(audit, monkeypatch):
    opened, said = [], []
    monkeypatch.setattr("webbrowser.open", opened.append)
    ended = threading.Event()

    def announce(text):
        said.append(text)
        threading.Thread(target=stop).start()

    def stop():
        wait_for(lambda: opened)
        ended.set()
        os.kill(os.getpid(), signal.SIGINT)

    summary = review(audit, port=0, open_browser=True, announce=announce)
    assert ended.is_set()
    assert opened[0] in said[0]
    assert summary.counts["all"] == 3


def test_the_command_exports(audit, client, tmp_path, run_command):
    decide(client, "a", "given")
    code, out, _ = run_command("review", audit, "--export", tmp_path / "out", "--quiet")
    assert code == 0
    assert "2 noisy, 2 clean (1 pair), 1 test case" in out
    assert run_command("review", audit, "--export", tmp_path / "out", "--quiet")[0] == 2
