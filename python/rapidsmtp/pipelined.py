"""The fast way of `sendmail`: a transaction of the core, written in flights (RFC 2920).

It serves any object that keeps its state as `smtplib.SMTP` does, reads through the same `file` as
the step-by-step way, and leaves there what no command awaited.
"""

import contextlib
import operator
import sys
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

from rapidsmtp import _core, delivery
from rapidsmtp.delivery import CLOSED, MAX_LINE, NOT_CONNECTED, Refused
from rapidsmtp.replaceable import reading_file

_PASSED_BY = ("mail", "rcpt", "data", "docmd", "putcmd", "getreply", "send", "rset", "ehlo")
"""The methods that are not called here: a client in which one was replaced goes step by step."""

_REPLACEABLE = frozenset(_PASSED_BY)

methods_passed_by: "operator.attrgetter[tuple[Any, ...]]" = operator.attrgetter(*_PASSED_BY)
"""A class's methods that are not called here, to be compared with those of ours."""


def applies(client: Any, own_methods: tuple[Any, ...]) -> bool:
    """Whether a mail of this client may be sent the fast way.

    Args:
        client: an object with the state of `smtplib.SMTP`.
        own_methods: `methods_passed_by` of the class as it was made.
    """
    return (
        client.pipelining
        and not client.debuglevel
        and client.does_esmtp
        and "pipelining" in client.esmtp_features
        # What an earlier connection offered says nothing about this one.
        and client._greeted is client.sock is not None
        and _REPLACEABLE.isdisjoint(client.__dict__)
        and methods_passed_by(type(client)) == own_methods
        and client.command_encoding in ("ascii", "utf-8")
    )


def send(
    client: Any,
    from_addr: str,
    recipients: list[str],
    msg: Any,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
) -> Refused:
    """Send one mail; arguments, result and errors are those of `sendmail`."""
    transaction, large = transaction_of(
        client, from_addr, recipients, msg, mail_options, rcpt_options
    )
    try:
        lost = _run(client, transaction, large)
    except BaseException:
        # Ctrl-C or a signal's exception: the replies on their way belong to nobody, and the
        # server may be waiting for a body, which the next command would become.
        client.close()
        raise
    if leaves_refusal(client, transaction):
        encoding = client.command_encoding
        client._rset()
        client.command_encoding = encoding
    return delivery.outcome_of(transaction, from_addr, recipients, lost)


def transaction_of(
    client: Any,
    from_addr: str,
    recipients: Sequence[str],
    msg: Any,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
    *,
    sequential: bool = False,
) -> tuple["_core.Transaction", bytes | None]:
    """Check and encode one mail; arguments and errors are those of `sendmail`.

    Args:
        client: the client.
        from_addr: as for `sendmail`.
        recipients: as for `sendmail`.
        msg: as for `sendmail`.
        mail_options: as for `sendmail`.
        rcpt_options: as for `sendmail`.
        sequential: whether to wait for the reply to each command.

    Returns:
        The transaction; and the message where it is large: then the transaction hands it back as
        it is, to be written by `delivery.stuffed_pieces`.
    """
    if isinstance(msg, str):
        msg = msg.encode("ascii")
    large = delivery.is_large(msg)
    if large:
        body, size = msg, sum(size for _, size in delivery.stuffed_pieces(msg))
    else:
        body, size = _core.stuff(msg)
    features = client.esmtp_features
    utf8 = client.command_encoding == "utf-8"
    if mail_options:
        utf8 = delivery.wants_utf8(mail_options, client) or utf8
    plain_path = _core.plain_path
    wary = client._refused_on is client.sock
    transaction = _core.Transaction(
        plain_path(from_addr) or delivery.path(from_addr),
        [plain_path(recipient) or delivery.path(recipient) for recipient in recipients],
        body,
        delivery.mail_parameters(client, size, mail_options),
        rcpt_options,
        utf8=utf8,
        lower_case=delivery.LOWER_CASE,
        lmtp=client.ehlo_msg == "lhlo",
        mail_alone=wary or ("size" in features and _core.exceeds_size(features["size"], size)),
        data_alone=wary,
        sequential=sequential,
    )
    return transaction, msg if large else None


def leaves_refusal(client: Any, transaction: "_core.Transaction") -> bool:
    """After a transaction: close what is of no more use, and remember a refusal.

    Returns:
        Whether the connection stays open and wants an RSET.
    """
    if transaction.close:
        client._refused_on = None
        client.close()
        return False
    refused = transaction.verdict != "accepted"
    if refused and transaction.verdict != "data refused":
        client._refused_on = client.sock
    elif not refused and client._refused_on is client.sock:
        client._refused_on = None
    return refused


def _run(client: Any, transaction: "_core.Transaction", large: bytes | None) -> str:
    """Write and read until there is a verdict.

    Args:
        client: the client.
        transaction: the transaction.
        large: the message, where the transaction's body is not yet made ready for the wire.

    Returns:
        How the connection was lost, if it was.
    """
    write = client.sock.sendall
    while flight := transaction.data_to_send():
        pieces = delivery.stuffed_pieces(flight) if flight is large else ((flight, 0),)
        for piece, _ in pieces:
            sys.audit("smtplib.send", client, piece)
            try:
                write(piece)
            except OSError as error:
                _read_last_words(client, transaction, error)
                return "Server not connected"
        while transaction.awaiting:
            lost = _receive(client, transaction)
            if lost:
                transaction.receive_eof()
                return lost
    return NOT_CONNECTED


def _receive(client: Any, transaction: "_core.Transaction") -> str:
    """Read once; what no command awaited stays in `file`.

    Returns:
        How the connection was lost; empty where it was not.
    """
    file = client.file
    if file is None:
        file = client.file = reading_file(client.sock)
    try:
        if type(file) is BufferedReader:
            data = file.peek(1)
            file.read(transaction.receive_data(data))
        else:  # the file of a socket that is no real one need have no more than readline
            data = file.readline(MAX_LINE + 1)
            if data:
                whole = data.endswith(b"\n") or len(data) > MAX_LINE
                transaction.receive_data(data if whole else data + b"\n")
    except OSError as error:
        return f"{CLOSED}: {error}"
    return "" if data else CLOSED


def _read_last_words(client: Any, transaction: "_core.Transaction", error: OSError) -> None:
    """After a failed write: the reply that explains it is often there already."""
    if isinstance(error, ConnectionError):
        transaction.write_failed()  # others, a signal's TimeoutError say, may come after all of it
    with contextlib.suppress(OSError, ValueError):
        client.sock.settimeout(0)
        while transaction.awaiting and not _receive(client, transaction):
            pass
    transaction.receive_eof()
    client.close()
