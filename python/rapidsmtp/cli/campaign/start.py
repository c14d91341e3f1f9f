"""`rapidsmtp send --journal`: create a campaign and run it."""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapidsmtp import _backend
from rapidsmtp._compose.recipients_list import excluded_addresses
from rapidsmtp._compose.template import Template
from rapidsmtp._models.proxy_url import DIRECT, parse_proxy
from rapidsmtp._models.relay_url import parse_relay, without_password
from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.campaign.journal_options import FOR_CAMPAIGNS
from rapidsmtp.cli.campaign.opening import brief_status, journal_errors, way_on
from rapidsmtp.cli.files import option
from rapidsmtp.cli.send.recipients import list_options
from rapidsmtp.cli.usage import UsageError, name_options

_DAY = 86_400.0
# The options of `send` that a campaign does not have, and their replacements.
_INSTEAD = {
    "tag": "use --key, and `rapidsmtp campaign export` for the list's columns",
    "metrics_port": "use `rapidsmtp campaign status --json`",
}


def check_options(options: argparse.Namespace) -> None:
    """Check that the options fit together.

    Raises:
        UsageError: An option needs --journal or cannot be combined with it, or the journal exists.
    """
    if options.journal is None:
        for name, default in FOR_CAMPAIGNS.items():
            if getattr(options, name) != default:
                raise UsageError(f"{option(name)} needs --journal")
        if len(options.relays) > 1:
            raise UsageError("a second --relay needs --journal")
        return
    if not options.journal:
        raise UsageError("--journal is empty; name a file")
    for name, instead in _INSTEAD.items():
        if getattr(options, name) is not None:
            raise UsageError(f"{option(name)} cannot be combined with --journal; {instead}")
    if Path(options.journal).exists():
        raise UsageError(_existing(options.journal))


def _existing(path: str) -> str:
    """Return a description of an existing journal, and the next step for the user."""
    try:
        with Campaign.open(path) as campaign:
            status = campaign.status()
    except Exception as error:
        return f"--journal {path}: the file exists; name a new file ({name_options(str(error))})"
    return (
        f"--journal {path}: the file exists; it is the {brief_status(status)}; "
        f"{way_on(status, path)}, or name a new file"
    )


def relay_urls(relays: Sequence[str]) -> list[str]:
    """Return the URLs of the relays, without their weights."""
    return [url.partition(";weight=")[0] for url in relays]


def check_relays(options: argparse.Namespace) -> None:
    """Check the URLs of the relays and of the proxy.

    Raises:
        UsageError: A URL is wrong.
    """
    try:
        for url in relay_urls(options.relays):
            password = options.passwords.get(url)
            relay = parse_relay(url, password, mechanisms=_backend.sasl_mechanisms())
            parse_proxy(options.proxy, relay)
    except ValueError as error:
        raise UsageError(name_options(str(error))) from None


@contextlib.contextmanager
def readable_twice(options: argparse.Namespace) -> Iterator[None]:
    """Copy a list from the standard input to a temporary file, and use it until the block ends."""
    if options.to != "-":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="rapidsmtp-") as folder:
        path = Path(folder, "standard input")
        with path.open("xb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        options.to = str(path)
        try:
            yield
        except UsageError as error:
            raise UsageError(str(error).replace(f"{folder}/", "")) from None
        finally:
            options.to = "-"


def create(
    options: argparse.Namespace, template: Template, run_options: dict[str, Any]
) -> Campaign:
    """Create the journal.

    Args:
        options: The options of `send`.
        template: The message.
        run_options: The arguments of `Sender` for this run that are not in the journal.

    Raises:
        UsageError: The journal cannot be written, or an option or the list is wrong.
    """
    given = list_options(options)
    with journal_errors(options.journal):
        excluded = [
            address
            for file in options.exclude or []
            for address in excluded_addresses(file, options.encoding)
        ]
        try:
            campaign = Campaign.create(
                options.journal,
                template,
                options.to,
                relays=options.relays,
                name=options.name,
                key=options.key,
                duplicates=options.duplicates,
                rate=options.rate,
                per_day=options.per_day,
                between=options.between,
                zone=options.zone,
                start_at=options.start_at,
                retry_for=_DAY if options.retry_for is None else options.retry_for,
                on_unknown=options.on_unknown,
                idempotency_header=options.idempotency_header,
                connections=options.connections,
                sender=_stored(options),
                list_options={
                    "encoding": given.encoding,
                    "delimiter": given.delimiter,
                    "sheet": given.sheet,
                    "columns": given.columns,
                    "recipient": given.recipient,
                    "limit": given.limit,
                },
                suppress=excluded,
                password=options.passwords,
                options=run_options,
            )
        except FileExistsError:  # created since `check_options`
            raise UsageError(_existing(options.journal)) from None
    return campaign


def _stored(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `Sender` that the journal stores. None of them is a secret."""
    stored: dict[str, Any] = {
        "pipelining": options.pipelining,
        "max_attempts": options.max_attempts,
        "allow_plaintext_auth": options.allow_plaintext_auth,
    }
    if options.timeout is not None:
        stored["timeouts"] = asdict(shared.timeout_settings(options.timeout))
    files = {"ca_file": options.ca_file, "certificate": options.certificate}
    named = {name: str(Path(path).absolute()) for name, path in files.items() if path is not None}
    if named:
        stored["tls"] = named
    if options.proxy is not None:
        is_direct = options.proxy == DIRECT
        stored["proxy"] = DIRECT if is_direct else without_password(options.proxy)[0]
    return stored
