"""Set the examples of docstrings as code, for the page of Python (`make docs`)."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", re.M)


class Examples(griffe.Extension):
    """Put what stands under "Example:" into a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(example: re.Match[str]) -> str:
    return f"Example:\n    ```python\n{example[1].rstrip()}\n    ```\n"
