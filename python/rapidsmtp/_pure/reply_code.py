"""The reply codes that mean success or a refusal for each command of a transaction.

    command    success, exact codes    success, by the first digit
    MAIL       250                     2yz
    RCPT       250, 251                2yz
    DATA       354                     354
    body       2yz                     2yz
    RSET       2yz                     2yz

The drop-in uses the exact codes of RFC 5321 4.3.2, as smtplib does. The engine interprets an
unknown code by its first digit (RFC 5321 4.2). Both count every 2yz reply after the body, because
the server has accepted the message.

4yz and 5yz are refusals. Any other code is not a valid reply to the command. After such a reply,
the state of the server is unknown, and the connection must be closed. A 2yz to MAIL or RCPT is an
exception: RSET ends the transaction.
"""

from rapidsmtp._pure.diagnosis import PHASES

_REFUSALS = frozenset(range(400, 600))
_COMPLETED = frozenset(range(200, 300))
_NONE: frozenset[int] = frozenset()

_BY_FIRST_DIGIT = dict.fromkeys(PHASES, _NONE) | {
    "mail": _COMPLETED,
    "rcpt": _COMPLETED,
    "data": frozenset((354,)),
    "body": _COMPLETED,
    "rset": _COMPLETED,
}
_EXACT = _BY_FIRST_DIGIT | {"mail": frozenset((250,)), "rcpt": frozenset((250, 251))}
# RFC 5321 4.2.1: a 2yz completes MAIL or RCPT, so a later RSET ends the transaction.
_STATE_KNOWN = {phase: codes | _REFUSALS for phase, codes in _BY_FIRST_DIGIT.items()}


def succeeds(phase: str, code: int) -> bool:
    """Return whether a code means success for a command of the drop-in (exact codes).

    Args:
        phase: `"mail"`, `"rcpt"`, `"data"`, `"body"` or `"rset"`. In a phase before the first
            message, no code means success.
        code: The reply's code.

    Raises:
        ValueError: No phase has this name.
    """
    try:
        return code in _EXACT[phase]
    except KeyError:
        raise _no_such_phase(phase) from None


def succeeds_by_first_digit(phase: str, code: int) -> bool:
    """Return whether a code means success for a command of the engine.

    The arguments and the exception are those of `succeeds`.
    """
    try:
        return code in _BY_FIRST_DIGIT[phase]
    except KeyError:
        raise _no_such_phase(phase) from None


def leaves_state_known(phase: str, code: int) -> bool:
    """Return whether the state of the server is known after a reply.

    The arguments and the exception are those of `succeeds`.
    """
    try:
        return code in _STATE_KNOWN[phase]
    except KeyError:
        raise _no_such_phase(phase) from None


def refuses(code: int) -> bool:
    """Return whether a code is a refusal: 4yz or 5yz (RFC 5321 4.2.1)."""
    return code in _REFUSALS


def _no_such_phase(phase: str) -> ValueError:
    return ValueError(f"no such phase: {phase}")
