"""`python -m pixeltrust.reviewing WORDS`: the command `pixeltrust WORDS`, as a process that ends with its parent; `learning` starts it."""

import runpy

from pixeltrust.plumbing.children import end_with_parent
from pixeltrust.reviewing.learning import GRACE

if __name__ == "__main__":
    end_with_parent(grace=GRACE)
    runpy.run_module("pixeltrust.cli", run_name="__main__", alter_sys=True)
