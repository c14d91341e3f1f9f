"""What only the pure half of `Sender` has to stand: threads that are not to be had."""

import threading
from collections.abc import Callable, Iterator

import pytest

from rapidsmtp import RelayError, Status, _core
from senders import messages, send, send_and_stop, sender_to
from server import Dialogue, Server

Allow = Callable[[int], None]


@pytest.fixture(autouse=True)
def pure() -> Iterator[None]:
    before = _core.implementation
    _core.use("python")
    yield
    _core.use(before)


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Let the engine start so many threads, and no more: as when the interpreter ends (3.12)."""
    start = threading.Thread.start

    def allow(count: int) -> None:
        started: list[threading.Thread] = []

        def limited(thread: threading.Thread) -> None:
            if thread.name == "rapidsmtp":
                if len(started) >= count:
                    raise RuntimeError("can't create new thread at interpreter shutdown")
                started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return allow


@pytest.mark.parametrize("count", [1, 2])
def test_the_threads_that_there_are_do_all_the_work(allow: Allow, count: int) -> None:
    allow(count)
    with Server(Dialogue(("PIPELINING",))) as server:
        outcomes = send(sender_to(server, connections=4), messages(50))
    assert {each.status for each in outcomes} == {Status.ACCEPTED}
    assert len(outcomes) == 50 and 1 <= len(server.connections) <= count


def test_where_there_is_no_thread_at_all(allow: Allow) -> None:
    allow(0)
    with Server(Dialogue(("PIPELINING",))) as server:
        outcomes, error = send_and_stop(sender_to(server), messages(5))
    assert isinstance(error, RelayError) and "no thread to send with" in str(error)
    assert [each.status for each in outcomes] == [Status.NOT_ATTEMPTED] * 5
    assert not server.connections
