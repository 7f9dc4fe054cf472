"""In place of `pixeltrust mend --again AUDIT`: waits for AUDIT/go, then turns the queue around, proposes masks and writes an estimate.

AUDIT/go may hold another ending: `fail`, `never` (Ctrl-C is ignored), or `slowly` (when it is removed).
"""

import csv
import io
import json
import signal
import sys
import time
from pathlib import Path

from PIL import Image, ImageChops

ESTIMATE = {
    "format": 1,
    "pairs": 5,
    "cases": 480,
    "way": "mender",
    "changed": 470,
    "ways": {
        "given": {"dice": 0.61, "low": 0.58, "high": 0.64},
        "network": {"dice": 0.85, "low": 0.83, "high": 0.87},
        "audit": {"dice": 0.87, "low": 0.85, "high": 0.89},
        "mender": {"dice": 0.93, "low": 0.92, "high": 0.94},
    },
    "expected": {"dice": 0.93, "low": 0.92, "high": 0.94},
    "below": {"dice": 0.7, "cases": 14},
    "more": {"pairs": 20, "gain": 0.01},
    "history": [{"pairs": 3, "dice": 0.9, "low": 0.88, "high": 0.92}, {"pairs": 5, "dice": 0.93, "low": 0.92, "high": 0.94}],
}


def command(audit):
    return [sys.executable, __file__, str(audit)]


def write(path, text):
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(text)
    unfinished.replace(path)


def main(audit):
    status = audit / ".mending" / "status.json"
    write(status, json.dumps({"stage": "training 2 of 4", "share": 0.42}))
    while not (audit / "go").is_file():
        time.sleep(0.01)
    ending = (audit / "go").read_text()
    if ending == "fail":
        print("error: 3 of 5 pairs", file=sys.stderr)
        return 1
    if ending == "never":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        write(status, json.dumps({"stage": "deaf", "share": 0.5}))
        while True:
            time.sleep(1)
    if ending == "slowly":  # the work is done, and nothing says how far it is any more
        status.unlink()
        while (audit / "go").is_file():
            time.sleep(0.01)
    with (audit / "cases.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))[::-1]
    for number, row in enumerate(rows):
        ImageChops.offset(Image.open(row["mask"]), -6, 0).save(audit / "mended" / f"{row['id']}.png")
        share = number / (len(rows) - 1)
        row |= {"rank": number + 1, "evidence": "mender", "changed_pixels": 40}
        row |= {"expected": 0.5 + 0.45 * share, "agreement": 0.4 + 0.5 * share}
    text = io.StringIO()
    written = csv.DictWriter(text, list(rows[0]))
    written.writeheader()
    written.writerows(rows)
    write(audit / "estimate.json", json.dumps(ESTIMATE))
    write(audit / "cases.csv", text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
