"""What a model wrote, made fit to be shown to people: a tree of allowed elements and plain text, never HTML.

The page builds it with createElement and text nodes, so that nothing in a text can run, load or link anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from preftune.data.records import Prompt

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

Node: TypeAlias = str | list[Any]  # text, or [element, attributes, children]

LONGEST_MARKDOWN: Final = 200_000  # characters; longer texts are shown as they were written
_LONGEST_BLOCK: Final = 20_000  # characters of one paragraph; inline rules cost more than linearly
_ELEMENTS: Final = {
    **{name: name for name in ("p", "ul", "ol", "li", "strong", "em", "code", "blockquote", "hr", "br")},
    **{name: name for name in ("table", "thead", "tbody", "tr", "th", "td")},
    "s": "del",
    # The page's own headings are h1 and h2; those of a text go beneath them.
    **{f"h{level}": f"h{min(level + 2, 6)}" for level in range(1, 7)},
}
# Control characters as their pictures; the two overrides, which show a text in another order than it has, by name.
_VISIBLE: Final = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    127: "\u2421",
    **dict.fromkeys(range(128, 160), "\ufffd"),
    0x202D: "⟨left-to-right override⟩",
    0x202E: "⟨right-to-left override⟩",
}
_BLANK_LINE: Final = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Rubric:
    """Guidelines in Markdown; ``version`` changes with the text."""

    text: str

    @property
    def version(self) -> str:
        """The beginning of the text's SHA-256."""
        return f"sha256:{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    @property
    def tree(self) -> tuple[Node, ...]:
        """The text as the page builds it."""
        text = visible(self.text)
        return tree_of(text) or (text,)


def shown_turns(content: Prompt, role: str) -> list[dict[str, Any]]:
    """The turns of a text or of messages: ``role``, ``written`` as it came, and ``tree``, None where it is too long.

    A text is one turn of ``role``. What a message has beside its content, such as tool calls, follows as code.
    """
    if isinstance(content, str):
        return [_turn(role, content)]
    return [_turn(message.role, _with_extra(message.content, message.model_extra)) for message in content]


@lru_cache(maxsize=256)
def tree_of(text: str) -> tuple[Node, ...] | None:
    """The text read as Markdown, HTML in it left as text; None where it is too long to be read so in good time."""
    if len(text) > LONGEST_MARKDOWN or max(map(len, _BLANK_LINE.split(text))) > _LONGEST_BLOCK:
        return None
    root: list[Node] = []
    _fill(root, _parser().parse(text))
    return tuple(root)


def visible(text: str) -> str:
    """The text with what is invisible and misleads made visible, and line ends made one."""
    return re.sub(r"\r\n?|\u2028|\u2029", "\n", text).translate(_VISIBLE)


def _turn(role: str, text: str) -> dict[str, Any]:
    written = visible(text)
    return {"role": role, "written": written, "tree": tree_of(written)}


def _with_extra(text: str, extra: dict[str, Any] | None) -> str:
    if not extra:
        return text
    import json

    return f"{text}\n\n~~~~json\n{json.dumps(extra, ensure_ascii=False, indent=2, default=str)}\n~~~~".lstrip()


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Models mean a line break where they make one; CommonMark would fold it into a space.
    return MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])


def _fill(children: list[Node], tokens: Iterable[Token]) -> None:
    """The tokens as nodes below ``children``."""
    open_lists = [children]
    for token in _flat(tokens):
        if token.hidden or (token.type == "text" and not token.content):  # hidden: paragraphs of a tight list
            continue
        if token.nesting < 0:
            open_lists.pop()
            continue
        node = _node(token)
        open_lists[-1].append(node)
        if token.nesting > 0:
            open_lists.append(node[2])  # type: ignore[arg-type]  # what opens is never a plain text


def _flat(tokens: Iterable[Token]) -> Iterator[Token]:
    for token in tokens:
        if token.type == "inline":
            yield from token.children or ()
        else:
            yield token


def _node(token: Token) -> Node:
    if token.type in ("fence", "code_block"):
        return ["pre", {}, [token.content]]
    if token.type == "code_inline":
        return ["code", {}, [token.content]]
    if token.type == "link_open":
        return ["span", {"class": "link", "where": visible(str(token.attrGet("href") or ""))}, []]
    if token.type == "image":
        return ["span", {"class": "link", "where": visible(str(token.attrGet("src") or ""))}, [token.content]]
    if token.type in ("softbreak", "hardbreak"):
        return ["br", {}, []]
    if token.tag in _ELEMENTS:
        start = token.attrGet("start") if token.tag == "ol" else None
        return [_ELEMENTS[token.tag], {} if start is None else {"start": start}, []]
    return token.content if token.nesting == 0 else ["span", {}, []]
