"""`rapidsmtp send --inline-images`: the images beside an HTML file become inline images.

Designers export an HTML file with a folder of images, which the HTML names by relative paths. No
mail reader can open these paths.
"""

import html
import mimetypes
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

# An attribute with the address of an image, or an address in CSS. The second group is the address,
# with its quotes.
_ADDRESS = re.compile(
    r"""((?<=[\s"'])(?:src|background|poster)\s*=\s*|\burl\(\s*)"""
    r"""("[^"<>]{1,1000}"|'[^'<>]{1,1000}'|[^\s"'<>()]{1,1000})""",
    re.IGNORECASE,
)
# An address with a scheme, or of another host. A path of Windows begins with a letter and a colon.
_NOT_RELATIVE = re.compile(r"[a-z][a-z0-9+.-]*:|[/\\#?]", re.IGNORECASE)
_NOT_IN_NAME = re.compile(r"[^\w.@+-]+", re.ASCII)


def with_inline_images(
    source: str, folder: Path, taken: Iterable[str]
) -> tuple[str, dict[str, str]]:
    """Replace the relative paths of images in an HTML text with `cid:` and the image's name.

    Only images in the folder of the HTML file, and in folders below it, are used: a page of another
    person must not attach other files of this computer.

    Args:
        source: The HTML text.
        folder: The folder of the HTML file.
        taken: The names of other inline images.

    Returns:
        The text, and the paths of the images by their names.
    """
    images: dict[str, str] = {}
    names: dict[Path, str] = {}
    root = folder.resolve()

    def replaced(match: re.Match[str]) -> str:
        quote = match[2][0] if match[2][0] in "\"'" else ""
        path = _image(html.unescape(match[2].strip(quote or None)), root)
        if path is None:
            return match[0]
        if path not in names:
            names[path] = _free_name(path, {*images, *taken})
            images[names[path]] = str(path)
        return f"{match[1]}{quote}cid:{names[path]}{quote}"

    return _ADDRESS.sub(replaced, source), images


def _image(address: str, root: Path) -> Path | None:
    """Return the path of an image below a folder; None for another address."""
    if _NOT_RELATIVE.match(address):
        return None
    name = urllib.parse.unquote(re.split("[?#]", address, maxsplit=1)[0])
    kind, _ = mimetypes.guess_type(name)
    if kind is None or not kind.startswith("image/"):
        return None
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):  # a name that is too long or has a NUL character
        return None


def _free_name(path: Path, taken: set[str]) -> str:
    """Return a name for `cid:` that no other image has."""
    name = _NOT_IN_NAME.sub("_", path.name)
    number = 2
    free = name
    while free in taken:
        free, number = f"{number}-{name}", number + 1
    return free
