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

_EXACT = {"mail": (250,), "rcpt": (250, 251)}


def succeeds(phase: str, code: int) -> bool:
    """Return whether a code means success for a command of the drop-in (exact codes).

    Args:
        phase: `"mail"`, `"rcpt"`, `"data"`, `"body"` or `"rset"`. In a phase before the first
            message, no code means success.
        code: The reply's code.

    Raises:
        ValueError: No phase has this name.
    """
    if phase in _EXACT:
        return code in _EXACT[phase]
    return succeeds_by_first_digit(phase, code)


def succeeds_by_first_digit(phase: str, code: int) -> bool:
    """Return whether a code means success for a command of the engine.

    The arguments and the exception are those of `succeeds`.
    """
    if phase not in PHASES:
        raise ValueError(f"no such phase: {phase}")
    if phase == "data":
        return code == 354
    return phase in ("mail", "rcpt", "body", "rset") and 200 <= code <= 299


def leaves_state_known(phase: str, code: int) -> bool:
    """Return whether the state of the server is known after a reply.

    The arguments and the exception are those of `succeeds`.
    """
    # RFC 5321 4.2.1: a 2yz completes MAIL or RCPT, so a later RSET ends the transaction.
    completed = phase in ("mail", "rcpt") and 200 <= code <= 299
    return succeeds(phase, code) or refuses(code) or completed


def refuses(code: int) -> bool:
    """Return whether a code is a refusal: 4yz or 5yz (RFC 5321 4.2.1)."""
    return 400 <= code <= 599
