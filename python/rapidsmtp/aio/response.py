"""The class of replies, under the name of aiosmtplib's module."""

from rapidsmtp.aio.aiosmtplib_names import SMTPResponse

__all__ = ["SMTPResponse"]
