"""The client and the ports, under the name of aiosmtplib's module."""

from smtplib import SMTP_PORT

from rapidsmtp.aio.client import DEFAULT_TIMEOUT, SMTP
from rapidsmtp.aio.connection_options import SMTPS_PORT, SUBMISSION_PORT

SMTP_TLS_PORT = SMTPS_PORT
SMTP_STARTTLS_PORT = SUBMISSION_PORT

__all__ = ["DEFAULT_TIMEOUT", "SMTP", "SMTP_PORT", "SMTP_STARTTLS_PORT", "SMTP_TLS_PORT"]
