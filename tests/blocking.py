"""`rapidsmtp.aio` with the blocking interface of smtplib: each call runs one coroutine.

Tests that compare smtplib with the drop-in use this module to test the asyncio classes too. The
module switches off the secure defaults of these classes, because smtplib has no such defaults.
"""

import asyncio
import inspect
from typing import Any

from rapidsmtp import aio
from rapidsmtp._smtp import login
from rapidsmtp.errors import SMTPConnectError

__all__ = ["LMTP", "SMTP", "SMTP_SSL"]


_loop = asyncio.new_event_loop()


class _Blocking:
    kind: type[aio.SMTP]

    def __init__(self, host: str = "", port: int = 0, *args: Any, **named: Any) -> None:
        named.setdefault("start_tls", None if named.get("use_tls") else False)
        named["allow_plaintext_auth"] = True
        self._client = self.kind(host, port, *args, **named)
        if not host:
            return
        self._run(self._client.connect())

    def _run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return _loop.run_until_complete(wait())

    def connect(self, *args: Any) -> Any:
        try:
            return self._run(self._client.connect(*args))
        except SMTPConnectError as error:
            # smtplib's `connect` raises no exception if the greeting is a refusal. It returns the
            # greeting and leaves the connection open.
            return error.smtp_code, error.smtp_error

    def login(self, user: str, password: str, initial_response_ok: bool = True) -> Any:
        # After the reply 535 (wrong credentials), `aio.SMTP.login` stops, but smtplib tries the
        # next mechanism. So this method runs the login of the drop-in.
        steps = login.login(self._client, user, password, initial_response_ok)
        return self._run(self._client._run(steps))

    def close(self) -> None:
        self._run(self._client.close())

    # The client is already connected, so `aio.SMTP.__aenter__`, which connects, is not called.
    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> Any:
        return self._run(self._client.__aexit__(*args))

    def __getattr__(self, name: str) -> Any:
        if name == "_client":
            raise AttributeError(name)
        if name == "source_address":
            return self._client.options.source_address
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *args, **named: self._run(value(*args, **named))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_client":
            super().__setattr__(name, value)
        else:
            setattr(self._client, name, value)


class SMTP(_Blocking):
    kind = aio.SMTP


class SMTP_SSL(_Blocking):
    kind = aio.SMTP_SSL


class LMTP(_Blocking):
    kind = aio.LMTP
