"""The relays of a campaign, their senders and their passwords."""

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
        """Return the password of a relay; None for the password of the environment."""
        return self._by_url.get(url, self._common)


class RelayLine:
    """One relay in a run, with its sender.

    Args:
        number: The number of the relay in the campaign.
        url: The URL, without a password.
        weight: The relay's share of the rows, relative to the weights of the other relays.
        failures: The number of failures since the last accepted message.
        password: The password; None for the password of the environment.
        settings: The campaign's settings.
        options: Further arguments of `Sender` that are not in the journal, such as `tls`.

    Attributes:
        number: The number of the relay in the campaign.
        url: The URL, without a password.
        weight: The share of the rows.
        used: The number of rows in the chunks that this run has leased for the relay.
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
        # This call also checks the URL, before a chunk is leased.
        self.name: str = parse_relay(url, password, mechanisms=_backend.sasl_mechanisms()).name

    def feed(self) -> Feed:
        """Return a feed of the engine. The engine is started if it is not running."""
        if self._sender is None:
            self._sender = sender_to(self.url, self._password, self._settings, self._options)
        return Feed(core_of(self._sender))

    def stats(self) -> Stats | None:
        """Return the counters of the sender; None without a sender. Any thread may call this."""
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
    """Return whether a URL has a user. Then the relay needs a password."""
    return urlsplit(url).username is not None


def _sender_arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Sender` from their form in the settings, which are JSON."""
    arguments = dict(stored)
    for name, kind in (("timeouts", Timeouts), ("tls", TLS)):
        if isinstance(arguments.get(name), Mapping):
            arguments[name] = kind(**arguments[name])
    return arguments


def is_permanent(error: RelayError) -> bool:
    """Return whether every later attempt with the same settings would fail."""
    if error.is_permanent or error.reply is None:
        return error.is_permanent
    # If the password is a function, the engine calls it before each login, and does not report its
    # stop as permanent. And the relay may require a login or TLS only in its reply to MAIL. The
    # diagnosis "relay" of a reply to MAIL has no other cause than these two.
    code, text = error.reply
    return _backend.diagnose("mail", code, text, _backend.enhanced_status(code, text)) == "relay"


def mark_away(journal: Journal, relay: int, error: RelayError, now: int) -> int:
    """Save that a relay is away, and return the time of the next attempt.

    The wait is the time that the reply states. If it states none, the first wait is 10 seconds, and
    each further wait is twice as long, up to 10 minutes.
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
    """Save that a relay accepted a message, so it is no longer away."""
    with journal.database.transaction():
        journal.database.execute(
            "UPDATE relay SET state = 'up', retry_at = NULL, reason = NULL, failures = 0 "
            "WHERE campaign = ? AND no = ?",
            (journal.campaign, relay),
        )
