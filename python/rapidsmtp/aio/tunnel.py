"""The dialogue with a proxy over the streams of an asyncio connection."""

import asyncio
import contextlib

from rapidsmtp import _backend


async def negotiate(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    dialogue: "_backend.ProxyDialogue",
) -> None:
    """Request a connection to the relay from a proxy.

    After this call, the next byte of the stream comes from the relay.

    Raises:
        PeerError: The proxy made no connection.
    """
    while True:
        # A proxy may send its answer and close the connection while the client writes. So a failed
        # write is not reported: the answer, or the end of the stream, is read next.
        with contextlib.suppress(ConnectionError):
            writer.write(dialogue.data_to_send())
            await writer.drain()
        if not dialogue.wanted:
            return
        dialogue.receive_data(await reader.read(dialogue.wanted))
