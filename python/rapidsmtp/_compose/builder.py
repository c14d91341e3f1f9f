"""Build the body of a message from texts and files (RFC 2046, RFC 2387)."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidsmtp._compose.parts import BodyParts

Boundaries = tuple[bytes, ...]
File = tuple[Path, bytes]


def compose_body(
    text: str | None, html: str | None, attachments: Sequence[Path], inline: Mapping[str, Path]
) -> BodyParts:
    """Build a body. The body contains mixed, alternative and related multiparts as needed.

    Raises:
        ValueError: `text` and `html` are both None, or there are inline images but no HTML to show
            them.
        OSError: A file cannot be read.
    """
    if text is None and html is None:
        raise ValueError("a message needs text, html or both")
    if inline and html is None:
        raise ValueError("inline images need html that shows them")
    files = [(path, path.read_bytes()) for path in attachments]
    images = {name: (path, path.read_bytes()) for name, path in inline.items()}
    body = BodyParts(_seed(text, html, files, images))
    if not files:
        _add_texts(body, text, html, images, ())
        return body
    boundaries = body.open_multipart("mixed", ())
    body.open_part(boundaries)
    _add_texts(body, text, html, images, boundaries)
    for path, content in files:
        body.open_part(boundaries)
        body.add_file(path, content)
    body.close_multipart(boundaries)
    return body


def _seed(
    text: str | None, html: str | None, files: Sequence[File], images: Mapping[str, File]
) -> bytes:
    """Return a hash of the content, so that the same content has the same boundaries."""
    content = hashlib.sha256(repr((text, html)).encode("utf-8", "replace"))
    named = [("", *file) for file in files] + [(name, *file) for name, file in images.items()]
    for name, path, data in named:
        content.update(repr((name, path.name, len(data))).encode("utf-8", "replace"))
        content.update(data)
    return content.digest()


def _add_texts(
    body: BodyParts,
    text: str | None,
    html: str | None,
    images: Mapping[str, File],
    outer: Boundaries,
) -> None:
    if text is not None and html is not None:
        boundaries = body.open_multipart("alternative", outer)
        body.open_part(boundaries)
        body.add_text(text, "plain", boundaries)
        body.open_part(boundaries)
        _add_html(body, html, images, boundaries)
        body.close_multipart(boundaries)
    elif html is not None:
        _add_html(body, html, images, outer)
    elif text is not None:
        body.add_text(text, "plain", outer)


def _add_html(body: BodyParts, html: str, images: Mapping[str, File], outer: Boundaries) -> None:
    if not images:
        body.add_text(html, "html", outer)
        return
    boundaries = body.open_multipart("related", outer)
    body.open_part(boundaries)
    body.add_text(html, "html", boundaries)
    for name, (path, content) in images.items():
        body.open_part(boundaries)
        body.add_file(path, content, inline_name=name)
    body.close_multipart(boundaries)
