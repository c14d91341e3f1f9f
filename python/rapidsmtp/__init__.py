"""A faster smtplib: use `import rapidsmtp as smtplib` and change nothing else.

This package has all names of smtplib, including the private names, because some programs and tests
use them. The classes SMTP, SMTP_SSL and LMTP are new implementations. The exceptions and functions
are smtplib's own objects.
"""

import smtplib as _smtplib
import socket as socket
import ssl as ssl
import sys as sys
from importlib import import_module as _import_module
from smtplib import CRLF as CRLF
from smtplib import LMTP_PORT as LMTP_PORT
from smtplib import OLDSTYLE_AUTH as OLDSTYLE_AUTH
from smtplib import SMTP_PORT as SMTP_PORT
from smtplib import SMTP_SSL_PORT as SMTP_SSL_PORT
from smtplib import bCRLF as bCRLF
from smtplib import quoteaddr as quoteaddr
from smtplib import quotedata as quotedata
from typing import TYPE_CHECKING

from rapidsmtp._backend import implementation as implementation
from rapidsmtp._models.reply import Reply as Reply
from rapidsmtp._smtp.client import LMTP as LMTP
from rapidsmtp._smtp.client import SMTP as SMTP
from rapidsmtp._smtp.client import SMTP_SSL as SMTP_SSL
from rapidsmtp._smtp.results import Refused as Refused
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

if TYPE_CHECKING:
    from rapidsmtp._bulk.sender import Sender as Sender
    from rapidsmtp._compose.checks import Finding as Finding
    from rapidsmtp._compose.dkim import DKIM as DKIM
    from rapidsmtp._compose.template import Template as Template
    from rapidsmtp._compose.to_bytes import to_bytes as to_bytes
    from rapidsmtp._models.message import Message as Message
    from rapidsmtp._models.outcome import Outcome as Outcome
    from rapidsmtp._models.outcome import RecipientResult as RecipientResult
    from rapidsmtp._models.outcome import Status as Status
    from rapidsmtp._models.report import RelayLimits as RelayLimits
    from rapidsmtp._models.report import Report as Report
    from rapidsmtp._models.report import Stats as Stats
    from rapidsmtp._models.settings import TLS as TLS
    from rapidsmtp._models.settings import Backoff as Backoff
    from rapidsmtp._models.settings import Timeouts as Timeouts
    from rapidsmtp._models.stamp import Stamp as Stamp
    from rapidsmtp._smtp.install import install as install
    from rapidsmtp._smtp.install import uninstall as uninstall
    from rapidsmtp._smtp.reuse import ReuseStats as ReuseStats
    from rapidsmtp._smtp.reuse import reuse_stats as reuse_stats
    from rapidsmtp.campaign.adding import AddReport as AddReport
    from rapidsmtp.campaign.campaign import Campaign as Campaign
    from rapidsmtp.campaign.corrections import SettleReport as SettleReport
    from rapidsmtp.campaign.model import CampaignState as CampaignState
    from rapidsmtp.campaign.model import JournalError as JournalError
    from rapidsmtp.campaign.model import RowResult as RowResult
    from rapidsmtp.campaign.overview import CampaignStatus as CampaignStatus
    from rapidsmtp.campaign.overview import RelayStatus as RelayStatus
else:
    # The drop-in classes are imported at once, and all other names on first use (PEP 562). So
    # importing rapidsmtp takes little longer than importing smtplib.
    _ON_FIRST_USE = {
        "Sender": "rapidsmtp._bulk.sender",
        "Finding": "rapidsmtp._compose.checks",
        "DKIM": "rapidsmtp._compose.dkim",
        "Template": "rapidsmtp._compose.template",
        "to_bytes": "rapidsmtp._compose.to_bytes",
        "Message": "rapidsmtp._models.message",
        "Outcome": "rapidsmtp._models.outcome",
        "RecipientResult": "rapidsmtp._models.outcome",
        "Status": "rapidsmtp._models.outcome",
        "RelayLimits": "rapidsmtp._models.report",
        "Report": "rapidsmtp._models.report",
        "Stats": "rapidsmtp._models.report",
        "TLS": "rapidsmtp._models.settings",
        "Backoff": "rapidsmtp._models.settings",
        "Timeouts": "rapidsmtp._models.settings",
        "Stamp": "rapidsmtp._models.stamp",
        "install": "rapidsmtp._smtp.install",
        "uninstall": "rapidsmtp._smtp.install",
        "ReuseStats": "rapidsmtp._smtp.reuse",
        "reuse_stats": "rapidsmtp._smtp.reuse",
        "AddReport": "rapidsmtp.campaign.adding",
        "Campaign": "rapidsmtp.campaign.campaign",
        "SettleReport": "rapidsmtp.campaign.corrections",
        "CampaignState": "rapidsmtp.campaign.model",
        "JournalError": "rapidsmtp.campaign.model",
        "RowResult": "rapidsmtp.campaign.model",
        "CampaignStatus": "rapidsmtp.campaign.overview",
        "RelayStatus": "rapidsmtp.campaign.overview",
    }

    def __getattr__(name):
        module = _ON_FIRST_USE.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_import_module(module), name)
        # Another thread may have set the same name since this call began. `setdefault` keeps the
        # value of that thread, so that all threads get the same object.
        return globals().setdefault(name, value)

    def __dir__():
        return sorted({*globals(), *_ON_FIRST_USE})


__version__ = "0.1.0"

# The private names, and the modules that smtplib imports, differ between Python versions. So this
# loop copies all remaining names from smtplib, and there is no fixed list of them.
for _name, _value in vars(_smtplib).items():
    if not _name.startswith("__"):
        globals().setdefault(_name, _value)

# pytest rewrites the asserts of a package that has a pytest plugin. If the package is already
# imported, as in `rapidsmtp run -m pytest`, pytest prints a warning instead. Some test suites turn
# this warning into an error. The word PYTEST_DONT_REWRITE in the docstring disables the rewriting
# and the warning.
__doc__ = f"{__doc__ or ''}\nPYTEST_DONT_REWRITE\n"

# The same names as in smtplib's `__all__`, so that `from rapidsmtp import *` and `from smtplib
# import *` define the same names.
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
