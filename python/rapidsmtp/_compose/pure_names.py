"""Determine which names of a template are fields of the row.

The rules are those of `src/message/text/names.rs`. Each loop, macro and `set` block has a frame. A
name that no frame has surely set before its use is a field of the row. If an outer frame sets a
name after an inner frame has read it, Jinja2 gives the inner frame an undefined value, and
minijinja the field of the row. So this is an error.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["block", "loop", "macro", "test"]


@dataclass(slots=True)
class _Frame:
    kind: Kind
    names: set[str] = field(default_factory=set)
    """The names that are surely set."""
    read: set[str] = field(default_factory=set)
    """The names that inner frames have read."""


class Names:
    """The names of a template, in the order of the template.

    Attributes:
        fields: The fields that the template reads in any branch.
        optional: The number of enclosing filters `default` and tests `defined`.
    """

    def __init__(self) -> None:
        self._frames = [_Frame("block")]
        self._used: set[str] = set()
        self.fields: set[str] = set()
        self.optional = 0

    @property
    def required(self) -> frozenset[str]:
        """The fields that a row must have."""
        return frozenset(self._used & self.fields)

    def enter(self, kind: Kind) -> None:
        """Enter a frame."""
        self._frames.append(_Frame(kind))

    def leave(self) -> None:
        """Leave the current frame."""
        self._frames.pop()

    def begin_loop(self) -> None:
        """Enter the body of the loop whose condition has ended."""
        self._frames[-1].kind = "loop"

    def is_known(self, name: str) -> bool:
        """Return whether the template has used a name outside of loops and blocks."""
        return name in self._frames[-1].names or name in self.fields

    def branch(self) -> set[str]:
        """Return the names that the current frame has surely set, for a branch of an `if`."""
        return set(self._frames[-1].names)

    def end_branch(self, before: set[str]) -> set[str]:
        """End a branch and return its names."""
        ended = self._frames[-1].names
        self._frames[-1].names = set(before)
        return ended

    def join(self, branches: list[set[str]]) -> None:
        """Add the names that every branch of an `if` has set."""
        self._frames[-1].names |= set.intersection(*branches)

    def read(self, name: str) -> None:
        """Read a name."""
        places = [at for at, frame in enumerate(self._frames) if name in frame.names]
        is_in_macro = any(frame.kind == "macro" for frame in self._frames)
        start = places[-1] + 1 if places else 0
        if is_in_macro and places and places[-1] == 0:
            # A macro reads the names of the template when it is called.
            start = 0
        for frame in self._frames[start:-1]:
            frame.read.add(name)
        if not places:
            self.fields.add(name)
        if not self.optional:
            self._used.add(name)

    def set(self, name: str) -> str | None:
        """Set a name in the current frame. Return an error text, or None."""
        frame = self._frames[-1]
        if name in frame.read:
            return (
                f"the variable '{name}' is set after a loop, a block or a macro that reads it; set "
                "it before"
            )
        frame.names.add(name)
        return None

    def is_loop(self, name: str) -> bool:
        """Return whether a name is the `loop` of a running loop."""
        kinds = [frame.kind for frame in self._frames if frame.kind != "block"]
        return name == "loop" and kinds[-1:] == ["loop"]
