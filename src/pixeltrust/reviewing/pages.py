"""The routes of the review. A request names a case by its id, which is looked up in a table and never becomes part of a path.

GET  /            the queue: show, kind, find, sort, page
GET  /case        one case: id, and the filters of the queue
GET  /image  /thumbnail  /plane/{given,proposed,decided,confidence}     id; a plane is one byte per pixel, row by row
POST /decide      id, what, who, seen and the filters; for `mended` the body is the runs of the mask; for `given` and `proposed` optionally
                  shown: the ETag of the plane that the person has seen
POST /undo        id, who, seen
GET  /learning    the bar of the page: pairs, learning, expected quality
POST /learning/start  /learning/stop
GET and POST /volume/…   of volumes, see `volume_pages`
POST /export      make a data folder of the decisions beside the data

What was loaded of the audit follows its tables (see `Review.follow`).
"""

import asyncio
import functools
import gzip
import hashlib
import shlex
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import jinja2
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pixeltrust import __version__
from pixeltrust.auditing.folder import AUDIT_TABLES, Audit
from pixeltrust.data.cases import FEWEST_PAIRS
from pixeltrust.data.nnunet import name_labels
from pixeltrust.mending.estimate import read_estimate
from pixeltrust.plumbing.errors import DataError, PixeltrustError, RunError
from pixeltrust.plumbing.files import stamp
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import THREADS
from pixeltrust.reviewing import volume_pages
from pixeltrust.reviewing.access import AccessMiddleware, AccessPolicy
from pixeltrust.reviewing.decisions import DECISIONS, LONGEST_NAME, UNDONE, Conflict, Decision, Decisions, clean_name
from pixeltrust.reviewing.estimate import describe_estimate, draw_estimate
from pixeltrust.reviewing.exports import MADE_CLEAN, export_decisions
from pixeltrust.reviewing.learning import Learning, count_pairs, mend_again
from pixeltrust.reviewing.masks import MaskCache, allowed_labels, given_mask, labels_of_runs, most_bytes, proposed_mask, read_confidence
from pixeltrust.reviewing.pictures import Decided, shown_image, thumbnail
from pixeltrust.reviewing.queue import SHOWN, SORTS, Filter, Queue
from pixeltrust.reviewing.volume_pages import Volumes

Result = TypeVar("Result")
HERE = Path(__file__).parent
WORDS = {word: word for word in (*SHOWN, UNDONE)} | {"given": "given accepted", "proposed": "proposed accepted"}
_YEAR = 31_536_000
_CACHE_BYTES = 64 << 20  # for given masks; a byte is a pixel
_MOST_OF_A_STROKE = 64 << 20  # bytes: a byte is a voxel of a slice


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the templates of the review, compiled."""
    loader = jinja2.FileSystemLoader(HERE / "templates")
    templates = jinja2.Environment(
        loader=loader, autoescape=True, auto_reload=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["words"] = WORDS.__getitem__
    for name in templates.list_templates():
        templates.get_template(name)
    return templates


class Review:
    """What the routes need: the audit, its decisions and queue, and a few threads each for pages and for pictures.

    The first request is answered first, and a page does not wait for pictures. Writing to the disk uses other threads.
    """

    def __init__(self, audit: Audit, decisions: Decisions, who: str, learns_by: Callable[[Path], Sequence[str]]) -> None:
        self.audit, self.decisions, self.queue = audit, decisions, Queue(decisions)
        self.who = who
        self.learning = Learning(audit.folder, learns_by)
        self.name = hashlib.sha256(str(audit.folder).encode(errors="surrogateescape")).hexdigest()[:16]
        """The name under which browsers keep their notes on this audit."""
        self.pages = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")
        self.pictures = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self.slices = ThreadPoolExecutor(THREADS, thread_name_prefix="slices")  # they do not wait for thumbnails of whole volumes
        self.names = name_labels(audit.data)
        self.cache = MaskCache(_CACHE_BYTES)
        self.templates = _templates()  # compiled now, not by the first requests, all at once
        self._own_pairs = self.pictures.submit(count_pairs, audit)  # reads all headers, which may take seconds
        self.exporting = threading.Lock()
        self.volumes = Volumes(self)
        self._following = threading.Lock()
        self._seen = ""
        self.version, self.kinds, self.judged, self.fault = "", list[str](), True, ""
        self.follow()

    def follow(self) -> None:
        """Take up the tables of the audit if they are new. While somebody learns, who writes them, the old ones stay in use."""
        with self._following:
            self.progress = self.learning.progress()  # before the tables: what pages show as done is in the tables that they show
            seen = stamp(*(self.audit.folder / name for name in AUDIT_TABLES))
            if seen == self._seen or self.progress.state in ("running", "elsewhere"):
                return
            try:
                self.version, self.fault = self.decisions.load_tables(), ""
                self.kinds, self.judged = self.queue.kinds(), self.decisions.are_judged()
            except PixeltrustError as error:
                self.fault = str(error)
            self._seen = seen

    def export_folder(self) -> Path:
        """Return a folder for an export that is not there yet: `<data>-reviewed`, with a number behind it where there are some."""
        data = self.audit.data
        name = f"{data.stem if data.is_file() else data.name}-reviewed"
        beside = self.audit.folder.parent if data.parent == self.audit.folder else data.parent  # the table of an audit is in it
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        return next(folder for folder in map(beside.joinpath, names) if not folder.exists())

    def bar(self, counts: dict[str, int]) -> dict[str, Any]:
        """Return what the bar of a page shows of pairs, learning and expected quality."""
        fault, estimate = self.fault, None
        try:
            estimate = read_estimate(self.audit.folder)
        except RunError as error:
            fault = fault or str(error)
        counted = self._own_pairs.done()
        return {
            "progress": self.progress,
            "version": self.version,
            "pairs": sum(counts[what] for what in MADE_CLEAN) + (self._own_pairs.result() if counted else 0),
            "counted": counted,
            "fewest": FEWEST_PAIRS,
            "fault": fault,
            "estimate": estimate,
            "sentence": describe_estimate(estimate) if estimate else "",
            "chart": draw_estimate(estimate) if estimate else None,
        }

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        counts = self.queue.counts()
        common = {"version": __version__, "who": self.who, "longest_name": LONGEST_NAME, "counts": counts, "shown": SHOWN}
        common |= {"bar": self.bar(counts), "judged": self.judged}
        page = self.templates.get_template(template).render(**common, **values)
        return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})  # it shows the latest decisions

    def case(self, request: Request) -> dict[str, Any]:
        """Return the case that a request names."""
        case = self.queue.case(request.query_params.get("id", ""))
        if case is None:
            raise HTTPException(404, "There is no such case in this audit.")
        return case

    def given(self, case: dict[str, Any]) -> np.ndarray:
        if case["depth"]:
            return self.volumes.given(case)
        file = Path(case["mask"])
        return self.cache.get((file, stamp(file)), lambda: self.read_given(case))

    def proposed(self, case: dict[str, Any]) -> np.ndarray:
        return self.volumes.proposed(case) if case["depth"] else self.read_proposed(case, self.given(case))

    def read_given(self, case: dict[str, Any]) -> np.ndarray:
        return given_mask(self.audit, Path(case["mask"]), _size(case))

    def read_proposed(self, case: dict[str, Any], given: np.ndarray) -> np.ndarray:
        return proposed_mask(self.audit, case["id"], given)

    def read_confidence(self, case: dict[str, Any]) -> np.ndarray:
        return read_confidence(self.audit, case["id"], _size(case))

    def name_of(self, request: Request) -> str:
        """Return the name of the person who asks."""
        return _who(request)

    def decided(self, case: dict[str, Any]) -> Decided | None:
        """Return the mask that was decided on, where there is one."""
        force = self.decisions.in_force(case["id"])
        if force is None or force.after is None or force.what not in MADE_CLEAN:
            return None
        return Decided(force.what, force.after, functools.partial(self.decisions.mask, force.after))

    def tag(self, case: dict[str, Any], plane: str) -> str:
        """Return a text that changes when a file of this plane changes."""
        given, proposed = Path(case["mask"]), self.audit.proposed_file(case["id"])
        files = {"given": (given,), "proposed": (given, proposed), "confidence": (self.audit.confidence_file(case["id"]),)}
        return stamp(*files[plane])


PLANES = {"given": Review.given, "proposed": Review.proposed, "confidence": Review.read_confidence}


def _size(case: dict[str, Any]) -> tuple[int, ...]:
    return (case["depth"], case["height"], case["width"]) if case["depth"] else (case["height"], case["width"])


def application(
    audit: Audit, decisions: Decisions, *, policy: AccessPolicy, who: str, learns_by: Callable[[Path], Sequence[str]] = mend_again
) -> Starlette:
    """Return the review of an audit as an ASGI application; `learns_by` returns the command that learns from an audit's decisions."""
    review = Review(audit, decisions, who, learns_by)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        await run_in_threadpool(review.learning.close)
        for threads in (review.pages, review.pictures, review.slices):
            threads.shutdown(cancel_futures=True)

    def run_in(threads: Executor, respond: Callable[[Review, Request], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await _run_in(threads, respond, review, request)

        return endpoint

    routes = [
        Route("/", run_in(review.pages, queue_page)),
        Route("/case", run_in(review.pages, case_page)),
        Route("/image", run_in(review.pictures, send_image)),
        Route("/thumbnail", run_in(review.pictures, small_image)),
        Route("/plane/{name:str}", run_in(review.pictures, plane)),
        Route("/volume/slice", run_in(review.slices, volume_pages.send_slice)),
        Route("/volume/scale", run_in(review.slices, volume_pages.send_scale)),
        Route("/volume/draft", run_in(review.slices, volume_pages.send_draft)),
        Route("/volume/{change:str}", functools.partial(change_draft, review), methods=["POST"]),
        Route("/learning", run_in(review.pages, learning_bar)),
        Route("/learning/start", functools.partial(start_learning, review), methods=["POST"]),
        Route("/learning/stop", functools.partial(stop_learning, review), methods=["POST"]),
        Route("/export", functools.partial(start_export, review), methods=["POST"]),
        Route("/decide", functools.partial(decide, review), methods=["POST"]),
        Route("/undo", functools.partial(undo, review), methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, PixeltrustError, sqlite3.Error), functools.partial(_failed, review))
    middleware = [Middleware(AccessMiddleware, policy=policy)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)


async def _run_in(threads: Executor, work: Callable[..., Result], *values: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, work, *values)


# --- pages --------------------------------------------------------------------------------------------------------


def queue_page(review: Review, request: Request) -> Response:
    """Return a page of the filtered queue."""
    review.follow()
    filters = _filter(request)
    page = review.queue.page(filters, _number(request, "page", 1))
    if page.rows and page.rows[0]["depth"]:
        review.volumes.prepare(page.rows[0])
    return review.render("queue.html", filters=filters, page=page, kinds=review.kinds, picture_version=review.version, audit=review.name)


def case_page(review: Review, request: Request) -> Response:
    """Return the page of one case."""
    review.follow()
    filters = _filter(request)
    case = review.case(request)
    before, behind = review.queue.neighbours(filters, case["position"])
    history = review.decisions.history(case["id"])
    force = review.decisions.in_force(case["id"])
    volume: dict[str, Any] | None = None
    try:
        volume = review.volumes.about(case) if case["depth"] else None
        labels = [] if volume else allowed_labels(review.audit, review.given(case))
        fault = ""
    except PixeltrustError as error:
        if case["depth"]:
            raise
        labels, fault = [0, 1], str(error)
    info = {
        "audit": review.name,
        "version": review.version,
        "judged": review.judged,
        "id": case["id"],
        "height": case["height"],
        "width": case["width"],
        "labels": labels,
        "names": review.names,
        "ignored": IGNORE,
        "regions": review.queue.regions(case["position"]),
        "seen": history[-1].number if history else 0,
        "decision": force.what if force else "",
        "mended": bool(force and force.what == "mended"),
        "query": filters.query(),
        "before": before,
        "behind": behind,
    }
    if volume:
        if behind and (following := review.queue.case(behind)):
            review.volumes.prepare(following)
        info |= volume
    template, unit = ("volume.html", "voxels") if volume else ("case.html", "px")
    return review.render(template, filters=filters, case=case, info=info, history=history, force=force, fault=fault, unit=unit)


# --- pictures -----------------------------------------------------------------------------------------------------


def send_image(review: Review, request: Request) -> Response:
    """Return the image of a case, as a browser can show it."""
    case = review.case(request)
    if case["depth"]:
        raise HTTPException(404, "A volume is sent slice by slice.")
    file = Path(case["image"])
    tag = stamp(file)
    if (unchanged := _unchanged(request, tag)) is not None:
        return unchanged
    content, media = shown_image(file)
    return Response(content, media_type=media, headers=_headers(tag))


def small_image(review: Review, request: Request) -> Response:
    """Return the thumbnail of a case; browsers may keep it for good if its address has the audit's version."""
    case = review.case(request)
    mask, size = Path(case["mask"]), _size(case)
    history, decided = review.decisions.history(case["id"]), review.decided(case)
    lasting = request.query_params.get("v") == review.version + (f"-{history[-1].number}" if history else "")
    tag = stamp(Path(case["image"]), mask, review.audit.proposed_file(case["id"])) + (decided.key[:24] if decided else "")
    if (unchanged := _unchanged(request, tag, lasting)) is not None:
        return unchanged
    volume = review.volumes.pictured(case) if case["depth"] else None
    content, fault = thumbnail(review.audit, case["id"], Path(case["image"]), mask, size, decided, volume)
    if fault:  # not cached; a header holds no text beyond Latin letters
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store", "X-Fault": quote(fault)})
    return Response(content, media_type="image/jpeg", headers=_headers(tag, lasting))


def plane(review: Review, request: Request) -> Response:
    """Return one byte per pixel of a case, row by row."""
    case, name = review.case(request), request.path_params["name"]
    if case["depth"]:
        raise HTTPException(404, "A volume is sent slice by slice.")
    if name == "decided":
        force = review.decisions.in_force(case["id"])
        if force is None or force.after is None:
            raise HTTPException(404, "No mask is decided on.")
        tag, read = force.after[:24], functools.partial(review.decisions.mask, force.after)
    elif name in PLANES:
        tag, read = review.tag(case, name), functools.partial(PLANES[name], review, case)
    else:
        raise HTTPException(404, "There is no such plane.")
    if (unchanged := _unchanged(request, tag)) is not None:
        return unchanged
    content = gzip.compress(read().tobytes(), 1)
    return Response(content, media_type="application/octet-stream", headers={**_headers(tag), "Content-Encoding": "gzip"})


# --- changes ------------------------------------------------------------------------------------------------------


async def decide(review: Review, request: Request) -> Response:
    """Write a decision; 409 if somebody has decided since the page was loaded, 412 if the mask has changed since then."""
    case = await _run_in(review.pages, review.case, request)
    what = request.query_params.get("what", "")
    if what not in DECISIONS:
        raise HTTPException(400, "what: given, proposed, mended, rejected or skipped.")
    who, seen, shown = _who(request), _number(request, "seen", -1), request.query_params.get("shown", "")
    body = await _body(request, most_bytes((case["height"], case["width"])) if what == "mended" and not case["depth"] else 0)

    def read() -> tuple[np.ndarray | None, np.ndarray | None]:
        try:
            given = review.given(case)
        except DataError:
            if what in ("rejected", "skipped"):  # these need no mask
                return None, None
            raise
        if what == "mended" and case["depth"]:
            return np.array(given), review.volumes.painted(case, who)
        if what == "mended":
            try:
                decided: np.ndarray | None = labels_of_runs(body, given.shape, allowed_labels(review.audit, given))
            except ValueError as error:
                raise HTTPException(400, f"The mask cannot be taken: {error}.") from None
        elif what == "proposed":
            decided = review.proposed(case)
        else:
            decided = None if what == "rejected" else given
        # Checked after reading, so that what was read is what was shown.
        if what in ("given", "proposed") and shown and shown != f'"{review.tag(case, what)}"':
            raise HTTPException(412, f"The {what} mask's file has changed since it was shown; nothing was written. Load the page again.")
        return given, decided

    given, decided = await _run_in(review.pictures, read)
    write = functools.partial(review.decisions.decide, case["id"], what, who=who, seen=seen, given=given, decided=decided)
    answer = await _changed(review, request, case, write)
    if case["depth"] and what != "skipped" and answer.status_code == 200:
        await _run_in(review.pictures, review.volumes.drop, case, who)
    return answer


async def change_draft(review: Review, request: Request) -> Response:
    """Paint on a volume."""
    change = volume_pages.CHANGES.get(request.path_params["change"])
    if change is None:
        raise HTTPException(404, "There is no such change.")
    return await _run_in(review.slices, change, review, request, await _body(request, _MOST_OF_A_STROKE))


async def undo(review: Review, request: Request) -> Response:
    """Undo the decision in force; 409 if somebody has decided since the page was loaded."""
    case = await _run_in(review.pages, review.case, request)
    who, seen = _who(request), _number(request, "seen", -1)

    def write() -> Decision:
        try:
            return review.decisions.undo(case["id"], who=who, seen=seen)
        except ValueError as error:
            raise HTTPException(400, f"{error}.".capitalize()) from None

    return await _changed(review, request, case, write)


async def _changed(review: Review, request: Request, case: dict[str, Any], write: Callable[[], Decision]) -> Response:
    anew = request.query_params.get("version", review.version) != review.version

    def write_and_go_on() -> tuple[Decision, tuple[str | None, bool]]:
        return write(), review.queue.next_to_decide(_filter(request), case["position"], anew=anew)

    try:
        decision, (following, again) = await run_in_threadpool(write_and_go_on)
    except Conflict as conflict:
        later = [{"number": made.number, "who": made.who, "what": WORDS[made.what], "at": made.at} for made in conflict.later]
        return JSONResponse({"error": str(conflict), "later": later}, 409)
    return JSONResponse({"number": decision.number, "what": decision.what, "next": following, "again": again})


async def _body(request: Request, most: int) -> bytes:
    """Return the body, reading at most as many bytes as it may have."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise HTTPException(413, "The mask is longer than any mask of this size.")
        parts.append(part)
    return b"".join(parts)


def _who(request: Request) -> str:
    try:
        return clean_name(request.query_params.get("who", ""))
    except ValueError as error:
        raise HTTPException(400, f"Who: {error}.") from None


# --- learning ------------------------------------------------------------------------------------------------------


def learning_bar(review: Review, _: Request) -> Response:
    """Return the bar of the pages as it is now; its `data-version` changes when the queue was ranked anew."""
    review.follow()
    return review.render("learning.html")


async def start_learning(review: Review, _: Request) -> Response:
    """Start to learn from the decisions; 400 where there are too few pairs, 409 if that goes on already."""
    bar = await _run_in(review.pages, lambda: review.bar(review.queue.counts()))
    if bar["pairs"] < FEWEST_PAIRS:
        raise HTTPException(400, f"There are {bar['pairs']} of the {FEWEST_PAIRS} pairs that are needed: accept or mend more masks.")
    try:
        await run_in_threadpool(review.learning.start)
    except RunError as error:
        raise HTTPException(409, str(error)) from None
    return JSONResponse({})


async def stop_learning(review: Review, _: Request) -> Response:
    """Stop to learn; the audit stays as it is."""
    review.learning.stop()
    return JSONResponse({})


# --- export ---------------------------------------------------------------------------------------------------------


async def start_export(review: Review, _: Request) -> Response:
    """Write a data folder of the decisions, `<data>-reviewed` beside the data; 409 while another is written."""
    if not review.exporting.acquire(blocking=False):
        raise HTTPException(409, "An export is being written already; wait for its end.")
    try:
        out = review.export_folder()
        made = await run_in_threadpool(export_decisions, review.audit.folder, out, show_progress=False)
    except DataError as error:
        raise HTTPException(400, str(error)) from None
    finally:
        review.exporting.release()
    command = shlex.join(["pixeltrust", "train", str(out), "--out", "RUN"])
    return JSONResponse({"words": str(made), "command": command})


# --- requests and headers --------------------------------------------------------------------------------------------


def _filter(request: Request) -> Filter:
    asked = request.query_params
    show, sort = asked.get("show", "undecided"), asked.get("sort", "rank")
    return Filter(
        show=show if show in SHOWN else "undecided",
        kind=asked.get("kind", ""),
        find=asked.get("find", "").strip()[:200],
        sort=sort if sort.removeprefix("-") in SORTS else "rank",
    )


def _number(request: Request, name: str, otherwise: int) -> int:
    try:
        return min(max(int(request.query_params.get(name, otherwise)), -1), 2**62)
    except ValueError:
        raise HTTPException(400, f"{name}: a whole number.") from None


def _headers(tag: str, lasting: bool = False) -> dict[str, str]:
    return {"ETag": f'"{tag}"', "Cache-Control": f"private, max-age={_YEAR}, immutable" if lasting else "private, no-cache"}


def _unchanged(request: Request, tag: str, lasting: bool = False) -> Response | None:
    """Return the response 304 if the browser has it already."""
    has = request.headers.get("if-none-match", "")
    return Response(status_code=304, headers=_headers(tag, lasting)) if f'"{tag}"' in has else None


async def _failed(review: Review, request: Request, error: Exception) -> Response:
    """Return an error as a page for people, as JSON for the scripts of a page."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = error.detail if isinstance(error, HTTPException) else str(error)
    if request.method == "GET" and request.url.path in ("/", "/case"):
        return await run_in_threadpool(review.render, "error.html", status, text=text)
    return JSONResponse({"error": text}, status)
