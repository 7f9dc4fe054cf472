"""The loop with a person: a review that begins with nothing, learns from what is corrected, and says how good the masks are by now."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import fake_mend
from audits import audit_of, discs, shifted_back
from pixeltrust.auditing.blank import find_audit
from pixeltrust.auditing.folder import Audit, read_audit_cases
from pixeltrust.data.cases import check
from pixeltrust.mending.estimate import Estimate, read_estimate
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import exclusive_lock
from pixeltrust.reviewing import learning
from pixeltrust.reviewing.access import AccessPolicy
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.estimate import describe_estimate, draw_estimate
from pixeltrust.reviewing.exports import export_decisions as export
from pixeltrust.reviewing.learning import Learning, count_pairs, mend_again
from pixeltrust.reviewing.pages import application
from pixeltrust.reviewing.server import review
from test_review import HOME, SIZE, clients, decide, rows_of
from waiting import TOO_LONG, wait_for

IDS = tuple("abcdefgh")


@pytest.fixture
def audit(tmp_path):
    return find_audit(discs(tmp_path / "data", ids=IDS), show_progress=False)


@contextmanager
def open_review(audit):
    """A client of a review that learns by the fake."""
    read = Audit.read(audit)
    decisions = Decisions(read)
    app = application(read, decisions, policy=AccessPolicy.of("127.0.0.1"), who="ann", learns_by=fake_mend.command)
    with TestClient(app, base_url=HOME, headers={"Origin": HOME}) as client:
        yield client
    decisions.close()


@pytest.fixture
def client(audit):
    with open_review(audit) as client:
        yield client


def order(audit):
    return list(read_audit_cases(audit)["id"])


def accept(client, audit, number):
    for identity in order(audit)[:number]:
        assert decide(client, identity, "given").status_code == 200


def state(client):
    return re.search('data-state="([a-z]+)"', client.get("/learning").text)[1]


def learn(client, audit, ending=""):
    """Start, and let the fake end."""
    assert client.post("/learning/start").status_code == 200
    fake_mend.write(audit / "go", ending)
    wait_for(lambda: state(client) not in ("running", "elsewhere"))


# --- a review that begins with nothing -----------------------------------------------------------------------------


def test_nothing_that_means_nothing_is_shown(audit, client):
    queue, case = client.get("/").text, client.get(f"/case?id={order(audit)[0]}").text
    for text in (queue, case):
        shown = re.sub("data-info='[^']*'", "", text.split("<dialog")[0])
        assert not re.search("[Aa]greement|[Dd]oubt|[Pp]roposed|[Rr]egion", shown)
    assert re.findall('class="case" href="/case.show=undecided&amp;id=([a-h])"', queue) == order(audit)
    assert "64 × 48" in queue
    assert re.findall('data-decide="([a-z]+)"', case) == ["given", "mended", "skipped", "rejected"]
    assert '<option value="proposed"' not in case


def test_what_was_corrected_is_exported(audit, client, tmp_path):
    painted = np.ones(SIZE, np.uint8)
    decide(client, "a", "given")
    decide(client, "b", "mended", mask=painted)
    export(audit, tmp_path / "out", show_progress=False)
    counted = check(tmp_path / "out", show_progress=False)
    assert set(counted.of("clean").texts("id")) == {"a", "b", "k"}


def test_the_command_begins_and_goes_on(tmp_path, run_command):
    data = discs(tmp_path / "data")
    (data / "noisy").rename(data / "crowd")
    assert "no usable noisy mask" in run_command("review", data, "--port", "0")[2]
    words = ("review", data, "--noisy", "crowd", "--quiet")
    code, out, error = run_command(*words, "--export", tmp_path / "first")
    assert (code, error) == (0, "")
    assert "3 noisy, 1 clean, 1 test case" in out
    with open_review(tmp_path / "data-review") as client:
        decide(client, "a", "given")
    assert "2 noisy, 2 clean (1 pair), 1 test case" in run_command(*words, "--export", tmp_path / "second")[1]
    assert "was begun with others" in run_command("review", data, "--noisy", "crowd", "--seed", "1")[2]


def test_the_function_reviews_data(tmp_path):
    said = []

    def announce(text):
        said.append(text)
        os.kill(os.getpid(), signal.SIGINT)

    summary = review(discs(tmp_path / "data"), out=tmp_path / "mine", port=0, announce=announce, show_progress=False)
    assert summary.audit == tmp_path / "mine"
    assert summary.counts["undecided"] == 3
    assert len(said) == 1


# --- pairs and learning --------------------------------------------------------------------------------------------


def test_accepted_and_mended_masks_are_pairs_and_five_are_enough(audit, client):
    accept(client, audit, 3)
    decide(client, order(audit)[3], "rejected")
    wait_for(lambda: "counted" not in client.get("/learning").text)
    assert re.search(r"<b>3</b>\s+of 5 pairs", client.get("/").text)
    assert re.search('id="learning-start"[^>]* disabled', client.get("/").text)
    refused = client.post("/learning/start")
    assert (refused.status_code, state(client)) == (400, "idle")
    assert "3 of the 5 pairs" in refused.json()["error"]
    for identity in order(audit)[4:6]:
        decide(client, identity, "mended", mask=np.ones(SIZE, np.uint8))
    assert "<b>5</b> pairs" in client.get(f"/case?id={order(audit)[0]}").text
    assert not re.search('id="learning-start"[^>]* disabled', client.get("/").text)


def test_data_that_cannot_be_read_have_no_pairs(audit, tmp_path):
    (tmp_path / "data").rename(tmp_path / "gone")
    assert count_pairs(Audit.read(audit)) == 0


def test_learning_ranks_the_queue_anew_and_decisions_stay(audit, client):
    accept(client, audit, 5)
    before, version = order(audit), Audit.read(audit).version()
    painted_on = before[6]
    assert client.post("/learning/start").status_code == 200
    wait_for(lambda: "training 2 of 4" in client.get("/learning").text)
    assert re.search(r'<progress max="1" value="0.42"', client.get("/").text)
    assert decide(client, before[5], "rejected").json()["next"] == painted_on  # people go on meanwhile
    (audit / "go").touch()
    wait_for(lambda: state(client) == "done")
    assert order(audit) == before[::-1]
    bar = client.get("/learning").text
    assert f'data-version="{Audit.read(audit).version()}"' in bar
    assert version not in bar
    queue = client.get("/?show=all").text
    assert "Expected Dice" in queue
    assert "0.95" in queue
    assert re.findall('class="case" href="/case.show=all&amp;id=([a-h])"', queue) == before[::-1]
    assert queue.count("state given") == 5
    case = client.get(f"/case?id={painted_on}").text
    assert "Expected Dice, as proposed" in case
    assert 'data-decide="proposed"' in case
    # The page that was open saves what is painted, and the most doubtful case comes next.
    query = f"/decide?id={painted_on}&what=mended&seen=0&who=ann&version={version}"
    assert client.post(query, content=np.array([SIZE[0] * SIZE[1] << 8 | 1], "<u4").tobytes()).json()["next"] == before[7]
    assert rows_of(audit)[-1]["what"] == "mended"


def test_the_next_case_after_another_ranking_is_the_worst_one(audit, client):
    accept(client, audit, 5)
    version, opened = Audit.read(audit).version(), order(audit)[5]
    learn(client, audit)
    worst = order(audit)[0]
    anew = client.post(f"/decide?id={opened}&what=rejected&seen=0&who=ann&version={version}").json()["next"]
    assert anew == worst
    behind = client.post(f"/decide?id={order(audit)[1]}&what=rejected&seen=0&who=ann&version={Audit.read(audit).version()}").json()["next"]
    assert behind == worst  # the last undecided one


def test_what_is_shown_as_done_is_in_the_tables(audit, client, monkeypatch):
    accept(client, audit, 5)
    client.post("/learning/start")
    wait_for(lambda: "training 2 of 4" in client.get("/learning").text)
    progress = Learning.progress

    def end_first(self):  # as late as it can be in a request
        (audit / "go").touch()
        self._thread.join()
        return progress(self)

    monkeypatch.setattr(Learning, "progress", end_first)
    bar = client.get("/learning").text
    assert 'data-state="done"' in bar
    assert f'data-version="{Audit.read(audit).version()}"' in bar


def test_the_last_that_was_known_stays_where_nothing_says_how_far_it_is(audit, client):
    accept(client, audit, 5)
    client.post("/learning/start")
    assert re.search("starting|training 2 of 4", client.get("/learning").text)
    wait_for(lambda: "training 2 of 4" in client.get("/learning").text)
    fake_mend.write(audit / "go", "slowly")
    wait_for(lambda: not (audit / ".mending" / "status.json").exists())
    assert "training 2 of 4" in client.get("/learning").text
    (audit / "go").unlink()
    wait_for(lambda: state(client) == "done")


def test_a_failure_is_shown_with_what_was_printed_and_can_be_tried_again(audit, client):
    accept(client, audit, 5)
    before = order(audit)
    learn(client, audit, "fail")
    text = client.get("/").text
    assert state(client) == "failed"
    assert "error: 3 of 5 pairs" in text
    assert order(audit) == before
    learn(client, audit)
    assert state(client) == "done"
    assert "Learning failed" not in client.get("/").text


def test_what_cannot_be_started_is_a_failure(audit):
    one = Learning(audit, lambda audit: ["/nowhere/python"])
    one.start()
    one.close()
    assert one.progress().state in ("failed", "stopped")
    assert "/nowhere/python" in one._end_of_log()


def test_a_button_stops_it(audit, client):
    accept(client, audit, 5)
    client.post("/learning/start")
    wait_for(lambda: "training 2 of 4" in client.get("/learning").text)
    assert client.post("/learning/stop").status_code == 200
    wait_for(lambda: state(client) == "stopped")
    assert "the queue is as it was" in client.get("/").text
    client.post("/learning/start")
    assert state(client) == "running"


def test_there_is_one_at_a_time_also_of_several_servers(audit, client):
    accept(client, audit, 5)
    client.post("/learning/start")
    wait_for(lambda: "training 2 of 4" in client.get("/learning").text)
    again = client.post("/learning/start")
    assert (again.status_code, "learning already" in again.json()["error"]) == (409, True)
    with open_review(audit) as other:
        text = other.get("/").text
        assert "started in another review" in text
        assert "training 2 of 4" in text
        assert "learning-stop" not in text
        assert other.post("/learning/start").status_code == 409
        (audit / "go").touch()
        wait_for(lambda: state(other) == "idle")
        assert f'data-version="{Audit.read(audit).version()}"' in other.get("/learning").text
        assert "Expected Dice" in other.get("/").text


def test_it_ends_with_the_server(audit, monkeypatch):
    with open_review(audit) as client:
        accept(client, audit, 5)
        client.post("/learning/start")
        wait_for(lambda: "training 2 of 4" in client.get("/learning").text)
    with exclusive_lock(audit / ".mending" / "review.lock", "held"):
        pass
    monkeypatch.setattr(learning, "GRACE", 0.1)
    fake_mend.write(audit / "go", "never")
    with open_review(audit) as client:
        client.post("/learning/start")
        wait_for(lambda: "deaf" in client.get("/learning").text)
    assert not [thread for thread in threading.enumerate() if thread.name == "learning"]


@pytest.mark.slow
def test_it_ends_with_a_server_that_is_killed(audit, tmp_path):
    program = f"""if True:
        import sys
        from pathlib import Path
        from pixeltrust.reviewing.learning import Learning
        words = [sys.executable, "-m", "pixeltrust.reviewing", "review", {str(audit)!r}, "--port", "0"]
        one = Learning(Path({str(audit)!r}), lambda audit: words)
        one.start()
        print("started", flush=True)
        sys.stdin.read()"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "PYTHONUNBUFFERED": "1"}
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    server = subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes)
    log = audit / ".mending" / "log.txt"
    wait_for(lambda: log.is_file() and "the review is at" in log.read_text())
    server.kill()
    server.communicate(timeout=TOO_LONG)
    wait_for(lambda: "cases decided" in log.read_text())


def test_the_command_that_learns_is_the_one_of_the_package(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    words = [*mend_again(tmp_path)[:3], "check", str(tmp_path / "nowhere")]
    pipes = dict.fromkeys(("stdin", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, text=True, env=environment, **pipes) as process:
        assert process.stderr.read() == f"error: {tmp_path / 'nowhere'}: there is no such file or folder\n"
    assert process.returncode == 2
    assert mend_again(tmp_path)[3:] == ["mend", "--again", str(tmp_path), "--quiet"]


def test_a_review_file_of_an_earlier_version_takes_the_expected_dice(audit):
    Decisions(Audit.read(audit)).close()
    connection = sqlite3.connect(audit / "review.sqlite")
    connection.execute("ALTER TABLE cases DROP COLUMN expected")
    connection.commit()
    connection.close()
    read_audit_cases(audit).assign(expected=0.777).to_csv(audit / "cases.csv", index=False)
    decisions = Decisions(Audit.read(audit))
    with decisions.reading() as connection:
        assert {row["expected"] for row in connection.execute("SELECT expected FROM cases")} == {0.777}
    decisions.close()


def test_tables_that_are_made_anew_elsewhere_are_taken_up(tmp_path):
    audit = audit_of(discs(tmp_path / "data"), tmp_path / "audit", shifted_back)
    for client in clients(audit):
        read_audit_cases(audit)[::-1].to_csv(audit / "cases.csv", index=False)
        assert re.findall('class="case" href="/case.show=undecided&amp;id=([a-c])"', client.get("/").text) == order(audit)
        broken = (audit / "cases.csv").read_text().replace("agreement", "agrement")
        (audit / "cases.csv").write_text(broken)
        text = client.get("/").text
        assert "no column agreement" in text
        assert text.count('class="case"') == 3  # the old ones


# --- the estimate --------------------------------------------------------------------------------------------------


def written(folder, **changes):
    (folder / "estimate.json").write_text(json.dumps(fake_mend.ESTIMATE | changes))
    return folder


def sentence(tmp_path, **changes):
    return describe_estimate(read_estimate(written(tmp_path, **changes)))


def test_an_estimate_is_a_sentence(tmp_path):
    assert read_estimate(tmp_path) is None
    assert sentence(tmp_path, pairs=80, below={"dice": 0.7, "cases": 0}) == (
        "given .61, mended .93 (.92 to .94, from 80 pairs); 20 more would bring about +.01"
    )
    assert sentence(tmp_path, more=None).endswith("from 5 pairs); 14 masks are expected below .70")
    assert sentence(tmp_path, more={"pairs": 20, "gain": 0.002}, below={"dice": 0.7, "cases": 1}).endswith(
        "20 more would bring less than +.01; 1 mask is expected below .70"
    )
    assert f".70; 14 of {fake_mend.ESTIMATE['cases']} masks look worse than every pair" in sentence(tmp_path, beyond=14)
    assert sentence(tmp_path, way="given", more=None, below={"dice": 0.7, "cases": 0}) == (
        "given .93 (.92 to .94, from 5 pairs): no way is surely better, so no mask is changed"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps(fake_mend.ESTIMATE | {"format": 3}), "later pixeltrust"),
        (json.dumps({"format": 1}), "cannot be read: 'more'"),
        (json.dumps(fake_mend.ESTIMATE | {"expected": {"dice": 93, "low": 0.9, "high": 1}}), "dice 93.0 is not from 0 to 1"),
        (json.dumps(fake_mend.ESTIMATE | {"more": 3}), "cannot be read"),
    ],
)
def test_a_broken_estimate_is_said_and_the_review_goes_on(audit, client, content, said):
    (audit / "estimate.json").write_text(content)
    with pytest.raises(RunError, match=re.escape(said)):
        read_estimate(audit)
    answer = client.get("/")
    assert answer.status_code == 200
    assert said in answer.text.replace("&#39;", "'")


def test_a_chart_lies_within_its_frame(tmp_path):
    history = [
        {"pairs": pairs, "dice": dice, "low": dice - 0.03, "high": dice + 0.02} for pairs, dice in ((10, 0.8), (40, 0.9), (80, 0.93))
    ]
    chart = draw_estimate(read_estimate(written(tmp_path, history=history)))
    xs, ys, lows, highs = map(list, zip(*chart.points, strict=True))
    assert xs == sorted(xs)
    assert (xs[0], xs[-1]) == (34, 252)
    assert ys == sorted(ys, reverse=True)
    assert all(8 <= high < y < low <= 76 for y, low, high in zip(ys, lows, highs, strict=True))
    assert [text for _, text in chart.ticks] == ["10", "80"]
    assert [text for _, text in chart.levels] == [".80", ".85", ".90", ".95"]
    assert "80: .93 (.90 to .95)" in chart.text


def test_a_chart_of_one_point_is_a_mark(tmp_path, audit, client):
    one = read_estimate(written(tmp_path, history=fake_mend.ESTIMATE["history"][:1]))
    assert isinstance(one, Estimate)
    assert draw_estimate(one).points[0][0] == 143
    written(audit, history=fake_mend.ESTIMATE["history"][:1])
    text = client.get("/").text
    assert text.count("<circle") == 1
    assert "<polyline" not in text
    written(audit, history=[{"pairs": 5, "dice": float("nan"), "low": float("nan"), "high": float("nan")}])
    assert "<svg" not in client.get("/").text
