"""Trainings one after the other, in each of the processes that torchrun starts: `joined_runs.py DATA OUT JOBS`, JOBS a JSON list.

A job is {"name", "settings"}, and with "stop_at" SIGINT comes to the last rank alone, in that update. With "used" the run is used.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from pixeltrust.auditing import page as page_module
from pixeltrust.auditing.run import audit
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.processes import claims_error_report
from pixeltrust.prediction.predict import predict
from pixeltrust.training import train
from tiny import acting_at, configured

torch.set_num_threads(1)


def run(data, out, job):
    """One training; says whether it was stopped."""
    real = train.build_step
    if "stop_at" in job and int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
        train.build_step = acting_at(job["stop_at"], partial(signal.raise_signal, signal.SIGINT), real)
    try:
        with suppress(KeyboardInterrupt):
            train.train(data, out=out / job["name"], config=configured(**job["settings"]), resume=True, show_progress=False)
            return False
        return True
    finally:
        train.build_step = real


def use(data, out, name):
    """Prediction and audit by a run; those with a file that cannot be read too, whose faults are returned."""
    predict(out / name, data / "images", out=out / "predicted", probabilities=True, show_progress=False)
    with mock.patch.object(page_module, "WORST", 2):  # drawing pictures takes longer than all the rest
        audit(out / name, data, out=out / "audit", show_progress=False)
        audit(data=data, probabilities=out / "predicted" / "probabilities", out=out / "audit-by-files", show_progress=False)
    faults = []
    for number, work in enumerate([
        partial(predict, out / name, data.parent / "broken" / "images"),
        partial(audit, out / name, data.parent / "broken"),
    ]):  # fmt: skip
        try:
            work(out=out / f"broken-{number}", show_progress=False)
        except DataError as error:
            faults.append(str(error))
    return faults


def main():
    data, out, jobs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    stopped = [job["name"] for job in jobs if run(data, out, job)]
    told = {
        "stopped": stopped,
        "faults": [fault for job in jobs if job.get("used") for fault in use(data, out, job["name"])],
        "tells": claims_error_report(),
    }
    (out / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
