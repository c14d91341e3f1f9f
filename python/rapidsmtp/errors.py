"""The exceptions: smtplib's own classes, so that every `except` written for them still catches."""

from smtplib import SMTPAuthenticationError as SMTPAuthenticationError
from smtplib import SMTPConnectError as SMTPConnectError
from smtplib import SMTPDataError as SMTPDataError
from smtplib import SMTPException as SMTPException
from smtplib import SMTPHeloError as SMTPHeloError
from smtplib import SMTPNotSupportedError as SMTPNotSupportedError
from smtplib import SMTPRecipientsRefused as SMTPRecipientsRefused
from smtplib import SMTPResponseException as SMTPResponseException
from smtplib import SMTPSenderRefused as SMTPSenderRefused
from smtplib import SMTPServerDisconnected as SMTPServerDisconnected
