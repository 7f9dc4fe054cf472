"""The queue: cases worst first, filtered, page by page; and which case comes next."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from pixeltrust.reviewing.decisions import DECISIONS, UNDECIDED, Decisions

PAGE = 50
ALL, SKIPPED = "all", "skipped"
SHOWN = (ALL, UNDECIDED, *DECISIONS)
SORTS = {
    "rank": "position",
    "id": "folded",
    "dice": "coalesce(expected, agreement, 2)",
    "doubtful": "doubtful_share",
    "change": "CAST(changed_pixels AS REAL) / (height * width)",
    "regions": "regions",
    "size": "height * width",
    "decision": "decision",
}
"""What the queue can be sorted by, in SQL; of equal cases the worse one comes first."""
_LARGEST_FIRST = ("doubtful", "change", "regions", "size")  # at the first click


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which cases of the queue are shown."""

    show: str = UNDECIDED
    """One of `SHOWN`."""
    kind: str = ""
    """Only cases with a region of this kind."""
    find: str = ""
    """Only cases whose id contains this text, in small or capital letters."""
    sort: str = "rank"
    """One of `SORTS`; with a minus before it, the other way round."""

    def sorted_by(self, name: str) -> "Filter":
        """Return this filter in the order that a click on a column's heading asks for; a second click turns it round."""
        first, second = (f"-{name}", name) if name in _LARGEST_FIRST else (name, f"-{name}")
        return replace(self, sort=second if self.sort == first else first)

    def showing(self, decision: str) -> "Filter":
        """Return this filter for another decision."""
        return replace(self, show=decision)

    def query(self, **more: object) -> str:
        """Return the query of an address, with `more` in it."""
        own = {name: value for name, value in (("show", self.show), ("kind", self.kind), ("find", self.find)) if value}
        own |= {"sort": self.sort} if self.sort != "rank" else {}
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

    def order(self, *, back: bool = False) -> str:
        """Return the order in SQL, or the order backwards."""
        down = (self.sort[0] == "-") != back
        first = f"{SORTS[self.sort.lstrip('-')]} {'DESC' if down else 'ASC'}"
        return first if self.sort.endswith("rank") else f"{first}, position {'DESC' if back else 'ASC'}"

    def beside(self, position: int, *, back: bool = False) -> tuple[str, list[object]]:
        """Return the condition in SQL for what comes behind a case, or before it, and its parameters."""
        key, down = SORTS[self.sort.lstrip("-")], (self.sort[0] == "-") != back
        first = f"{key} {'<' if down else '>'}"
        if key == "position":  # by its index
            return f"{first} ?", [position]
        own = f"(SELECT {key} FROM cases WHERE position = ?)"
        return f"({first} {own} OR ({key} = {own} AND position {'<' if back else '>'} ?))", [position] * 3


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
                f"SELECT * FROM cases WHERE {where} ORDER BY {filters.order()} LIMIT ? OFFSET ?", [*values, PAGE, (number - 1) * PAGE]
            )
            rows = [dict(row) for row in found]
            kinds = "SELECT kind, count(*) FROM regions WHERE position = ? GROUP BY kind ORDER BY 2 DESC, 1"
            for row in rows:
                row["kinds"] = [tuple(kind) for kind in connection.execute(kinds, [row["position"]])]
                last = connection.execute("SELECT max(number) FROM decisions WHERE case_id = ?", [row["id"]]).fetchone()[0]
                row["made"] = f"-{last}" if last else ""  # changes with every decision
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
        return self._beside(filters, position, back=True), self.behind(filters, position)

    def behind(self, filters: Filter, position: int) -> str | None:
        """Return the id of the next matching case."""
        return self._beside(filters, position)

    def next_to_decide(self, filters: Filter, position: int, *, anew: bool = False) -> tuple[str | None, bool]:
        """Return the id of the case to open once this one is decided, and whether it was skipped before.

        After the last undecided case it starts again from the first one, and then come those that were skipped.

        Args:
            anew: the queue is another by now: begin with its first case.
        """
        if filters.show not in (ALL, UNDECIDED) and not anew:
            return self.behind(filters, position), False
        for show in (UNDECIDED, SKIPPED):
            left = replace(filters, show=show)
            found = (None if anew else self.behind(left, position)) or self._first(left, position)
            if found:
                return found, show == SKIPPED
        return None, False

    def counts(self) -> dict[str, int]:
        """Return the number of cases by their decision in force; all keys of `SHOWN`."""
        with self.decisions.reading() as connection:
            found = dict(connection.execute("SELECT decision, count(*) FROM cases GROUP BY decision").fetchall())
        return {ALL: sum(found.values()), **{name: found.get(name, 0) for name in SHOWN[1:]}}

    def kinds(self) -> list[str]:
        """Return the kinds of region in this audit."""
        with self.decisions.reading() as connection:
            return [row["kind"] for row in connection.execute("SELECT DISTINCT kind FROM regions ORDER BY kind")]

    def _beside(self, filters: Filter, position: int, *, back: bool = False) -> str | None:
        where, values = filters.where()
        (beside, places), order = filters.beside(position, back=back), filters.order(back=back)
        with self.decisions.reading() as connection:
            found = f"SELECT id FROM cases WHERE {where} AND {beside} ORDER BY {order} LIMIT 1"
            row = connection.execute(found, [*values, *places]).fetchone()
        return row["id"] if row else None

    def _first(self, filters: Filter, but: int) -> str | None:
        where, values = filters.where()
        with self.decisions.reading() as connection:
            found = f"SELECT id FROM cases WHERE {where} AND position <> ? ORDER BY {filters.order()} LIMIT 1"
            row = connection.execute(found, [*values, but]).fetchone()
        return row["id"] if row else None
