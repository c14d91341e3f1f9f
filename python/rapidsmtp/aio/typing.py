"""The types, under the name of aiosmtplib's module."""

from rapidsmtp.aio.aiosmtplib_names import SMTPStatus, SMTPTokenGenerator

__all__ = ["SMTPStatus", "SMTPTokenGenerator"]
