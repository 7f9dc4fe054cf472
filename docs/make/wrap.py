"""Wrap the prose of the pages at 120 columns; tables, code, headings and pictures stay as they are.

python docs/make/wrap.py [PAGE …]     all pages of docs/, README.md and CONTRIBUTING.md where none is named
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
WIDTH = 120
KEPT = re.compile(r"\s*\||\s{4}|#|<|!\[|```|\s*$")
ITEM = re.compile(r"(\s*(?:[-*]|\d+\.) )(.*)")
OPENS = re.compile(r"(?<=\S) (?=(?:[-+*>#]|\d+[.)])(?: |$))")  # what would begin a list or a heading at the start of a line
SPAN = re.compile(r"`[^`]{1,80}`")  # code that stays on one line
TIED = "\0"


def wrapped(page: str) -> str:
    """Return the page with its prose wrapped."""
    return "\n".join(line for block in blocks(page.split("\n")) for line in block)


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Give the page's blocks in order: a paragraph or an item of a list, wrapped, or a line that stays."""
    code, prose = False, []
    for line in lines:
        code ^= line.startswith("```")
        stays = code or line.startswith("```") or (KEPT.match(line) and not (prose and line.startswith("    ") and ITEM.match(prose[0])))
        if prose and (stays or ITEM.match(line)):
            yield filled(prose)
            prose = []
        if stays:
            yield [line]
        else:
            prose.append(line)
    if prose:
        yield filled(prose)


def filled(prose: list[str]) -> list[str]:
    """Wrap a paragraph, or an item of a list under its mark."""
    item = ITEM.match(prose[0])
    indent, first = (item[1], item[2]) if item else (re.match(r"\s*", prose[0])[0], prose[0].strip())
    text = SPAN.sub(lambda span: span[0].replace(" ", TIED), " ".join([first, *(line.strip() for line in prose[1:])]))
    text = OPENS.sub(TIED, text)
    made = textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent), break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(TIED, " ") for line in made]


def pages() -> list[Path]:
    """Return the pages that are held to the width."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


if __name__ == "__main__":
    for file in [Path(name) for name in sys.argv[1:]] or [page for page in pages() if page.name != "lab.md"]:
        file.write_text(wrapped(file.read_text(encoding="utf-8")), encoding="utf-8")
