"""smtplib at the speed of the wire: `import rapidsmtp as smtplib`, and nothing else changes.

All of smtplib's names are here, private ones too where programs and tests reach for them: the
classes are ours, the exceptions and functions are smtplib's own.
"""

import smtplib as _smtplib
import socket as socket
import ssl as ssl
import sys as sys
from smtplib import CRLF as CRLF
from smtplib import LMTP_PORT as LMTP_PORT
from smtplib import OLDSTYLE_AUTH as OLDSTYLE_AUTH
from smtplib import SMTP_PORT as SMTP_PORT
from smtplib import SMTP_SSL_PORT as SMTP_SSL_PORT
from smtplib import bCRLF as bCRLF
from smtplib import quoteaddr as quoteaddr
from smtplib import quotedata as quotedata

from rapidsmtp._core import implementation as implementation
from rapidsmtp.client import LMTP as LMTP
from rapidsmtp.client import SMTP as SMTP
from rapidsmtp.client import SMTP_SSL as SMTP_SSL
from rapidsmtp.delivery import Refused as Refused
from rapidsmtp.delivery import Reply as Reply
from rapidsmtp.dkim import DKIM as DKIM
from rapidsmtp.errors import RelayError as RelayError
from rapidsmtp.errors import SMTPAuthenticationError as SMTPAuthenticationError
from rapidsmtp.errors import SMTPConnectError as SMTPConnectError
from rapidsmtp.errors import SMTPDataError as SMTPDataError
from rapidsmtp.errors import SMTPException as SMTPException
from rapidsmtp.errors import SMTPHeloError as SMTPHeloError
from rapidsmtp.errors import SMTPNotSupportedError as SMTPNotSupportedError
from rapidsmtp.errors import SMTPRecipientsRefused as SMTPRecipientsRefused
from rapidsmtp.errors import SMTPResponseException as SMTPResponseException
from rapidsmtp.errors import SMTPSenderRefused as SMTPSenderRefused
from rapidsmtp.errors import SMTPServerDisconnected as SMTPServerDisconnected
from rapidsmtp.flatten import to_bytes as to_bytes
from rapidsmtp.installation import install as install
from rapidsmtp.installation import uninstall as uninstall
from rapidsmtp.message import Message as Message
from rapidsmtp.outcome import Outcome as Outcome
from rapidsmtp.outcome import RecipientResult as RecipientResult
from rapidsmtp.outcome import Status as Status
from rapidsmtp.report import Report as Report
from rapidsmtp.report import Stats as Stats
from rapidsmtp.sender import Sender as Sender
from rapidsmtp.settings import TLS as TLS
from rapidsmtp.settings import Backoff as Backoff
from rapidsmtp.settings import Timeouts as Timeouts
from rapidsmtp.template import Template as Template

__version__ = "0.1.0"

# The private names, and the modules that smtplib imports, differ from one Python to the next.
for _name, _value in vars(_smtplib).items():
    if not _name.startswith("__"):
        globals().setdefault(_name, _value)

# pytest rewrites the asserts of whatever brings a plugin along, and warns where that was imported
# before, by `rapidsmtp run -m pytest` say: an error in many a suite. This tells it not to.
__doc__ = f"{__doc__ or ''}\nPYTEST_DONT_REWRITE\n"

# smtplib's own, so that `from rapidsmtp import *` brings what `from smtplib import *` does.
__all__ = [
    "SMTP",
    "SMTP_SSL",
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupportedError",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "quoteaddr",
    "quotedata",
]
