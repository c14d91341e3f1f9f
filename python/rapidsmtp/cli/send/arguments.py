"""The options of `rapidsmtp send`."""

import argparse

from rapidsmtp.cli import options as shared
from rapidsmtp.cli.campaign.journal_options import add_journal
from rapidsmtp.cli.options import DEFAULT_TO
from rapidsmtp.cli.usage import Commands, add_command, positive

_EXAMPLE = """\
rapidsmtp send --relay smtp://user@relay.example:587 \\
      --template newsletter.eml --to subscribers.csv --rate 600/min
  rapidsmtp send --from 'News <news@example.com>' --subject 'Hello {{ name }}' \\
      --text auto --html news.html --attach 'tickets/{{ id }}.pdf' \\
      --to subscribers.csv --preview 3"""


def register(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = add_command(commands, "send", "send a message to each recipient in a list", _EXAMPLE)
    parser.add_argument(
        "--relay",
        action="append",
        dest="relays",
        metavar="URL",
        help="the server: smtp://host, smtps://host, lmtp://host:port or lmtp:///path. Options in "
        "the URL: ?starttls=required, opportunistic or off; &auth=xoauth2 or another mechanism. "
        "The password or token is read from the URL or from RAPIDSMTP_PASSWORD, or asked for on "
        "a terminal. With --journal, --relay may be repeated, and a URL may end with ;weight=2",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="recipients list with one row for each message: a CSV file or a workbook (.xlsx, "
        ".xls, .ods); - means standard input",
    )
    parser.add_argument(
        "--template",
        metavar="FILE.eml",
        help="message file with fields in Jinja2's syntax, such as {{ name }}",
    )
    parser.add_argument(
        "--keep-headers",
        action="store_true",
        help="keep the header fields of --template that belong to an earlier message, such as "
        "Message-ID, Date and Received",
    )
    _add_list(parser)
    _add_composition(parser)
    _add_additions(parser)
    _add_signing(parser)
    _add_preview(parser)
    _add_delivery(parser)
    add_journal(parser)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.add_argument(
        "--not-accepted",
        metavar="FILE.csv",
        help="write a CSV line for each row that was not accepted: the columns of the list and the "
        "outcome. The file can be used as --to",
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="write each SMTP command and reply, without secrets"
    )
    parser.add_argument(
        "--no-warnings",
        action="store_true",
        help="skip the checks of the message (fields, links, images, List-Unsubscribe, plain text, "
        "DKIM alignment, size) and the warnings about the recipients list",
    )
    parser.add_argument("--strict", action="store_true", help="send nothing if there is a warning")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    # The import is inside the function, because it loads `Sender` and `Template`. `--help` does not
    # need them.
    from rapidsmtp.cli.send.command import send

    return send(options)


def _add_list(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the recipients list."""
    group = parser.add_argument_group(
        "recipients list", "The first line of the list names the columns, which are the fields."
    )
    group.add_argument(
        "--encoding",
        metavar="NAME",
        help="encoding of a CSV file without a byte order mark, such as windows-1252 (default "
        "UTF-8)",
    )
    group.add_argument(
        "--delimiter",
        metavar="CHAR",
        help="character between two cells, or tab (default: , ; tab or |, as in the first line)",
    )
    group.add_argument(
        "--sheet", metavar="NAME", help="sheet of a workbook (default: the first sheet)"
    )
    group.add_argument(
        "--column",
        action="append",
        metavar="FIELD=COLUMN",
        help='column of a field, such as name="Given name"; may be repeated',
    )
    group.add_argument(
        "--recipient-column",
        metavar="COLUMN",
        help="column with the addresses, for the field email (default: a column with a usual name, "
        "such as Email or E-mail address)",
    )
    group.add_argument("--tag", metavar="COLUMN", help="column that identifies a row in the report")
    group.add_argument(
        "--duplicates",
        choices=("first", "all", "error"),
        default="first",
        help="rows with the address of an earlier row: send only the first row (default), send all "
        "rows, or stop with an error before sending",
    )
    group.add_argument(
        "--exclude",
        action="append",
        metavar="FILE",
        help="file with addresses that are not sent: one in each line, or a CSV file with a column "
        "of addresses; may be repeated",
    )
    group.add_argument("--limit", type=positive, metavar="N", help="use only the first N rows")


def _add_composition(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "message from options, instead of --template",
        "All values and text files may contain fields, such as {{ name }}.",
    )
    group.add_argument(
        "--from", dest="sender", metavar="MAILBOX", help='such as "News <news@example.com>"'
    )
    group.add_argument("--subject", metavar="TEXT", help="the Subject field")
    group.add_argument(
        "--text",
        metavar="FILE",
        help="file with the plain text, in UTF-8; - means standard input. auto makes the text from "
        "the HTML text, also from that of --template; this needs rapidsmtp[html]",
    )
    group.add_argument(
        "--html",
        metavar="FILE",
        help="file with the HTML text, in UTF-8; - means standard input. At least one of --text "
        "and --html is needed",
    )
    group.add_argument(
        "--address",
        metavar="MAILBOX",
        help=f'the To field, such as "{{{{ name }}}} <{DEFAULT_TO}>" (default "{DEFAULT_TO}")',
    )
    group.add_argument(
        "--header",
        action="append",
        metavar="'NAME: VALUE'",
        help="another header field, such as Cc, Bcc or Reply-To; may be repeated",
    )
    group.add_argument(
        "--inline",
        action="append",
        metavar="NAME=FILE",
        help='image for <img src="cid:NAME"> in the HTML text; may be repeated',
    )
    group.add_argument(
        "--inline-images",
        action="store_true",
        help="attach the images that the HTML text names by relative paths, such as "
        '<img src="images/logo.png">, as inline images',
    )


def _add_additions(parser: argparse.ArgumentParser) -> None:
    """Add the options for a message from --template or from options."""
    group = parser.add_argument_group("files and envelope of each message")
    group.add_argument(
        "--attach",
        action="append",
        metavar="FILE",
        help="file to attach; may be repeated. A path with fields, such as 'tickets/{{ id }}.pdf', "
        "is below --attachment-root, and its file is read for each row",
    )
    group.add_argument(
        "--attachment-root",
        metavar="DIR",
        help="directory of the files of --attach with fields (default: the current directory)",
    )
    group.add_argument(
        "--calendar",
        metavar="FILE.ics",
        help="invitation with a METHOD, which may contain fields",
    )
    group.add_argument(
        "--return-path",
        metavar="ADDRESS",
        help="sender of the envelope, to which servers send bounces (default: the address of "
        "Sender or From). It may contain fields, such as 'bounces+{{ id }}@example.com'. '' is the "
        "null sender",
    )


def _add_signing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "DKIM signature (RFC 6376)", "A signature needs all three options."
    )
    group.add_argument(
        "--dkim-domain",
        metavar="DOMAIN",
        help="signing domain: the domain of From, or a parent domain",
    )
    group.add_argument(
        "--dkim-selector",
        metavar="NAME",
        help="selector: the DNS has the public key at NAME._domainkey.DOMAIN",
    )
    group.add_argument(
        "--dkim-key", metavar="FILE", help="private key: PEM, or an Ed25519 seed in base64"
    )


def _add_preview(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "preview, test and dry run",
        "--preview and --dry-run work without --relay and open no connection.",
    )
    group.add_argument(
        "--preview",
        type=positive,
        metavar="N",
        help="write the messages of the first N rows to .eml files, and a page index.html that "
        "shows them in a browser",
    )
    group.add_argument(
        "--preview-to",
        metavar="DIR",
        help="directory for the files of --preview (default preview/)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace the files of an earlier --preview"
    )
    group.add_argument(
        "--test-to",
        metavar="ADDRESS",
        help="send the message of the first row, or of the first N rows with --limit N, to this "
        "address only; nobody on the list gets a message",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="build the messages of all rows and report invalid rows; exit status 0 if all rows "
        "are valid",
    )


def _add_delivery(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("delivery")
    shared.add_connections(group, default=4)
    group.add_argument(
        "--rate",
        type=shared.rate,
        metavar="N",
        help="maximum number of messages per second, or a rate such as 600/min",
    )
    group.add_argument(
        "--pipelining",
        choices=shared.PIPELINING,
        default="auto",
        metavar="MODE",
        help=f"{', '.join(shared.PIPELINING)} (default auto: stream if the relay supports "
        "PIPELINING)",
    )
    group.add_argument(
        "--max-attempts",
        type=positive,
        default=3,
        metavar="N",
        help="maximum number of attempts for a recipient that the relay rejects temporarily "
        "(default 3)",
    )
    group.add_argument(
        "--on-unknown",
        choices=("report", "resend"),
        default="report",
        help="action if the final reply is missing and the relay may have accepted the message: "
        "report it (default), or resend it and risk a duplicate",
    )
    group.add_argument(
        "--metrics-port",
        type=shared.port,
        metavar="N",
        help="serve Prometheus metrics on this port while sending; 0 chooses a free port",
    )
    group.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to serve the metrics on (default 127.0.0.1)",
    )
    shared.add_tls(group)
    group.add_argument(
        "--proxy",
        metavar="URL",
        help="connect through a proxy: socks5://user@host:1080, socks5h://host or "
        "http://host:3128. The password is read from the URL or from RAPIDSMTP_PROXY_PASSWORD",
    )
    group.add_argument(
        "--timeout",
        type=shared.seconds,
        metavar="SECONDS",
        help="time limit for connecting and for each reply (default: the limits of RFC 5321)",
    )
