"""`rapidsmtp send --proxy`: mail passes through the proxy, and errors name the option."""

import pytest

from commandline import Command, one_line
from proxies import SocksScript
from server import Server, SMTPScript

URL = "smtp://relay.invalid:587?starttls=off"


def test_mail_passes_through_the_proxy(command: Command) -> None:
    command.environment["RAPIDSMTP_PROXY_PASSWORD"] = "geheim"
    with Server(SMTPScript()) as relay:
        script = SocksScript({"relay.invalid": relay.port}, login=("user", "geheim"))
        with Server(script) as proxy:
            url = f"socks5://user@127.0.0.1:{proxy.port}"
            result = command.send(URL, "--proxy", url, "--trace", "t.txt")
    assert result.returncode == 0, result.stderr
    assert script.requests == [(3, "relay.invalid", 587)] and script.logins == [("user", "geheim")]
    trace = (command.directory / "t.txt").read_text()
    assert "through the proxy 127.0.0.1:" in trace and "geheim" not in trace


def test_no_check_connects_without_the_proxy(command: Command) -> None:
    # Without a proxy, `send` would connect to the relay and ask for its SIZE before it sends such a
    # large message.
    text = "From: n@example.com\nTo: {{ email }}\n\n" + "x\n" * 40_000
    command.write("message.eml", text)
    with Server(SMTPScript(["SIZE 100000000"])) as relay:
        script = SocksScript({"127.0.0.1": relay.port})
        with Server(script) as proxy:
            url = f"smtp://127.0.0.1:{relay.port}"
            result = command.send(url, "--proxy", f"socks5://127.0.0.1:{proxy.port}")
        assert result.returncode == 0, result.stderr
        assert len(relay.connections) == len(script.requests) == 1


@pytest.mark.parametrize("preview", [(), ("--dry-run",)])
def test_a_wrong_url_is_reported_with_the_name_of_the_option(
    command: Command, preview: tuple[str, ...]
) -> None:
    result = command.send(URL, "--proxy", "socks4://user:geheim@host:1080", *preview)
    one_line(result, "rapidsmtp: --proxy must be a URL such as socks5://host:1080")
    assert "geheim" not in result.stderr


def test_an_error_names_the_option(command: Command) -> None:
    script = SocksScript(login=("user", "another"))
    with Server(script) as proxy:
        url = f"socks5://user:geheim@127.0.0.1:{proxy.port}"
        result = command.send(URL, "--proxy", url)
    one_line(result, "refused the login; check the user and the password in --proxy")
    assert "geheim" not in result.stderr and "proxy=" not in result.stderr
