"""Imports point down: the table of folders, and its rule. The method needs torch and numpy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "pixeltrust"
TABLE = """
    plumbing
    method_table config metrics
    method
    data
    noise datasets pages
    training
    prediction
    auditing
    mending
    formats
    benchmarking reviewing
    demonstration adapters
    reports
    cli
"""
"""A module imports only from the lines above it, or from its left in its own line."""
ORDER = TABLE.split()


def imported_by(module: str) -> set[str]:
    files = sorted((SOURCE / module).rglob("*.py")) or [SOURCE / f"{module}.py"]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {node.module.split(".")[1] for node in nodes if (node.module or "").startswith("pixeltrust.")}


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_down(module):
    assert imported_by(module) <= {module, *ORDER[: ORDER.index(module)]}


def test_every_module_has_its_place_in_the_table():
    assert {path.stem for path in SOURCE.iterdir() if path.stem[0] not in "._" and path.suffix in ("", ".py")} == set(ORDER)


def test_the_method_names_no_package_but_torch_and_numpy():
    nodes = [node for file in (SOURCE / "method").rglob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    writes_pictures = "PIL"  # when `Trust.write_maps` is called
    assert {name.partition(".")[0] for name in names} <= {"torch", "numpy", "pixeltrust", writes_pictures, *sys.stdlib_module_names}


METHOD_ALONE = """
import pkgutil, sys
from importlib import import_module

OF_TORCH = ("torchgen", "functorch", "sympy", "mpmath", "networkx", "typing_extensions")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("torch", "numpy", "pixeltrust", *OF_TORCH, *sys.stdlib_module_names):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import pixeltrust.method
for module in pkgutil.walk_packages(pixeltrust.method.__path__, "pixeltrust.method."):
    import_module(module.name)

import torch
from pixeltrust import Batch, pixel_gains, reweighted_step, verify

model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1))
noisy, clean = (Batch(torch.rand(2, 3, 8, 8), torch.arange(128).view(2, 8, 8) % 2) for _ in range(2))
assert pixel_gains(model, noisy=noisy, clean=clean).shape == (2, 8, 8)
assert verify(model, noisy=noisy, clean=clean).right
reweighted_step(model, noisy=noisy, clean=clean)
assert all(parameter.grad.any() for parameter in model.parameters())
"""


@pytest.mark.slow
def test_the_method_works_with_torch_and_numpy_alone():
    ended = subprocess.run([sys.executable, "-c", METHOD_ALONE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
