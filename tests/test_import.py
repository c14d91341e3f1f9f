"""`import rapidsmtp`: the modules that it loads at once, and those that it loads on first use.

The limits are sets of modules, not times. `benches/test_import.py` measures the time.
"""

import os
import pickle
import smtplib
import sys
from unittest import mock

import pytest

import processes
import rapidsmtp

BOTH = pytest.mark.parametrize("backend", [pytest.param("rust", marks=pytest.mark.rust), "python"])

# The drop-in classes and their dependencies.
OURS = {
    "rapidsmtp",
    "rapidsmtp._backend",
    "rapidsmtp._compose",
    "rapidsmtp._compose.address",
    "rapidsmtp._models",
    "rapidsmtp._models.reply",
    "rapidsmtp._smtp",
    "rapidsmtp._smtp.client",
    "rapidsmtp._smtp.commands",
    "rapidsmtp._smtp.connection",
    "rapidsmtp._smtp.face",
    "rapidsmtp._smtp.contexts",
    "rapidsmtp._smtp.login",
    "rapidsmtp._smtp.overrides",
    "rapidsmtp._smtp.flights",
    "rapidsmtp._smtp.results",
    "rapidsmtp._smtp.method_calls",
    "rapidsmtp._smtp.sockets",
    "rapidsmtp._smtp.state",
    "rapidsmtp.errors",
}
# Modules of the standard library that rapidsmtp may load although smtplib does not. Some Python
# versions load these modules at the start.
STANDARD_LIBRARY = {"_typing", "contextlib", "importlib", "importlib._bootstrap", "typing"}
STANDARD_LIBRARY |= {"importlib._bootstrap_external", "types", "typing.io", "typing.re", "warnings"}

ON_FIRST_USE = (
    "DKIM",
    "TLS",
    "Backoff",
    "Message",
    "Outcome",
    "RecipientResult",
    "RelayLimits",
    "Report",
    "ReuseStats",
    "Sender",
    "Stats",
    "Status",
    "Template",
    "Timeouts",
    "install",
    "reuse_stats",
    "to_bytes",
    "uninstall",
)


def run(program: str, backend: str = "auto") -> list[str]:
    """Run a program in a separate process, and return the lines that it prints."""
    done = processes.run(
        [sys.executable, "-c", program],
        env=os.environ | {"RAPIDSMTP_CORE": backend},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def loaded(program: str, backend: str) -> set[str]:
    """Return the modules that a program loads after smtplib."""
    return set(
        run(
            "import smtplib, sys\n"
            "before = set(sys.modules)\n"
            f"{program}\n"
            "print(*sorted(set(sys.modules) - before), sep='\\n')",
            backend,
        )
    )


def test_an_empty_choice_of_the_backend_is_auto() -> None:
    program = "import rapidsmtp; print(rapidsmtp.implementation)"
    assert run(program, "") == run(program, "auto")


@pytest.mark.rust
def test_the_compiled_backend_loads_no_module_of_the_pure_one() -> None:
    found = loaded("import rapidsmtp", "rust")
    assert {name for name in found if name.startswith("rapidsmtp")} == OURS | {"rapidsmtp._native"}
    assert {name for name in found if not name.startswith("rapidsmtp")} <= STANDARD_LIBRARY


@pytest.mark.rust
def test_the_use_of_the_compiled_backend_loads_no_module_of_the_pure_one() -> None:
    program = (
        "import rapidsmtp, rapidsmtp.aio, rapidsmtp.auth, rapidsmtp.testing\n"
        "template = rapidsmtp.Template.compose(\n"
        "    sender='a@example.com', to='{{ to }}', subject='x', text='x')\n"
        "messages = template.merge([{'to': 'b@example.com'}])\n"
        "with rapidsmtp.testing.Sink() as sink:\n"
        "    with rapidsmtp.SMTP(sink.host, sink.port) as client:\n"
        "        client.sendmail('a@example.com', 'b@example.com', b'x')\n"
        "    with rapidsmtp.Sender(sink.url) as sender:\n"
        "        assert sender.send_all(messages).accepted == 1\n"
    )
    found = loaded(program, "rust")
    assert not {name for name in found if name.startswith("rapidsmtp._pure")}
    assert "rapidsmtp._compose.pure_template" not in found and "jinja2" not in found


def test_the_pure_backend_loads_no_extension() -> None:
    found = loaded("import rapidsmtp", "python")
    ours = {name for name in found if name.startswith("rapidsmtp")}
    assert {name for name in ours if not name.startswith("rapidsmtp._pure")} <= OURS | {
        "rapidsmtp._charset",
        "rapidsmtp._host_name",
        "rapidsmtp._models.genuine_socket",
        "rapidsmtp._models.pem",
        "rapidsmtp._models.settings",
    }


@BOTH
def test_all_other_names_load_on_first_use(backend: str) -> None:
    before = loaded("import rapidsmtp", backend)
    after = loaded("import rapidsmtp\nrapidsmtp.Message", backend)
    assert "rapidsmtp._models.message" in after - before
    assert not {name for name in after if name.startswith("rapidsmtp._bulk")}


@pytest.mark.parametrize("name", ON_FIRST_USE)
def test_each_name_can_be_used_first(name: str) -> None:
    assert run(f"from rapidsmtp import {name}\nprint({name}.__name__)") == [name]


def test_a_name_loads_once() -> None:
    assert rapidsmtp.Sender is rapidsmtp.Sender
    assert vars(rapidsmtp)["Sender"] is rapidsmtp.Sender


def test_an_unknown_name_is_an_attribute_error() -> None:
    message = "module 'rapidsmtp' has no attribute 'Postbox'"
    with pytest.raises(AttributeError, match=message):
        _ = rapidsmtp.Postbox  # type: ignore[attr-defined]


def test_dir_has_every_name() -> None:
    program = "import rapidsmtp\nprint(*dir(rapidsmtp), sep='\\n')"
    found = run(program)
    assert found == sorted(found)
    assert {*ON_FIRST_USE, *rapidsmtp.__all__, "SMTP_SSL_PORT", "Refused", "RelayError"} <= {*found}


def test_all_names_of_smtplib_exist() -> None:
    assert {name for name in dir(smtplib) if not hasattr(rapidsmtp, name)} == set()
    program = "from rapidsmtp import *\nprint(*globals(), sep='\\n')"
    assert set(smtplib.__all__) <= set(run(program))
    assert set(rapidsmtp.__all__) == set(smtplib.__all__)


def test_a_replaced_name_stays_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = rapidsmtp.Sender
    with mock.patch("rapidsmtp.Sender") as replacement:
        assert rapidsmtp.Sender is replacement
    assert rapidsmtp.Sender is genuine
    monkeypatch.setattr(rapidsmtp, "Sender", None)
    assert rapidsmtp.Sender is None
    monkeypatch.undo()
    assert rapidsmtp.Sender is genuine


def test_a_name_can_be_replaced_before_its_first_use() -> None:
    program = (
        "from unittest import mock\n"
        "import rapidsmtp\n"
        "with mock.patch('rapidsmtp.Sender', 'replaced'):\n"
        "    print(rapidsmtp.Sender)\n"
        "print(rapidsmtp.Sender.__name__)\n"
    )
    assert run(program) == ["replaced", "Sender"]


def test_a_pickle_is_read_before_any_other_name_is_used() -> None:
    message = rapidsmtp.Message("a@example.com", ["b@example.com"], b"x", tag=1)
    program = f"import pickle\nprint(pickle.loads({pickle.dumps(message)!r}).tag)"
    assert run(program) == ["1"]


def test_install_works_before_any_other_name_is_used() -> None:
    program = (
        "import smtplib, rapidsmtp\n"
        "rapidsmtp.install()\n"
        "print(smtplib.SMTP is rapidsmtp.SMTP)\n"
        "rapidsmtp.uninstall()\n"
        "print(smtplib.SMTP is rapidsmtp.SMTP)\n"
    )
    assert run(program) == ["True", "False"]


def test_threads_that_use_a_name_at_once_get_the_same_object() -> None:
    program = (
        "import threading, rapidsmtp\n"
        "names = " + repr(ON_FIRST_USE) + "\n"
        "barrier, found = threading.Barrier(8), []\n"
        "def ask():\n"
        "    barrier.wait()\n"
        "    found.append(tuple(id(getattr(rapidsmtp, name)) for name in names))\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(len(found), len(set(found)))\n"
    )
    assert run(program) == ["8 1"]
