"""Imports point down: the table of layers, and the rule."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "pixeltrust"
LAYERS = (
    ("plumbing",),
    ("method_table", "config", "metrics"),
    ("method",),
    ("data",),
    ("noise", "datasets", "pages"),
    ("training",),
    ("prediction",),
    ("auditing",),
    ("formats",),
    ("benchmarking", "reviewing"),
    ("demonstration",),
    ("reports",),
    ("cli",),
)
"""A module imports from lower rows, or from its left in its own row."""
ORDER = [module for layer in LAYERS for module in layer]


def modules() -> list[str]:
    return sorted({path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")} - {"__init__"})


def imported_by(module: str) -> set[str]:
    files = [SOURCE / f"{module}.py"] if (SOURCE / f"{module}.py").exists() else sorted((SOURCE / module).rglob("*.py"))
    names = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.ImportFrom) and node.module == "pixeltrust":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pixeltrust."):
            names.add(node.module.split(".")[1])
    return names & set(modules())


def test_every_module_has_its_place_in_the_table():
    assert modules() == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_down(module):
    allowed = {module, *ORDER[: ORDER.index(module)]}
    assert imported_by(module) <= allowed, f"{module} imports {sorted(imported_by(module) - allowed)} from above"
