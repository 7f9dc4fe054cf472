"""Execute the notebook of the tutorial: python docs/make/notebook.py WORK

WORK is a new folder, where it leaves what it makes. The code is that of docs/tutorials/notebook.md. What it prints is put under it there,
its figures go to docs/pictures/notebook-<number>.png, and docs/tutorials/mend-and-train.ipynb has all of it.
"""

import base64
import io
import json
import os
import re
import sys
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1]
PAGE, NOTEBOOK, PICTURES = DOCS / "tutorials/notebook.md", DOCS / "tutorials/mend-and-train.ipynb", DOCS / "pictures"
OUTPUT = re.compile(r"\n<!-- output -->\n.*?<!-- end of output -->\n", re.S)
CODE = re.compile(r"^```python\n(.*?)^```\n", re.S | re.M)


@dataclass(frozen=True)
class Cell:
    """A piece of code with what came out."""

    code: str
    printed: str
    figures: tuple[bytes, ...]
    """As PNG."""


def execute(cells: list[str], work: Path) -> list[Cell]:
    """Run the code of a notebook in a folder, one piece after the other."""
    names: dict[str, Any] = {}
    with chdir(work):
        return [execute_cell(code, names) for code in cells]


def execute_cell(code: str, names: dict[str, Any]) -> Cell:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "notebook", "exec"), names)
    figures = []
    for number in plt.get_fignums():
        drawn = io.BytesIO()
        plt.figure(number).savefig(drawn, dpi=90, metadata={"Software": None})
        figures.append(drawn.getvalue())
    plt.close("all")
    return Cell(code, printed.getvalue(), tuple(figures))


def codes(page: str) -> list[str]:
    """Return the code of a page, piece by piece."""
    return CODE.findall(page)


def texts(page: str) -> list[str]:
    """Return what stands before, between and after the pieces of code."""
    return [text.strip() for text in CODE.split(OUTPUT.sub("\n", page))[::2]]


def with_outputs(page: str, cells: list[Cell]) -> str:
    """Return the page with what came out under each piece of code, and write the figures."""
    parts, number = [], 0
    for text, cell in zip(texts(page), [*cells, None], strict=True):
        parts.append(text)
        if cell is None:
            break
        shown = [f"```text\n{cell.printed.rstrip()}\n```"] if cell.printed else []
        for figure in cell.figures:
            number += 1
            file = PICTURES / f"notebook-{number}.png"
            file.write_bytes(figure)
            shown.append(f"![Figure {number} of the notebook]({os.path.relpath(file, PAGE.parent)})")
        output = ["<!-- output -->", *shown, "<!-- end of output -->"] if shown else []
        parts += [f"```python\n{cell.code}```", *output]
    return "\n\n".join(part for part in parts if part) + "\n"


def notebook_of(page: str, cells: list[Cell]) -> str:
    """Return the notebook: the page's text and code, with what came out."""
    made: list[dict[str, Any]] = []
    for text, cell in zip(texts(page), [*cells, None], strict=True):
        if text:
            made.append({"cell_type": "markdown", "id": f"cell-{len(made)}", "metadata": {}, "source": text.splitlines(keepends=True)})
        if cell:
            made.append(code_cell(cell, len(made)))
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def code_cell(cell: Cell, number: int) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = []
    if cell.printed:
        outputs.append({"output_type": "stream", "name": "stdout", "text": cell.printed.splitlines(keepends=True)})
    for figure in cell.figures:
        shown = {"image/png": base64.b64encode(figure).decode()}
        outputs.append({"output_type": "display_data", "data": shown, "metadata": {}})
    source = cell.code.rstrip().splitlines(keepends=True)
    return {"cell_type": "code", "id": f"cell-{number}", "execution_count": None, "metadata": {}, "outputs": outputs, "source": source}


def main(work: Path) -> None:
    work.mkdir(parents=True)
    page = PAGE.read_text(encoding="utf-8")
    cells = execute(codes(page), work)
    PAGE.write_text(with_outputs(page, cells), encoding="utf-8")
    NOTEBOOK.write_text(notebook_of(page, cells), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
