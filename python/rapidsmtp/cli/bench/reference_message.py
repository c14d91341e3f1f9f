"""A message for each subscriber, built with Jinja2 templates and an EmailMessage.

Programs that use smtplib often build their messages in this way. The command `demo` compares the
speed of `Template` with the speed of this module. For a fair comparison, this module contains no
step that such a program could omit.
"""

import email
import email.errors
import email.policy
from collections.abc import Iterator, Mapping
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, make_msgid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidsmtp.cli.usage import UsageError

if TYPE_CHECKING:
    import jinja2

_ADDRESSES = frozenset(("from", "sender", "reply-to", "to", "cc", "bcc"))


class ReferenceMessage:
    """The content of a message file, as Jinja2 templates that build a message for each row.

    Args:
        path: The path of the message file.

    Raises:
        UsageError: `demo` cannot use the file, or Jinja2 is not installed.
    """

    def __init__(self, path: str) -> None:
        try:
            import jinja2
        except ModuleNotFoundError:
            raise UsageError("demo needs Jinja2: pip install 'rapidsmtp[merge]'") from None
        settings: dict[str, Any] = {
            "keep_trailing_newline": True,
            "undefined": jinja2.StrictUndefined,
        }
        self._errors = (
            ValueError,
            LookupError,
            TypeError,
            email.errors.MessageError,
            jinja2.TemplateError,
        )
        self._plain = jinja2.Environment(autoescape=False, **settings)
        self._escaping = jinja2.Environment(autoescape=True, **settings)
        try:
            data = Path(path).read_bytes()
            self._addresses = dict(self._address_fields(data))
            self._headers = dict(self._other_fields(data))
            self._parse_parts(email.message_from_bytes(data, policy=email.policy.default))
        except self._errors as error:
            raise UsageError(f"{path}: {error}") from None

    def compose(self, row: Mapping[str, Any]) -> EmailMessage:
        """Return the message for one row of a recipients list.

        Raises:
            ValueError: The row gives no valid message.
        """
        try:
            return self._compose(row)
        except self._errors as error:
            raise ValueError(str(error)) from error

    def _compose(self, row: Mapping[str, Any]) -> EmailMessage:
        message = EmailMessage()
        for field, mailboxes in self._addresses.items():
            message[field] = [
                Address(shown.render(row), addr_spec=address.render(row))
                for shown, address in mailboxes
            ]
        for field, value in self._headers.items():
            message[field] = value.render(row)
        if "Date" not in message:
            message["Date"] = formatdate(localtime=True)
        if "Message-ID" not in message:
            message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
        if self._text is not None:
            message.set_content(self._text.render(row))
        if self._html is not None:
            self._add_html(message, self._html.render(row))
        for content, arguments in self._attachments:
            message.add_attachment(content, **arguments)
        return message

    def _add_html(self, message: EmailMessage, html: str) -> None:
        if self._text is None:
            message.set_content(html, subtype="html")
            part = message
        else:
            message.add_alternative(html, subtype="html")
            part = message.get_payload()[-1]  # type: ignore[index, assignment]
        for content, arguments in self._images:
            part.add_related(content, **arguments)

    def _address_fields(
        self, data: bytes
    ) -> Iterator[tuple[str, list[tuple["jinja2.Template", "jinja2.Template"]]]]:
        for field, value in _fields(data):
            if field.lower() in _ADDRESSES:
                yield (
                    field,
                    [
                        (self._compile(_decoded(shown)), self._compile(address))
                        for shown, address in getaddresses([value])
                    ],
                )

    def _other_fields(self, data: bytes) -> Iterator[tuple[str, "jinja2.Template"]]:
        for field, value in _fields(data):
            name = field.lower()
            if name not in _ADDRESSES and name != "mime-version" and name[:8] != "content-":
                yield field, self._compile(_decoded(value))

    def _parse_parts(self, parsed: EmailMessage) -> None:
        text, html = parsed.get_body(("plain",)), parsed.get_body(("html",))
        self._text = None if text is None else self._compile(_text(text))
        self._html = None if html is None else self._escaping.from_string(_text(html))
        self._attachments: list[tuple[bytes, dict[str, Any]]] = []
        self._images: list[tuple[bytes, dict[str, Any]]] = []
        for part in parsed.walk():
            if part is text or part is html or part.get_content_maintype() == "multipart":
                continue
            content = part.get_payload(decode=True)
            if not isinstance(content, bytes):
                raise ValueError(f"demo does not support a {part.get_content_type()} part")
            arguments = {
                "maintype": part.get_content_maintype(),
                "subtype": part.get_content_subtype(),
                "filename": part.get_filename(),
            }
            if part["Content-ID"] and html is not None:
                arguments |= {"cid": str(part["Content-ID"]), "disposition": "inline"}
                self._images.append((content, arguments))
            else:
                self._attachments.append((content, arguments))

    def _compile(self, source: str) -> "jinja2.Template":
        return self._plain.from_string(source)


def _fields(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the header fields as written in the file.

    The policy `compat32` returns each value unchanged. Newer email policies parse the values, and
    would split Jinja2 fields.
    """
    for field, value in email.message_from_bytes(data, policy=email.policy.compat32).raw_items():
        text = str(value).encode("utf-8", "surrogateescape").decode("utf-8")
        yield field, "".join(text.splitlines())


def _decoded(value: str) -> str:
    return str(make_header(decode_header(value))) if "=?" in value else value


def _text(part: Any) -> str:
    return str(part.get_content()).replace("\r\n", "\n")
