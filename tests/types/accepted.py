"""Calls of all public names that mypy and basedpyright must accept. They are never executed.

`make lint` checks this file with both tools in strict mode. `assert_type` gives the expected types.
"""

import email.policy
import logging
import sqlite3
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import assert_type

import rapidsmtp
from rapidsmtp import (
    DKIM,
    LMTP,
    SMTP,
    SMTP_SSL,
    TLS,
    Backoff,
    Finding,
    Message,
    Outcome,
    RecipientResult,
    Refused,
    RelayError,
    Reply,
    Report,
    Sender,
    SMTPException,
    Stamp,
    Stats,
    Status,
    Template,
    Timeouts,
    aio,
    auth,
    telemetry,
    to_bytes,
)
from rapidsmtp._compose.merge import Merge
from rapidsmtp.logging import SMTPHandler
from rapidsmtp.testing import Fault, ReceivedMessage, Sink

mail = EmailMessage()
tuples: list[tuple[str, list[str], bytes]] = [("a@example.com", ["b@example.com"], b"x")]


def the_process() -> None:
    assert_type(rapidsmtp.__version__, str)
    assert_type(rapidsmtp.implementation, str)
    rapidsmtp.install()
    rapidsmtp.install(verify=True)
    rapidsmtp.install(reuse=True)
    rapidsmtp.install(reuse=30)
    stats = rapidsmtp.reuse_stats()
    assert_type(stats, rapidsmtp.ReuseStats)
    assert_type(stats.kept, int)
    assert_type(stats.taken, int)
    assert_type(stats.refused, dict[str, int])
    rapidsmtp.uninstall()
    assert_type(to_bytes(mail), bytes)
    assert_type(to_bytes(mail, policy=email.policy.SMTP), bytes)
    assert_type(rapidsmtp.quoteaddr("a@example.com"), str)


def the_drop_in(context: ssl.SSLContext) -> None:
    with SMTP("mail.example.com", 587, "me.example.com", 10, ("", 0), pipelining=False) as client:
        assert_type(client, SMTP)
        assert_type(client.starttls(context=context), tuple[int, bytes])
        assert_type(client.login("user", "secret", initial_response_ok=False), tuple[int, bytes])
        assert_type(client.sendmail("a@example.com", "b@example.com", b"x"), Refused)
        refused = client.sendmail("a", ["b"], mail, ["BODY=8BITMIME"], ("NOTIFY=NEVER",))
        refused = client.send_message(mail, "a@example.com", ["b@example.com"])
        assert_type(client.sendmail_many([*tuples, mail]), list[Outcome])
        assert_type(client.esmtp_features, dict[str, str])
        assert_type(client.has_extn("pipelining"), bool)
        for reply in (client.ehlo(), client.mail("a"), client.rcpt("b"), client.data("x")):
            assert_type(reply, tuple[int, bytes])
        client.set_debuglevel(1)
    assert_type(refused.reply, Reply)
    assert_type(refused.reply.enhanced_status, str | None)
    assert_type(refused.enhanced_status, str | None)
    assert_type(refused.accepted, Sequence[str])
    assert_type(refused["b"], tuple[int, bytes])
    SMTP_SSL("mail.example.com", context=context, timeout=None)
    LMTP("/run/dovecot/lmtp")


def logging_in(client: SMTP, token: Callable[[], str]) -> None:
    for scram in (auth.ScramSHA1("user", "secret"), auth.ScramSHA256("user", token)):
        assert_type(client.auth(scram.mechanism, scram), tuple[int, bytes])
    client.auth("SCRAM-SHA-256-PLUS", auth.ScramSHA256Plus("user", "secret", client))
    client.auth("SCRAM-SHA-1-PLUS", auth.ScramSHA1Plus("user", "secret", client.sock))
    client.auth("XOAUTH2", auth.XOAuth2("user", token), initial_response_ok=False)
    client.auth("OAUTHBEARER", auth.OAuthBearer("user", "token", "mail.example.com", 587))
    client.auth("PLAIN", auth.Plain("user", "secret", "other"))
    client.auth("LOGIN", auth.Login("user", "secret"))
    client.auth("CRAM-MD5", auth.CramMD5("user", "secret"))
    external = auth.External()
    assert_type(external(None), str | None)
    assert_type(external(b"challenge"), str)
    assert_type(external.complete, bool)
    assert issubclass(auth.PeerError, Exception)


def rows() -> Iterator[Mapping[str, object]]:
    yield {"email": "b@example.com"}


def many_messages(log: logging.Logger) -> None:
    message = Message("a@example.com", ["b@example.com"], b"x", tag=1, mail_options=["SMTPUTF8"])
    assert_type(message.recipients, Sequence[str])
    assert_type(message.data, bytes)
    with Sender(
        "smtp://user@mail.example.com",
        connections=8,
        pipelining="window",
        window=64,
        rate="600/min",
        max_messages_per_connection=100,
        max_recipients=50,
        max_attempts=5,
        backoff=Backoff(base=1, factor=3.0, maximum=60),
        on_unknown="resend",
        close_timeout=10,
        timeouts=Timeouts(connect=5, idle=1.5),
        tls=TLS(verify=False, ca_file=Path("ca.pem"), minimum_version="1.3"),
        local_hostname="me.example.com",
        source_address=("", 0),
        proxy="socks5://user@proxy.example:1080",
        password=lambda: "token",
        allow_plaintext_auth=True,
        queue_size=1000,
        trace=log,
    ) as sender:
        assert_type(sender, Sender)
        for outcome in sender.send([message]):
            what_became_of_it(outcome)
        assert_type(sender.submit(message), Future[Outcome])
        sender.submit(("a@example.com", "b@example.com", mail))
        sender.submit(("a@example.com", ["b@example.com"], b"x", ["BODY=8BITMIME"], ()))
        sender.send([message, mail, ("a@example.com", {"b@example.com"}, "x")])
        assert_type(sender.send_all(iter(tuples)), Report)
        assert_type(sender.stats(), Stats)
        assert_type(sender.relay, str)
        assert_type(sender.close(timeout=1.5), Report)
    Sender("lmtp://localhost:24", rate=2.5, password="secret", trace=print)


def what_became_of_it(outcome: Outcome) -> None:
    assert_type(outcome.status, Status)
    assert_type(outcome.message, Message | None)
    assert_type(outcome.recipients, Mapping[str, RecipientResult])
    assert_type(outcome.reply, rapidsmtp.Reply | None)
    assert_type(outcome.seconds, float)
    for result in outcome.recipients.values():
        status, code, enhanced_status, text = result
        assert_type(status, Status)
        assert_type(code, int | None)
        assert_type(enhanced_status, str | None)
        assert_type(text, str)
    try:
        outcome.raise_for_status()
    except RelayError as error:
        assert_type(error.reply, tuple[int, bytes] | None)
        assert_type(error.retry_after, float | None)
        assert_type(error.is_permanent, bool)
    except SMTPException:
        pass


def a_report(report: Report, stats: Stats) -> None:
    assert_type(report.error, RelayError | None)
    assert_type(report.seconds, float)
    assert_type(stats.accepted, int)
    assert_type(stats.per_second, float)
    assert_type(stats.relay_limits.pipelining, str | None)


def a_newsletter(sender: Sender) -> None:
    key = DKIM("example.com", "s1", Path("key.pem"), headers=["From"], expires=timedelta(days=7))
    assert_type(key.sign(b"From: a@example.com\r\n\r\n"), bytes)
    assert_type(key.algorithm, str)
    template = Template.compose(
        sender="News <news@example.com>",
        to=["{{ email }}"],
        subject="News",
        text="x",
        html="<p>x</p>",
        cc="c@example.com",
        bcc=[],
        reply_to="d@example.com",
        headers={"List-Unsubscribe": "<https://example.com/>"},
        attachments=[Path("agenda.pdf"), "map.pdf"],
        inline={"logo": "logo.png"},
        attachment_root=Path("tickets"),
        calendar=b"BEGIN:VCALENDAR",
        envelope_sender="bounces+{{ id }}@example.com",
        dkim=key,
    )
    assert_type(template, Template)
    template = Template.from_eml(b"From: a@example.com\r\n\r\n", dkim=[key, key])
    template = Template.from_message(mail, keep_headers=True, text="auto", envelope_sender="")
    stamp = Stamp("campaign.17", datetime(2026, 11, 30, tzinfo=UTC))
    assert_type(template.envelope_sender, str | None)
    assert_type(template.render({}, stamp=stamp), Message)
    assert_type(template.merge(rows(), stamps=[stamp]), Merge)
    assert_type(template.source(), bytes)
    assert_type(template.dropped, tuple[str, ...])
    assert_type(template.check(["email"], message=template.render({})), list[Finding])
    assert_type(template.required_fields, frozenset[str])
    assert_type(template.render({"email": "b@example.com"}, tag=("any", "object")), Message)
    assert_type(template.merge(rows(), tag="email"), Merge)
    for item in template.merge_csv("list.csv", encoding="latin-1", tag="email"):
        assert_type(item, Message | Outcome)
    sender.send(template.merge(rows()))
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    sender.send(template.merge(database.execute("select 'a@b.org' as email")))


async def later() -> AsyncIterator[Message]:
    yield Message("a@example.com", ["b@example.com"], b"x")


async def asynchronously(context: ssl.SSLContext) -> None:
    options: aio.ConnectionKeywords = {"username": "user", "password": "secret", "start_tls": True}
    async with aio.SMTP("mail.example.com", 587, **options) as client:
        assert_type(client, aio.SMTP)
        assert_type(await client.sendmail("a", ["b"], b"x"), Refused)
        assert_type(await client.send_message(mail), Refused)
        assert_type(await client.sendmail_many(tuples), list[Outcome])
        assert_type(await client.noop(), rapidsmtp.Reply)
        assert_type(client.is_connected, bool)
        assert_type(client.options, aio.ConnectionOptions)
        await client.auth("XOAUTH2", auth.XOAuth2("user", "token"))
    aio.SMTP_SSL(hostname="mail.example.com", tls_context=context)
    lmtp = aio.LMTP("/run/dovecot/lmtp", timeout=None)
    reply = await lmtp.connect(port=None, local_hostname="a.example.com", timeout=None)
    assert_type(reply, rapidsmtp.Reply)
    await client.send_message(EmailMessage(), sender="a@example.com", recipients=["b@example.org"])
    await client.starttls(validate_certs=False, timeout=5)
    try:
        await client.connect(hostname="mail.example.com", timeout=None)
    except (aio.SMTPConnectResponseError, aio.SMTPDataError) as refusal:
        assert_type(refusal.code, int)
        assert_type(refusal.message, str)
    except aio.SMTPTimeoutError as late:
        assert_type(late.message, str)
    assert_type(reply.message, str)
    refused = await aio.send(
        mail,
        sender="a@example.com",
        recipients=["b@example.com"],
        hostname="mail.example.com",
        port=465,
        use_tls=True,
        validate_certs=False,
        client_cert=Path("certificate.pem"),
    )
    assert_type(refused, Refused)


async def many_asynchronously() -> None:
    settings: aio.SenderSettings = {"connections": 2, "tls": TLS()}
    async with aio.Sender("smtp://mail.example.com", **settings) as sender:
        assert_type(sender, aio.Sender)
        outcomes = sender.send(later())
        assert_type(outcomes, aio.Outcomes)
        async for outcome in outcomes:
            assert_type(outcome, Outcome)
        assert_type(await sender.send(tuples).batch(), list[Outcome])
        assert_type(await sender.submit(mail), Outcome)
        assert_type(await sender.send_all(later()), Report)
        assert_type(sender.stats(), Stats)
        assert_type(await sender.close(5), Report)


def in_tests() -> None:
    faults = [Fault("rcpt", occurrence=2, reply="450 4.2.1 later", close="reset", delay=0.5)]
    with Sink(["PIPELINING"], 0.01, faults, credentials={"user": "secret"}, wire=True) as sink:
        assert_type(sink, Sink)
        assert_type((sink.host, sink.port, sink.path, sink.url), tuple[str, int, str | None, str])
        assert_type(sink.messages, list[ReceivedMessage])
        assert_type(sink.wait_for(1, timeout=5), list[ReceivedMessage])
        assert_type(sink.counts, dict[str, int])
        assert_type(sink.wire, list[bytes])
        assert_type(sink.messages[0].recipients, list[str])
        assert_type(sink.messages[0].data, bytes)
        sink.reset()


def beside_it() -> None:
    handler = SMTPHandler("mail.example.com", "a@example.com", ["b@example.com"], "trouble")
    logging.getLogger().addHandler(handler)
    telemetry.instrument()
    telemetry.uninstrument()
