"""Servers that deliver nothing, so that their queue is the record of all accepted messages."""

import os
from collections.abc import Iterator

from real_servers import Exim, Postfix

__all__ = ["Exim", "HoldingPostfix"]


class HoldingPostfix(Postfix):
    """Postfix, which keeps accepted messages in its queue `hold`."""

    def configure(self) -> None:
        super().configure()
        file = self.settings / "main.cf"
        name = "smtpd_recipient_restrictions = "
        file.write_text(file.read_text().replace(name, f"{name}check_client_access static:HOLD, "))

    def deliveries(self) -> list[tuple[str, str, bytes]]:
        found = []
        for file in (self.folder / "queue" / "hold").iterdir():
            # Postfix sets the execute permission of a queue file when the file is complete.
            if os.access(file, os.X_OK):
                records = list(_records(file.read_bytes()))
                sender, recipient = (
                    next(data.decode() for kind, data in records if kind == each) for each in "SR"
                )
                lines = [data for kind, data in records if kind == "N"]
                body = b"".join(line + b"\n" for line in lines[lines.index(b"") + 1 :])
                found.append((sender, recipient, body))
        return found


def _records(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the type and the data of each record of a queue file of Postfix.

    A record consists of a byte for the type, the length, and the data. Each byte of the length has
    7 bits of the length, beginning with the lowest. The bit 128 means that another byte follows.
    """
    place = 0
    while place < len(content):
        kind, length, shift = chr(content[place]), 0, 0
        place += 1
        while True:
            length |= (content[place] & 127) << shift
            shift += 7
            place += 1
            if content[place - 1] < 128:
                break
        yield kind, content[place : place + length]
        place += length
