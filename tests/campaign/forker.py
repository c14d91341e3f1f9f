"""A process that forks a run of a campaign for each line of its input.

It has imported the package. A new process would take longer to import it than a run takes.

    PATH SIGNAL SECONDS     run the campaign in PATH, and send the signal after the time

The answer to a line is the exit status of the run, or the negative number of its signal.
"""

import os
import select
import signal
import sys

from rapidsmtp import Campaign, JournalError
from rapidsmtp._bulk import feed
from rapidsmtp.cli import main


def run(path: str) -> None:
    """Run a campaign as a program does that uses the class."""
    status = 1
    try:
        with Campaign.open(path) as campaign:
            for _ in campaign.run(wait=False):
                pass
        status = 0
    except JournalError as error:
        print(error, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def run_command(path: str) -> None:
    """Run a campaign by the command line. `os._exit` flushes nothing."""
    status = 1
    # On a busy machine, a graceful end takes longer, so its time limit is long.
    feed.GRACE = 600.0
    try:
        status = main(["campaign", "run", path, "--no-wait"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def forked(path: str, number: int, seconds: float) -> int:
    """Run a campaign in a child process, and return its exit status."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        (run if number == signal.SIGKILL else run_command)(path)
    ended = os.pidfd_open(child)
    if not select.select([ended], [], [], seconds)[0]:
        os.kill(child, number)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    # A signal before the command handles signals ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for line in sys.stdin:
        path, number, seconds = line.split()
        print(forked(path, int(number), float(seconds)), flush=True)
