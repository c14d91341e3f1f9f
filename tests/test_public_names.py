"""Public classes have the public module name, also in pickles and in reprs."""

import pickle
from datetime import UTC, datetime

import pytest

import rapidsmtp

PUBLIC_CLASSES = [
    *(rapidsmtp.DKIM, rapidsmtp.TLS, rapidsmtp.Backoff, rapidsmtp.Message, rapidsmtp.Outcome),
    *(rapidsmtp.RecipientResult, rapidsmtp.RelayLimits, rapidsmtp.Report, rapidsmtp.Sender),
    *(rapidsmtp.Stats, rapidsmtp.Status, rapidsmtp.Template, rapidsmtp.Timeouts, rapidsmtp.SMTP),
    *(rapidsmtp.SMTP_SSL, rapidsmtp.LMTP, rapidsmtp.Refused, rapidsmtp.Reply, rapidsmtp.RelayError),
    *(rapidsmtp.ReuseStats, rapidsmtp.Stamp),
]

MESSAGE = rapidsmtp.Message("a@example.com", ["b@example.com"], b"x", tag=1)
ACCEPTED = rapidsmtp.RecipientResult(rapidsmtp.Status.ACCEPTED, 250, "2.0.0", "ok")
OUTCOME = rapidsmtp.Outcome(1, MESSAGE, rapidsmtp.Status.ACCEPTED, {"b@example.com": ACCEPTED})


def report() -> rapidsmtp.Report:
    made = rapidsmtp.Report(error=rapidsmtp.RelayError("lost", (421, b"bye")))
    made.add([OUTCOME, rapidsmtp.Outcome(2, MESSAGE, rapidsmtp.Status.UNKNOWN)])
    return made


PICKLED = [
    *(MESSAGE, OUTCOME, ACCEPTED, rapidsmtp.Status.PARTIAL, report()),
    *(rapidsmtp.Stats(), rapidsmtp.Backoff(1), rapidsmtp.Timeouts(), rapidsmtp.TLS(verify=False)),
    rapidsmtp.Stamp("campaign.17", datetime(2026, 11, 30, tzinfo=UTC)),
    rapidsmtp.RelayError("lost", (421, b"bye"), 60.0),
    rapidsmtp.Refused({"b@example.com": (550, b"no")}, rapidsmtp.Reply(250, b"ok"), ["a"]),
]


def name_of(each: object) -> str:
    return type(each).__name__


@pytest.mark.parametrize("public", PUBLIC_CLASSES, ids=lambda each: each.__name__)
def test_a_public_class_has_the_module_name_of_the_package(public: type) -> None:
    assert public.__module__ == "rapidsmtp"
    assert getattr(rapidsmtp, public.__name__) is public


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("each", PICKLED, ids=name_of)
def test_a_pickle_contains_no_private_path(each: object, protocol: int) -> None:
    pickled = pickle.dumps(each, protocol)
    assert b"rapidsmtp._" not in pickled and b"rapidsmtp" in pickled
    again = pickle.loads(pickled)
    assert type(again) is type(each)
    if not isinstance(each, (rapidsmtp.Report, rapidsmtp.RelayError)):
        assert again == each


def test_an_error_and_a_report_survive_pickling() -> None:
    lost = rapidsmtp.RelayError("lost", (421, b"bye"), 60.0, is_permanent=True)
    error = pickle.loads(pickle.dumps(lost))
    assert (str(error), error.reply, error.retry_after) == ("lost", (421, b"bye"), 60.0)
    assert error.is_permanent and not rapidsmtp.RelayError("lost").is_permanent
    assert rapidsmtp.RelayError("lost").retry_after is None
    again = pickle.loads(pickle.dumps(report()))
    assert again.counts == {rapidsmtp.Status.ACCEPTED: 1, rapidsmtp.Status.UNKNOWN: 1}
    assert [each.tag for each in again.not_accepted] == [2] and again.total == 2


@pytest.mark.parametrize("each", PICKLED, ids=name_of)
def test_a_repr_contains_no_private_path(each: object) -> None:
    assert "rapidsmtp._" not in repr(each)


PUBLIC_MEMBERS = {
    rapidsmtp.Template: {
        *(
            "compose",
            "from_eml",
            "from_message",
            "merge",
            "merge_csv",
            "render",
            "source",
            "check",
            "dropped",
        ),
    },
    rapidsmtp.TLS: {
        *("ca_file", "certificate", "key", "minimum_version", "server_hostname", "verify"),
    },
}


@pytest.mark.parametrize("public", PUBLIC_MEMBERS, ids=lambda each: each.__name__)
def test_a_class_has_no_public_internals(public: type) -> None:
    assert {name for name in vars(public) if name[0] != "_"} <= PUBLIC_MEMBERS[public]


def test_a_template_is_made_by_its_class_methods() -> None:
    with pytest.raises(TypeError, match=r"Template\.compose, Template\.from_eml or "):
        rapidsmtp.Template()
