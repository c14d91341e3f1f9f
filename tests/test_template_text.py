"""`Template` renders the same texts as Jinja2. The Rust tests use the same vectors."""

from typing import Any

import pytest

from core_vectors import rows
from rapidsmtp._compose.encode import RowError
from rapidsmtp._compose.pure_text import Text, plain


def value(vector: Any) -> Any:
    """Return the value of a vector.

    An object with one key stands for a value that JSON cannot express: a large integer, an
    infinity, or a dict with an order of keys.
    """
    if isinstance(vector, list):
        return [value(item) for item in vector]
    if not isinstance(vector, dict):
        return vector
    ((name, inner),) = vector.items()
    match name:
        case "$int":
            return int(inner)
        case "$float":
            return float(inner)
        case _:
            return {key: value(item) for key, item in inner}


ROW = {name: plain(value(field)) for name, field in rows("template_text", "rows")[0].items()}


@pytest.mark.parametrize(
    "vector", rows("template_text", "texts"), ids=lambda vector: ascii(vector["source"])
)
def test_a_text_is_rendered_as_in_the_vectors(vector: dict[str, Any]) -> None:
    def render() -> str:
        text = Text(vector["source"], vector["kind"], "place")
        assert sorted(text.required) == vector["required"]
        return text.render(ROW)

    if "text" in vector:
        assert render() == vector["text"]
        return
    with pytest.raises(RowError if vector.get("fails") == "render" else ValueError) as caught:
        render()
    if "error" in vector:
        assert str(caught.value) == vector["error"]
    else:
        assert isinstance(caught.value, RowError) == (vector["fails"] == "render")
