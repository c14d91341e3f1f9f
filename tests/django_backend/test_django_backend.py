"""Differences from Django's backend: failures, the signal, the options, and security."""

import contextlib
import smtplib
import ssl
import time
import warnings

import django
import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_messages import make_message
from proxies import SocksScript
from rapidsmtp import TLS, RelayError, Status
from rapidsmtp.django import EmailBackend, outcome_known
from recording_server import RecordingServer
from server import HANG_UP, TIMEOUT, Server, SMTPScript

CAPABILITIES = ["PIPELINING", "8BITMIME", "AUTH PLAIN LOGIN"]


def connection(**more):
    return mail.get_connection(**more)


def subjects(recorder):
    lines = [line for *_, content in recorder.handler.envelopes for line in content.split(b"\r\n")]
    return sorted(line[9:].decode() for line in lines if line.startswith(b"Subject: "))


def make_messages(*kinds):
    """Return one numbered message for each given kind.

    The server accepts a message of the kind `ok`. It refuses the only recipient of `refused`, and
    one of the two recipients of `some`. A message of the kind `invalid` cannot be rendered.
    """
    made = []
    for number, kind in enumerate(kinds):
        to = {"refused": ["refused@example.org"], "some": ["refused@example.org", "a@example.org"]}
        subject = f"{number}\nBcc: x@example.org" if kind == "invalid" else str(number)
        made.append(make_message(subject, to.get(kind, ["a@example.org"])))
    return made


def test_a_refused_message_does_not_stop_the_others(mail_to, signalled):
    given = make_messages("ok", "refused", "ok", "some", "refused", "ok")
    with RecordingServer(["PIPELINING"]) as recorder, mail_to(recorder.port):
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            connection().send_messages(given)
        assert subjects(recorder) == ["0", "2", "3", "5"]
    assert caught.value.sent == 4
    assert [each.tag for each in caught.value.outcomes] == [1, 3, 4]
    assert caught.value.outcomes[1].status is Status.PARTIAL
    assert dict(signalled) == {
        str(number): outcome for number, outcome in ((each.tag, each) for _, each in signalled)
    }
    assert sorted(subject for subject, _ in signalled) == list("012345")
    statuses = {subject: outcome.status for subject, outcome in signalled}
    assert statuses["0"] is Status.ACCEPTED and statuses["1"] is Status.REFUSED


def test_an_invalid_message_does_not_stop_the_others(mail_to, signalled):
    given = make_messages("invalid", "ok", "refused", "ok")
    for silent in (False, True):
        signalled.clear()
        with RecordingServer(["PIPELINING"]) as recorder, mail_to(recorder.port):
            with pytest.raises(ValueError, match=r"newlines|linefeed") as caught:
                connection(fail_silently=silent).send_messages(given)
            assert subjects(recorder) == ["1", "3"]
        assert caught.value.sent == 2
        assert [each.status for each in caught.value.outcomes] == [Status.INVALID, Status.REFUSED]
        assert len(signalled) == 4


def test_fail_silently_returns_the_number_of_accepted_messages(mail_to):
    with RecordingServer(["PIPELINING"]) as recorder, mail_to(recorder.port):
        assert (
            connection(fail_silently=True).send_messages(make_messages("refused", "ok", "some"))
            == 2
        )


def test_an_invalid_message_opens_no_connection(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port):
        with pytest.raises(ValueError):
            connection().send_messages(make_messages("invalid", "invalid"))
        assert connection().send_messages([make_message(to=[])]) == 0
        assert connection().send_messages([]) == 0
        with connection() as opened:
            assert opened.open() is False
        assert server.connections == []


def test_a_message_that_the_relay_may_have_accepted_is_not_resent(mail_to, signalled):
    script = SMTPScript(CAPABILITIES, {"message": [HANG_UP]})
    with Server(script) as server, mail_to(server.port):
        with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
            connection().send_messages([make_message("once")])
        wires = b"".join(bytes(each.received) for each in server.connections)
    assert wires.count(b"Subject: once") == 1
    assert caught.value.sent == 0
    assert [outcome.status for _, outcome in signalled] == [Status.UNKNOWN]


def test_a_temporary_refusal_is_reported_at_once(mail_to, signalled):
    script = SMTPScript(CAPABILITIES, {"rcpt": b"450 4.2.0 later"})
    refused = pytest.raises(smtplib.SMTPRecipientsRefused)
    with Server(script) as server, mail_to(server.port), refused:
        connection().send_messages([make_message()])
    assert signalled[0][1].status is Status.DEFERRED and signalled[0][1].attempts == 1


def test_every_message_has_an_outcome_if_the_relay_is_down(mail_to, signalled):
    with RecordingServer() as recorder:
        port = recorder.port
    with mail_to(port):
        with pytest.raises(RelayError) as caught:
            connection().send_messages(make_messages(*["ok"] * 600))
        assert caught.value.sent == 0
        assert [each.tag for each in caught.value.outcomes] == list(range(600))
        assert {outcome.status for _, outcome in signalled} == {Status.NOT_ATTEMPTED}
        assert len(signalled) == 600
        assert connection(fail_silently=True).send_messages(make_messages("ok")) == 0


@pytest.mark.parametrize("count", [1, 20])
def test_the_error_of_a_used_up_limit_states_the_time(mail_to, signalled, count):
    script = SMTPScript(CAPABILITIES, {"rcpt": b"550 5.4.5 Daily sending limit exceeded"})
    with Server(script) as server, mail_to(server.port), pytest.raises(RelayError) as caught:
        connection().send_messages(make_messages(*["ok"] * count))
    assert (caught.value.retry_after, caught.value.sent) == (86400, 0)
    assert [outcome.status for _, outcome in signalled] == [Status.NOT_ATTEMPTED] * count


def test_an_exception_of_a_signal_receiver_stops_nothing(mail_to, caplog):
    def fail(**_):
        raise RuntimeError("of the receiver")

    outcome_known.connect(fail)
    try:
        with RecordingServer(["PIPELINING"]) as recorder, mail_to(recorder.port):
            assert connection().send_messages(make_messages("ok", "ok", "ok")) == 3
    finally:
        outcome_known.disconnect(fail)


def test_any_iterable_may_contain_the_same_message_twice(mail_to):
    with RecordingServer(["PIPELINING"]) as recorder, mail_to(recorder.port):
        one = make_message("twice")
        assert connection().send_messages(iter([one, one])) == 2
        assert connection().send_messages((one,)) == 1
        assert mail.send_mail("Hello", "Body", None, ["a@example.org"]) == 1
        assert mail.send_mass_mail([("a", "b", None, ["a@example.org"])] * 2) == 2
        assert len(recorder.handler.envelopes) == 6


# Security

LOGIN = {"EMAIL_HOST_USER": "user", "EMAIL_HOST_PASSWORD": "pass word"}


def test_a_password_is_not_sent_in_clear_text():
    with override_settings(EMAIL_HOST="relay.example", **LOGIN):
        with pytest.raises(ImproperlyConfigured, match="allow_plaintext_auth"):
            EmailBackend()
        EmailBackend(use_tls=True)
        EmailBackend(use_ssl=True)
        EmailBackend(allow_plaintext_auth=True)
        with override_settings(RAPIDSMTP={"allow_plaintext_auth": True}):
            EmailBackend()
    for only in LOGIN:
        with override_settings(EMAIL_HOST="relay.example", **{only: LOGIN[only]}):
            EmailBackend()


def test_a_password_may_be_sent_in_clear_text_to_this_machine(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(server.port, **LOGIN):
        assert connection().send_messages([make_message()]) == 1
        assert b"AUTH PLAIN" in server.connections[0].received
        assert b"STARTTLS" not in server.connections[0].received


@pytest.mark.parametrize("host", ["127.0.0.1.example", "10.0.0.1", "localhost.example"])
def test_a_host_that_resembles_this_machine_gets_no_password_in_clear_text(host):
    with override_settings(EMAIL_HOST=host, **LOGIN), pytest.raises(ImproperlyConfigured):
        EmailBackend()


def test_mail_passes_through_a_proxy(mail_to):
    with Server(SMTPScript()) as relay:
        script = SocksScript({"relay.invalid": relay.port})
        with Server(script) as proxy:
            url = f"socks5://127.0.0.1:{proxy.port}"
            more = {"EMAIL_HOST": "relay.invalid", "RAPIDSMTP": {"proxy": url}}
            with mail_to(25, **more):
                assert connection().send_messages([make_message()]) == 1
    assert script.requests == [(3, "relay.invalid", 25)]


def test_behind_a_proxy_no_host_is_this_machine():
    with override_settings(EMAIL_HOST="localhost", **LOGIN):
        EmailBackend(proxy="direct")
        with pytest.raises(ImproperlyConfigured, match="clear text"):
            EmailBackend(proxy="socks5://127.0.0.1:1080")


def test_a_wrong_proxy_is_reported_without_its_password(mail_to):
    wrong = {"proxy": "socks4://user:geheim@host"}
    raises = pytest.raises(ImproperlyConfigured, match="proxy=")
    with mail_to(9, RAPIDSMTP=wrong), raises as caught:
        connection().send_messages([make_message()])
    assert "geheim" not in str(caught.value)


def test_a_wrong_password_raises_smtplibs_exception(mail_to):
    script = SMTPScript(CAPABILITIES, {"auth": b"535 5.7.8 no"})
    with Server(script) as server, mail_to(server.port, **LOGIN):
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            connection().send_messages(make_messages("ok", "ok"))
        assert caught.value.smtp_code == 535
        assert len(caught.value.outcomes) == 2
        assert isinstance(caught.value.__cause__, RelayError)


def test_a_later_message_logs_in_again_after_a_refused_login(mail_to):
    script = SMTPScript(CAPABILITIES, {"auth": AtFirst(b"535 5.7.8 no", b"235 ok")})
    with Server(script) as server, mail_to(server.port, **LOGIN):
        with pytest.raises(smtplib.SMTPAuthenticationError):
            connection().send_messages(make_messages("ok"))
        deadline = time.monotonic() + TIMEOUT
        sent = 0
        while not sent and time.monotonic() < deadline:
            with contextlib.suppress(smtplib.SMTPAuthenticationError):
                sent = connection().send_messages(make_messages("ok"))
            time.sleep(0.02)
        assert sent == 1
        assert b"".join(bytes(each.received) for each in server.connections).count(b"AUTH") == 2


class AtFirst:
    """A reply to the first use of a command in the whole test, and another one to later uses."""

    def __init__(self, first, later):
        self.replies = [first]
        self.later = later

    def __call__(self, line):
        return self.replies.pop() if self.replies else self.later


def trusting(authority, **more):
    return {"tls": TLS(ca_file=authority.cert_pem.bytes()), **more}


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "TLS"])
def test_certificates_are_verified(mail_to, server_tls, authority, implicit):
    kind = {"tls": server_tls} if implicit else {"starttls": server_tls}
    setting = {"EMAIL_USE_SSL" if implicit else "EMAIL_USE_TLS": True}
    with (
        RecordingServer(["PIPELINING"], **kind) as recorder,
        mail_to(recorder.port, **setting, **LOGIN),
    ):
        with pytest.raises(RelayError, match=r"(?i)certificate"):
            connection().send_messages([make_message()])
        assert connection(**trusting(authority)).send_messages([make_message()]) == 1
        with override_settings(RAPIDSMTP={"tls": TLS(verify=False)}):
            assert connection().send_messages([make_message()]) == 1


def test_starttls_is_required(mail_to, authority):
    with (
        Server(SMTPScript(CAPABILITIES)) as server,
        mail_to(server.port, EMAIL_USE_TLS=True, **LOGIN),
    ):
        with pytest.raises(RelayError, match="STARTTLS"):
            connection(**trusting(authority)).send_messages([make_message()])
        assert b"AUTH" not in server.connections[0].received
        assert b"mail FROM" not in server.connections[0].received


def test_a_client_certificate_is_sent(mail_to, authority, tmp_path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    issued = authority.issue_cert("client.example")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    issued.private_key_pem.write_to_path(str(key))
    files = {"EMAIL_SSL_CERTFILE": str(certificate), "EMAIL_SSL_KEYFILE": str(key)}
    with Server(SMTPScript(CAPABILITIES), tls=context) as server:
        with mail_to(server.port, EMAIL_USE_SSL=True), pytest.raises(RelayError):
            connection(**trusting(authority)).send_messages([make_message()])
        with mail_to(server.port, EMAIL_USE_SSL=True, **files):
            assert connection(**trusting(authority)).send_messages([make_message()]) == 1


# Settings


def test_options_come_from_the_settings_and_the_arguments(mail_to):
    with RecordingServer(["PIPELINING"]) as recorder, mail_to(recorder.port):
        with override_settings(RAPIDSMTP={"connections": 1, "rate": "600/min"}):
            assert connection(pipelining="off").send_messages([make_message()]) == 1
        for wrong in ({"connection": 1}, {"on_unknown": "resend"}, {"password": "x"}):
            with (
                override_settings(RAPIDSMTP=wrong),
                pytest.raises(ImproperlyConfigured, match=next(iter(wrong))),
            ):
                connection()
        for wrong in ({"tls": True}, {"timeouts": []}, {"backoff": None}):
            with override_settings(RAPIDSMTP=wrong), pytest.raises(ImproperlyConfigured):
                connection(fail_silently=True)
        for wrong in ({"connections": 0}, {"rate": "many"}, {"source_address": []}):
            with override_settings(RAPIDSMTP=wrong), pytest.raises(ImproperlyConfigured):
                connection(fail_silently=True).send_messages([make_message()])


def test_both_kinds_of_tls_are_refused():
    with pytest.raises(ValueError, match="mutually exclusive"):
        EmailBackend(use_tls=True, use_ssl=True)


@pytest.mark.parametrize("port", [465, "465"])
@pytest.mark.parametrize("use_tls", [True, False])
def test_the_port_for_implicit_tls_needs_use_ssl(mail_to, port, use_tls):
    with (
        mail_to(port, EMAIL_USE_TLS=use_tls),
        pytest.raises(ImproperlyConfigured, match="465: set EMAIL_USE_SSL, not EMAIL_USE_TLS"),
    ):
        connection()
    with mail_to(port, EMAIL_USE_SSL=True):
        assert connection().use_ssl


def test_arguments_override_settings(mail_to):
    with Server(SMTPScript(CAPABILITIES)) as server, mail_to(1, EMAIL_HOST="relay.example"):
        backend = EmailBackend("127.0.0.1", server.port, "other", "secret", False, True)
        assert backend.fail_silently is True
        assert backend.send_messages([make_message()]) == 1
        assert b"AUTH PLAIN AG90aGVyAHNlY3JldA==" in server.connections[0].received
        # `send_mail(auth_user=…)` passes the user name and the password as these arguments.
        assert connection(host="localhost", username="", password="").username == ""


if django.VERSION < (6, 1):

    def test_older_versions_of_django_ignore_the_alias():
        assert EmailBackend(alias="bulk").alias is None

else:

    def mailers(port, **more):
        options = {"host": "127.0.0.1", "port": port, "timeout": 5} | more
        backend = {"BACKEND": "rapidsmtp.django.EmailBackend", "OPTIONS": options}
        return override_settings(MAILERS={"default": backend, "bulk": backend})

    def test_mailers_give_each_alias_its_settings(signalled):
        with RecordingServer(["PIPELINING"]) as recorder:
            with mailers(recorder.port, connections=2, rate="600/min", max_attempts=2):
                assert mail.mailers["bulk"].alias == "bulk"
                assert mail.mailers["bulk"].send_messages(make_messages("ok", "some")) == 2
                assert mail.send_mail("x", "y", None, ["a@example.org"], using="bulk") == 1
                assert make_message("z").send() == 1
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    make_messages("refused")[0].send(using="bulk")
            assert len(recorder.handler.envelopes) == 4

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"connection": 1}, "Unknown options 'connection'"),
            ({"on_unknown": "resend"}, "Unknown options 'on_unknown'"),
            ({"host": None}, "must define 'host'"),
            ({"use_tls": True, "use_ssl": True}, "incompatible"),
            ({"host": "relay.example", "username": "u", "password": "p"}, "allow_plaintext_auth"),
        ],
    )
    def test_invalid_mailers_are_reported_with_their_alias(wrong, words):
        with mailers(1, **wrong), pytest.raises(mail.InvalidMailer, match=words) as caught:
            mail.mailers["bulk"]
        assert "MAILERS['bulk']" in str(caught.value)

    def test_an_invalid_value_in_mailers_is_reported():
        with mailers(1, connections=0), pytest.raises(mail.InvalidMailer, match="connections"):
            mail.mailers["bulk"].send_messages([make_message()])

    def test_mailers_ignore_the_setting_RAPIDSMTP():
        with mailers(1), override_settings(RAPIDSMTP={"nonsense": 1}):
            assert mail.mailers.default.alias == "default"

    def test_mailers_cause_no_deprecation_warning():
        server, caught = RecordingServer(["PIPELINING"]), warnings.catch_warnings()
        with server as recorder, mailers(recorder.port), caught:
            warnings.simplefilter("error")
            assert make_message().send(using="bulk") == 1
