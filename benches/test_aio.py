"""`rapidsmtp.aio` beside aiosmtplib, and `aio.Sender` beside `Sender`."""

from functools import partial

import pytest
import rivals as ways
from rivals import LARGE, SMALL

SIZES = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["300-bytes", "38-kB"])


@SIZES
def test_aio_SMTP_1_connection(table, port, data):
    table(
        {
            "aiosmtplib": partial(ways.by_aiosmtplib, port, data, 1000, connections=1),
            "rapidsmtp": partial(ways.by_aio, port, data, 2000),
        },
        rounds=7,
    )


@SIZES
def test_aio_Sender_beside_8_connections_of_aiosmtplib(table, port, data):
    table(
        {
            "aiosmtplib": partial(ways.by_aiosmtplib, port, data, 1000, connections=8),
            "Sender": partial(ways.by_sender_loop, port, data, 20_000, connections=8),
            "rapidsmtp": partial(ways.by_aio_sender, port, data, 20_000, connections=8),
        },
        rounds=5,
    )
