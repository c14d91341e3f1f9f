"""The content of a message, as the engine sends it: with repaired line ends and stuffed dots."""

from collections.abc import Iterator

from rapidsmtp._pure.stuffing import LARGE, stuff, stuffed_parts


class Content:
    """The content of one message.

    Attributes:
        body: The body of the transaction. A large message is kept as it is, and `pieces` stuffs it
            in parts.
        size: The value for the SIZE parameter (RFC 1870 section 5), in bytes.
        eight_bit: Whether the message has bytes above 127.
    """

    __slots__ = ("_is_stuffed", "body", "eight_bit", "size")

    def __init__(self, data: bytes) -> None:
        self.eight_bit = not data.isascii()
        self._is_stuffed = len(data) < LARGE
        if self._is_stuffed:
            self.body, self.size = stuff(data)
        else:
            self.body, self.size = data, sum(size for _, size in stuffed_parts(data))

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes to send after the 354, with the terminator."""
        if self._is_stuffed:
            yield self.body
        else:
            yield from (piece for piece, _ in stuffed_parts(self.body))
