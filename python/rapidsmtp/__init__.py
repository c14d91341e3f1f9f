"""smtplib at the speed of the wire."""

from rapidsmtp._core import implementation as implementation
from rapidsmtp.message import Message as Message
from rapidsmtp.outcome import Outcome as Outcome
from rapidsmtp.outcome import RecipientResult as RecipientResult
from rapidsmtp.outcome import Status as Status
from rapidsmtp.template import Template as Template

__version__ = "0.1.0"
