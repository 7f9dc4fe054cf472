"""What every command gives back: its text is the summary that the command prints, and a notebook shows it with a table."""

from html import escape
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


class Summary:
    """The result of a command; `str` and `repr` are its summary, and a notebook shows that with its table, where it has one."""

    def __repr__(self) -> str:
        return str(self)

    def in_rows(self) -> "pd.DataFrame | None":
        """Return the numbers of a table for notebooks; None where the words are all."""
        return None

    def in_words(self) -> str:
        """Return the lines for notebooks, beside the table."""
        return str(self)

    def _repr_html_(self) -> str:
        rows, words = self.in_rows(), self.in_words()
        lines = f'<pre style="white-space: pre-wrap">{escape(words)}</pre>' if words else ""
        return lines + ("" if rows is None else rows.to_html(index=False, border=0, na_rep="–"))


def text_of(table: "Table") -> str:
    """Return a table of rich as lines of plain text."""
    from rich.console import Console

    console = Console(file=StringIO(), width=160, color_system=None)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
