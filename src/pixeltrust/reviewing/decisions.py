"""AUDIT/review.sqlite: every decision is a row at once, and no row is ever changed or removed.

    decisions   number, case_id, at (UTC), who, what, before, after, undoes, seen
    masks       hash, png: every mask that a decision names by its hash, as labels
    cases, regions   the tables of the audit, for queries by page; made anew when those change

What holds of a case is its last decision that is not undone. `before` and `after` are the hashes of the mask in force before and after a
decision (none of `rejected`, nor of a mask that cannot be read). A decision says the number of the last one its page has seen of that
case: where there is a later one it is a `Conflict`, and nothing is written.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import CASE_NUMBERS, REGION_NUMBERS, Audit, read_audit_cases, read_audit_regions
from pixeltrust.data.images import decode_png, encode_image
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.text import one_line, some
from pixeltrust.reviewing.masks import digest

FILE = "review.sqlite"
FORMAT = 1  # of the file, in its user_version
UNDECIDED = "undecided"
DECISIONS = ("given", "proposed", "mended", "rejected", "skipped")
UNDONE = "undone"
LONGEST_NAME = 60
_WAIT_SECONDS = 30

_SCHEMA = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE masks (hash TEXT PRIMARY KEY, png BLOB NOT NULL)",
    """CREATE TABLE decisions (
      number INTEGER PRIMARY KEY AUTOINCREMENT,
      case_id TEXT NOT NULL,
      at TEXT NOT NULL,
      who TEXT NOT NULL,
      what TEXT NOT NULL CHECK (what IN ('given', 'proposed', 'mended', 'rejected', 'skipped', 'undone')),
      before TEXT REFERENCES masks (hash),
      after TEXT REFERENCES masks (hash),
      undoes INTEGER REFERENCES decisions (number),
      seen INTEGER NOT NULL
    )""",
    "CREATE INDEX decisions_of_case ON decisions (case_id, number)",
    "CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions BEGIN SELECT RAISE (ABORT, 'a decision is never changed'); END",
    "CREATE TRIGGER decisions_remain BEFORE DELETE ON decisions BEGIN SELECT RAISE (ABORT, 'a decision is never removed'); END",
    """CREATE TABLE cases (
      position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, folded TEXT NOT NULL, image TEXT NOT NULL, mask TEXT NOT NULL,
      agreement REAL, doubtful_pixels INTEGER, doubtful_share REAL, changed_pixels INTEGER, added_pixels INTEGER, removed_pixels INTEGER,
      regions INTEGER, height INTEGER, width INTEGER, decision TEXT NOT NULL DEFAULT 'undecided'
    )""",
    "CREATE INDEX cases_by_decision ON cases (decision, position)",
    """CREATE TABLE regions (
      position INTEGER NOT NULL, region INTEGER, kind TEXT, mended INTEGER, area INTEGER, share REAL,
      "top" INTEGER, "left" INTEGER, "bottom" INTEGER, "right" INTEGER, confidence REAL
    )""",
    "CREATE INDEX regions_of_case ON regions (position, region)",
    "CREATE INDEX regions_by_kind ON regions (kind, position)",
)
_IN_FORCE = """
SELECT * FROM decisions AS made WHERE case_id = ? AND what <> 'undone'
AND NOT EXISTS (SELECT 1 FROM decisions AS undo WHERE undo.case_id = made.case_id AND undo.undoes = made.number)
ORDER BY number DESC LIMIT 1
"""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A row of `decisions`."""

    number: int
    case_id: str
    at: str
    who: str
    what: str
    before: str | None
    after: str | None
    undoes: int | None
    seen: int


class Conflict(Exception):
    """Somebody has decided on the case since the page looked; `later` are those decisions, the last one last."""

    def __init__(self, later: list[Decision]) -> None:
        super().__init__(f"{later[-1].who} has decided meanwhile: {later[-1].what}")
        self.later = later


Change = Callable[[sqlite3.Connection], Decision | Conflict | ValueError]  # what it has written, or why it has written nothing


class Decisions:
    """The file of an audit; may be used from several threads, and by several processes at once."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.file = audit.folder / FILE
        self._idle: list[sqlite3.Connection] = []  # while one is open the log is not folded into the file
        self._waiting: deque[tuple[Change, Future[Decision]]] = deque()
        self._turn = threading.Lock()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses meanwhile; after an error it is not used again."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connected()
        try:
            yield connection
        except BaseException as error:
            connection.close()
            if _is_broken(error):
                raise RunError(f"{self.file}: broken: {error}; bring back an earlier copy of it") from None
            raise
        self._idle.append(connection)

    def _connected(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.file, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise RunError(f"{self.file}: cannot be opened: {error}") from None
        connection.row_factory = sqlite3.Row
        return connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; everything in the block happens or nothing."""
        with self.reading() as connection:
            connection.execute("PRAGMA synchronous = FULL")  # a decision that was answered is on the disk
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled back already
                    connection.execute("ROLLBACK")
                raise

    def decide(self, case_id: str, what: str, *, who: str, seen: int, given: np.ndarray | None, decided: np.ndarray | None) -> Decision:
        """Write a decision.

        Args:
            what: one of `DECISIONS`.
            seen: the number of the last decision of this case that whoever decides has seen; 0 for none.
            given, decided: the given mask and the one decided on, labels (H, W). Decided is None of `rejected`; both where the given mask
                cannot be read, which only `rejected` and `skipped` put up with.

        Raises:
            Conflict: there is a later decision than `seen`.
        """
        if what not in DECISIONS:
            raise ValueError(f"what: one of {', '.join(DECISIONS)}, not {what!r}")
        held = None if given is None else (digest(given), encode_image(given, "PNG"))
        kept = None if decided is None else held if decided is given else (digest(decided), encode_image(decided, "PNG"))

        def change(connection: sqlite3.Connection) -> Decision | Conflict | ValueError:
            if later := _later(connection, case_id, seen):
                return Conflict(later)
            for mask in filter(None, (held, kept)):
                _keep(connection, *mask)
            force = _in_force(connection, case_id)
            before = force.after if force else held and held[0]
            return self._write(connection, case_id, what, who, before, kept and kept[0], None, seen)

        return self._in_turn(change)

    def undo(self, case_id: str, *, who: str, seen: int) -> Decision:
        """Undo the decision that holds of a case, by a further row; what held before it holds again.

        Raises:
            Conflict: there is a later decision than `seen`.
            ValueError: no decision holds.
        """

        def change(connection: sqlite3.Connection) -> Decision | Conflict | ValueError:
            if later := _later(connection, case_id, seen):
                return Conflict(later)
            force = _in_force(connection, case_id)
            if force is None:
                return ValueError("nothing to undo: no decision holds of this case")
            return self._write(connection, case_id, UNDONE, who, force.after, force.before, force.number, seen)

        return self._in_turn(change)

    def _in_turn(self, change: Change) -> Decision:
        """Make a change when its turn comes; what waits by then is written with it, and all of them wait for the disk once."""
        made: Future[Decision] = Future()
        self._waiting.append((change, made))
        with self._turn:
            if not made.done():
                self._write_waiting()
        return made.result()

    def _write_waiting(self) -> None:
        changes = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self.writing() as connection:
                outcomes = [change(connection) for change, _ in changes]
        except BaseException as error:  # none of them is written
            for _, made in changes:
                made.set_exception(error)
            return
        for (_, made), outcome in zip(changes, outcomes, strict=True):  # all of them are on the disk
            if isinstance(outcome, Decision):
                made.set_result(outcome)
            else:
                made.set_exception(outcome)

    def history(self, case_id: str) -> list[Decision]:
        """All decisions of a case, undone ones too, in their order."""
        with self.reading() as connection:
            return _later(connection, case_id, 0)

    def in_force(self, case_id: str) -> Decision | None:
        """The decision that holds of a case."""
        with self.reading() as connection:
            return _in_force(connection, case_id)

    def all_in_force(self) -> dict[str, Decision]:
        """The decision that holds, of every case that has one, cases that the audit no longer lists too."""
        with self.reading() as connection:
            return _all_in_force(connection)

    def mask(self, key: str) -> np.ndarray:
        """A mask that a decision names, labels (H, W).

        Raises:
            KeyError: no decision names it.
            DataError: it is broken.
        """
        with self.reading() as connection:
            row = connection.execute("SELECT png FROM masks WHERE hash = ?", [key]).fetchone()
        if row is None:
            raise KeyError(key)
        try:
            return decode_png(row["png"])
        except Exception as error:  # as other readers of pictures, it raises anything
            raise DataError(f"{self.file}: holds a mask that cannot be read: {one_line(error)}") from None

    def _write(
        self,
        connection: sqlite3.Connection,
        case_id: str,
        what: str,
        who: str,
        before: str | None,
        after: str | None,
        undoes: int | None,
        seen: int,
    ) -> Decision:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = connection.execute(
            "INSERT INTO decisions (case_id, at, who, what, before, after, undoes, seen) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
            [case_id, when, who, what, before, after, undoes, seen],
        ).fetchone()
        force = _in_force(connection, case_id)
        connection.execute("UPDATE cases SET decision = ? WHERE id = ?", [force.what if force else UNDECIDED, case_id])
        return Decision(**row)

    def _begin(self) -> None:
        """The tables exist, and hold the audit as it is now."""
        try:
            with self.reading() as connection:
                self._write_ahead(connection)
            with self.writing() as connection:
                self._make_tables(connection)
                version = self.audit.version()
                known = connection.execute("SELECT value FROM about WHERE name = 'audit'").fetchone()
                if known is None or known["value"] != version:
                    self._load(connection)
                    connection.execute("INSERT OR REPLACE INTO about VALUES ('audit', ?)", [version])
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a broken file may hold names that are no text
            raise RunError(f"{self.file}: cannot be used: {error}") from None

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """The file has a log beside it. SQLite does not wait for this by itself where another process is about the same."""
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        (made,) = connection.execute("PRAGMA user_version").fetchone()
        if made > FORMAT:
            raise DataError(f"{self.file}: format {made} of a later pixeltrust, this one knows {FORMAT}; install a newer pixeltrust")
        columns = [row["name"] for row in connection.execute("PRAGMA table_info (decisions)")]
        if made == FORMAT and columns != [one.name for one in fields(Decision)]:
            raise DataError(f"{self.file}: broken, or not by a review: its decisions have the columns {some(columns, 10)}")
        if made < FORMAT:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _load(self, connection: sqlite3.Connection) -> None:
        cases, regions = read_audit_cases(self.audit.folder), read_audit_regions(self.audit.folder)
        made = {case_id: decision.what for case_id, decision in _all_in_force(connection).items()}
        cases["folded"] = cases["id"].str.casefold()
        cases["decision"] = [made.get(case_id, UNDECIDED) for case_id in cases["id"]]
        columns = ["id", "folded", "image", "mask", *CASE_NUMBERS, "decision"]
        cases["position"] = range(1, len(cases) + 1)
        connection.execute("DELETE FROM cases")
        connection.execute("DELETE FROM regions")
        _insert(connection, "cases", cases[["position", *columns]])
        places = dict(zip(cases["id"], cases["position"], strict=True))
        kept = regions[regions["id"].isin(places.keys())].assign(position=lambda rows: rows["id"].map(places))
        kept = kept[["position", "kind", "mended", *REGION_NUMBERS]].rename(columns={"doubt": "confidence"})  # its name in these files
        _insert(connection, "regions", kept.drop(columns=["row", "column"]))


def name_of(text: str) -> str:
    """A person's name as it is kept: without control characters or doubled spaces.

    Raises:
        ValueError: nothing is left, or too much.
    """
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"a name of 1 to {LONGEST_NAME} letters is needed")
    return name


def _is_broken(error: BaseException) -> bool:
    """Whether a file is no database, a damaged one, or has names that are no text."""
    no_text = isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode")  # says Python itself
    damaged = getattr(error, "sqlite_errorcode", 0) & 255 in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return no_text or damaged or isinstance(error, UnicodeDecodeError)  # in a name or a message of SQLite's


def _insert(connection: sqlite3.Connection, table: str, rows: pd.DataFrame) -> None:
    names = ", ".join(f'"{name}"' for name in rows.columns)
    cells = rows.astype(object).values.tolist()  # of Python's own types
    connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(rows.columns))})", cells)


def _keep(connection: sqlite3.Connection, key: str, png: bytes) -> None:
    connection.execute("INSERT OR IGNORE INTO masks VALUES (?, ?)", [key, png])


def _later(connection: sqlite3.Connection, case_id: str, seen: int) -> list[Decision]:
    rows = connection.execute("SELECT * FROM decisions WHERE case_id = ? AND number > ? ORDER BY number", [case_id, seen])
    return [Decision(**row) for row in rows]


def _in_force(connection: sqlite3.Connection, case_id: str) -> Decision | None:
    row = connection.execute(_IN_FORCE, [case_id]).fetchone()
    return Decision(**row) if row else None


def _all_in_force(connection: sqlite3.Connection) -> dict[str, Decision]:
    undone = "SELECT undoes FROM decisions WHERE undoes IS NOT NULL"
    rows = connection.execute(f"SELECT * FROM decisions WHERE what <> 'undone' AND number NOT IN ({undone}) ORDER BY number")
    return {row["case_id"]: Decision(**row) for row in rows}
