"""What the tests read off a page: whether it is sound HTML, its text, and what it would load or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser

ATTACK = "</p><script>alert(1)</script><img src=x onerror=alert(1)>\"' onmouseover='x' {{ 7*7 }} ]]></svg></style>"

_VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use", "line", "rect", "circle"}
_LOADING = {"src", "srcset", "action", "data", "poster", "background", "formaction", "ping"}


class Page(HTMLParser):
    """A parsed page; ``faults`` lists everything that would make it unsound or unsafe."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.faults: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(source)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]
        self.faults += [f"id {name} twice" for name in set(self.ids) if self.ids.count(name) > 1]
        self.faults += [f"#{name} leads nowhere" for name in self.references if name not in self.ids]

    @property
    def text(self) -> str:
        """What a reader sees, white space evened out."""
        return re.sub(r"\s+", " ", " ".join(self._words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look_at(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look_at(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self._open[-1:]} at {self.getpos()}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self._open):
            self._words.append(data)

    def _look_at(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "iframe", "object", "embed", "base", "link", "img", "form"}:
            self.faults.append(f"<{tag}>")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            if name.startswith("on") or name in _LOADING:
                self.faults.append(f"{tag} {name}={value!r}")
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "xlink:href"}:
                self._refer(tag, value or "")
            self.references += re.findall(r"url\(#([^)]*)\)", value or "")

    def _refer(self, tag: str, target: str) -> None:
        if target.startswith("#"):
            self.references.append(target[1:])
        else:
            self.faults.append(f"{tag} leads out to {target!r}")
