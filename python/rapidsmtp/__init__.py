"""smtplib at the speed of the wire."""

from rapidsmtp._core import implementation as implementation

__version__ = "0.1.0"
