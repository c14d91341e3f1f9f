"""Direct access to the engine of a sender: submit rows of a chunk, and take outcomes.

A campaign decides itself when a row may start and when an outcome is taken. `Sender.send` would
read ahead.
"""

from typing import TYPE_CHECKING, Any

from rapidsmtp._bulk.batching import relay_error
from rapidsmtp._bulk.sender_core import GRACE, SenderCore
from rapidsmtp.errors import RelayError

if TYPE_CHECKING:
    from rapidsmtp import _backend

_OUTCOMES = 2048


class Feed:
    """One outbox of a sender's engine. Used by one thread.

    Args:
        core: The sender.

    Attributes:
        outcomes: Outcomes as `Engine.take_outcomes` returns them: a tuple for each recipient. The
            caller removes what it has read.

    Raises:
        RelayError: The relay could not be reached a moment ago, or rejected the session.
        RuntimeError: The sender is closed.
    """

    def __init__(self, core: SenderCore) -> None:
        self._core = core
        self._engine, _ = core._ready()
        self._outbox = self._engine.open_outbox()
        self.outcomes: list[tuple[Any, ...]] = []

    @property
    def pending(self) -> int:
        """The number of rows whose outcome was not taken."""
        return self._engine.pending(self._outbox)

    def submit(self, rows: "_backend.GrantedRows", limit: int) -> None:
        """Submit up to `limit` rows while the engine's queue has capacity, without waiting.

        Raises:
            ValueError: The chunk is damaged.
        """
        self._engine.submit_rows(self._outbox, rows, limit, 0.0)

    def take(self, wait: float, at_least: int = 1) -> None:
        """Add outcomes to `outcomes`.

        Args:
            wait: The maximum wait, in seconds.
            at_least: The number of rows to wait for, or all submitted ones if there are fewer.
        """
        self._engine.take_outcomes(self._outbox, self.outcomes, _OUTCOMES, wait, at_least)

    def error(self) -> RelayError | None:
        """Return the error that stopped the engine; None if it has not stopped."""
        return relay_error(self._engine)

    def end(self) -> None:
        """Close the outbox, after all outcomes were taken. The engine goes on."""
        self._engine.close_outbox(self._outbox)

    def close(self) -> None:
        """Stop: wait a short time for replies. Then every submitted row has an outcome."""
        self._core.close(GRACE)
        while self._engine.pending(self._outbox):
            self.take(0.0)
