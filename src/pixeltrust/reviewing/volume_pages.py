"""What the page of a volume asks for: slices, and strokes on a draft. A volume never goes to a browser whole.

GET  /volume/slice    id, axis, at, channel: the image (uint16, little-endian) and the given mask, then, where the case is judged, the
                      proposed mask and the confidence (a byte each), row by row as the plane is seen; of what cannot be read zeros,
                      and the header X-Fault says why
GET  /volume/scale    id, channel: what the numbers of the image mean, and the voxel to begin at
GET  /volume/draft    id, who, start, axis, at: the painted mask, a byte per pixel; the header X-Draft says what there is to undo
POST /volume/paint    … top, left, bottom, right; the body is the labels of that box of the slice, row by row
POST /volume/ball     … size (mm), label; the body is a JSON list of the [x, y] on the slice where the ball was
POST /volume/change   … region (its place in the case's list), or x and y on the slice: take or leave what is proposed there
POST /volume/turn     what: undo or redo
POST /volume/drop

`start` is the mask that painting begins on: given, proposed or decided. Answers to changes say what there is to undo.
"""

import gzip
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pixeltrust.data.image_files import image_suffix
from pixeltrust.data.images import read_header
from pixeltrust.data.volumes import Grid
from pixeltrust.plumbing.errors import DataError, PixeltrustError
from pixeltrust.plumbing.files import stamp
from pixeltrust.plumbing.labels import is_foreground
from pixeltrust.reviewing.decoded import Decoded
from pixeltrust.reviewing.drafts import Draft, Drafts, ball, change_at
from pixeltrust.reviewing.masks import allowed_labels
from pixeltrust.reviewing.pictures import Pictured
from pixeltrust.reviewing.planes import Plane, planes_of

if TYPE_CHECKING:
    from pixeltrust.reviewing.pages import Review

Case = dict[str, Any]
_MOST_POINTS = 100_000  # of a path


class Volumes:
    """The volumes of a review."""

    def __init__(self, review: "Review") -> None:
        self.review = review
        self.decoded, self.drafts = Decoded(review.audit.folder), Drafts(review.audit.folder)
        self._behind = threading.Lock()  # what nobody waits for is decoded one volume at a time
        self._allowed: dict[tuple[str, str], list[int]] = {}

    def shape(self, case: Case) -> tuple[int, int, int]:
        return case["depth"], case["height"], case["width"]

    def image_file(self, case: Case, request: Request) -> Path:
        """Return the file of the channel that a request names; the first where it names none."""
        files = channels_of(Path(case["image"]))
        return files[_number(request, "channel", 0, len(files) - 1) if "channel" in request.query_params else 0]

    def grid(self, case: Case) -> tuple[Grid, list[Plane]]:
        """Return the grid of a case, by the given mask or, where that is broken, by the image; and its planes, by the axis of their slices.

        Raises:
            DataError: neither can be read, or has the size that it had when the case was listed.
        """
        for file in (Path(case["mask"]), Path(case["image"])):
            with suppress(DataError):
                header = read_header(file)
                if header.grid and header.grid.shape == self.shape(case):
                    return header.grid, planes_of(header.grid, states_orientation=bool(header.states_orientation))
        read_header(file)
        raise DataError(f"{file}: has another size than when the case was listed; audit or review again")

    def given(self, case: Case) -> np.ndarray:
        mask = Path(case["mask"])
        return self.decoded.labels(case["id"], "given", (mask,), lambda: self.review.read_given(case))

    def proposed(self, case: Case) -> np.ndarray:
        files = (Path(case["mask"]), self.review.audit.proposed_file(case["id"]))
        return self.decoded.labels(case["id"], "proposed", files, lambda: self.review.read_proposed(case, self.given(case)))

    def confidence(self, case: Case) -> np.ndarray:
        files = (self.review.audit.confidence_file(case["id"]),)
        return self.decoded.labels(case["id"], "confidence", files, lambda: self.review.read_confidence(case))

    def allowed(self, case: Case) -> list[int]:
        """Return the labels that may be painted."""
        key = (case["id"], stamp(Path(case["mask"])))
        if key not in self._allowed:
            self._allowed[key] = allowed_labels(self.review.audit, self.given(case))
        return self._allowed[key]

    def start(self, case: Case, name: str) -> np.ndarray:
        """Return the mask that painting begins on."""
        decided = self.review.decided(case) if name == "decided" else None
        if name == "decided" and decided is None:
            raise HTTPException(404, "No mask is decided on.")
        if decided is not None:
            return self.decoded.labels(case["id"], f"decided-{decided.key[:16]}", (), decided.labels)
        return self.proposed(case) if name == "proposed" and self.review.judged else self.given(case)

    def about(self, case: Case) -> dict[str, Any]:
        """Return what the page of a case has to know, from its header."""
        grid, planes = self.grid(case)
        return {
            "labels": allowed_labels(self.review.audit, np.zeros(1, np.uint8)),  # its mask is not decoded yet
            "channels": len(channels_of(Path(case["image"]))),
            "shape": self.shape(case),
            "spacing": grid.spacing,
            "planes": [plane.describe(grid) for plane in planes],
        }

    def pictured(self, case: Case) -> Pictured:
        """Return what a thumbnail shows."""

        def one_at_a_time(read: Callable[[], np.ndarray]) -> np.ndarray:
            with self._behind:
                return read()

        return Pictured(
            image=lambda at: one_at_a_time(lambda: self.decoded.image(case["id"], Path(case["image"]))[0][at]),
            given=lambda: one_at_a_time(lambda: self.given(case)),
            proposed=lambda: one_at_a_time(lambda: self.start(case, "proposed")),
        )

    def prepare(self, case: Case) -> None:
        """Decode a volume in the background, so that it opens at once."""

        def decode() -> None:
            with self._behind, suppress(Exception):  # whoever opens it is told what is wrong
                self.decoded.image(case["id"], Path(case["image"]))
                self.given(case)

        threading.Thread(target=decode, daemon=True, name="prepare").start()

    def painted(self, case: Case, who: str) -> np.ndarray:
        """Return what a person has painted.

        Raises:
            HTTPException: nothing, or the same as what can be accepted.
        """
        with self.drafts.of(case["id"], who) as draft:
            if not draft.exists:
                raise HTTPException(400, "Nothing is painted yet: use the brush B, the eraser E or the polygon O.")
            labels = np.array(draft.labels)
        if labels.shape != self.shape(case):
            raise HTTPException(400, "The given mask has another size than when it was painted on; start over.")
        for name, key in (("proposed", "P"), ("given", "A")):
            if (name == "given" or self.review.judged) and (labels == self.start(case, name)).all():
                raise HTTPException(400, f"The same as {name}: {key} accepts it.")
        return labels

    def drop(self, case: Case, who: str) -> None:
        """Forget what a person has painted, once the case is decided on."""
        with self.drafts.of(case["id"], who) as draft:
            draft.drop()


def channels_of(first: Path) -> list[Path]:
    """Return the files of an image: <id>_0000, <id>_0001 and so on, or the one file that it is."""
    suffix = image_suffix(first) or ""
    stem = first.name[: len(first.name) - len(suffix)]
    if not stem.endswith("_0000"):
        return [first]
    found = takewhile(Path.exists, (first.with_name(f"{stem[:-4]}{number:04}{first.name[len(stem) :]}") for number in count()))
    return list(found) or [first]


def send_scale(review: "Review", request: Request) -> Response:
    """Return what the numbers of an image mean, the window that shows it at first, and where: at the given mask. The image is decoded."""
    case = review.case(request)
    _, scale = review.volumes.decoded.image(case["id"], review.volumes.image_file(case, request))
    middle = None
    with suppress(DataError):  # a slice says what is wrong with the mask
        middle = _middle_of(review.volumes.given(case))
    return JSONResponse({**asdict(scale), "at": middle})


def _middle_of(labels: np.ndarray) -> list[int] | None:
    """Return the middle (d, h, w) of the foreground in the slice that has most of it; None where there is none."""
    of_each = [np.count_nonzero(is_foreground(plane)) for plane in labels]  # a plane at a time: no second volume
    if not any(of_each):
        return None
    place = int(np.argmax(of_each))
    return [place, *(int(np.median(where)) for where in is_foreground(labels[place]).nonzero())]


def send_slice(review: "Review", request: Request) -> Response:
    """Return a slice of an image with its masks."""
    case, volumes = review.case(request), review.volumes
    plane, at = _place(review, case, request)
    shown = volumes.image_file(case, request)
    files = [shown, Path(case["mask"])]
    if review.judged:
        files += [review.audit.proposed_file(case["id"]), review.audit.confidence_file(case["id"])]
    tag = f'"{stamp(*files)}-{plane.axis}-{at}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    image, _ = volumes.decoded.image(case["id"], shown)
    if image.shape != volumes.shape(case):
        raise DataError(f"{shown}: has another size than when the case was listed; audit or review again")
    numbers = plane.cut(image, at)
    parts, faults = [numbers.astype("<u2").tobytes()], []
    for read in (volumes.given, *((volumes.proposed, volumes.confidence) if review.judged else ())):
        try:
            parts.append(plane.cut(read(case), at).tobytes())
        except PixeltrustError as error:  # the image is seen without it
            parts.append(bytes(numbers.size))
            faults.append(str(error))
    if faults:
        headers = {"Cache-Control": "no-store", "X-Fault": quote("; ".join(dict.fromkeys(faults)))}
    return _binary(b"".join(parts), headers)


def send_draft(review: "Review", request: Request) -> Response:
    """Return a slice of what is painted."""
    case = review.case(request)
    plane, at = _place(review, case, request)
    with review.volumes.drafts.of(case["id"], review.name_of(request)) as draft:
        labels = draft.labels if draft.exists else review.volumes.start(case, request.query_params.get("start", ""))
        return _binary(plane.cut(labels, at).tobytes(), {"Cache-Control": "no-store", "X-Draft": json.dumps(_state(draft))})


def paint(review: "Review", request: Request, body: bytes) -> Response:
    """Write the labels of a box of a slice."""
    case = review.case(request)
    plane, at = _place(review, case, request)
    shape = review.volumes.shape(case)
    height, width = shape[plane.rows], shape[plane.columns]
    top, left, bottom, right = (
        _number(request, side, 0, most) for side, most in (("top", height), ("left", width), ("bottom", height), ("right", width))
    )
    labels = np.frombuffer(body, np.uint8)
    if top >= bottom or left >= right or labels.size != (bottom - top) * (right - left):
        raise HTTPException(400, f"{labels.size} labels are not a box of {right - left} x {bottom - top} pixels.")
    _check(review, case, labels)

    def change(was: np.ndarray) -> np.ndarray:
        made = was.copy()
        plane.cut(made, 0)[top:bottom, left:right] = labels.reshape(bottom - top, right - left)
        return made

    box = tuple(slice(at, at + 1) if axis == plane.axis else slice(0, shape[axis]) for axis in range(3))
    return _painted(review, request, case, box, change)


def paint_ball(review: "Review", request: Request, body: bytes) -> Response:
    """Paint with a ball along a path."""
    case = review.case(request)
    plane, at = _place(review, case, request)
    shape = review.volumes.shape(case)
    label = _number(request, "label", 0, 255)
    _check(review, case, np.array([label], np.uint8))
    try:
        points = np.array(json.loads(body), float)[:_MOST_POINTS].reshape(-1, 2)
        size = float(request.query_params.get("size", ""))
    except ValueError:
        raise HTTPException(400, "size and a list of [x, y] are needed.") from None
    if not (len(points) and np.isfinite(points).all() and np.abs(points).max() < 1e6 and 0 < size < 1e4):
        raise HTTPException(400, "The path of the ball is not within the volume.")
    path = np.empty((len(points), 3))
    path[:, plane.axis] = at + 0.5
    path[:, plane.columns] = shape[plane.columns] - points[:, 0] if plane.flip_columns else points[:, 0]
    path[:, plane.rows] = shape[plane.rows] - points[:, 1] if plane.flip_rows else points[:, 1]
    box, inside = ball(path, size, review.volumes.grid(case)[0].spacing, shape)
    return _painted(review, request, case, box, lambda was: np.where(inside, np.uint8(label), was))


def turn_change(review: "Review", request: Request, _: bytes) -> Response:
    """Take or leave what is proposed at a place, or in a region."""
    case, volumes = review.case(request), review.volumes
    if not review.judged:
        raise HTTPException(400, "Nothing is proposed yet.")
    given, proposed = volumes.given(case), volumes.proposed(case)
    if "region" in request.query_params:
        regions = review.queue.regions(case["position"])
        region = regions[_number(request, "region", 0, len(regions) - 1)]
        sides = ("first", "last", "top", "bottom", "left", "right")
        first, last, top, bottom, left, right = (int(region[side]) for side in sides)
        found = change_at(given, proposed, (slice(first, last), slice(top, bottom), slice(left, right)), region["kind"])
    else:
        plane, at = _place(review, case, request)
        shape = volumes.shape(case)
        place = {plane.axis: at}
        for axis, flip, name in ((plane.rows, plane.flip_rows, "y"), (plane.columns, plane.flip_columns, "x")):
            seen = _number(request, name, 0, shape[axis] - 1)
            place[axis] = shape[axis] - 1 - seen if flip else seen
        found = change_at(given, proposed, tuple(slice(place[axis], place[axis] + 1) for axis in range(3)))
    if found is None:
        raise HTTPException(404, "No change is proposed here.")
    box, where = found
    taken: list[bool] = []

    def change(was: np.ndarray) -> np.ndarray:
        taken.append(bool((was == proposed[box])[where].mean() > 0.5))
        return np.where(where, given[box] if taken[-1] else proposed[box], was)

    return _painted(review, request, case, box, change, lambda: {"left": taken[-1], "voxels": int(where.sum())})


def turn(review: "Review", request: Request, _: bytes) -> Response:
    """Undo or redo a stroke."""
    case = review.case(request)
    with review.volumes.drafts.of(case["id"], review.name_of(request)) as draft:
        turned = draft.turn("redo" if request.query_params.get("what") == "redo" else "undo")
        return JSONResponse({**_state(draft), "turned": turned})


def drop(review: "Review", request: Request, _: bytes) -> Response:
    """Start over."""
    case = review.case(request)
    with review.volumes.drafts.of(case["id"], review.name_of(request)) as draft:
        draft.drop()
        return JSONResponse(_state(draft))


CHANGES = {"paint": paint, "ball": paint_ball, "change": turn_change, "turn": turn, "drop": drop}


def _painted(
    review: "Review",
    request: Request,
    case: Case,
    box: tuple[slice, ...],
    change: Callable[[np.ndarray], np.ndarray],
    more: Callable[[], dict[str, Any]] = dict,
) -> Response:
    start = request.query_params.get("start", "")
    with review.volumes.drafts.of(case["id"], review.name_of(request)) as draft:
        changed = draft.paint(lambda: review.volumes.start(case, start), box, change)
        return JSONResponse({**_state(draft), "changed": changed, **more()})


def _state(draft: Draft) -> dict[str, Any]:
    return {"exists": draft.exists, "undo": len(draft.done), "redo": len(draft.undone)}


def _place(review: "Review", case: Case, request: Request) -> tuple[Plane, int]:
    axis = _number(request, "axis", 0, 2)
    plane = next(plane for plane in review.volumes.grid(case)[1] if plane.axis == axis)
    return plane, _number(request, "at", 0, review.volumes.shape(case)[axis] - 1)


def _number(request: Request, name: str, least: int, most: int) -> int:
    try:
        number = int(request.query_params.get(name, ""))
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise HTTPException(400, f"{name}: a whole number from {least} to {most}.")
    return number


def _check(review: "Review", case: Case, labels: np.ndarray) -> None:
    allowed = review.volumes.allowed(case)
    if strange := set(np.unique(labels).tolist()) - set(allowed):
        raise HTTPException(400, f"Label {min(strange)} is not one of {', '.join(map(str, allowed))}.")


def _binary(content: bytes, headers: dict[str, str]) -> Response:
    return Response(gzip.compress(content, 1), media_type="application/octet-stream", headers={**headers, "Content-Encoding": "gzip"})
