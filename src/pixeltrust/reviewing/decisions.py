"""AUDIT/review.sqlite: every decision is a row, written before the server responds, and no row is ever changed or removed.

    decisions   number, case_id, at (UTC), who, what, before, after, undoes, seen
    masks       hash, png: the labels (of a volume compressed otherwise, see `masks`) of every mask that a decision refers to by its hash
    cases, regions   the tables of the audit, for queries by page; filled again when those change

The decision in force for a case is its last one that is not undone. `before` and `after` are the hashes of the mask before and after a
decision (null for `rejected`, and for a mask that cannot be read). A decision contains the number of the last decision on that case that
its page has seen: if there is a later one, that is a `Conflict`, and nothing is written.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import CASE_NUMBERS, NOTHING_YET, OF_VOLUMES, REGION_NUMBERS, Audit, read_audit_cases, read_audit_regions
from pixeltrust.plumbing.errors import DataError, RunError
from pixeltrust.plumbing.text import one_line, some
from pixeltrust.reviewing.masks import decode_mask, digest, encode_mask

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
      regions INTEGER, height INTEGER, width INTEGER, decision TEXT NOT NULL DEFAULT 'undecided', expected REAL,
      depth INTEGER
    )""",
    "CREATE INDEX cases_by_decision ON cases (decision, position)",
    """CREATE TABLE regions (
      position INTEGER NOT NULL, region INTEGER, kind TEXT, mended INTEGER, area INTEGER, share REAL,
      "top" INTEGER, "left" INTEGER, "bottom" INTEGER, "right" INTEGER, confidence REAL,
      slice INTEGER, first INTEGER, last INTEGER, mm3 REAL
    )""",
    "CREATE INDEX regions_of_case ON regions (position, region)",
    "CREATE INDEX regions_by_kind ON regions (kind, position)",
)
_LATER = {"cases": ("expected", "depth"), "regions": OF_VOLUMES}
"""Columns that files of earlier versions have not."""
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
    """Somebody has decided on the case since the page was loaded; `later` are those decisions, the last one last."""

    def __init__(self, later: list[Decision]) -> None:
        super().__init__(f"{later[-1].who} has decided meanwhile: {later[-1].what}")
        self.later = later


class Decisions:
    """The file of an audit; may be used from several threads, and by several processes at once."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self.file = audit.folder / FILE
        self._idle: list[sqlite3.Connection] = []  # while one is open the log is not folded into the file
        self._one_writer = threading.Lock()
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
        """Yield a connection that nobody else uses meanwhile; after an error it is not used again."""
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
        """Yield a connection for one transaction: everything in the block is written, or nothing. There is one writer at a time."""
        with self._one_writer, self.reading() as connection:
            connection.execute("PRAGMA synchronous = FULL")  # what is answered is on the disk
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk has rolled back already
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _changing(self, case_id: str, seen: int) -> Iterator[sqlite3.Connection]:
        with self.writing() as connection:
            if later := _later(connection, case_id, seen):
                raise Conflict(later)
            yield connection

    def decide(self, case_id: str, what: str, *, who: str, seen: int, given: np.ndarray | None, decided: np.ndarray | None) -> Decision:
        """Write a decision.

        Args:
            what: one of `DECISIONS`.
            who: the name of the person.
            seen: the number of the last decision on this case that the person has seen; 0 for none.
            given, decided: the given mask and the one decided on, labels (H, W). `decided` is None for `rejected`; both are None if the
                given mask cannot be read, which only `rejected` and `skipped` allow.

        Raises:
            Conflict: there is a later decision than `seen`.
        """
        if what not in DECISIONS:
            raise ValueError(f"what: one of {', '.join(DECISIONS)}, not {what!r}")
        old = None if given is None else (digest(given), encode_mask(given))
        new = None if decided is None else old if decided is given else (digest(decided), encode_mask(decided))
        with self._changing(case_id, seen) as connection:
            connection.executemany("INSERT OR IGNORE INTO masks VALUES (?, ?)", filter(None, (old, new)))
            force = _in_force(connection, case_id)
            before = force.after if force else old and old[0]
            return _write(connection, case_id=case_id, who=who, what=what, before=before, after=new and new[0], seen=seen)

    def undo(self, case_id: str, *, who: str, seen: int) -> Decision:
        """Undo the decision in force for a case, by a further row; the one before it is in force again.

        Raises:
            Conflict: there is a later decision than `seen`.
            ValueError: no decision is in force.
        """
        with self._changing(case_id, seen) as connection:
            force = _in_force(connection, case_id)
            if force is None:
                raise ValueError("nothing to undo: this case is not decided")
            undone = {"what": UNDONE, "before": force.after, "after": force.before, "undoes": force.number}
            return _write(connection, case_id=case_id, who=who, seen=seen, **undone)

    def history(self, case_id: str) -> list[Decision]:
        """Return all decisions on a case in order, undone ones included."""
        with self.reading() as connection:
            return _later(connection, case_id, 0)

    def in_force(self, case_id: str) -> Decision | None:
        """Return the decision in force for a case."""
        with self.reading() as connection:
            return _in_force(connection, case_id)

    def all_in_force(self) -> dict[str, Decision]:
        """Return the decision in force for every case that has one, cases that the audit no longer lists included."""
        with self.reading() as connection:
            return _all_in_force(connection)

    def mask(self, key: str) -> np.ndarray:
        """Return a mask by its hash, labels (H, W).

        Raises:
            KeyError: no decision refers to it.
            DataError: it is broken.
        """
        with self.reading() as connection:
            row = connection.execute("SELECT png FROM masks WHERE hash = ?", [key]).fetchone()
        if row is None:
            raise KeyError(key)
        try:
            return decode_mask(row["png"])
        except Exception as error:  # decoders of pictures raise anything
            raise DataError(f"{self.file}: holds a mask that cannot be read: {one_line(error)}") from None

    def _begin(self) -> None:
        """Create the tables, and load the audit's tables if they have changed."""
        try:
            with self.reading() as connection:
                self._write_ahead(connection)
            with self.writing() as connection:
                self._make_tables(connection)
            self.load_tables()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a broken file may hold names that are not text
            raise RunError(f"{self.file}: cannot be used: {error}") from None

    def load_tables(self) -> str:
        """Load the audit's tables if they have changed, decisions stay; return their version.

        Raises:
            DataError: the tables have faults; what was loaded before stays.
        """
        with self.writing() as connection:
            version = self.audit.version()
            if _about(connection, "audit") != version:
                self._load(connection)
                connection.execute("INSERT OR REPLACE INTO about VALUES ('audit', ?)", [version])
        return version

    def are_judged(self) -> bool:
        """Return whether anything has judged the cases, so that doubt and proposals mean something."""
        with self.reading() as connection:
            return _about(connection, "evidence") != NOTHING_YET

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch the file to a write-ahead log, and wait if another process does so too: SQLite itself does not."""
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
        if made == FORMAT and columns != [column.name for column in fields(Decision)]:
            raise DataError(f"{self.file}: broken, or not by a review: its decisions have the columns {some(columns, 10)}")
        if made < FORMAT:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            return
        for table, names in _LATER.items():  # of an earlier version
            there = {row["name"] for row in connection.execute(f"PRAGMA table_info ({table})")}
            for name in names:
                if name not in there:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {name}")

    def _load(self, connection: sqlite3.Connection) -> None:
        cases, regions = read_audit_cases(self.audit.folder), read_audit_regions(self.audit.folder)
        made = {case_id: decision.what for case_id, decision in _all_in_force(connection).items()}
        cases["folded"] = cases["id"].str.casefold()
        cases["decision"] = [made.get(case_id, UNDECIDED) for case_id in cases["id"]]
        cases["expected"] = cases.get("expected")  # where it is known, the order is by it
        cases["depth"] = pd.to_numeric(cases["depth"]) if "depth" in cases else None
        columns = ["id", "folded", "image", "mask", *CASE_NUMBERS, "decision", "expected", "depth"]
        cases["position"] = range(1, len(cases) + 1)
        evidence = NOTHING_YET if (cases["evidence"] == NOTHING_YET).all() else "some"
        connection.execute("INSERT OR REPLACE INTO about VALUES ('evidence', ?)", [evidence])
        connection.execute("DELETE FROM cases")
        connection.execute("DELETE FROM regions")
        _insert(connection, "cases", cases[["position", *columns]])
        places = dict(zip(cases["id"], cases["position"], strict=True))
        kept = regions[regions["id"].isin(places.keys())].assign(position=lambda rows: rows["id"].map(places))
        for name in OF_VOLUMES:
            kept[name] = pd.to_numeric(kept[name]) if name in kept else None
        kept = kept[["position", "kind", "mended", *REGION_NUMBERS, *OF_VOLUMES]].rename(
            columns={"doubt": "confidence"}
        )  # its name in these files
        _insert(connection, "regions", kept.drop(columns=["row", "column"]))


def clean_name(text: str) -> str:
    """Return a person's name as it is saved: without control characters or doubled spaces.

    Raises:
        ValueError: nothing is left, or it is too long.
    """
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"a name of 1 to {LONGEST_NAME} letters is needed")
    return name


def _is_broken(error: BaseException) -> bool:
    """Return whether an error means that the file is not a database, is damaged, or has names that are not text."""
    no_text = isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorcode")  # says Python itself
    damaged = getattr(error, "sqlite_errorcode", 0) & 255 in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return no_text or damaged or isinstance(error, UnicodeDecodeError)  # in a name or a message of SQLite's


def _about(connection: sqlite3.Connection, name: str) -> str | None:
    found = connection.execute("SELECT value FROM about WHERE name = ?", [name]).fetchone()
    return found["value"] if found else None


def _insert(connection: sqlite3.Connection, table: str, rows: pd.DataFrame) -> None:
    names = ", ".join(f'"{name}"' for name in rows.columns)
    cells = rows.astype(object).values.tolist()  # of Python's own types
    connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(rows.columns))})", cells)


def _write(connection: sqlite3.Connection, **values: str | int | None) -> Decision:
    """Write a decision of these values by their columns, and the state of its case."""
    values["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    insert = f"INSERT INTO decisions ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) RETURNING *"
    decision = Decision(**connection.execute(insert, [*values.values()]).fetchone())
    force = _in_force(connection, decision.case_id)
    connection.execute("UPDATE cases SET decision = ? WHERE id = ?", [force.what if force else UNDECIDED, decision.case_id])
    return decision


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
