"""Calls that mypy and basedpyright must refuse; never executed.

Each wrong call has a comment that names its error and ignores it. Both tools report a comment that
ignores no error (`warn_unused_ignores`, `reportUnnecessaryTypeIgnoreComment`). If a tool accepts a
wrong call, the comment of this call ignores no error, so `make lint` fails.
"""

from rapidsmtp import (
    DKIM,
    SMTP,
    TLS,
    Message,
    Outcome,
    Sender,
    Template,
    Timeouts,
    aio,
    to_bytes,
)
from rapidsmtp.auth import Plain
from rapidsmtp.testing import Fault, Sink

message = Message("a@example.com", ["b@example.com"], b"x")


def the_drop_in(client: SMTP) -> None:
    SMTP(587)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SMTP("mail.example.com", pipelining="auto", verify=True)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    client.sendmail("a@example.com", 5, b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.send_message(b"Subject: x\r\n\r\nx\r\n")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.sendmail_many([42])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    client.sendmail_many(message)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    to_bytes("Subject: x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Plain("user", b"secret")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def many_messages(sender: Sender, outcome: Outcome) -> None:
    Sender("smtp://mail.example.com", 8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Sender("smtp://mail.example.com", connection=8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Sender("smtp://mail.example.com", rate=[600])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender("smtp://mail.example.com", tls=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender("smtp://mail.example.com", timeouts=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender("smtp://mail.example.com", pipelining="fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender("smtp://mail.example.com", on_unknown="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Sender("smtp://mail.example.com", close_timeout="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sender.submit(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sender.submit(("a@example.com", ["b@example.com"]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sender.send([42])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    sender.send_all(["x"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    TLS(minimum_version="1.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Message("a@example.com", ["b@example.com"], "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Message("a@example.com", ["b@example.com"], b"x", "tag")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Timeouts(connecting=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    TLS(verify="yes", ca="ca.pem")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    sender.send(message)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sender.submit(message).outcome()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    message.data = b"y"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    outcome.status = "accepted"  # type: ignore[assignment, misc]  # pyright: ignore[reportAttributeAccessIssue]


def a_newsletter(template: Template) -> None:
    Template.compose("News <news@example.com>", "{{ email }}", "News")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Template.compose(sender="News <news@example.com>", to="{{ email }}", text="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Template.from_eml(b"", text="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    template.render(["b@example.com"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    template.merge([("email", "b@example.com")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    DKIM("example.com", "s1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asynchronously(client: aio.SMTP, bulk: aio.Sender) -> None:
    aio.Sender("smtp://mail.example.com", pipelining="fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bulk.submit(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.sendmail_many([42])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    aio.SMTP("mail.example.com", proxy=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aio.SMTP("mail.example.com", user="me")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    aio.SMTP("mail.example.com", start_tls="required")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aio.Sender("smtp://mail.example.com", connection=8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    aio.Sender("smtp://mail.example.com", connections="8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(client.sendmail("a@example.com", ["b@example.com"], b"x").reply)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    await aio.send(mail_from="a@example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def in_tests() -> None:
    Sink(tls="ssl")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Fault("rcpt", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Fault("rcpt", close="abrupt")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
