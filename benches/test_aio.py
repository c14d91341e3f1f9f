"""`rapidsmtp.aio` compared with aiosmtplib, and `aio.Sender` compared with `Sender`."""

from functools import partial

import competitors
import pytest
from competitors import LARGE, SMALL

SIZES = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["300-bytes", "38-kB"])


@SIZES
def test_aio_SMTP_1_connection(table, port, data):
    table(
        {
            "aiosmtplib": partial(competitors.by_aiosmtplib, port, data, 1000, connections=1),
            "rapidsmtp": partial(competitors.by_aio, port, data, 2000),
        },
        rounds=7,
    )


@SIZES
def test_aio_Sender_and_aiosmtplib_with_8_connections(table, port, data):
    table(
        {
            "aiosmtplib": partial(competitors.by_aiosmtplib, port, data, 1000, connections=8),
            "Sender": partial(competitors.by_sender_loop, port, data, 20_000, connections=8),
            "rapidsmtp": partial(competitors.by_aio_sender, port, data, 20_000, connections=8),
        },
        rounds=5,
    )
