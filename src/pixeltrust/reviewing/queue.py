"""The queue: cases worst first, filtered, page by page; and which case comes next."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from pixeltrust.reviewing.decisions import DECISIONS, UNDECIDED, Decisions

PAGE = 50
ALL = "all"
SHOWN = (ALL, UNDECIDED, *DECISIONS)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which cases of the queue are shown."""

    show: str = UNDECIDED
    """One of `SHOWN`."""
    kind: str = ""
    """Only cases with a region of this kind."""
    find: str = ""
    """Only cases whose id contains this text, in small or capital letters."""

    def query(self, **more: object) -> str:
        """Return the query of an address, with `more` in it."""
        own = {name: value for name, value in (("show", self.show), ("kind", self.kind), ("find", self.find)) if value}
        return urlencode({**own, **more})

    def where(self) -> tuple[str, list[object]]:
        """Return the condition in SQL, and its parameters."""
        conditions: dict[str, object] = {}
        if self.show != ALL:
            conditions["decision = ?"] = self.show
        if self.kind:
            conditions["position IN (SELECT position FROM regions WHERE kind = ?)"] = self.kind
        if self.find:
            conditions["instr(folded, ?) > 0"] = self.find.casefold()
        return " AND ".join(conditions) or "TRUE", list(conditions.values())


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the queue."""

    rows: list[dict[str, Any]]
    number: int
    """From 1."""
    pages: int
    total: int
    """The number of cases that match the filter."""


class Queue:
    """The queue of a review, read from the file of its decisions."""

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions

    def page(self, filters: Filter, number: int) -> Page:
        """Return a page; the last one if there are fewer."""
        where, values = filters.where()
        with self.decisions.reading() as connection:
            (total,) = connection.execute(f"SELECT count(*) FROM cases WHERE {where}", values).fetchone()
            pages = max(1, -(-total // PAGE))
            number = min(max(number, 1), pages)
            found = connection.execute(
                f"SELECT * FROM cases WHERE {where} ORDER BY position LIMIT ? OFFSET ?", [*values, PAGE, (number - 1) * PAGE]
            )
            rows = [dict(row) for row in found]
            kinds = "SELECT kind, count(*) FROM regions WHERE position = ? GROUP BY kind ORDER BY 2 DESC, 1"
            for row in rows:
                row["kinds"] = [tuple(kind) for kind in connection.execute(kinds, [row["position"]])]
        return Page(rows=rows, number=number, pages=pages, total=total)

    def case(self, case_id: str) -> dict[str, Any] | None:
        """Return a case of the audit by its id."""
        with self.decisions.reading() as connection:
            row = connection.execute("SELECT * FROM cases WHERE id = ?", [case_id]).fetchone()
        return dict(row) if row else None

    def regions(self, position: int) -> list[dict[str, Any]]:
        """Return the doubtful regions of a case, the most doubtful first."""
        with self.decisions.reading() as connection:
            rows = connection.execute("SELECT *, confidence AS doubt FROM regions WHERE position = ? ORDER BY rowid", [position])
            return [dict(row) for row in rows]

    def neighbours(self, filters: Filter, position: int) -> tuple[str | None, str | None]:
        """Return the ids of the matching cases before and after a position."""
        return self._beside(filters, "position < ? ORDER BY position DESC", position), self.behind(filters, position)

    def behind(self, filters: Filter, position: int) -> str | None:
        """Return the id of the next matching case."""
        return self._beside(filters, "position > ? ORDER BY position", position)

    def next_to_decide(self, filters: Filter, position: int) -> str | None:
        """Return the id of the case to open once this one is decided; after the last undecided case it starts again from the worst."""
        if filters.show not in (ALL, UNDECIDED):
            return self.behind(filters, position)
        undecided = replace(filters, show=UNDECIDED)
        return self.behind(undecided, position) or self.behind(undecided, 0)

    def counts(self) -> dict[str, int]:
        """Return the number of cases by their decision in force; all keys of `SHOWN`."""
        with self.decisions.reading() as connection:
            found = dict(connection.execute("SELECT decision, count(*) FROM cases GROUP BY decision").fetchall())
        return {ALL: sum(found.values()), **{name: found.get(name, 0) for name in SHOWN[1:]}}

    def kinds(self) -> list[str]:
        """Return the kinds of region in this audit."""
        with self.decisions.reading() as connection:
            return [row["kind"] for row in connection.execute("SELECT DISTINCT kind FROM regions ORDER BY kind")]

    def _beside(self, filters: Filter, order: str, position: int) -> str | None:
        where, values = filters.where()
        with self.decisions.reading() as connection:
            row = connection.execute(f"SELECT id FROM cases WHERE {where} AND {order} LIMIT 1", [*values, position]).fetchone()
        return row["id"] if row else None
