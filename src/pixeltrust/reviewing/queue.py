"""What is shown, and what comes next: cases worst first, by page, as the filters say."""

import sqlite3
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from pixeltrust.reviewing.decisions import DECISIONS, UNDECIDED, Decisions

PAGE = 50
ALL = "all"
SHOWN = (ALL, UNDECIDED, *DECISIONS)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which cases of the queue."""

    show: str = UNDECIDED
    """One of `SHOWN`."""
    kind: str = ""
    """Only cases with a region of this kind."""
    find: str = ""
    """Only cases whose id has this text, in small letters or large."""

    def query(self, **more: object) -> str:
        """As the query of an address, with `more` in it."""
        own = {name: value for name, value in (("show", self.show), ("kind", self.kind), ("find", self.find)) if value}
        return urlencode({**own, **more})

    def where(self) -> tuple[str, list[object]]:
        """As SQL, and its parameters."""
        parts: list[str] = []
        values: list[object] = []
        if self.show != ALL:
            parts.append("decision = ?")
            values.append(self.show)
        if self.kind:
            parts.append("position IN (SELECT position FROM regions WHERE kind = ?)")
            values.append(self.kind)
        if self.find:
            parts.append("instr(folded, ?) > 0")
            values.append(self.find.casefold())
        return " AND ".join(parts) or "TRUE", values


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the queue."""

    rows: list[dict[str, Any]]
    number: int
    """From 1."""
    pages: int
    total: int
    """Cases that the filter leaves."""


class Queue:
    """Questions about the queue of a review."""

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions

    def page(self, chosen: Filter, number: int) -> Page:
        """A page; the last one where there are fewer."""
        where, values = chosen.where()
        with self.decisions.reading() as connection:
            (total,) = connection.execute(f"SELECT count(*) FROM cases WHERE {where}", values).fetchone()
            pages = max(1, -(-total // PAGE))
            number = min(max(number, 1), pages)
            found = connection.execute(
                f"SELECT * FROM cases WHERE {where} ORDER BY position LIMIT ? OFFSET ?", [*values, PAGE, (number - 1) * PAGE]
            )
            rows = [dict(row) for row in found]
            for row in rows:
                row["kinds"] = _kinds_of(connection, row["position"])
        return Page(rows=rows, number=number, pages=pages, total=total)

    def case(self, case_id: str) -> dict[str, Any] | None:
        """A case of the audit by its id."""
        with self.decisions.reading() as connection:
            row = connection.execute("SELECT * FROM cases WHERE id = ?", [case_id]).fetchone()
        return dict(row) if row else None

    def regions(self, position: int) -> list[dict[str, Any]]:
        """The doubtful regions of a case, surest first."""
        with self.decisions.reading() as connection:
            return [dict(row) for row in connection.execute("SELECT * FROM regions WHERE position = ? ORDER BY rowid", [position])]

    def neighbours(self, chosen: Filter, position: int) -> tuple[str | None, str | None]:
        """The ids of the cases before and behind a place, as the filter leaves them."""
        return self._beside(chosen, "position < ? ORDER BY position DESC", position), self.behind(chosen, position)

    def behind(self, chosen: Filter, position: int) -> str | None:
        """The id of the next case, as the filter leaves them."""
        return self._beside(chosen, "position > ? ORDER BY position", position)

    def next_to_decide(self, chosen: Filter, position: int) -> str | None:
        """The id of the case to go on with once this one is decided; the undecided are begun again from the worst at the end."""
        if chosen.show not in (ALL, UNDECIDED):
            return self.behind(chosen, position)
        undecided = replace(chosen, show=UNDECIDED)
        return self.behind(undecided, position) or self.behind(undecided, 0)

    def counts(self) -> dict[str, int]:
        """The number of cases by what holds of them; all keys of `SHOWN`."""
        with self.decisions.reading() as connection:
            found = dict(connection.execute("SELECT decision, count(*) FROM cases GROUP BY decision").fetchall())
        return {ALL: sum(found.values()), **{name: found.get(name, 0) for name in SHOWN[1:]}}

    def kinds(self) -> list[str]:
        """The kinds of region there are."""
        with self.decisions.reading() as connection:
            return [row["kind"] for row in connection.execute("SELECT DISTINCT kind FROM regions ORDER BY kind")]

    def _beside(self, chosen: Filter, order: str, position: int) -> str | None:
        where, values = chosen.where()
        with self.decisions.reading() as connection:
            row = connection.execute(f"SELECT id FROM cases WHERE {where} AND {order} LIMIT 1", [*values, position]).fetchone()
        return row["id"] if row else None


def _kinds_of(connection: sqlite3.Connection, position: int) -> list[tuple[str, int]]:
    found = connection.execute("SELECT kind, count(*) FROM regions WHERE position = ? GROUP BY kind ORDER BY 2 DESC, 1", [position])
    return [(row[0], row[1]) for row in found]
