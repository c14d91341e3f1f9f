# The interface of the compiled backend. stubtest compares this file with the extension.
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NoReturn, final

from _typeshed import ReadableBuffer
from typing_extensions import disjoint_base

from rapidsmtp._models.settings import EngineSettings
from rapidsmtp.errors import PeerError as PeerError

__all__ = [
    "MAX_LINES",
    "MAX_REPLY",
    "CramMd5",
    "Engine",
    "Exchange",
    "External",
    "Login",
    "MessageOutcome",
    "OAuthBearer",
    "PeerError",
    "PendingMessage",
    "Plain",
    "RecipientsList",
    "ReplyReader",
    "Scram",
    "Signer",
    "Sink",
    "Template",
    "Transaction",
    "XOAuth2",
    "__version__",
    "assemble",
    "certificate_digest",
    "check_command",
    "check_host_name",
    "check_path",
    "decode_challenge",
    "diagnose",
    "enhanced_status",
    "exceeds_size",
    "fold_field",
    "has_from_line",
    "mentions",
    "message_status",
    "parse_ehlo",
    "parse_line",
    "parse_lines",
    "plain_path",
    "recipient_status",
    "repair",
    "retry_after",
    "sasl_mechanisms",
    "stuff",
    "tree_text",
]

MAX_LINES: int
MAX_REPLY: int
__version__: str

def assemble(parts: Sequence[str | bytes]) -> bytes: ...
def certificate_digest(certificate: bytes) -> bytes | None: ...
def check_command(text: str) -> None: ...
def check_host_name(name: str) -> None: ...
def check_path(path: str) -> None: ...
def decode_challenge(mechanism: str, text: bytes) -> bytes: ...
def diagnose(phase: str, code: int, text: bytes, enhanced_status: str | None) -> str: ...
def enhanced_status(code: int, text: bytes) -> str | None: ...
def exceeds_size(parameter: str, size: int) -> bool: ...
def fold_field(name: str, value: str, limit: int, source: str) -> bytes | None: ...
def has_from_line(text: str) -> bool: ...
def mentions(parts: Sequence[str | bytes], needle: bytes) -> bool: ...
def message_status(recipients: Sequence[str]) -> str: ...
def parse_ehlo(text: bytes) -> dict[str, str]: ...
def parse_line(line: bytes) -> tuple[int, bytes] | None: ...
def parse_lines(lines: Sequence[bytes]) -> tuple[int, bytes]: ...
def plain_path(address: object) -> str | None: ...
def recipient_status(code: int) -> str: ...
def repair(data: ReadableBuffer) -> bytes: ...
def retry_after(code: int, text: bytes) -> float | None: ...
def sasl_mechanisms() -> list[tuple[str, int | None, int | None, bool, bool, bool]]: ...
def stuff(data: ReadableBuffer) -> tuple[bytes, int]: ...
def tree_text(tree: object, plain: Mapping[type, bool]) -> str | None: ...

@final
class ReplyReader:
    def __new__(cls) -> ReplyReader: ...
    def receive_data(self, data: bytes, awaited: int) -> int: ...
    def receive_eof(self) -> None: ...
    def events(self) -> list[tuple[int, bytes]]: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def broken(self) -> bool: ...

@final
class Signer:
    def __new__(
        cls,
        domain: str,
        selector: str,
        private_key: bytes,
        *,
        canonicalization: str = "relaxed/relaxed",
        headers: Sequence[str] | None = None,
        identity: str | None = None,
        expires: int | None = None,
    ) -> Signer: ...
    @staticmethod
    def join(signers: Sequence[Signer]) -> Signer: ...
    @property
    def signatures(self) -> list[tuple[str, str, str]]: ...
    def sign(self, message: ReadableBuffer, time: int) -> bytes: ...

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
        tuple[bytes, list[bytes], list[tuple[bytes, list[bytes]]], bytes, bool, str | None]
    ]: ...
    def counts(self) -> dict[str, int]: ...
    def wire(self) -> list[bytes]: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...

@final
class Engine:
    def __new__(cls, settings: EngineSettings, path_of: Callable[[str], str]) -> Engine: ...
    def open_outbox(self) -> int: ...
    def submit(self, outbox: int, messages: list[Any], wait: float) -> int: ...
    def take(self, outbox: int, into: list[Any], limit: int, wait: float) -> int: ...
    def pending(self, outbox: int) -> int: ...
    def close_outbox(self, outbox: int) -> None: ...
    def requests(self, wait: float) -> list[tuple[str, str | None]]: ...
    def answer_password(self, value: str | None, reason: str) -> None: ...
    def stats(self) -> dict[str, object]: ...
    def error(self) -> tuple[str, int | None, bytes, float | None] | None: ...
    def restart(self) -> None: ...
    def close(self, wait: float | None, drained: bool = True) -> None: ...
    def descriptors(self) -> list[int]: ...

@final
class MessageOutcome:
    @property
    def status(self) -> str: ...
    def details(
        self,
    ) -> tuple[
        str,
        list[tuple[str, int | None, str | None, str]],
        tuple[int, bytes] | None,
        str,
        int,
        float,
        str,
    ]: ...

@final
class Template:
    def __new__(
        cls,
        headers: Sequence[tuple[str, str]],
        parts: Sequence[bytes | tuple[str, str, str, str, Sequence[bytes]]],
        signer: Signer | None = None,
    ) -> Template: ...
    @property
    def required_fields(self) -> frozenset[str]: ...
    def pending(
        self, row: Mapping[str, Any], tag: Any, date: str, id: str, time: int
    ) -> PendingMessage: ...

@final
class PendingMessage:
    @property
    def tag(self) -> Any: ...
    def render(self) -> tuple[str, list[str], bytes, list[str]]: ...

@final
class RecipientsList:
    def __new__(cls, template: Template, path: str, tag: str | None) -> RecipientsList: ...
    @property
    def tag(self) -> str | None: ...
    def next(self, date: str, id: str, time: int) -> PendingMessage | None: ...

@final
class Transaction:
    def __new__(
        cls,
        sender: str,
        recipients: Sequence[str],
        body: bytes,
        mail_parameters: Sequence[str] | None = None,
        rcpt_parameters: Sequence[str] | None = None,
        *,
        utf8: bool = False,
        lower_case: bool = False,
        lmtp: bool = False,
        mail_alone: bool = False,
        data_alone: bool = False,
        sequential: bool = False,
    ) -> Transaction: ...
    def data_to_send(self) -> bytes: ...
    def receive_data(self, data: bytes) -> int: ...
    def receive_eof(self) -> None: ...
    def write_failed(self) -> None: ...
    @property
    def awaiting(self) -> int: ...
    @property
    def end(self) -> str | None: ...
    @property
    def close(self) -> bool: ...
    @property
    def reply(self) -> tuple[int, bytes] | None: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def accepted(self) -> list[int]: ...
    @property
    def refused(self) -> list[tuple[int, tuple[int, bytes]]]: ...
    @property
    def body_sent(self) -> bool: ...

@disjoint_base
class Exchange:
    @property
    def name(self) -> str: ...
    @property
    def complete(self) -> bool: ...
    def respond(self, challenge: bytes | None) -> bytes | None: ...
    def __reduce__(self) -> NoReturn: ...

@final
class Plain(Exchange):
    def __new__(cls, user: str, password: str, authzid: str = "") -> Plain: ...

@final
class Login(Exchange):
    def __new__(cls, user: str, password: str) -> Login: ...

@final
class CramMd5(Exchange):
    def __new__(cls, user: str, password: str) -> CramMd5: ...

@final
class XOAuth2(Exchange):
    def __new__(cls, user: str, token: str) -> XOAuth2: ...

@final
class OAuthBearer(Exchange):
    def __new__(cls, user: str, token: str, host: str = "", port: int = 0) -> OAuthBearer: ...

@final
class Scram(Exchange):
    def __new__(
        cls,
        user: str,
        password: str,
        algorithm: str,
        nonce: str,
        channel_binding: tuple[str, bytes] | None = None,
    ) -> Scram: ...

@final
class External(Exchange):
    def __new__(cls, authzid: str = "") -> External: ...
