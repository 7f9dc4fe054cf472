"""`python -m pixeltrust.benchmarking FOLDER`: one cell as a process; `jobs` starts it."""

import sys
from pathlib import Path

from pixeltrust.benchmarking.cells import main

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
