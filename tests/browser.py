"""A headless Chromium that tests control through its debugging pipes."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    # A container has no permission for Chromium's own sandbox of processes.
    "--no-sandbox",
    "--disable-gpu",
    # /dev/shm of a container may be small.
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--no-first-run",
    # The browser makes no requests of its own, and finds only addresses of this computer.
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
    # One snapshot then contains the documents of all frames.
    "--disable-features=IsolateSandboxedIframes",
)


# The maximum time for an answer of the browser, in seconds. A browser on a busy computer answers
# earlier; a browser that cannot start fails the test.
_MAX_WAIT = 120


class Browser:
    """A browser with one page.

    Attributes:
        requests: The addresses that the page and its frames requested, by an id. It contains
            neither `data:` nor requests that the browser has blocked.
    """

    def __init__(self, read: int, write: int) -> None:
        self._answers, self._commands = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._number, self._rest = 0, b""
        self.requests: dict[str, str] = {}
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Page", "DOMSnapshot"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        self._commands.close()
        self._answers.close()

    def open(self, path: Path) -> None:
        """Open a file, and wait until the page and its frames are loaded."""
        self.navigate(path)
        self.wait()

    def navigate(self, path: Path) -> None:
        """Start to load a file. `wait` must follow."""
        self._call("Page.navigate", url=path.resolve().as_uri())

    def wait(self) -> None:
        """Wait until the page and its frames are loaded."""
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def documents(self) -> list[str]:
        """Return the visible text of the page and of each frame, with a blank between texts."""
        shot = self._call("DOMSnapshot.captureSnapshot", computedStyles=[])
        strings = shot["strings"]
        return [
            " ".join(strings[index] for index in document["layout"]["text"] if index >= 0)
            for document in shot["documents"]
        ]

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def resize(self, width: int) -> None:
        """Give the page a width, in pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )

    def _call(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        call = {"id": self._number, "method": method, "params": values}
        if self._session is not None:
            call["sessionId"] = self._session
        self._commands.write(json.dumps(call).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _MAX_WAIT)
            assert ready, f"the browser has not answered in {_MAX_WAIT} s"
            data = os.read(self._answers.fileno(), 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("method") == "Network.requestWillBeSent":
            url = answer["params"]["request"]["url"]
            if not url.startswith("data:"):
                self.requests[answer["params"]["requestId"]] = url
        elif answer.get("method") == "Network.loadingFailed" and answer["params"].get(
            "blockedReason"
        ):
            self.requests.pop(answer["params"]["requestId"], None)
        return answer


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser; skip the test if none is installed."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    commands, answers = os.pipe(), os.pipe()

    def connect() -> None:
        # The browser reads commands from descriptor 3 and writes answers to descriptor 4. The pipes
        # first get higher numbers, so that no number is overwritten before it is copied.
        read, write = os.dup2(commands[0], 100), os.dup2(answers[1], 101)
        os.dup2(read, 3)
        os.dup2(write, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Not `processes.start`: a browser may be open during several tests.
        process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": profile},
            preexec_fn=connect,
            close_fds=False,
            start_new_session=True,
        )
        os.close(commands[0])
        os.close(answers[1])
        try:
            running = Browser(answers[0], commands[1])
            try:
                yield running
            finally:
                running.close()  # the browser ends at the end of its pipe
            process.wait(_MAX_WAIT)
        finally:
            # The browser has started more processes, in the same group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
