"""Build the body of a message from texts and files (RFC 2046, RFC 2387)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidsmtp._compose.parts import BodyParts

Boundaries = tuple[bytes, ...]


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
    body = BodyParts()
    if not attachments:
        _add_texts(body, text, html, inline, ())
        return body
    boundaries = body.open_multipart("mixed", ())
    body.open_part(boundaries)
    _add_texts(body, text, html, inline, boundaries)
    for path in attachments:
        body.open_part(boundaries)
        body.add_file(path, boundaries)
    body.close_multipart(boundaries)
    return body


def _add_texts(
    body: BodyParts,
    text: str | None,
    html: str | None,
    inline: Mapping[str, Path],
    outer: Boundaries,
) -> None:
    if text is not None and html is not None:
        boundaries = body.open_multipart("alternative", outer)
        body.open_part(boundaries)
        body.add_text(text, "plain", boundaries)
        body.open_part(boundaries)
        _add_html(body, html, inline, boundaries)
        body.close_multipart(boundaries)
    elif html is not None:
        _add_html(body, html, inline, outer)
    elif text is not None:
        body.add_text(text, "plain", outer)


def _add_html(body: BodyParts, html: str, inline: Mapping[str, Path], outer: Boundaries) -> None:
    if not inline:
        body.add_text(html, "html", outer)
        return
    boundaries = body.open_multipart("related", outer)
    body.open_part(boundaries)
    body.add_text(html, "html", boundaries)
    for name, path in inline.items():
        body.open_part(boundaries)
        body.add_file(path, boundaries, inline_name=name)
    body.close_multipart(boundaries)
