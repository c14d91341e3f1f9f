"""`rapidsmtp send`: check the options and the files, then connect and send."""

import argparse
import contextlib
from collections.abc import Callable, Iterator

from rapidsmtp import _backend
from rapidsmtp._bulk.sender import Sender
from rapidsmtp._compose.recipients_list import CheckedList
from rapidsmtp._compose.template import Template
from rapidsmtp._models.message import Message
from rapidsmtp._models.proxy_url import parse_proxy
from rapidsmtp._models.relay_url import parse_relay
from rapidsmtp.cli import display
from rapidsmtp.cli import options as shared
from rapidsmtp.cli.campaign import sending, start
from rapidsmtp.cli.files import TraceFile, check_files, option
from rapidsmtp.cli.send import checks, server_limits, trial
from rapidsmtp.cli.send.composition import compose_from_options, signers_from_options
from rapidsmtp.cli.send.delivering import deliver
from rapidsmtp.cli.send.dry_run import render_without_sending
from rapidsmtp.cli.send.end_signals import GRACE, EndSignals
from rapidsmtp.cli.send.metrics import serve_metrics
from rapidsmtp.cli.send.password import asked_password, relay_passwords
from rapidsmtp.cli.send.recipients import list_options, open_recipients
from rapidsmtp.cli.send.summary import Summary, show_template
from rapidsmtp.cli.usage import NOT_ALL_ACCEPTED, UsageError

# The maximum number of rows to render for the checks. The first valid message of these rows is
# checked. If no row gives a valid message, no message is checked.
_SAMPLE_ROWS = 100


def send(options: argparse.Namespace) -> int:
    """Send the messages. With --preview or --dry-run, build the messages but do not send them.

    Args:
        options: The options of `send`.

    Returns:
        The exit status.

    Raises:
        UsageError: An option or a file is wrong. Nothing was sent.
        RelayError: No connection to the relay was established.
        Ended: A signal ended the command before or after the sending.
    """
    with EndSignals() as signals:
        options.relays = options.relays or []
        options.relay = options.relays[0].partition(";weight=")[0] if options.relays else None
        start.check_options(options)
        check_files(options)
        trial.prepare(options)
        if options.preview is None and not options.dry_run:
            return _send(options, signals)
        return _render(options)


def _render(options: argparse.Namespace) -> int:
    if options.relay is not None:
        try:
            relay = parse_relay(options.relay, mechanisms=_backend.sasl_mechanisms())
            parse_proxy(options.proxy, relay)
        except ValueError as error:
            raise UsageError(str(error)) from None
    template = compose_from_options(options)
    with _open_recipients(options, template) as recipients:
        warnings = _recipient_warnings(options, recipients)
        return render_without_sending(options, template, recipients, warnings)


def _send(options: argparse.Namespace, signals: EndSignals) -> int:
    for name in ("preview_to", "overwrite"):
        if getattr(options, name):
            raise UsageError(f"{option(name)} needs --preview")
    if options.relay is None:
        raise UsageError("--relay is missing; only --preview and --dry-run work without it")
    if options.journal is not None and options.test_to is None:
        return _send_campaign(options, signals)
    with contextlib.ExitStack() as stack:
        trace = TraceFile(options.trace) if options.trace is not None else None
        if trace is not None:
            stack.callback(trace.close)
        sender = _sender(options, trace)
        stack.callback(sender.close, GRACE)
        stack.enter_context(serve_metrics(sender, options.metrics_host, options.metrics_port))
        template = compose_from_options(options)
        recipients = stack.enter_context(_open_recipients(options, template))
        if trace is not None:
            trace.begin()
        warnings = _warnings(options, template, recipients)
        if options.strict and warnings:
            checks.print_warnings(warnings)
            raise UsageError(checks.strict_error(warnings))
        if options.test_to is not None:
            signers = signers_from_options(options)
            return trial.send_test(options, sender, recipients, signers, warnings, signals)
        arguments = (sender.relay, recipients, options.json, options.not_accepted, warnings)
        with Summary(*arguments) as summary:
            summary.dropped = template.dropped
            summary.envelope_sender = template.envelope_sender
            if not options.json:
                checks.print_warnings(warnings)
            try:
                deliver(sender, recipients, summary, signals)
            except OSError:
                # After SIGHUP, the terminal may be closed, so the report cannot be printed.
                if signals.ended is None:
                    raise
                display.discard_output()
        summary.print_write_error()
        if signals.ended is not None:
            return signals.ended.status
        return 0 if summary.all_accepted else NOT_ALL_ACCEPTED


def _send_campaign(options: argparse.Namespace, signals: EndSignals) -> int:
    options.passwords = relay_passwords(start.relay_urls(options.relays))
    options.password = options.passwords.get(options.relay)
    start.check_relays(options)
    with contextlib.ExitStack() as stack:
        run_options = sending.run_arguments(options, stack)
        template = compose_from_options(options)
        with start.readable_twice(options):
            with _open_recipients(options, template) as recipients:
                warnings = _warnings(options, template, recipients)
            if options.strict and warnings:
                checks.print_warnings(warnings)
                raise UsageError(checks.strict_error(warnings))
            if not options.json:
                checks.print_warnings(warnings)
            campaign = start.create(options, template, run_options)
        stack.callback(campaign.close)
        if not options.json:
            show_template(template.dropped, template.envelope_sender)
        return sending.deliver(campaign, options, signals)


@contextlib.contextmanager
def _open_recipients(options: argparse.Namespace, template: Template) -> Iterator[CheckedList]:
    with open_recipients(options.to, template, list_options(options)) as recipients:
        yield recipients


def _warnings(
    options: argparse.Namespace, template: Template, recipients: CheckedList
) -> list[str]:
    if options.no_warnings:
        return []
    items = recipients.merge(_SAMPLE_ROWS)
    sample = next((item for item in items if isinstance(item, Message)), None)
    found = []
    if sample is not None:
        mechanisms = _backend.sasl_mechanisms()
        relay = parse_relay(options.relay, options.password, mechanisms=mechanisms)
        tls = shared.tls_settings(options)
        found = checks.check_template(template, sample, recipients.names, options.html is not None)
        # The check of the size connects to the relay directly. With a proxy, it would disclose this
        # host to the relay.
        if options.proxy is None:
            found += server_limits.check_size(sample, relay, tls, options.timeout)
    return found + _recipient_warnings(options, recipients)


def _recipient_warnings(options: argparse.Namespace, recipients: CheckedList) -> list[str]:
    if options.no_warnings:
        return []
    return [
        *checks.check_recipients(recipients),
        *checks.check_fields(recipients),
        *checks.check_duplicates(recipients),
    ]


def _sender(options: argparse.Namespace, trace: Callable[[str], object] | None) -> Sender:
    tls = shared.tls_settings(options)
    options.password = asked_password(options.relay)
    try:
        return Sender(
            options.relay,
            connections=options.connections,
            pipelining=options.pipelining,
            rate=options.rate,
            max_attempts=options.max_attempts,
            on_unknown=options.on_unknown,
            timeouts=shared.timeout_settings(options.timeout),
            tls=tls,
            allow_plaintext_auth=options.allow_plaintext_auth,
            proxy=options.proxy,
            password=options.password,
            trace=trace,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(str(error)) from None
