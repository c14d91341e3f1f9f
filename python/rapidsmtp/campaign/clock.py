"""The clock of a campaign. Tests pass another one."""

import threading
import time


class CampaignClock:
    """The time of the day, a time for durations, and waits for an event."""

    def now(self) -> int:
        """Return the time in milliseconds since 1970. It may jump."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return a time in seconds that never jumps."""
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, at most for some seconds, and return whether it is set."""
        return event.wait(seconds)
