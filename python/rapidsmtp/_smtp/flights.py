"""`sendmail` by a transaction of the protocol core, which is written in flights.

With PIPELINING (RFC 2920), a flight is a group of commands. Without it, a flight is one command.

This module works with every client object that has the attributes of `smtplib.SMTP`. The module
reads from the same `file` as the methods of the client. Bytes that are not a reply to a command of
this module stay in this file, so that the client's next method reads them.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from io import BufferedReader
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.address import smtp_path
from rapidsmtp._smtp import overrides, results
from rapidsmtp._smtp.face import BlockingFace, Face
from rapidsmtp._smtp.results import CLOSED, MAX_LINE, NOT_CONNECTED, NOT_WRITTEN, Refused
from rapidsmtp._smtp.sockets import EmptiedFile, reading_file
from rapidsmtp.errors import SMTPServerDisconnected

_READ_SIZE = io.DEFAULT_BUFFER_SIZE
"""The maximum number of bytes in one read from the socket."""

_NAMES = (
    *("mail", "rcpt", "data", "docmd", "putcmd", "getreply", "send", "rset", "ehlo"),
    "has_extn",
)

BYPASSED = overrides.Methods(*_NAMES)
"""The methods of the client that this module does not call. If a program has replaced one of them,
`method_calls` sends the message, because it calls these methods."""

BYPASSED_WITH_EHLO = overrides.Methods(*_NAMES, "ehlo_or_helo_if_needed")
"""The methods that a caller bypasses if it does not call `ehlo_or_helo_if_needed` either."""


def applies(client: BlockingFace, bypassed: overrides.Methods = BYPASSED) -> bool:
    """Return whether `send` of this module may send the client's next message.

    Args:
        client: The client.
        bypassed: The methods that are not called.
    """
    return (
        not client.debuglevel
        and client.sock is not None
        and client.command_encoding in ("ascii", "utf-8")
        and bypassed.are_original(client)
    )


def _may_pipeline(client: BlockingFace) -> bool:
    return (
        client.pipelining
        and client.does_esmtp
        and "pipelining" in client.esmtp_features
        # The stored capabilities must come from this connection, not from an earlier one.
        and client._protocol.greeted_on is client.sock
    )


def send(
    client: BlockingFace,
    from_addr: str,
    recipients: list[str],
    msg: Any,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
) -> Refused:
    """Send one message; the arguments, the result and the exceptions are as for `sendmail`."""
    transaction, large = transaction_of(
        client,
        from_addr,
        recipients,
        msg,
        mail_options,
        rcpt_options,
        sequential=not _may_pipeline(client),
    )
    try:
        lost = _run(client, transaction, large)
    except BaseException:
        # The connection is closed after any exception, for example Ctrl-C or an exception of a
        # signal handler. On an open connection, the client would read late replies as replies to a
        # later command. And if the message is incomplete, the server would read a later command as
        # message text.
        client.close()
        raise
    if needs_reset(client, transaction):
        encoding = client.command_encoding
        client._rset()
        client.command_encoding = encoding
    return results.sendmail_result(transaction, from_addr, recipients, lost)


def transaction_of(
    client: Face,
    from_addr: str,
    recipients: Sequence[str],
    msg: Any,
    mail_options: Sequence[str],
    rcpt_options: Sequence[str],
    *,
    sequential: bool = False,
) -> tuple["_backend.Transaction", bytes | None]:
    """Check and encode one message; the arguments and exceptions are as for `sendmail`.

    Args:
        client: The client.
        from_addr: The sender of the envelope.
        recipients: The recipients.
        msg: The message.
        mail_options: The parameters of MAIL.
        rcpt_options: The parameters of each RCPT.
        sequential: Whether a flight is only one command.

    Returns:
        The transaction, and the message if it is large, else None. If the message is large,
        `data_to_send` returns it without dot-stuffing. The caller must then write it with
        `results.stuffed_parts`.
    """
    if isinstance(msg, str):
        msg = msg.encode("ascii")
    large = results.is_large(msg)
    utf8 = client.command_encoding == "utf-8"
    is_esmtp = client.does_esmtp
    if not is_esmtp:  # RFC 5321 section 4.1.1.11: parameters need EHLO
        mail_options = rcpt_options = ()
    if mail_options:
        utf8 = results.wants_utf8(mail_options, client) or utf8
    # Servers count errors and close a connection after a certain number of errors. After a refused
    # message, MAIL and DATA are therefore written alone. A second refused message then causes one
    # error, not one error for each command in the flight.
    cautious = client._protocol.refused_on is client.sock
    transaction = _backend.Transaction.of_message(
        from_addr,
        recipients,
        msg,
        smtp_path,
        mail_options,
        rcpt_options,
        size=sum(size for _, size in results.stuffed_parts(msg)) if large else None,
        size_limit=client.esmtp_features.get("size") if is_esmtp else None,
        utf8=utf8,
        lower_case=results.LOWER_CASE,
        lmtp=client.ehlo_msg == "lhlo",
        cautious=cautious,
        sequential=sequential,
    )
    return transaction, msg if large else None


def needs_reset(client: Face, transaction: "_backend.Transaction") -> bool:
    """Update the client after a transaction, and return whether RSET is needed.

    The function closes an unusable connection, and updates `refused_on` in the client's state.

    Returns:
        Whether the connection stays open and needs RSET before the next message.
    """
    if transaction.close:
        client._protocol.refused_on = None
        client.close()
        return False
    end = transaction.end
    if end == "accepted":
        if client._protocol.refused_on is client.sock:
            client._protocol.refused_on = None
        return False
    if end != "data refused":
        client._protocol.refused_on = client.sock
    return True


def _run(client: BlockingFace, transaction: "_backend.Transaction", large: bytes | None) -> str:
    """Write and read until the transaction has ended.

    Args:
        client: The client.
        transaction: The transaction.
        large: The message, if `data_to_send` returns it without dot-stuffing; else None.

    Returns:
        The error text for a lost connection. The caller must ignore this text if the connection was
        not lost.
    """
    link = client._protocol.link
    emptied = _emptied_file(client)
    if large is None and emptied is not None and emptied.receive is not None:
        lost = _run_in_core(client, transaction, emptied, emptied.receive)
        if lost is not None:
            return lost
    write = client.sock.sendall
    while True:
        while transaction.awaiting:
            lost = _receive(client, transaction)
            if lost:
                return lost
        flight = transaction.data_to_send()
        if not flight:
            return NOT_CONNECTED
        if link is not None and transaction.body_sent:  # this flight is the message
            link.body_begun = True
        pieces = results.stuffed_parts(flight) if flight is large else ((flight, 0),)
        for number, (piece, _) in enumerate(pieces):
            if number > 0:
                # A server may refuse the message before it has read the whole message, but it
                # cannot accept the message.
                try:
                    client._reject_unexpected_reply(*results.REFUSALS)
                except SMTPServerDisconnected as error:
                    transaction.write_failed()
                    transaction.receive_eof()
                    return str(error)
            sys.audit("smtplib.send", client, piece)
            try:
                write(piece)
            except OSError as error:
                if link is not None:
                    link.failure = error
                _read_pending_replies(client, transaction, error)
                return NOT_WRITTEN


def _emptied_file(client: BlockingFace) -> EmptiedFile | None:
    emptied: EmptiedFile | None = client._protocol.emptied
    if emptied is None or (emptied.file is client.file and emptied.sock is client.sock):
        return emptied
    return None


def _run_in_core(
    client: BlockingFace,
    transaction: "_backend.Transaction",
    emptied: EmptiedFile,
    receive: Callable[[int], bytes],
) -> str | None:
    """Let the core write and read, which is faster than the loop of `_run`.

    Returns:
        The error text, as for `_run`; None if the loop of `_run` must continue.
    """
    interruption = transaction.run(client, sys.audit, client.sock.sendall, receive, _READ_SIZE)
    link = client._protocol.link
    if link is not None:
        # If an exception ends `run`, the message is not sent again, so this value is not needed.
        link.body_begun = transaction.body_sent
    if interruption is None:
        return NOT_CONNECTED
    error, writing, early = interruption
    if error is not None and writing:
        if link is not None:
            link.failure = error
        _read_pending_replies(client, transaction, error)
        return NOT_WRITTEN
    if error is not None:
        return _read_failed(client, transaction, error)
    if early:
        emptied.put_back(early)
        client._protocol.emptied = None
        return _reject_early(transaction, early) or None
    transaction.receive_eof()
    return CLOSED


def _receive(client: BlockingFace, transaction: "_backend.Transaction") -> str:
    """Read once, and leave unexpected bytes in `file`. End the transaction if it cannot continue.

    Returns:
        The error text for a lost connection, or for a reply that arrived before its command; empty
        if the transaction continues.
    """
    file, sock = client.file, client.sock
    if file is None:
        file = client.file = reading_file(sock)
    emptied = _emptied_file(client)
    try:
        if type(file) is BufferedReader:
            if emptied is not None and emptied.receive is not None:
                data = emptied.receive(_READ_SIZE)
                used = transaction.receive_data(data)
                early = data[used:]
                if early:
                    emptied.put_back(early)
            else:
                data = file.peek(1)
                used = transaction.receive_data(data)
                file.read(used)
                early = data[used:]
            if early:
                client._protocol.emptied = None
                lost = _reject_early(transaction, early)
                if lost:
                    return lost
            elif emptied is None:
                client._protocol.emptied = EmptiedFile(sock, file)
        else:  # the file of a program's own socket object may have only the method readline
            data = file.readline(MAX_LINE + 1)
            if data:
                whole = data.endswith(b"\n") or len(data) > MAX_LINE
                transaction.receive_data(data if whole else data + b"\n")
    except OSError as error:
        return _read_failed(client, transaction, error)
    if not data:
        transaction.receive_eof()
        return CLOSED
    return ""


def _reject_early(transaction: "_backend.Transaction", early: bytes) -> str:
    """End the transaction if received bytes belong to none of its commands.

    Returns:
        The error text; empty if the transaction continues.
    """
    if transaction.end is not None or early.startswith(results.SHUTDOWN):
        return ""
    # A reply that arrived before its command does not belong to this command. If it were used as
    # the reply to the message, it could show a message as accepted that the server has not read.
    # smtplib reports a 421 as the reply to the next command.
    transaction.receive_eof()
    return results.unexpected_reply(early)


def _read_failed(client: BlockingFace, transaction: "_backend.Transaction", error: OSError) -> str:
    """End the transaction after the error of a read, and return the error text."""
    if client._protocol.link is not None:
        client._protocol.link.failure = error
    # smtplib parses an incomplete line at the end of the stream, but not after an error.
    transaction.receive_eof(strict=True)
    return f"{CLOSED}: {error}"


def _read_pending_replies(
    client: BlockingFace, transaction: "_backend.Transaction", error: OSError
) -> None:
    """Read the replies that arrived before a write failed; they often explain the failure."""
    if isinstance(error, ConnectionError):
        # Only a ConnectionError proves that the write failed. Another exception, such as a
        # TimeoutError of a signal handler, may be raised after a complete write.
        transaction.write_failed()
    with contextlib.suppress(OSError, ValueError):
        # The program's own object for a socket may lack this method. A read could then wait.
        if set_timeout := getattr(client.sock, "settimeout", None):
            set_timeout(0)
            while transaction.awaiting and not _receive(client, transaction):
                pass
    transaction.receive_eof(strict=True)
    client.close()
