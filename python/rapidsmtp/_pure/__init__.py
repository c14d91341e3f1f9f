"""The twin: the protocol core of `src/` in plain Python, module for module.

It is used where no compiled wheel fits. `rapidsmtp._core` chooses between the halves; nothing
else imports this package. `__all__` is the interface that both halves give.
"""

from rapidsmtp._pure.address import check_path, plain_path
from rapidsmtp._pure.auth import (
    CramMd5,
    Exchange,
    External,
    Login,
    OAuthBearer,
    Plain,
    Scram,
    XOAuth2,
)
from rapidsmtp._pure.capability import exceeds_size, parse_ehlo
from rapidsmtp._pure.certificate import certificate_digest
from rapidsmtp._pure.command import check_command, check_host_name
from rapidsmtp._pure.diagnosis import diagnose
from rapidsmtp._pure.engine import Engine
from rapidsmtp._pure.error import PeerError
from rapidsmtp._pure.flatten import (
    assemble,
    fold_field,
    has_from_line,
    mentions,
    tree_text,
)
from rapidsmtp._pure.job import Result
from rapidsmtp._pure.outcome import message_status, recipient_status
from rapidsmtp._pure.reply import (
    MAX_LINES,
    MAX_REPLY,
    ReplyReader,
    enhanced_status,
    parse_line,
    parse_lines,
)
from rapidsmtp._pure.stuffing import repair, stuff
from rapidsmtp._pure.transaction import Transaction

__all__ = [
    "MAX_LINES",
    "MAX_REPLY",
    "CramMd5",
    "Engine",
    "Exchange",
    "External",
    "Login",
    "OAuthBearer",
    "PeerError",
    "Plain",
    "ReplyReader",
    "Result",
    "Scram",
    "Transaction",
    "XOAuth2",
    "assemble",
    "certificate_digest",
    "check_command",
    "check_host_name",
    "check_path",
    "diagnose",
    "enhanced_status",
    "exceeds_size",
    "fold_field",
    "has_from_line",
    "mentions",
    "message_status",
    "parse_ehlo",
    "parse_line",
    "parse_lines",
    "plain_path",
    "recipient_status",
    "repair",
    "stuff",
    "tree_text",
]
