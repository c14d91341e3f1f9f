"""Run a campaign: `rapidsmtp campaign run`, and `rapidsmtp send --journal` after `start`."""

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

from rapidsmtp._compose.dkim import DKIM
from rapidsmtp.campaign.campaign import Campaign
from rapidsmtp.campaign.model import CampaignState, JournalError
from rapidsmtp.campaign.overview import CampaignStatus
from rapidsmtp.cli import display
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.campaign import run_progress, status_text
from rapidsmtp.cli.campaign.opening import journal_errors, opened, way_on
from rapidsmtp.cli.files import TraceFile, check_files
from rapidsmtp.cli.send.end_signals import EndSignals
from rapidsmtp.cli.send.password import relay_passwords
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED, UNFINISHED, UsageError, name_options

_NOT_ACCEPTED = ("refused", "deferred", "unknown", "invalid", "suppressed", "not_attempted")


def run(options: argparse.Namespace) -> int:
    """Send the rows of a campaign that are due.

    Args:
        options: The options of `campaign run`.

    Returns:
        The exit status.

    Raises:
        UsageError: The journal cannot be used, or an option is wrong.
        Ended: A signal ended the command before or after the sending.
    """
    check_files(options)
    with EndSignals() as signals, contextlib.ExitStack() as stack:
        arguments = run_arguments(options, stack)
        with opened(options) as campaign:
            passwords = relay_passwords(relay.url for relay in campaign.status().relays)
            signers = _signers(options, campaign)
        campaign = stack.enter_context(
            opened(options, {"password": passwords, "dkim": signers, "options": arguments})
        )
        return deliver(campaign, options, signals)


def run_arguments(options: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Return the arguments of `Sender` that the command line gives.

    Args:
        options: The options of `send` or of `campaign run`.
        stack: The exit stack that closes the file of --trace.

    Raises:
        UsageError: An option is wrong.
    """
    arguments: dict[str, Any] = {}
    if options.ca_file is not None or options.certificate is not None:
        arguments["tls"] = shared.tls_settings(options)
    if options.allow_plaintext_auth:
        arguments["allow_plaintext_auth"] = True
    if options.timeout is not None:
        arguments["timeouts"] = shared.timeout_settings(options.timeout)
    if options.proxy is not None:
        arguments["proxy"] = options.proxy
    if options.trace is not None:
        trace = TraceFile(options.trace)
        stack.callback(trace.close)
        trace.begin()
        arguments["trace"] = trace
    return arguments


def deliver(campaign: Campaign, options: argparse.Namespace, signals: EndSignals) -> int:
    """Run a campaign until it ends or a signal ends the run, and print the report.

    Args:
        campaign: The campaign.
        options: The options `no_wait`, `json`, `not_accepted` and `journal`.
        signals: The signals that end the run.

    Returns:
        The exit status.

    Raises:
        UsageError: The journal cannot be written, or a password is missing. Nothing was sent.
    """
    with journal_errors(options.journal):
        before = campaign.status()
    start, stopped, has_sent = time.monotonic(), "", False
    with (
        signals.closing(_Stop(campaign)),
        display.progress(["sending"], before.rows) as (bar,),
        run_progress.shown(campaign, bar),
    ):
        try:
            for _ in campaign.run(wait=not options.no_wait):
                has_sent = True
        except (JournalError, ValueError) as error:
            stopped = name_options(str(error))
            if not has_sent:
                raise UsageError(stopped) from None
        except OSError as error:
            stopped = f"journal {options.journal}: {error}"
    if signals.ended is not None:
        stopped = str(signals.ended)
    seconds = time.monotonic() - start
    with journal_errors(options.journal):
        after = campaign.status()
    try:
        _report(campaign, options, before, after, seconds, stopped)
    except OSError:
        # After SIGHUP, the terminal may be closed, so the report cannot be printed.
        if signals.ended is None:
            raise
        display.discard_output()
    if signals.ended is not None:
        return signals.ended.status
    return exit_status(after)


def exit_status(status: CampaignStatus) -> int:
    """Return the exit status of a run: 0, 1, or 3 if the campaign is not finished."""
    if status.state is CampaignState.ABORTED:  # a further run would send nothing
        return NOT_ALL_ACCEPTED
    if status.state is not CampaignState.DONE:
        return UNFINISHED
    failed = status.refused + status.deferred + status.unknown + status.invalid
    return NOT_ALL_ACCEPTED if failed else 0


class _Stop:
    """The run of a campaign, with the method `close` that `EndSignals.closing` calls."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign

    def close(self, timeout: float | None = None) -> None:
        """End the run gracefully. The time limit of the engine is used instead of `timeout`."""
        self._campaign.stop()


def _report(
    campaign: Campaign,
    options: argparse.Namespace,
    before: CampaignStatus,
    after: CampaignStatus,
    seconds: float,
    stopped: str,
) -> None:
    write_error = ""
    if options.not_accepted is not None:
        try:
            campaign.export(options.not_accepted, status=status_text.statuses(_NOT_ACCEPTED))
        except OSError as error:
            write_error = f"--not-accepted {options.not_accepted} is incomplete: {error.strerror}"
    rate = (after.accepted - before.accepted) / seconds if seconds else 0.0
    if options.json:
        values = {
            **status_text.as_dict(campaign, after),
            "seconds": round(seconds, 3),
            "messages_per_second": round(rate, 1),
            "stopped": stopped or None,
        }
        display.show(display.as_json(values))
    else:
        status_text.show_counts(campaign, after, [
            ["seconds", f"{seconds:.2f}"],
            ["messages per second", f"{rate:.0f}"],
        ])  # fmt: skip
        status_text.show_reasons(campaign)
    if stopped:
        display.notice(f"stopped: {stopped}")
    if after.state is CampaignState.PAUSED:
        display.notice(f"paused: {after.reason}")
    elif after.state is CampaignState.ABORTED:
        display.notice(f"aborted: {after.reason}")
    if after.unknown:
        display.notice(
            f"{after.unknown} unknown: the relay may have accepted these messages; see rapidsmtp "
            f"campaign status {options.journal}, then use rapidsmtp campaign settle"
        )
    if after.state not in (CampaignState.DONE, CampaignState.ABORTED):
        display.notice(f"not finished; {way_on(after, options.journal)}")
    if write_error:
        display.notice(write_error)


def _signers(options: argparse.Namespace, campaign: Campaign) -> list[DKIM]:
    """Return the signers of a campaign, with the key of --dkim-key.

    Raises:
        UsageError: The option is missing or not needed, or the key cannot be used.
    """
    wanted = campaign.settings.dkim
    if not wanted:
        if options.dkim_key is not None:
            raise UsageError("--dkim-key: the campaign has no DKIM signature")
        return []
    names = ", ".join(f"{selector}._domainkey.{domain}" for domain, selector, _ in wanted)
    if options.dkim_key is None:
        raise UsageError(
            f"--dkim-key is missing; the campaign signs with {names}, and the journal does not "
            "contain private keys"
        )
    path = options.dkim_key
    try:
        return [DKIM(domain, selector, Path(path)) for domain, selector, _ in wanted]
    except OSError as error:
        raise UsageError(f"--dkim-key {path}: {error.strerror}") from None
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None
