"""Header fields of messages as texts for people."""

import contextlib
import email.header
import email.message


def header_text(message: email.message.Message, name: str) -> str:
    """Return the value of a header field on one line, with its encoded words decoded.

    Args:
        message: The message, parsed with the policy `compat32`.
        name: The name of the field.
    """
    found = message.get(name, "")
    # A field with bytes that are not ASCII is a `Header` object, whose text has lost these bytes.
    raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
    value = str(raw if isinstance(found, email.header.Header) else found)
    with contextlib.suppress(ValueError, LookupError):
        value = str(email.header.make_header(email.header.decode_header(value)))
    return " ".join(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split())
