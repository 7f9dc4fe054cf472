"""The routes of the review. A case is named by its id in the query and looked up in the table; an id never becomes a path in any other way.

GET  /            the queue: show, kind, find, page
GET  /case        one case: id, and the filter it was come to by
GET  /image  /thumbnail  /plane/{given,proposed,decided,trust}      of the case id; a plane is its bytes, row by row
POST /decide      id, what, who, seen and the filter; of `mended` the runs of the mask as the body; of `given` and `proposed` optionally
                  shown, the ETag of the plane that whoever decides has seen
POST /undo        id, who, seen
"""

import asyncio
import functools
import gzip
import hashlib
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
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
from pixeltrust.auditing.folder import Audit
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import THREADS
from pixeltrust.reviewing.decisions import LONGEST_NAME, Conflict, Decision, Decisions, name_of
from pixeltrust.reviewing.guard import Door, Guard
from pixeltrust.reviewing.masks import (
    Kept,
    allowed_labels,
    given_mask,
    labels_of_runs,
    most_bytes,
    proposed_mask,
    read_confidence,
)
from pixeltrust.reviewing.pictures import shown_image, stamp, thumbnail
from pixeltrust.reviewing.queue import ALL, SHOWN, Filter, Queue

Result = TypeVar("Result")
HERE = Path(__file__).parent
WORDS = {
    "all": "all",
    "undecided": "undecided",
    "given": "given accepted",
    "proposed": "proposed accepted",
    "mended": "mended",
    "rejected": "rejected",
    "skipped": "skipped",
    "undone": "undone",
}
_YEAR = 31_536_000
_KEPT_BYTES = 64 << 20  # of given masks; a byte is a pixel


class Review:
    """What the routes need: the audit, its decisions and queue, and a few threads each for pages and for pictures.

    Whoever asks first is answered first; a page does not wait for pictures. What waits for the disk waits in threads of its own.
    """

    def __init__(self, audit: Audit, decisions: Decisions, who: str) -> None:
        self.audit, self.decisions, self.queue = audit, decisions, Queue(decisions)
        self.who = who
        self.version = audit.version()
        self.name = hashlib.sha256(str(audit.folder).encode(errors="surrogateescape")).hexdigest()[:16]
        """Of the audit, for what browsers keep of it."""
        self.pages = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")
        self.pictures = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self.kept = Kept(_KEPT_BYTES)
        loader = jinja2.FileSystemLoader(HERE / "templates")
        self.templates = jinja2.Environment(
            loader=loader, autoescape=True, auto_reload=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.templates.filters["words"] = WORDS.__getitem__
        for name in self.templates.list_templates():  # compiled now, not by the first who ask, all at once
            self.templates.get_template(name)
        self.kinds = self.queue.kinds()

    def rendered(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        common = {"version": __version__, "who": self.who, "longest_name": LONGEST_NAME, "counts": self.queue.counts(), "shown": SHOWN}
        page = self.templates.get_template(template).render(**common, **values)
        return HTMLResponse(page, status, headers={"Cache-Control": "no-store"})  # it shows what is decided by now

    def case(self, request: Request) -> dict[str, Any]:
        """The case a request names."""
        case = self.queue.case(request.query_params.get("id", ""))
        if case is None:
            raise HTTPException(404, "There is no such case in this audit.")
        return case

    def given(self, case: dict[str, Any]) -> np.ndarray:
        file, size = Path(case["mask"]), (case["height"], case["width"])
        return self.kept.mask((file, stamp(file)), lambda: given_mask(self.audit, file, size))


def application(audit: Audit, decisions: Decisions, *, door: Door, who: str) -> Starlette:
    """The review of an audit as an ASGI application."""
    review = Review(audit, decisions, who)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        for threads in (review.pages, review.pictures):
            threads.shutdown(cancel_futures=True)

    def by(threads: Executor, make: Callable[[Review, Request], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await _in(threads, make, review, request)

        return endpoint

    routes = [
        Route("/", by(review.pages, queue_page)),
        Route("/case", by(review.pages, case_page)),
        Route("/image", by(review.pictures, image)),
        Route("/thumbnail", by(review.pictures, small_image)),
        Route("/plane/{name:str}", by(review.pictures, plane)),
        Route("/decide", functools.partial(decide, review), methods=["POST"]),
        Route("/undo", functools.partial(undo, review), methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: functools.partial(_failed, review),
        PixeltrustError: functools.partial(_failed, review),
        sqlite3.Error: functools.partial(_failed, review),
    }
    return Starlette(routes=routes, middleware=[Middleware(Guard, door=door)], exception_handlers=handlers, lifespan=lifespan)


async def _in(threads: Executor, work: Callable[..., Result], *values: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, work, *values)


# --- pages --------------------------------------------------------------------------------------------------------


def queue_page(review: Review, request: Request) -> Response:
    """The queue as the filters leave it, a page of it."""
    chosen = _filter(request)
    page = review.queue.page(chosen, _number(request, "page", 1))
    return review.rendered("queue.html", chosen=chosen, page=page, kinds=review.kinds, picture_version=review.version, audit=review.name)


def case_page(review: Review, request: Request) -> Response:
    """One case."""
    chosen = _filter(request)
    case = review.case(request)
    before, behind = review.queue.neighbours(chosen, case["position"])
    history = review.decisions.history(case["id"])
    force = review.decisions.in_force(case["id"])
    regions = review.queue.regions(case["position"])
    try:
        labels = allowed_labels(review.audit, review.given(case))
        fault = ""
    except PixeltrustError as error:
        labels, fault = [0, 1], str(error)
    told = {
        "audit": review.name,
        "id": case["id"],
        "height": case["height"],
        "width": case["width"],
        "classes": review.audit.classes,
        "labels": labels,
        "ignored": IGNORE,
        "regions": regions,
        "seen": history[-1].number if history else 0,
        "decision": force.what if force else "",
        "mended": bool(force and force.what == "mended"),
        "query": chosen.query(),
        "before": before,
        "behind": behind,
        "who": review.who,
    }
    return review.rendered(
        "case.html",
        chosen=chosen,
        case=case,
        told=json.dumps(told),
        before=before,
        behind=behind,
        history=history,
        force=force,
        regions=regions,
        labels=labels,
        ignored=IGNORE,
        fault=fault,
    )


# --- pictures -----------------------------------------------------------------------------------------------------


def image(review: Review, request: Request) -> Response:
    """The image of a case, as a browser can show it."""
    case = review.case(request)
    file = Path(case["image"])
    tag = stamp(file)
    if (unchanged := _unchanged(request, tag)) is not None:
        return unchanged
    content, media = shown_image(file)
    return Response(content, media_type=media, headers=_headers(tag))


def small_image(review: Review, request: Request) -> Response:
    """The thumbnail of a case; it may be kept for good under an address with the audit's version."""
    case = review.case(request)
    mask, size = Path(case["mask"]), (case["height"], case["width"])
    lasting = request.query_params.get("v") == review.version
    tag = stamp(Path(case["image"]), mask, review.audit.proposed_file(case["id"]))
    if (unchanged := _unchanged(request, tag, lasting)) is not None:
        return unchanged
    content, fault = thumbnail(review.audit, case["id"], Path(case["image"]), mask, size)
    if fault:  # asked for anew each time; a header holds no text of any alphabet
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store", "X-Fault": quote(fault)})
    return Response(content, media_type="image/jpeg", headers=_headers(tag, lasting))


def plane(review: Review, request: Request) -> Response:
    """One number per pixel of a case, as bytes, row by row."""
    case = review.case(request)
    name = request.path_params["name"]
    identity, size = case["id"], (case["height"], case["width"])
    if name == "decided":
        force = review.decisions.in_force(identity)
        if force is None or force.after is None:
            raise HTTPException(404, "No mask is decided on.")
        tag, make = force.after[:24], functools.partial(review.decisions.mask, force.after)
    elif name == "given":
        tag, make = _stamp(review, case, name), functools.partial(review.given, case)
    elif name == "proposed":
        tag, make = _stamp(review, case, name), functools.partial(_proposed, review, case)
    elif name == "trust":
        tag, make = stamp(review.audit.confidence_file(identity)), functools.partial(read_confidence, review.audit, identity, size)
    else:
        raise HTTPException(404, "There is no such plane.")
    if (unchanged := _unchanged(request, tag)) is not None:
        return unchanged
    content = gzip.compress(make().tobytes(), 1)
    return Response(content, media_type="application/octet-stream", headers={**_headers(tag), "Content-Encoding": "gzip"})


def _stamp(review: Review, case: dict[str, Any], name: str) -> str:
    """Of the files that a given or a proposed mask is read from."""
    return stamp(Path(case["mask"]), *([review.audit.proposed_file(case["id"])] if name == "proposed" else []))


def _proposed(review: Review, case: dict[str, Any]) -> np.ndarray:
    return proposed_mask(review.audit, case["id"], review.given(case))


# --- changes ------------------------------------------------------------------------------------------------------


async def decide(review: Review, request: Request) -> Response:
    """Write a decision; 409 where somebody has decided since the page looked, 412 where the mask is another one since."""
    case = await _in(review.pages, review.case, request)
    what = request.query_params.get("what", "")
    if what not in WORDS or what in (ALL, "undecided", "undone"):
        raise HTTPException(400, "what: given, proposed, mended, rejected or skipped.")
    who, seen, shown = _who(request), _number(request, "seen", -1), request.query_params.get("shown", "")
    body = await _body(request, most_bytes((case["height"], case["width"])) if what == "mended" else 0)

    def read() -> tuple[np.ndarray | None, np.ndarray | None]:
        try:
            given = review.given(case)
        except DataError:
            if what in ("rejected", "skipped"):  # which need no mask
                return None, None
            raise
        if what == "mended":
            try:
                decided: np.ndarray | None = labels_of_runs(body, given.shape, allowed_labels(review.audit, given))
            except ValueError as error:
                raise HTTPException(400, f"The mask cannot be taken: {error}.") from None
        elif what == "proposed":
            decided = proposed_mask(review.audit, case["id"], given)
        else:
            decided = None if what == "rejected" else given
        # After the reading, so that what was read is what was shown.
        if what in ("given", "proposed") and shown and shown != f'"{_stamp(review, case, what)}"':
            raise HTTPException(412, f"The {what} mask's file has changed since it was shown; nothing was written. Load the page again.")
        return given, decided

    given, decided = await _in(review.pictures, read)
    write = functools.partial(review.decisions.decide, case["id"], what, who=who, seen=seen, given=given, decided=decided)
    return await _changed(review, request, case, write)


async def undo(review: Review, request: Request) -> Response:
    """Undo what holds of a case; 409 where somebody has decided since the page looked."""
    case = await _in(review.pages, review.case, request)
    who, seen = _who(request), _number(request, "seen", -1)

    def write() -> Decision:
        try:
            return review.decisions.undo(case["id"], who=who, seen=seen)
        except ValueError as error:
            raise HTTPException(400, f"{error}.".capitalize()) from None

    return await _changed(review, request, case, write)


async def _changed(review: Review, request: Request, case: dict[str, Any], write: Callable[[], Decision]) -> Response:
    def go_on() -> tuple[Decision, str | None]:
        return write(), review.queue.next_to_decide(_filter(request), case["position"])

    try:
        made, following = await run_in_threadpool(go_on)
    except Conflict as conflict:
        later = [{"number": one.number, "who": one.who, "what": WORDS[one.what], "at": one.at} for one in conflict.later]
        return JSONResponse({"error": str(conflict), "later": later}, 409)
    return JSONResponse({"number": made.number, "what": made.what, "next": following})


async def _body(request: Request, most: int) -> bytes:
    """The body, of which no more is read than it may have."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise HTTPException(413, "The mask is longer than one of this size can be.")
        parts.append(part)
    return b"".join(parts)


def _who(request: Request) -> str:
    try:
        return name_of(request.query_params.get("who", ""))
    except ValueError as error:
        raise HTTPException(400, f"Who: {error}.") from None


# --- what requests say --------------------------------------------------------------------------------------------


def _filter(request: Request) -> Filter:
    asked = request.query_params
    show = asked.get("show", "undecided")
    return Filter(show=show if show in SHOWN else "undecided", kind=asked.get("kind", ""), find=asked.get("find", "").strip()[:200])


def _number(request: Request, name: str, otherwise: int) -> int:
    try:
        return min(max(int(request.query_params.get(name, otherwise)), -1), 2**62)
    except ValueError:
        raise HTTPException(400, f"{name}: a whole number.") from None


def _headers(tag: str, lasting: bool = False) -> dict[str, str]:
    return {"ETag": f'"{tag}"', "Cache-Control": f"private, max-age={_YEAR}, immutable" if lasting else "private, no-cache"}


def _unchanged(request: Request, tag: str, lasting: bool = False) -> Response | None:
    """304 where the browser has it already."""
    known = request.headers.get("if-none-match", "")
    return Response(status_code=304, headers=_headers(tag, lasting)) if f'"{tag}"' in known else None


async def _failed(review: Review, request: Request, error: Exception) -> Response:
    """A page for people, JSON for the page's own requests."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = error.detail if isinstance(error, HTTPException) else str(error)
    if request.method == "GET" and request.url.path in ("/", "/case"):
        return await run_in_threadpool(review.rendered, "error.html", status, text=text)
    return JSONResponse({"error": text}, status)
