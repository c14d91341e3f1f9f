"""The application of Celery for `test_green.py`: tasks that send mail to a relay of the worker."""

import os
from pathlib import Path

from celery import Celery

import green_programs

FOLDER = Path(os.environ["GREEN_FOLDER"])
QUEUE, RESULTS = FOLDER / "queue", FOLDER / "results"
QUEUE.mkdir(exist_ok=True)
RESULTS.mkdir(exist_ok=True)

app = Celery("green", broker="filesystem://", backend=RESULTS.as_uri())
app.conf.broker_transport_options = {
    "data_folder_in": str(QUEUE),
    "data_folder_out": str(QUEUE),
    "control_folder": str(QUEUE),
}


@app.task
def call(way: str) -> str:
    """Call a method of `green_programs.HeldRelay`."""
    return green_programs.call(way)
