"""Numbers that a relay announces in its reply to EHLO, on both backends."""

import pytest

from rapidsmtp import Message, Status
from senders import CONTENT, send, sender_to
from server import Server, SMTPScript

pytestmark = pytest.mark.usefixtures("backend")

# RFC 9422 sections 4.1 to 4.3: a limit has one to six digits, and the first digit is not 0. A
# client ignores every other value.
INVALID = [
    "",
    "0",
    "02",
    "1000000",
    "999999999999",
    "18446744073709551615",
    "18446744073709551616",
    "9" * 400,
    "+2",
    "-1",
    "2.5",
    "0x2",
    "2,",
    "\N{SUPERSCRIPT TWO}",
    "1=2",
    "x",
]

RECIPIENTS = ["a@one.example", "b@two.example", "c@one.example", "d@THREE.example", "e@TWO.example"]
ALL = [["a", "b", "c", "d", "e"]]


class Transactions(SMTPScript):
    """A relay that records the recipients of each transaction, by their local parts."""

    def __init__(self, *capabilities: str) -> None:
        self.recipients: list[list[str]] = []

        def mail(line: bytes) -> bytes:
            self.recipients.append([])
            return b"250 2.1.0 ok"

        def rcpt(line: bytes) -> bytes:
            self.recipients[-1].append(line.decode().partition("<")[2].partition("@")[0])
            return b"250 2.1.5 ok"

        super().__init__(("PIPELINING", *capabilities), {"mail": mail, "rcpt": rcpt})


def transactions(script: Transactions) -> list[list[str]]:
    with Server(script) as server:
        given = [Message("s@example.com", RECIPIENTS, CONTENT)]
        [outcome] = send(sender_to(server, connections=1), given)
    assert outcome.status is Status.ACCEPTED
    return script.recipients


@pytest.mark.parametrize("value", INVALID)
@pytest.mark.parametrize("name", ["RCPTDOMAINMAX", "RCPTMAX", "MAILMAX"])
def test_an_invalid_limit_is_ignored(name: str, value: str) -> None:
    # A message with several recipients goes through the selection by domain.
    assert transactions(Transactions(f"LIMITS {name}={value}")) == ALL


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("RCPTDOMAINMAX=1", [["a", "c"], ["b", "e"], ["d"]]),
        ("RCPTDOMAINMAX=2", [["a", "b", "c", "e"], ["d"]]),
        ("rcptdomainmax=2", [["a", "b", "c", "e"], ["d"]]),
        ("RCPTDOMAINMAX=3", ALL),
        ("RCPTDOMAINMAX=999999", ALL),
        ("RCPTMAX=2", [["a", "b"], ["c", "d"], ["e"]]),
        ("RCPTMAX=999999", ALL),
        ("RCPTMAX=2 RCPTDOMAINMAX=1", [["a", "c"], ["b", "e"], ["d"]]),
        ("RCPTMAX=1 RCPTDOMAINMAX=999999999999", [["a"], ["b"], ["c"], ["d"], ["e"]]),
        # An invalid value does not change a valid one.
        ("RCPTMAX=2 RCPTMAX=0", [["a", "b"], ["c", "d"], ["e"]]),
        ("RCPTMAX RCPTMAX=2 NEW=x NEWER", [["a", "b"], ["c", "d"], ["e"]]),
    ],
)
def test_a_valid_limit_splits_the_recipients(limits: str, expected: list[list[str]]) -> None:
    assert transactions(Transactions(f"LIMITS {limits}")) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10", Status.INVALID),
        ("0000000000000000010", Status.INVALID),
        ("0", Status.ACCEPTED),
        ("18446744073709551615", Status.ACCEPTED),
        ("18446744073709551616", Status.ACCEPTED),
        ("99999999999999999999", Status.ACCEPTED),
        ("0000000000000000000010", Status.ACCEPTED),
        ("9" * 400, Status.ACCEPTED),
        ("-1", Status.ACCEPTED),
        ("1_0", Status.ACCEPTED),
    ],
)
def test_a_size_of_any_value(value: str, expected: Status) -> None:
    with Server(SMTPScript((f"SIZE {value}",))) as server:
        given = [Message("s@example.com", ["r@example.com"], CONTENT)]
        [outcome] = send(sender_to(server), given)
    assert outcome.status is expected
