# The interface of the compiled half, checked against it by stubtest.
__version__: str

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import final

@final
class Sink:
    def __new__(
        cls,
        *,
        host: str,
        port: int,
        path: str | PathLike[str] | None,
        lmtp: bool,
        extensions: Sequence[str] | None,
        latency: float,
        faults: Sequence[
            tuple[
                str,
                int | None,
                int | None,
                bytes | None,
                int | None,
                bytes | None,
                str | None,
                float,
            ]
        ],
        tls: tuple[str, bytes, bytes] | None,
        credentials: Mapping[str, str],
        store: bool,
        wire: bool,
        threads: int,
    ) -> Sink: ...
    def address(self) -> tuple[str, int] | None: ...
    def messages(
        self, start: int
    ) -> list[
        tuple[
            bytes, list[bytes], list[tuple[bytes, list[bytes]]], bytes, bool, str | None
        ]
    ]: ...
    def counts(self) -> dict[str, int]: ...
    def wire(self) -> list[bytes]: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
