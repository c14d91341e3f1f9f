"""The reply codes, under the name of aiosmtplib's module."""

from rapidsmtp.aio.aiosmtplib_names import SMTPStatus

__all__ = ["SMTPStatus"]
