"""The command line: every command parses, calls one function, prints.

A command imports what takes seconds to load once its options are known to be right, so --help and every refusal answer at once.
"""

from pixeltrust.cli import learning, making, masks
from pixeltrust.cli.app import app, main

__all__ = ["app", "learning", "main", "making", "masks"]
