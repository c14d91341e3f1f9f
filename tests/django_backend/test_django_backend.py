"""What is ours alone: the others go out, the signal, the options, who may hear the password."""

import smtplib
import ssl
import warnings

import django
import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_letters import letter
from postman import Postman
from rapidsmtp import TLS, RelayError, Status
from rapidsmtp.django import EmailBackend, outcome_known
from server import HANG_UP, Dialogue, Server

OFFERS = ["PIPELINING", "8BITMIME", "AUTH PLAIN LOGIN"]


def connection(**more):
    return mail.get_connection(**more)


def subjects(postman):
    lines = [line for *_, content in postman.handler.envelopes for line in content.split(b"\r\n")]
    return sorted(line[9:].decode() for line in lines if line.startswith(b"Subject: "))


def letters(*kinds):
    """One message a kind, numbered: ok, all recipients refused, some, unfit to be composed."""
    made = []
    for number, kind in enumerate(kinds):
        to = {"refused": ["refused@example.org"], "some": ["refused@example.org", "a@example.org"]}
        subject = f"{number}\nBcc: x@example.org" if kind == "unfit" else str(number)
        made.append(letter(subject, to.get(kind, ["a@example.org"])))
    return made


def test_the_others_go_out_after_a_refusal(mail_to, told):
    given = letters("ok", "refused", "ok", "some", "refused", "ok")
    with Postman(["PIPELINING"]) as postman, mail_to(postman.port):
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            connection().send_messages(given)
        assert subjects(postman) == ["0", "2", "3", "5"]
    assert caught.value.sent == 4
    assert [each.tag for each in caught.value.outcomes] == [1, 3, 4]
    assert caught.value.outcomes[1].status is Status.PARTIAL
    assert dict(told) == {
        str(number): outcome for number, outcome in ((each.tag, each) for _, each in told)
    }
    assert sorted(subject for subject, _ in told) == list("012345")
    fates = {subject: outcome.status for subject, outcome in told}
    assert fates["0"] is Status.ACCEPTED and fates["1"] is Status.REFUSED


def test_the_others_go_out_beside_a_message_that_cannot_be_composed(mail_to, told):
    given = letters("unfit", "ok", "refused", "ok")
    for silent in (False, True):
        told.clear()
        with Postman(["PIPELINING"]) as postman, mail_to(postman.port):
            with pytest.raises(ValueError, match=r"newlines|linefeed") as caught:
                connection(fail_silently=silent).send_messages(given)
            assert subjects(postman) == ["1", "3"]
        assert caught.value.sent == 2
        assert [each.status for each in caught.value.outcomes] == [Status.INVALID, Status.REFUSED]
        assert len(told) == 4


def test_silence(mail_to):
    with Postman(["PIPELINING"]) as postman, mail_to(postman.port):
        assert connection(fail_silently=True).send_messages(letters("refused", "ok", "some")) == 2


def test_a_message_that_cannot_be_composed_opens_no_connection(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port):
        with pytest.raises(ValueError):
            connection().send_messages(letters("unfit", "unfit"))
        assert connection().send_messages([letter(to=[])]) == 0
        assert connection().send_messages([]) == 0
        with connection() as opened:
            assert opened.open() is False
        assert server.connections == []


def test_what_the_relay_may_have_is_not_sent_again(mail_to, told):
    script = Dialogue(OFFERS, {"message": [HANG_UP]})
    with Server(script) as server, mail_to(server.port):
        with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
            connection().send_messages([letter("once")])
        wires = b"".join(bytes(each.received) for each in server.connections)
    assert wires.count(b"Subject: once") == 1
    assert caught.value.sent == 0
    assert [outcome.status for _, outcome in told] == [Status.UNKNOWN]


def test_a_refusal_for_now_is_told_at_once(mail_to, told):
    script = Dialogue(OFFERS, {"rcpt": b"450 4.2.0 later"})
    refused = pytest.raises(smtplib.SMTPRecipientsRefused)
    with Server(script) as server, mail_to(server.port), refused:
        connection().send_messages([letter()])
    assert told[0][1].status is Status.DEFERRED and told[0][1].attempts == 1


def test_a_relay_that_is_down_leaves_no_message_without_an_outcome(mail_to, told):
    with Postman() as postman:
        port = postman.port
    with mail_to(port):
        with pytest.raises(RelayError) as caught:
            connection().send_messages(letters(*["ok"] * 600))
        assert caught.value.sent == 0
        assert [each.tag for each in caught.value.outcomes] == list(range(600))
        assert {outcome.status for _, outcome in told} == {Status.NOT_ATTEMPTED}
        assert len(told) == 600
        assert connection(fail_silently=True).send_messages(letters("ok")) == 0


def test_a_receiver_that_fails_stops_nothing(mail_to, caplog):
    def fail(**_):
        raise RuntimeError("the receiver's own")

    outcome_known.connect(fail)
    try:
        with Postman(["PIPELINING"]) as postman, mail_to(postman.port):
            assert connection().send_messages(letters("ok", "ok", "ok")) == 3
    finally:
        outcome_known.disconnect(fail)


def test_any_iterable_and_the_same_message_twice(mail_to):
    with Postman(["PIPELINING"]) as postman, mail_to(postman.port):
        one = letter("twice")
        assert connection().send_messages(iter([one, one])) == 2
        assert connection().send_messages((one,)) == 1
        assert mail.send_mail("Hello", "Body", None, ["a@example.org"]) == 1
        assert mail.send_mass_mail([("a", "b", None, ["a@example.org"])] * 2) == 2
        assert len(postman.handler.envelopes) == 6


# Who may hear the password, and who is believed

LOGIN = {"EMAIL_HOST_USER": "user", "EMAIL_HOST_PASSWORD": "pass word"}


def test_no_password_over_clear_text():
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


def test_on_this_machine_a_password_may_go_over_clear_text(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port, **LOGIN):
        assert connection().send_messages([letter()]) == 1
        assert b"AUTH PLAIN" in server.connections[0].received
        assert b"STARTTLS" not in server.connections[0].received


@pytest.mark.parametrize("host", ["127.0.0.1.example", "10.0.0.1", "localhost.example"])
def test_what_only_looks_like_this_machine_is_not(host):
    with override_settings(EMAIL_HOST=host, **LOGIN), pytest.raises(ImproperlyConfigured):
        EmailBackend()


def test_a_wrong_password_is_smtplibs_error(mail_to):
    script = Dialogue(OFFERS, {"auth": b"535 5.7.8 no"})
    with Server(script) as server, mail_to(server.port, **LOGIN):
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            connection().send_messages(letters("ok", "ok"))
        assert caught.value.smtp_code == 535
        assert len(caught.value.outcomes) == 2
        assert isinstance(caught.value.__cause__, RelayError)


def trusting(authority, **more):
    return {"tls": TLS(ca_file=authority.cert_pem.bytes()), **more}


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "TLS"])
def test_certificates_are_verified(mail_to, server_tls, authority, implicit):
    kind = {"tls": server_tls} if implicit else {"starttls": server_tls}
    setting = {"EMAIL_USE_SSL" if implicit else "EMAIL_USE_TLS": True}
    with Postman(["PIPELINING"], **kind) as postman, mail_to(postman.port, **setting, **LOGIN):
        with pytest.raises(RelayError, match=r"(?i)certificate"):
            connection().send_messages([letter()])
        assert connection(**trusting(authority)).send_messages([letter()]) == 1
        with override_settings(RAPIDSMTP={"tls": TLS(verify=False)}):
            assert connection().send_messages([letter()]) == 1


def test_starttls_is_required(mail_to, authority):
    with Server(Dialogue(OFFERS)) as server, mail_to(server.port, EMAIL_USE_TLS=True, **LOGIN):
        with pytest.raises(RelayError, match="STARTTLS"):
            connection(**trusting(authority)).send_messages([letter()])
        assert b"AUTH" not in server.connections[0].received
        assert b"mail FROM" not in server.connections[0].received


def test_client_certificate(mail_to, authority, tmp_path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    issued = authority.issue_cert("client.example")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(issued.cert_chain_pems[0].bytes())
    issued.private_key_pem.write_to_path(str(key))
    files = {"EMAIL_SSL_CERTFILE": str(certificate), "EMAIL_SSL_KEYFILE": str(key)}
    with Server(Dialogue(OFFERS), tls=context) as server:
        with mail_to(server.port, EMAIL_USE_SSL=True), pytest.raises(RelayError):
            connection(**trusting(authority)).send_messages([letter()])
        with mail_to(server.port, EMAIL_USE_SSL=True, **files):
            assert connection(**trusting(authority)).send_messages([letter()]) == 1


# Settings


def test_options(mail_to):
    with Postman(["PIPELINING"]) as postman, mail_to(postman.port):
        with override_settings(RAPIDSMTP={"connections": 1, "rate": "600/min"}):
            assert connection(pipelining="off").send_messages([letter()]) == 1
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
                connection(fail_silently=True).send_messages([letter()])


def test_both_kinds_of_tls():
    with pytest.raises(ValueError, match="mutually exclusive"):
        EmailBackend(use_tls=True, use_ssl=True)


def test_arguments_go_before_settings(mail_to):
    with Server(Dialogue(OFFERS)) as server, mail_to(1, EMAIL_HOST="relay.example"):
        backend = EmailBackend("127.0.0.1", server.port, "other", "secret", False, True)
        assert backend.fail_silently is True
        assert backend.send_messages([letter()]) == 1
        assert b"AUTH PLAIN AG90aGVyAHNlY3JldA==" in server.connections[0].received
        # As `send_mail(auth_user=…)` does it.
        assert connection(host="localhost", username="", password="").username == ""


if django.VERSION < (6, 1):

    def test_an_alias_means_nothing_to_older_djangos():
        assert EmailBackend(alias="bulk").alias is None

else:

    def mailers(port, **more):
        options = {"host": "127.0.0.1", "port": port, "timeout": 5} | more
        backend = {"BACKEND": "rapidsmtp.django.EmailBackend", "OPTIONS": options}
        return override_settings(MAILERS={"default": backend, "bulk": backend})

    def test_mailers(told):
        with Postman(["PIPELINING"]) as postman:
            with mailers(postman.port, connections=2, rate="600/min", max_attempts=2):
                assert mail.mailers["bulk"].alias == "bulk"
                assert mail.mailers["bulk"].send_messages(letters("ok", "some")) == 2
                assert mail.send_mail("x", "y", None, ["a@example.org"], using="bulk") == 1
                assert letter("z").send() == 1
                with pytest.raises(smtplib.SMTPRecipientsRefused):
                    letters("refused")[0].send(using="bulk")
            assert len(postman.handler.envelopes) == 4

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
    def test_mailers_that_are_wrong(wrong, words):
        with mailers(1, **wrong), pytest.raises(mail.InvalidMailer, match=words) as caught:
            mail.mailers["bulk"]
        assert "MAILERS['bulk']" in str(caught.value)

    def test_mailers_with_a_wrong_value():
        with mailers(1, connections=0), pytest.raises(mail.InvalidMailer, match="connections"):
            mail.mailers["bulk"].send_messages([letter()])

    def test_mailers_leave_the_other_setting_alone():
        with mailers(1), override_settings(RAPIDSMTP={"nonsense": 1}):
            assert mail.mailers.default.alias == "default"

    def test_nothing_is_deprecated_in_the_new_way():
        server, caught = Postman(["PIPELINING"]), warnings.catch_warnings()
        with server as postman, mailers(postman.port), caught:
            warnings.simplefilter("error")
            assert letter().send(using="bulk") == 1
