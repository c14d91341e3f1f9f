"""The limit of messages on one connection, learned from the ends of connections."""

CONNECTIONS_PER_PROBE = 10
"""The number of connections that must carry the learned maximum number of messages before this
maximum increases by one. Each failed increase doubles the number."""


class MessageLimit:
    """The maximum number of messages on one connection."""

    def __init__(self, configured: int | None) -> None:
        """Start with the configured maximum, or None."""
        self._configured = configured
        self._learned: int | None = None
        self._is_stated = False
        self._filled = 0
        self._probe_after = CONNECTIONS_PER_PROBE
        self._last_messages = 0
        self._ended_at = 0.0

    @property
    def messages(self) -> int | None:
        """The maximum number of messages on one connection; None if there is no limit."""
        if self._configured is None or self._learned is None:
            return self._configured if self._learned is None else self._learned
        return min(self._configured, self._learned)

    def ended(self, now: float, opened: float, messages: int, *, stated: bool) -> None:
        """Learn from the end of a connection.

        Args:
            now: The time.
            opened: The time at which the connection was opened.
            messages: The number of messages that the connection carried.
            stated: Whether the relay stated the limit. If not, the limit is only an assumption:
                two connections ended after the same number of messages.
        """
        # An outage ends several connections at the same time. So only a later connection counts.
        is_later = opened >= self._ended_at
        is_equal = is_later and messages == self._last_messages
        if is_later:
            self._last_messages = messages
            self._ended_at = now
        if messages >= 1 and (stated or is_equal):
            # If the limit is the old one, the attempt to send one message more has failed.
            again = self._learned in (messages, messages + 1)
            self._probe_after = 2 * self._probe_after if again else CONNECTIONS_PER_PROBE
            self._learned = messages
            self._is_stated = stated
            self._filled = 0

    def filled(self) -> None:
        """Count a connection that carried the learned maximum number of messages.

        A limit that the relay did not state may be too low. So such a limit increases by one from
        time to time.
        """
        if self._learned is None or self._is_stated:
            return
        self._filled += 1
        if self._filled >= self._probe_after:
            self._learned += 1
            self._filled = 0
