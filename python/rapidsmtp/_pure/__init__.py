"""The pure-Python backend: a counterpart of each core module of `src/`, and an engine with threads.

It is used if the compiled extension is not installed, or if `RAPIDSMTP_CORE` is `python`. Only
`rapidsmtp._backend`, which selects the backend, imports this package. No other module outside the
package does. `__all__` lists the names that both backends provide.
"""

from rapidsmtp._charset import decode as decode_charset
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
    decode_challenge,
    sasl_mechanisms,
)
from rapidsmtp._pure.capability import exceeds_size, parse_ehlo
from rapidsmtp._pure.certificate import certificate_digest
from rapidsmtp._pure.command import check_command, check_host_name
from rapidsmtp._pure.diagnosis import diagnose, retry_after, says_full
from rapidsmtp._pure.engine import Engine
from rapidsmtp._pure.flatten import (
    assemble,
    fold_field,
    has_from_line,
    mentions,
    tree_text,
)
from rapidsmtp._pure.identity import are_same, has_any
from rapidsmtp._pure.outcome import MessageOutcome, message_status, refusal_status
from rapidsmtp._pure.proxy import ProxyDialogue
from rapidsmtp._pure.rate_controller import RateController
from rapidsmtp._pure.reply import (
    MAX_LINES,
    MAX_REPLY,
    ReplyReader,
    enhanced_status,
    parse_line,
    parse_lines,
)
from rapidsmtp._pure.reply_code import leaves_state_known, refuses, succeeds
from rapidsmtp._pure.retry import Attempts, decide_reply
from rapidsmtp._pure.stuffing import repair, stuff
from rapidsmtp._pure.transaction import Transaction
from rapidsmtp.errors import PeerError

__all__ = [
    "MAX_LINES",
    "MAX_REPLY",
    "Attempts",
    "CramMd5",
    "Engine",
    "Exchange",
    "External",
    "Login",
    "MessageOutcome",
    "OAuthBearer",
    "PeerError",
    "Plain",
    "ProxyDialogue",
    "RateController",
    "ReplyReader",
    "Scram",
    "Transaction",
    "XOAuth2",
    "are_same",
    "assemble",
    "certificate_digest",
    "check_command",
    "check_host_name",
    "check_path",
    "decide_reply",
    "decode_challenge",
    "decode_charset",
    "diagnose",
    "enhanced_status",
    "exceeds_size",
    "fold_field",
    "has_any",
    "has_from_line",
    "leaves_state_known",
    "mentions",
    "message_status",
    "parse_ehlo",
    "parse_line",
    "parse_lines",
    "plain_path",
    "refusal_status",
    "refuses",
    "repair",
    "retry_after",
    "sasl_mechanisms",
    "says_full",
    "stuff",
    "succeeds",
    "tree_text",
]
