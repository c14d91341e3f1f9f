"""Direct access to the engine of a sender: submit messages, and take finished ones.

A campaign decides itself when a message may start and when an outcome is taken. `Sender.send` would
read ahead.
"""

from typing import Any

from rapidsmtp._bulk.batching import relay_error
from rapidsmtp._bulk.sender_core import GRACE, SenderCore
from rapidsmtp.errors import RelayError


class Feed:
    """One outbox of a sender's engine. Used by one thread.

    Args:
        core: The sender.

    Attributes:
        unsubmitted: The messages that the engine has not taken yet. `submit` removes the messages
            that the engine takes, so an interrupt loses none.
        finished: Messages with the engine's outcomes. The caller removes what it has read.

    Raises:
        RelayError: The relay could not be reached a moment ago, or rejected the session.
        RuntimeError: The sender is closed.
    """

    def __init__(self, core: SenderCore) -> None:
        self._core = core
        self._engine, _ = core._ready()
        self._outbox = self._engine.open_outbox()
        self.unsubmitted: list[Any] = []
        self.finished: list[Any] = []

    @property
    def pending(self) -> int:
        """The number of messages whose outcome was not taken."""
        return len(self.unsubmitted) + len(self.finished) + self._engine.pending(self._outbox)

    def submit(self) -> None:
        """Submit messages while the engine's queue has capacity, without waiting."""
        if self.unsubmitted:
            self._engine.submit(self._outbox, self.unsubmitted, 0.0)

    def take(self, limit: int, wait: float) -> None:
        """Move finished messages to `finished`.

        Args:
            limit: The maximum number of messages.
            wait: The maximum wait for the first one, in seconds.
        """
        self._engine.take(self._outbox, self.finished, limit, wait)

    def error(self) -> RelayError | None:
        """Return the error that stopped the engine; None if it has not stopped."""
        return relay_error(self._engine)

    def close(self) -> None:
        """Stop: wait a short time for replies. Then every submitted message has an outcome."""
        self._core.close(GRACE)
        while self._engine.pending(self._outbox):
            self._engine.take(self._outbox, self.finished, 512, 0.0)
