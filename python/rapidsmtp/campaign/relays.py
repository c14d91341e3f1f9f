"""The relays of a campaign: which of them take chunks, and their senders."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from rapidsmtp import _backend
from rapidsmtp._bulk.feed import Feed
from rapidsmtp._bulk.sender import Sender, core_of
from rapidsmtp._models.relay_url import Password, parse_relay, without_password
from rapidsmtp._models.report import Stats
from rapidsmtp._models.settings import TLS, Timeouts
from rapidsmtp.campaign.journal import Journal
from rapidsmtp.campaign.model import CampaignSettings
from rapidsmtp.errors import RelayError

_FIRST_WAIT, _LONGEST_WAIT = 10_000, 600_000


def parse_relays(relays: Mapping[str, int] | Sequence[str] | str) -> list[tuple[str, int, str]]:
    """Return the URL without its password, the weight and the password of each relay.

    Args:
        relays: URLs, or weights by URL. A URL may end with `;weight=2`.

    Raises:
        ValueError: A URL or a weight is wrong.
    """
    given = [relays] if isinstance(relays, str) else relays
    pairs = given.items() if isinstance(given, Mapping) else ((each, 1) for each in given)
    found = []
    for text, weight in pairs:
        url, separator, option = text.partition(";weight=")
        if separator:
            if not option.isdecimal():
                raise ValueError(f"relay {without_password(url)[0]}: weight={option} is no number")
            weight = int(option)
        if weight < 1:
            raise ValueError(f"relay {without_password(url)[0]}: weight={weight} is below 1")
        found.append((*without_password(url), weight))
    if not found:
        raise ValueError("relays is empty: name at least one relay")
    return [(url, weight, password) for url, password, weight in found]


class Passwords:
    """The passwords of the relays.

    Args:
        given: The password for all relays, or passwords by URL, or None.
        of_urls: The passwords in the URLs of the relays, by URL without a password.
    """

    def __init__(
        self,
        given: Password | Mapping[str, Password] | None,
        of_urls: Mapping[str, str] | None = None,
    ) -> None:
        self._common = None if isinstance(given, Mapping) else given
        self._by_url = {**(given if isinstance(given, Mapping) else {}), **(of_urls or {})}

    def of(self, url: str) -> Password | None:
        """Return the password of a relay; None for that of the environment."""
        return self._by_url.get(url, self._common)


class RelayLine:
    """One relay in a run, with its sender.

    Args:
        number: The number of the relay in the campaign.
        url: The URL, without a password.
        weight: The share of the rows.
        failures: The number of failures since the last accepted message.
        password: The password, or None.
        settings: The campaign's settings.
        options: Further arguments of `Sender` that are not in the journal, such as `tls`.

    Attributes:
        number: The number of the relay in the campaign.
        url: The URL, without a password.
        weight: The share of the rows.
        used: The number of rows in chunks of this relay.
        failures: The number of failures since the last accepted message.
    """

    def __init__(
        self,
        number: int,
        url: str,
        weight: int,
        failures: int,
        password: Password | None,
        settings: CampaignSettings,
        options: Mapping[str, Any],
    ) -> None:
        self.number: int = number
        self.url: str = url
        self.weight: int = weight
        self.used: int = 0
        self.failures: int = failures
        self._password = password
        self._settings = settings
        self._options = options
        self._sender: Sender | None = None
        # Checks the URL before a chunk is leased.
        self.name: str = parse_relay(url, password, mechanisms=_backend.sasl_mechanisms()).name

    def feed(self) -> Feed:
        """Return the engine, and start it if it is not running."""
        if self._sender is None:
            self._sender = sender_to(self.url, self._password, self._settings, self._options)
        return Feed(core_of(self._sender))

    def stats(self) -> Stats | None:
        """Return the counters of the sender; None if there is none. Used by any thread."""
        sender = self._sender
        return None if sender is None else sender.stats()

    def close(self) -> None:
        """Close the sender."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close(0.0)


def sender_to(
    url: str, password: Password | None, settings: CampaignSettings, options: Mapping[str, Any]
) -> Sender:
    """Return a sender to a relay. The arguments are those of `RelayLine`."""
    return Sender(
        url,
        password=password,
        connections=settings.connections,
        rate=settings.rate,
        queue_size=8192,
        **{**_sender_arguments(settings.sender), **options},
    )


def has_user(url: str) -> bool:
    """Return whether a URL has a user, and so needs a password."""
    return urlsplit(url).username is not None


def _sender_arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `Sender` from the settings, which are JSON."""
    arguments = dict(stored)
    for name, kind in (("timeouts", Timeouts), ("tls", TLS)):
        if isinstance(arguments.get(name), Mapping):
            arguments[name] = kind(**arguments[name])
    return arguments


def is_permanent(error: RelayError) -> bool:
    """Return whether no later attempt will succeed with the same settings."""
    if error.is_permanent or error.reply is None:
        return error.is_permanent
    # The stop of an engine that asks for the password at each login is never permanent. A relay may
    # also require a login or TLS in its reply to MAIL. In that phase, the diagnosis "relay" has no
    # other cause.
    code, text = error.reply
    return _backend.diagnose("mail", code, text, _backend.enhanced_status(code, text)) == "relay"


def mark_away(journal: Journal, relay: int, error: RelayError, now: int) -> int:
    """Note that a relay is away, and return the time of the next attempt.

    The wait is the time that the reply states, or 10 seconds, doubling to 10 minutes.
    """
    place = (journal.campaign, relay)
    with journal.database.transaction():
        failures: int
        (failures,) = journal.database.execute(
            "SELECT failures FROM relay WHERE campaign = ? AND no = ?", place
        ).fetchone()
        wait: int = min(_LONGEST_WAIT, _FIRST_WAIT << min(failures, 10))
        if error.retry_after is not None:
            wait = max(wait, int(error.retry_after * 1000))
        journal.database.execute(
            "UPDATE relay SET state = 'away', retry_at = ?, reason = ?, failures = failures + 1 "
            "WHERE campaign = ? AND no = ?",
            (now + wait, str(error), *place),
        )
    return now + wait


def mark_up(journal: Journal, relay: int) -> None:
    """Note that a relay accepted a message."""
    with journal.database.transaction():
        journal.database.execute(
            "UPDATE relay SET state = 'up', retry_at = NULL, reason = NULL, failures = 0 "
            "WHERE campaign = ? AND no = ?",
            (journal.campaign, relay),
        )
