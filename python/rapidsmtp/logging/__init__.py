"""A logging handler that mails records without making the program wait."""

from rapidsmtp.logging.handler import SMTPHandler as SMTPHandler

__all__ = ["SMTPHandler"]
