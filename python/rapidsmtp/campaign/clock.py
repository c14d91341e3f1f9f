"""The clock of a campaign. Tests pass a clock of their own."""

import threading
import time


class CampaignClock:
    """The system time, a monotonic time for durations, and waits for an event."""

    def now(self) -> int:
        """Return the time, in milliseconds since 1970. It jumps if the system's clock is set."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return a time in seconds that never jumps."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, at most `seconds` seconds. Return whether the event is set."""
        return event.wait(seconds)
