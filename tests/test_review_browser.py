"""The review in a real browser: Debian's chromium, without a screen, by Playwright."""

import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from matplotlib.path import Path as Outline
from PIL import Image

import fake_mend
from audits import audit_of, audit_of_volumes, discs, shifted_back
from pixeltrust.auditing.blank import find_audit
from pixeltrust.auditing.folder import Audit, read_audit_cases
from pixeltrust.data.cases import check
from pixeltrust.data.images import read_header, read_labels
from pixeltrust.reviewing.access import AccessPolicy
from pixeltrust.reviewing.decisions import Decisions
from pixeltrust.reviewing.drafts import change_at
from pixeltrust.reviewing.exports import export_decisions as export
from pixeltrust.reviewing.pages import application
from pixeltrust.reviewing.planes import planes_of
from test_review import given_of, rows_of
from test_review_volumes import moved
from volumes import write_data
from waiting import TOO_LONG, wait_for

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = Path("/usr/bin/chromium")
QUIETLY = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIETLY += ["--disable-component-update", "--disable-sync"]
SIZE = (48, 64)
DESKTOP, TABLET = {"width": 1440, "height": 900}, {"width": 820, "height": 1180}
WIDE_TABLET = {"width": 1180, "height": 820}
MARGIN = 24  # of the whole image in its view, as static/view.js has it
LARGEST_SCALE = 64
STRANGE = '<img src=x onerror=alert(1)>&"é'


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=QUIETLY)
        yield chromium
        chromium.close()


@contextmanager
def served(audit, who="ann", policy=None):
    """The address of a review."""
    read = Audit.read(audit)
    decisions = Decisions(read)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = application(read, decisions, policy=policy or AccessPolicy.of("127.0.0.1"), who=who, learns_by=fake_mend.command)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            decisions.close()


@contextmanager
def opened(browser, address, *, viewport=DESKTOP, home=None, answers="409", **more):
    """A page whose complaints, and requests to elsewhere, fail the test; `answers` is the status it may meet."""
    context = browser.new_context(viewport=viewport, **more)
    context.set_default_timeout(1000 * TOO_LONG)
    page = context.new_page()
    wrong = []
    # Such an answer the page shows; the browser's console tells of it all the same.
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" and answers not in message.text else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((home or address, "blob:")) else wrong.append(request.url))
    page.goto(address)
    yield page
    assert wrong == []
    context.close()


@pytest.fixture
def audit(audit_to_review):
    return audit_to_review


@pytest.fixture
def address(audit):
    with served(audit) as found:
        yield found


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as found:
        yield found


def ready(page, identity=None):
    """Wait for a case; of this id, where given."""
    if identity is not None:
        page.wait_for_function("id => document.querySelector('.side h1')?.textContent === id", arg=identity)
    page.wait_for_selector("body[data-ready]")


def begin(page):
    """To the first case, by keys; its id."""
    ready(page)
    page.keyboard.press("Enter")
    page.wait_for_selector(".side")
    ready(page)
    return page.inner_text(".side h1")


def order(audit):
    return list(read_audit_cases(audit)["id"])


def on_screen(page, x, y, size=SIZE):
    """Where a point of the mask is while the whole image is shown."""
    box = page.locator("#view").bounding_box()
    scale = min((box["width"] - 2 * MARGIN) / size[1], (box["height"] - 2 * MARGIN) / size[0], LARGEST_SCALE)
    left, top = (box["width"] - scale * size[1]) / 2, (box["height"] - scale * size[0]) / 2
    return box["x"] + left + scale * x, box["y"] + top + scale * y


def drag(page, start, end):
    page.mouse.move(*on_screen(page, *start))
    page.mouse.down()
    page.mouse.move(*on_screen(page, *end), steps=9)
    page.mouse.up()


def brush_size(page, size):
    page.locator("#size").fill(str(size))


def painted(page, size=SIZE):
    """Where the page's own canvas shows paint, bool (H, W)."""
    seen = page.evaluate(
        "() => { const c = document.getElementById('painted');"
        " return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).filter((_, i) => i % 4 === 3); }"
    )
    return np.array(seen).reshape(size) > 0


# --- going through the queue ---------------------------------------------------------------------------------------


def test_a_queue_is_gone_through_by_keys_alone(page, audit):
    first, second, third = order(audit)
    assert begin(page) == first
    page.keyboard.press("a")
    ready(page, second)
    assert f"{first}: given accepted" in page.inner_text("#status")
    page.keyboard.press("p")
    ready(page, third)
    page.keyboard.press("u")
    ready(page, second)
    assert page.inner_text("#state") == "undecided"
    page.keyboard.press("r")
    ready(page, third)
    page.keyboard.press("s")
    page.wait_for_selector("text=All cases are decided")
    page.wait_for_selector(f"#status:has-text('{third}: skipped')")  # the page's script says it, a moment after the page is there
    page.keyboard.press("u")  # back to it, and there undone
    ready(page, third)
    page.keyboard.press("u")
    page.wait_for_selector("text=undone")
    ready(page, third)
    page.keyboard.press("s")
    page.wait_for_selector("text=All cases are decided")
    assert [(row["case_id"], row["what"], row["who"]) for row in rows_of(audit)] == [
        (first, "given", "ann"),
        (second, "proposed", "ann"),
        (second, "undone", "ann"),
        (second, "rejected", "ann"),
        (third, "skipped", "ann"),
        (third, "undone", "ann"),
        (third, "skipped", "ann"),
    ]


@pytest.mark.slow
def test_undoing_twice_in_one_case_meets_nobody_else(page, audit):
    first, second, _ = order(audit)
    begin(page)
    page.keyboard.press("a")
    ready(page, second)
    page.keyboard.press("PageUp")
    page.wait_for_selector("text=This is the first one")  # of the undecided
    page.goto(page.url.split("/case")[0] + f"/case?show=all&id={first}")
    ready(page, first)
    page.keyboard.press("p")
    ready(page, second)
    for state in ("given accepted", "undecided"):
        page.keyboard.press("u")
        page.wait_for_function("text => document.querySelector('#state')?.textContent === text", arg=state)
        ready(page, first)
    page.keyboard.press("u")
    page.wait_for_selector("text=Nothing was decided in this tab")
    assert [row["what"] for row in rows_of(audit)] == ["given", "proposed", "undone", "undone"]


@pytest.mark.slow
def test_the_key_undoes_nothing_that_another_has_decided(browser, address, audit):
    first, second, _ = order(audit)
    with opened(browser, address) as ann, opened(browser, f"{address}/case?show=all&id={first}", home=address) as bob:
        begin(ann)
        ann.keyboard.press("a")
        ready(ann, second)
        bob.reload()
        ready(bob, first)
        bob.keyboard.press("u")
        bob.wait_for_selector("text=Nothing was decided in this tab; 'Undo the decision on this case'")
    assert [row["what"] for row in rows_of(audit)] == ["given"]


@pytest.mark.slow
def test_who_looks_at_what_another_has_decided_is_asked_about_what_is_painted(browser, address, audit):
    second = order(audit)[1]
    with opened(browser, address) as ann, opened(browser, address) as bob:
        begin(ann)
        begin(bob)
        ann.keyboard.press("a")
        ready(ann, second)
        bob.keyboard.press("b")
        drag(bob, (5, 5), (20, 9))
        bob.keyboard.press("m")
        bob.wait_for_selector("#ask[open]")
        bob.click("#ask-other")
        bob.wait_for_selector("text=The painted mask is not saved")
        bob.click("#ask-no")
        bob.keyboard.press("m")  # what is painted is still there
        bob.wait_for_selector("#ask[open]")
        bob.click("#ask-yes")
        ready(bob, second)
    assert [row["what"] for row in rows_of(audit)] == ["given", "mended"]


@pytest.mark.slow
def test_next_and_previous_go_by_keys(page, audit):
    first, second, third = order(audit)
    begin(page)
    for key, identity in (("n", second), ("PageDown", third), ("Shift+N", second), ("PageUp", first)):
        page.keyboard.press(key)
        ready(page, identity)
    page.keyboard.press("PageUp")
    page.wait_for_selector("text=This is the first one")
    assert rows_of(audit) == []


@pytest.mark.slow
def test_every_control_is_reached_by_tab_and_shows_its_focus(page):
    begin(page)
    wanted = page.evaluate(
        "() => [...document.querySelectorAll('a[href], button, input, select, canvas[tabindex]')]"
        ".filter(e => e.checkVisibility() && !e.closest('dialog') && !(e.type === 'radio' && !e.checked)).length"
    )
    page.evaluate("document.activeElement.blur()")
    seen, rings = set(), []
    for _ in range(wanted + 1):
        page.keyboard.press("Tab")
        place, ring = page.evaluate(
            "() => { const e = document.activeElement; const of = e.type === 'radio' ? e.nextElementSibling : e;"
            " const s = getComputedStyle(of);"
            " return [[...document.querySelectorAll('*')].indexOf(e), s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0]; }"
        )
        if place not in seen:
            rings.append(ring)
        seen.add(place)
    assert len(seen) >= wanted
    assert sum(not ring for ring in rings) <= 1  # the document itself, between the last and the first


@pytest.mark.slow
def test_a_name_is_changed_on_the_page_and_kept(page, audit):
    second = order(audit)[1]
    page.fill("#who", "Béa <b>")
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    begin(page)
    page.keyboard.press("a")
    ready(page, second)
    assert page.input_value("#who") == "Béa <b>"
    assert rows_of(audit)[0]["who"] == "Béa <b>"


@pytest.mark.slow
def test_keys_do_nothing_while_one_types_and_can_be_put_off(page, audit):
    begin(page)
    page.focus("#who")
    page.keyboard.type("par")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.uncheck("#single-keys")
    page.keyboard.press("Escape")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if not request.url.endswith("/learning") else None)
    page.keyboard.press("a")
    page.keyboard.press("r")
    next_frame(page)
    assert (asked, rows_of(audit)) == ([], [])


@pytest.mark.slow
def test_two_tabs_do_not_lose_a_decision(browser, address, audit):
    second = order(audit)[1]
    with opened(browser, address) as ann, opened(browser, address) as bob:
        begin(ann)
        bob.fill("#who", "bob")
        bob.locator("#who").blur()
        begin(bob)
        ann.keyboard.press("a")
        ready(ann, second)
        bob.keyboard.press("r")
        bob.wait_for_selector("#ask[open]")
        assert "ann: given accepted" in bob.inner_text("#ask-text")
        bob.click("#ask-no")
        assert len(rows_of(audit)) == 1
        bob.keyboard.press("r")
        bob.wait_for_selector("#ask[open]")
        bob.click("#ask-yes")
        ready(bob, second)
    assert [(row["who"], row["what"]) for row in rows_of(audit)] == [("ann", "given"), ("bob", "rejected")]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["audit/mended", "data/noisy", "data/images"])
def test_a_file_that_is_missing_is_named(browser, address, audit, tmp_path, folder):
    first = order(audit)[0]
    (tmp_path / folder / f"{first}.png").unlink()
    with opened(browser, address, answers="500") as page:
        begin(page)
        assert f"{first}.png: there is no such file" in page.inner_text("#fault")


@pytest.mark.slow
def test_a_mask_that_has_changed_since_it_was_shown_is_not_accepted(browser, address, audit):
    first = order(audit)[0]
    with opened(browser, address, answers="412") as page:
        begin(page)
        Image.fromarray(255 * (np.indices(SIZE)[0] > 9).astype(np.uint8)).save(audit / f"mended/{first}.png")
        page.keyboard.press("p")
        page.wait_for_selector("text=has changed since it was shown")
        assert rows_of(audit) == []
        page.reload()
        ready(page, first)
        page.keyboard.press("p")
        ready(page, order(audit)[1])
    assert [row["what"] for row in rows_of(audit)] == ["proposed"]


# --- the loop with a person -------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    """A review of plain data."""
    return find_audit(discs(tmp_path / "data", ids="abcdefgh"), show_progress=False)


@pytest.mark.slow
def test_a_person_corrects_has_it_learned_from_and_goes_on(browser, begun):
    first = order(begun)
    with served(begun) as address, opened(browser, address) as page:
        assert page.is_disabled("#learning-start")
        begin(page)
        for number in range(5):
            page.keyboard.press("p")
            page.wait_for_selector("text=Nothing is proposed yet")
            page.keyboard.press("a")
            ready(page, first[number + 1])
        page.click("#learning-start")
        page.wait_for_selector("text=training 2 of 4")
        page.locator("#view").focus()
        page.keyboard.press("b")
        brush_size(page, 5)
        page.locator("#size").blur()
        drag(page, (3.5, 44.5), (50.5, 44.5))
        before = painted(page)
        (begun / "go").touch()
        page.wait_for_selector("text=The queue was ranked anew")
        assert "mended .93 (.92 to .94, from 5 pairs)" in page.inner_text("#quality")
        page.click("#renewed")
        page.wait_for_selector("#ask[open]")  # what is painted is not lost unasked
        page.click("#ask-no")
        assert (painted(page) == before).all()
        page.locator("#view").focus()
        page.keyboard.press("m")
        worst = order(begun)[0]
        assert worst == first[-1]
        ready(page, worst)
        page.keyboard.press("p")
        ready(page, order(begun)[1])
    assert [(row["case_id"], row["what"]) for row in rows_of(begun)[5:]] == [(first[5], "mended"), (worst, "proposed")]
    decisions = Decisions(Audit.read(begun))
    assert (decisions.mask(rows_of(begun)[5]["after"]) == before).all()
    decisions.close()


@pytest.mark.slow
def test_an_open_queue_is_shown_anew_and_learning_can_be_stopped(browser, begun):
    first = order(begun)
    with served(begun) as address, opened(browser, address) as page:
        for identity in first[:5]:
            answer = page.evaluate(
                "async id => (await fetch(`/decide?id=${id}&what=given&seen=0&who=ann`, { method: 'POST' })).ok", identity
            )
            assert answer
        page.reload()
        page.click("#learning-start")
        page.wait_for_selector("text=training 2 of 4")
        page.click("#learning-stop")
        page.wait_for_selector("text=stopped; the queue is as it was")
        (begun / "go").touch()
        page.click("#learning-start")
        page.wait_for_selector("text=The queue was ranked anew")
        assert page.locator("a.case span").all_inner_texts() == first[:4:-1]
        page.wait_for_selector("#quality[open] svg")
        fake_mend.write(begun / "go", "fail")
        page.click("#learning-start")
        page.wait_for_selector("#learning-log[open]")
        assert page.inner_text("#learning-log pre") == "error: 3 of 5 pairs"


# --- painting ------------------------------------------------------------------------------------------------------


def test_the_exported_mask_is_exactly_what_was_painted(page, audit, tmp_path):
    first, second, _ = order(audit)
    begin(page)
    page.select_option("#from", "given")
    page.locator("#from").blur()
    expected = given_of(audit, first).astype(bool)
    page.keyboard.press("o")
    for corner in ((40, 4), (60, 4), (60, 15), (40, 15)):
        page.mouse.click(*on_screen(page, *corner))
    page.keyboard.press("Enter")
    expected[4:15, 40:60] = True
    assert (painted(page) == expected).all()
    page.keyboard.press("b")
    brush_size(page, 1)
    page.locator("#size").blur()
    drag(page, (3.5, 44.5), (50.5, 44.5))
    expected[44, 3:51] = True
    page.keyboard.press("e")
    brush_size(page, 3)
    page.locator("#size").blur()
    drag(page, (30.5, 20.5), (30.5, 30.5))
    rows, columns = np.indices(SIZE)
    for y in range(20, 31):
        expected[(rows - y) ** 2 + (columns - 30) ** 2 <= 1.5**2] = False
    assert (painted(page) == expected).all()
    drag(page, (2.5, 2.5), (60.5, 40.5))
    drag(page, (40.5, 2.5), (10.5, 40.5))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    seen = painted(page)
    assert (seen == expected).all()
    page.keyboard.press("m")
    ready(page, second)
    export(audit, tmp_path / "out", show_progress=False)
    written = np.asarray(Image.open(tmp_path / f"out/clean/{first}.png"))
    assert (written == 255 * seen).all()
    assert (written == 255 * expected).all()
    check(tmp_path / "out", show_progress=False)


@pytest.mark.slow
def test_a_proposed_change_is_taken_or_left_by_a_click_or_a_key(page, audit):
    first = order(audit)[0]
    begin(page)
    given, proposed = given_of(audit, first).astype(bool), shifted_back(first, given_of(audit, first)).astype(bool)
    page.mouse.click(*on_screen(page, 33.5, 3.5))
    page.wait_for_selector("text=No change is proposed here")
    row, column = np.argwhere(proposed & ~given)[0] + 0.5
    page.mouse.click(*on_screen(page, column, row))  # with the hand
    page.wait_for_selector("text=Left: as given")
    expected = given & proposed | (given & ~proposed & False)
    assert (painted(page) == expected).all()
    (place,) = page.evaluate(
        "() => [...document.querySelectorAll('[data-turn]')].filter(e => e.textContent === 'left').map(e => e.dataset.turn)"
    )
    page.click(f"[data-turn='{place}']")
    page.wait_for_selector("text=Taken: as proposed")
    assert (painted(page) == proposed).all()
    page.keyboard.press("m")
    page.wait_for_selector("text=The same as proposed: P accepts it")
    row, column = np.argwhere(given & ~proposed)[0] + 0.5
    page.keyboard.press("b")  # with any tool
    page.mouse.move(*on_screen(page, column, row))
    page.keyboard.press("t")
    assert (painted(page) == proposed | given).all()
    page.keyboard.press("Control+z")
    assert (painted(page) == proposed).all()
    page.keyboard.press("g")
    page.mouse.move(3, 3)
    page.keyboard.press("t")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.keyboard.press("m")
    page.wait_for_selector("text=The same as given: A accepts it")
    assert rows_of(audit) == []


@pytest.mark.slow
def test_how_one_works_stays_from_case_to_case_and_nothing_is_painted_unseen(page, audit):
    first, second, _ = order(audit)
    begin(page)
    expected = shifted_back(first, given_of(audit, first)).astype(bool)
    for key in ("2", "4", "b"):
        page.keyboard.press(key)
    brush_size(page, 1)
    page.locator("#size").blur()
    page.keyboard.press("m")
    page.wait_for_selector("text=The same as proposed: P accepts it")
    assert not page.is_checked("#show-painted")
    drag(page, (3.5, 44.5), (50.5, 44.5))
    assert page.is_checked("#show-painted")
    expected[44, 3:51] = True
    page.keyboard.press("c")
    for corner in ((10, 40), (20, 40), (20, 48), (10, 48)):
        page.mouse.click(*on_screen(page, *corner))
    page.keyboard.press("Enter")
    expected[40:48, 10:20] = False
    assert (painted(page) == expected).all()
    page.keyboard.press("f")
    page.mouse.click(*on_screen(page, 30.5, 44.5))  # it has the label already
    page.mouse.click(*on_screen(page, 5.5, 44.5))
    expected[44, :] = False
    page.mouse.click(*on_screen(page, 32.5, 24.5))
    expected[:] = False
    page.mouse.click(*on_screen(page, 1.5, 1.5))
    assert painted(page).all()
    page.keyboard.press("Control+z")
    assert (painted(page) == expected).all()
    page.keyboard.press("n")
    page.wait_for_selector("#ask[open]")
    page.click("#ask-yes")  # save and go on
    ready(page, second)
    assert [(row["case_id"], row["what"]) for row in rows_of(audit)] == [(first, "mended")]
    assert page.inner_text("#status") == f"{first}: mended"
    kept = "() => [document.querySelector('[name=tool]:checked').value, document.getElementById('size').value,"
    kept += " ...['given', 'proposed', 'painted'].map(name => document.getElementById(`show-${name}`).checked)]"
    assert page.evaluate(kept) == ["bucket", "1", True, False, True]


@pytest.mark.slow
def test_the_bare_image_is_shown_while_held_and_beside_and_its_light_can_be_set(page):
    begin(page)
    page.evaluate("document.activeElement.blur()")  # no ring about it
    whole = shown(page)
    page.keyboard.down("v")
    bare = shown(page)
    page.keyboard.up("v")
    assert bare != whole
    assert shown(page) == whole
    for key in "12345":  # without layers it is the same
        page.keyboard.press(key)
    assert shown(page) == bare
    page.keyboard.press("]")
    page.keyboard.press("}")
    assert shown(page) != bare
    page.click("#plain")
    assert shown(page) == bare
    page.keyboard.press("d")
    next_frame(page)
    assert page.locator("#beside").bounding_box()["width"] == page.locator("#view").bounding_box()["width"]
    assert page.locator("#beside").screenshot() == shown(page)  # the same place, as bare


@pytest.mark.slow
def test_a_theme_follows_the_system_until_it_is_switched(browser, address):
    ground = "() => getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        with opened(browser, address, color_scheme=scheme) as page:
            seen[scheme] = page.evaluate(ground)
            page.click("#theme")
            other = page.evaluate(ground)
            assert other != seen[scheme]
            page.click(".begin")
            page.wait_for_selector(".side")
            ready(page)
            assert page.evaluate(ground) == other
    assert seen["light"] != seen["dark"]


@pytest.mark.slow
def test_a_stroke_that_was_undone_can_be_had_again_and_a_saved_mask_gone_on_with(page, audit):
    first, second, _ = order(audit)
    begin(page)
    page.keyboard.press("b")
    drag(page, (5, 5), (20, 9))
    after = painted(page)
    page.keyboard.press("Control+z")
    assert (painted(page) == shifted_back(first, given_of(audit, first))).all()
    page.keyboard.press("Control+y")
    assert (painted(page) == after).all()
    page.keyboard.press("m")
    ready(page, second)
    page.goto(page.url.split("/case")[0] + f"/case?show=all&id={first}")
    ready(page, first)
    assert (painted(page) == after).all()
    assert page.inner_text("#state") == "mended"


@pytest.mark.slow
def test_a_mask_is_painted_by_keys_alone(page, audit):
    first, second, _ = order(audit)
    begin(page)
    expected = shifted_back(first, given_of(audit, first)).astype(bool)
    page.keyboard.press("b")
    for _ in range(11):
        page.keyboard.press(",")
    page.keyboard.press("Space")  # shows the point, in the middle
    for _ in range(2):
        page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")  # the brush is up: nothing is painted
    expected[4, 32:47] = True
    assert (painted(page) == expected).all()
    page.keyboard.press("o")
    for keys in ([], ["Shift+ArrowRight"], ["Shift+ArrowDown"], ["Shift+ArrowLeft"]):
        for key in keys:
            page.keyboard.press(key)
        page.keyboard.press("Space")
        if not keys:  # the first only showed the point
            page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expected[3:13, 46:56] = True
    assert (painted(page) == expected).all()
    page.keyboard.press("m")
    ready(page, second)
    decisions = Decisions(Audit.read(audit))
    assert (decisions.mask(rows_of(audit)[0]["after"]) == expected).all()
    decisions.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["first corner", "double click"])
def test_a_polygon_is_filled_without_keys_too(page, audit, how):
    first = begin(page)
    expected = shifted_back(first, given_of(audit, first)).astype(bool)
    page.check("input[name=tool][value=polygon]")
    for corner in ((40, 4), (60, 4), (60, 15)):
        page.mouse.click(*on_screen(page, *corner))
    if how == "first corner":
        page.mouse.click(*on_screen(page, 40, 15))
        page.mouse.click(*on_screen(page, 40, 4))
    else:
        page.mouse.dblclick(*on_screen(page, 40, 15))
    expected[4:15, 40:60] = True
    assert (painted(page) == expected).all()


@pytest.mark.slow
def test_several_classes_are_painted_by_their_label(browser, tmp_path):
    audit = audit_of(discs(tmp_path / "data", classes=3), tmp_path / "audit", shifted_back, classes=3)
    first, second, _ = order(audit)
    with served(audit) as address, opened(browser, address) as page:
        begin(page)
        page.keyboard.press("b")
        brush_size(page, 1)
        page.locator("#size").blur()
        page.keyboard.press("x")
        drag(page, (3.5, 44.5), (50.5, 44.5))
        page.check("input[name=label][value='255']")
        drag(page, (3.5, 46.5), (50.5, 46.5))
        page.keyboard.press("m")
        ready(page, second)
    decisions = Decisions(Audit.read(audit))
    expected = shifted_back(first, np.asarray(Image.open(read_audit_cases(audit).set_index("id")["mask"][first]))).copy()
    expected[44, 3:51], expected[46, 3:51] = 2, 255
    assert (decisions.mask(rows_of(audit)[0]["after"]) == expected).all()
    decisions.close()


@pytest.mark.slow
def test_what_is_painted_and_not_saved_is_asked_for(page, audit):
    second = order(audit)[1]
    begin(page)
    page.keyboard.press("m")
    page.wait_for_selector("text=Nothing is painted yet")
    page.keyboard.press("o")
    page.mouse.click(*on_screen(page, 40, 4))
    page.keyboard.press("a")
    page.wait_for_selector("#ask[open]")  # a polygon in work is not lost unasked either
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    drag(page, (5, 5), (20, 9))
    for key in ("n", "a"):
        page.keyboard.press(key)
        page.wait_for_selector("#ask[open]")
        page.keyboard.press("Escape")
    assert rows_of(audit) == []
    page.keyboard.press("n")
    page.wait_for_selector("#ask[open]")
    page.click("#ask-other")
    ready(page, second)


@pytest.mark.slow
def test_what_a_brush_that_is_down_has_painted_is_asked_for_too(page, audit):
    begin(page)
    for key in ("b", "Space", "Space", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("n")
    page.wait_for_selector("#ask[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("Space")
    page.click("#again")
    page.wait_for_selector("#ask[open]")
    page.click("#ask-yes")
    page.locator("#view").focus()
    page.keyboard.press("ArrowLeft")  # the brush is up by now
    page.keyboard.press("m")
    page.wait_for_selector("text=The same as proposed")
    assert rows_of(audit) == []


@pytest.mark.slow
def test_a_key_right_behind_an_answer_counts(page, audit):
    begin(page)
    page.keyboard.press("b")
    drag(page, (5, 5), (20, 9))
    # In one turn, as keys that wait while the machine is busy: the answer, and the next key before the dialog's own event.
    told = page.evaluate(
        """async () => {
          const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          const turn = () => new Promise((go) => queueMicrotask(() => queueMicrotask(() => queueMicrotask(go))));
          const dialog = document.getElementById("ask"), told = [];
          for (const key of ["a", "n", "a"]) {
            press(key);
            told.push(dialog.open);
            dialog.close();
            for (let more = 0; more < 9; more++) await turn();
          }
          return told;
        }"""
    )
    assert told == [True, True, True]
    page.keyboard.press("n")
    page.wait_for_selector("#ask[open]")
    page.click("#ask-other")
    ready(page, order(audit)[1])
    assert rows_of(audit) == []


@pytest.mark.slow
def test_fingers_paint_and_two_of_them_zoom(browser, address, audit):
    with opened(browser, address, viewport=TABLET, has_touch=True) as page:
        first = begin(page)
        expected = shifted_back(first, given_of(audit, first)).astype(bool)
        page.tap("input[value=brush]")
        brush_size(page, 1)
        touch = page.context.new_cdp_session(page)

        def fingers(kind, *points):
            places = [dict(zip("xy", on_screen(page, *point), strict=True), id=number) for number, point in enumerate(points)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        fingers("touchStart", (3.5, 44.5))
        for x in range(4, 40):
            fingers("touchMove", (x + 0.5, 44.5))
        fingers("touchEnd")
        expected[44, 3:40] = True
        assert (painted(page) == expected).all()
        fingers("touchStart", (10.5, 10.5))
        fingers("touchMove", (14.5, 10.5))
        fingers("touchStart", (14.5, 10.5), (30.5, 10.5))
        fingers("touchMove", (10.5, 10.5), (34.5, 10.5))
        fingers("touchEnd")
        assert (painted(page) == expected).all()  # the stroke of the first finger was no stroke
        before = page.inner_text("#readout")
        page.mouse.move(*on_screen(page, 3, 44))
        assert page.inner_text("#readout") != before
        assert not page.inner_text("#readout").startswith("x 3  y 44")  # it is another place now


# --- layers, zoom, regions ------------------------------------------------------------------------------------------


def next_frame(page):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page):
    next_frame(page)
    return page.locator("#view").screenshot()


@pytest.mark.slow
def test_every_layer_can_be_put_off_and_doubt_faded(page):
    begin(page)
    page.keyboard.press("b")
    page.keyboard.press("h")
    whole = shown(page)
    for key in "1234":
        page.keyboard.press(key)
        assert shown(page) != whole, key
        page.keyboard.press(key)
        assert shown(page) == whole, key
    page.keyboard.press("6")
    assert shown(page) != whole
    page.keyboard.press("5")
    page.evaluate("document.activeElement.blur()")
    assert page.input_value("#strength") == "60"


@pytest.mark.slow
def test_wheel_drag_and_keys_zoom_and_pan(page):
    begin(page)

    def corner():
        """The pixel of the mask under a fixed place."""
        box = page.locator("#view").bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + 300)
        page.mouse.move(box["x"] + 301, box["y"] + 301)
        return page.inner_text("#readout").split("given")[0]

    home = corner()
    page.mouse.wheel(0, -400)
    page.keyboard.press("+")
    page.mouse.move(500, 500)
    page.mouse.down()
    page.mouse.move(640, 560, steps=4)
    page.mouse.up()
    assert corner() != home
    page.keyboard.press("0")
    assert corner() == home
    page.keyboard.press("ArrowRight")
    assert corner() != home


@pytest.mark.slow
def test_a_region_is_zoomed_to_by_click_and_key(page):
    begin(page)
    whole = shown(page)
    page.click("[data-region='1']")
    near = shown(page)
    assert near != whole
    assert page.get_attribute("[data-region='1']", "aria-current") == "true"
    page.keyboard.press("g")
    assert page.get_attribute("[data-region='0']", "aria-current") == "true"
    assert "Region 1" in page.inner_text("#status")
    assert shown(page) != near


# --- the pixels of tools ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_brush_is_a_disc_of_its_size(page):
    draws = np.random.default_rng(0)
    asked = [[float(x), float(y), int(size)] for x, y, size in zip(*draws.uniform(12, 28, (2, 60)), draws.integers(1, 24, 60), strict=True)]
    spans = page.evaluate(
        "async asked => { const { disc } = await import('/static/mask.js'); return asked.map(one => disc(...one)); }", asked
    )
    rows, columns = np.indices((40, 40)) + 0.5
    for (x, y, size), found in zip(asked, spans, strict=True):
        centre = [np.floor(v) + 0.5 if size % 2 else np.floor(v + 0.5) for v in (x, y)]
        wanted = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= (size / 2) ** 2
        assert (filled(found, (40, 40)) == wanted).all(), (x, y, size)


@pytest.mark.slow
def test_a_polygon_has_the_pixels_whose_centres_lie_in_it(page):
    draws = np.random.default_rng(0)
    asked = draws.integers(0, 41, (40, 3, 2)).tolist()
    spans = page.evaluate(
        "async asked => { const { polygon } = await import('/static/mask.js'); return asked.map(one => polygon(one, 40)); }", asked
    )
    rows, columns = np.indices((40, 40)) + 0.5
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    for corners, found in zip(asked, spans, strict=True):
        # A centre on an edge may fall to either side, so those are left out.
        inner, outer = (Outline([*corners, corners[0]]).contains_points(centres, radius=radius).reshape(40, 40) for radius in (1e-6, -1e-6))
        sure = inner == outer
        assert sure.mean() > 0.9
        assert (filled(found, (40, 40)) == inner)[sure].all(), corners


def filled(spans, size):
    mask = np.zeros(size, bool)
    for row, first, behind in spans:
        mask[int(row), max(int(first), 0) : int(behind)] = True  # JavaScript has a −0
    return mask


@pytest.mark.slow
def test_outlines_enclose_exactly_the_mask(page):
    masks = np.random.default_rng(0).integers(0, 2, (12, 9, 11))
    inside = page.evaluate(
        """async masks => {
          const { outlines } = await import('/static/mask.js');
          const c = document.createElement('canvas').getContext('2d');
          return masks.map(mask => {
            const path = outlines(new Uint8Array(mask.flat()), 11, 9, 255);
            return mask.map((cells, row) => cells.map((_, column) => c.isPointInPath(path, column + 0.5, row + 0.5, 'evenodd')));
          });
        }""",
        masks.tolist(),
    )
    assert (np.array(inside) == masks.astype(bool)).all()


@pytest.mark.slow
def test_the_address_with_its_token_lets_in_and_no_other(browser, audit):
    policy = AccessPolicy.of("0.0.0.0")
    with served(audit, policy=policy) as address, opened(browser, f"{address}/?token={policy.token}", home=address) as page:
        page.wait_for_selector(".begin")
        assert page.url == f"{address}/"
        assert policy.token not in page.evaluate("document.cookie")
        begin(page)
        page.keyboard.press("a")
        ready(page, order(audit)[1])
        with browser.new_context() as stranger:
            assert stranger.new_page().goto(address).status == 401
    assert [row["what"] for row in rows_of(audit)] == ["given"]


# --- volumes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def volumes(tmp_path):
    """An audit of volumes of thick slices, each with a false region."""
    pytest.importorskip("nibabel", reason="needs nibabel")
    return audit_of_volumes(write_data(tmp_path / "data", noisy=2, clean=1), tmp_path / "audit", moved)


def on_plane(page, name, x, y):
    """Where a point of a plane is on the screen while the whole plane is shown."""
    info = json.loads(page.get_attribute("#case", "data-info"))
    plane = next(each for each in info["planes"] if each["name"] == name)
    box, (across, down) = page.locator(f"#plane-{name}").bounding_box(), plane["stretch"]
    wide, high = across * plane["width"], down * plane["height"]
    scale = min((box["width"] - 2 * MARGIN) / wide, (box["height"] - 2 * MARGIN) / high, LARGEST_SCALE)
    left, top = (box["width"] - scale * wide) / 2, (box["height"] - scale * high) / 2
    return box["x"] + left + scale * across * x, box["y"] + top + scale * down * y


def slices(page):
    return [int(page.get_attribute(f"#plane-{name}", "data-slice")) for name in ("axial", "coronal", "sagittal")]


def wait_for_slices(page, wanted):
    shown = "[...document.querySelectorAll('.planes canvas')].map(plane => Number(plane.dataset.slice))"
    page.wait_for_function(f"wanted => String({shown}) === String(wanted)", arg=wanted)


def test_a_volume_is_gone_through_in_three_planes_and_painted_on(browser, volumes):
    with served(volumes) as address, opened(browser, address, answers="404") as page:
        first = begin(page)
        row = read_audit_cases(volumes).set_index("id").loc[first]
        grid, given = read_header(Path(row["mask"])).grid, read_labels(Path(row["mask"]))
        axial, coronal, _ = planes_of(grid)
        expected = moved(first, given)
        page.mouse.click(*on_plane(page, "axial", 6.5, 9.5))  # the hand puts the cross there
        row, column = (
            size - 1 - at if flip else at
            for size, at, flip in (
                (grid.shape[axial.rows], 9, axial.flip_rows),
                (grid.shape[axial.columns], 6, axial.flip_columns),
            )
        )
        at = slices(page)[0]
        wait_for_slices(page, [at, row, column])
        page.mouse.move(*on_plane(page, "axial", 3, 3))
        page.mouse.wheel(0, 100)
        wait_for_slices(page, [at + 1, row, column])
        page.keyboard.press("q")
        wait_for_slices(page, [at, row, column])
        page.keyboard.press("b")
        brush_size(page, 1)
        page.locator("#size").blur()
        with page.expect_response("**/volume/paint**"):
            page.mouse.move(*on_plane(page, "coronal", 2.5, 3.5))
            page.mouse.down()
            page.mouse.move(*on_plane(page, "coronal", 9.5, 3.5), steps=9)
            page.mouse.up()
        coronal.cut(expected, row)[3, 2:10] = 1
        page.keyboard.press("g")
        page.wait_for_selector("text=Region 2")
        with page.expect_response("**/volume/change**"):
            page.click("[data-turn='0']")
        region = json.loads(page.get_attribute("#case", "data-info"))["regions"][0]
        box, where = change_at(
            given,
            moved(first, given),
            tuple(slice(region[low], region[high]) for low, high in (("first", "last"), ("top", "bottom"), ("left", "right"))),
            region["kind"],
        )
        expected[box][where] = given[box][where]
        page.wait_for_selector(".mark:has-text('left')")
        page.keyboard.press("m")
        ready(page, "n1" if first == "n0" else "n0")
    decisions = Decisions(Audit.read(volumes))
    (made,) = rows_of(volumes)
    assert (decisions.mask(made["after"]) == expected).all()
    decisions.close()


@pytest.mark.slow
def test_what_is_painted_on_a_volume_is_there_when_one_comes_back(browser, volumes):
    with served(volumes) as address, opened(browser, address) as page:
        first = begin(page)
        page.keyboard.press("k")
        page.keyboard.press("e")
        brush_size(page, 6)
        page.locator("#size").blur()
        with page.expect_response("**/volume/ball**"):
            page.mouse.click(*on_plane(page, "axial", 10, 12))
        seen = shown_on(page, "sagittal")
        page.keyboard.press("n")
        page.wait_for_selector("text=is kept, and not decided yet")
        page.keyboard.press("PageUp")
        ready(page, first)
        assert page.input_value("#size") == "6"
        assert page.is_checked("#ball")
        assert abs(shown_on(page, "sagittal").astype(int) - seen).max() == 0
        page.keyboard.press("a")
        page.wait_for_selector("text=The painted mask is not saved")
        page.click("#ask-other")
        page.wait_for_function("id => document.querySelector('.side h1').textContent !== id", arg=first)
        assert [row["what"] for row in rows_of(volumes)] == ["given"]
        page.goto(f"{address}/case?show=all&id={first}")
        ready(page, first)
        page.keyboard.press("m")
        page.wait_for_selector("text=use the brush B")  # the draft is gone


@pytest.mark.slow
def test_an_answer_that_comes_late_does_not_hide_a_later_stroke(browser, volumes):
    with served(volumes) as address, opened(browser, address) as page:
        begin(page)
        page.keyboard.press("b")
        brush_size(page, 2)
        page.locator("#size").blur()
        info = json.loads(page.get_attribute("#case", "data-info"))
        (plane,) = (each for each in info["planes"] if each["axis"] == 0)

        def seen():
            return shown_on(page, plane["name"]).reshape(plane["height"], plane["width"], 4)[[3, -3], [3, -3], 3] > 0

        assert not seen().any()
        late = []
        page.route("**/volume/draft**axis=0**", lambda route: late.append((route, route.fetch())), times=1)
        with page.expect_response("**/volume/draft**axis=1**"):
            page.mouse.click(*on_plane(page, plane["name"], 3.5, 3.5))
        wait_for(lambda: late, sleep=lambda seconds: page.wait_for_timeout(1000 * seconds))  # time.sleep holds up the page's events too
        with page.expect_response("**/volume/draft**axis=0**"):
            page.mouse.click(*on_plane(page, plane["name"], plane["width"] - 2.5, plane["height"] - 2.5))
        assert page.get_attribute(".planes", "aria-busy") == "true"
        ((route, answer),) = late
        route.fulfill(response=answer)
        assert seen().all()


def shown_on(page, name):
    """What the page's own canvas of a plane shows of the painted mask."""
    page.wait_for_selector(".planes[aria-busy=false]")
    next_frame(page)
    seen = page.evaluate(
        "name => { const c = document.getElementById(`painted-${name}`);"
        " return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); }",
        name,
    )
    return np.array(seen)


@pytest.mark.slow
def test_level_and_window_and_one_plane_alone(browser, volumes):
    with served(volumes) as address, opened(browser, address) as page:
        begin(page)
        level = page.inner_text("#level-text")
        page.keyboard.press("]")
        assert page.inner_text("#level-text") != level
        window = page.inner_text("#window-text")
        page.keyboard.press("{")
        assert page.inner_text("#window-text") != window
        page.keyboard.press("d")
        assert not page.is_visible("#plane-coronal")
        page.keyboard.press("d")
        assert page.is_visible("#plane-coronal")
        across, window = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert across <= window


# --- for everybody ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "dark"), (TABLET, "light")], ids=["desktop", "tablet"])
def test_axe_finds_nothing_to_complain_of(browser, address, audit, viewport, scheme):
    checks = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

    def complaints(page):
        found = checks.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
        return [
            json.dumps({"id": one["id"], "nodes": [node["html"][:200] for node in one["nodes"]]}) for one in found.response["violations"]
        ]

    # axe is put into the page as a script of its own, which the page's policy rightly forbids: here alone it is put off.
    with opened(browser, address, viewport=viewport, color_scheme=scheme, bypass_csp=True) as page:
        assert complaints(page) == []
        begin(page)
        assert complaints(page) == []
        page.keyboard.press("b")
        page.keyboard.press("?")
        assert complaints(page) == []
        page.keyboard.press("Escape")
        page.keyboard.press("p")
        ready(page, order(audit)[1])
        page.goto(f"{address}/case?show=all&id={order(audit)[0]}")
        ready(page)
        assert complaints(page) == []
        page.goto(f"{address}/?show=all")
        assert complaints(page) == []
    (audit / "estimate.json").write_text(json.dumps(fake_mend.ESTIMATE))
    with opened(browser, address, viewport=viewport, color_scheme=scheme, bypass_csp=True) as page:
        assert complaints(page) == []
        page.goto(f"{address}/case?show=all&id={order(audit)[0]}")
        ready(page)
        page.click("#quality summary")
        assert complaints(page) == []
    with opened(browser, address, viewport=viewport, color_scheme=scheme, bypass_csp=True, answers="404") as page:
        assert page.goto(f"{address}/case?id=nobody").status == 404
        page.wait_for_selector("text=This cannot be shown")
        assert complaints(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [DESKTOP, TABLET, WIDE_TABLET], ids=["desktop", "tablet", "wide tablet"])
def test_nothing_is_wider_than_the_window(browser, address, audit, viewport):
    (audit / "estimate.json").write_text(json.dumps(fake_mend.ESTIMATE))
    with opened(browser, address, viewport=viewport, has_touch=viewport is not DESKTOP) as page:
        wide = "() => [document.documentElement.scrollWidth, innerWidth]"
        across, window = page.evaluate(wide)
        assert across <= window
        begin(page)
        across, window = page.evaluate(wide)
        assert across <= window
        inner = "() => { const e = document.querySelector('.side').getBoundingClientRect();"
        inner += " return Math.max(...[...document.querySelectorAll('.side *')].map(x => x.getBoundingClientRect().right)) - e.right; }"
        assert page.evaluate(inner) <= 0
        sheet = page.evaluate("() => { const e = document.querySelector('.side'); return [e.scrollWidth, e.clientWidth]; }")
        assert sheet[0] <= sheet[1]


@pytest.mark.slow
def test_a_name_with_markup_is_only_a_name(browser, tmp_path):
    audit = audit_of(discs(tmp_path / "data", ids=(STRANGE, "b")), tmp_path / "audit", shifted_back)
    with served(audit, who=STRANGE) as address, opened(browser, address) as page:
        alerts = []
        page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        while begin(page) != STRANGE:
            page.keyboard.press("a")
            page.wait_for_load_state()
            page.goto(address)
        page.keyboard.press("b")
        drag(page, (5, 5), (20, 9))
        page.keyboard.press("m")
        page.wait_for_function("() => !document.querySelector('.side h1') || document.querySelector('.side h1').textContent === 'b'")
        page.goto(f"{address}/?show=all")
        assert STRANGE in page.inner_text("table")
        assert alerts == []
    assert {row["who"] for row in rows_of(audit)} == {STRANGE}
