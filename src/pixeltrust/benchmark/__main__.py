"""`python -m pixeltrust.benchmark FOLDER`: one cell as a process; `jobs` starts it."""

import sys
from pathlib import Path

from pixeltrust.benchmark.cells import main

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
