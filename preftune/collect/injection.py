"""Signs that a judged text speaks to its judge instead of to its reader. Signs, not proof: persuasion leaves none."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from typing import Final

from preftune.data.records import Prompt

_FLAGS: Final = re.IGNORECASE | re.MULTILINE
_BEFORE = r"(?:previous|prior|above|earlier|preceding|other|your|these|those|system|all|any)"
_RULES = r"(?:instructions?|prompts?|rules|rubric|criteria|guidelines|directions|text)"
_ONE = r"(?:answer|response|option|candidate|assistant|completion|output)"
_PATTERNS: Final[dict[str, re.Pattern[str]]] = {
    "override": re.compile(
        rf"\b(?:ignore|disregard|forget|override|bypass|skip)\b(?:\W+\w+){{0,3}}?\W+{_BEFORE}\b(?:\W+\w+){{0,3}}?\W+{_RULES}"
        r"|\b(?:ignor\w+|vergiss|missachte\w*)\b.{0,30}\b(?:anweisung\w*|regeln)"
        r"|\b(?:ignore[zr]?|oublie[zr]?)\b.{0,30}\b(?:instructions|consignes)"
        r"|\b(?:ignora|olvida|ignore)\w*\b.{0,30}\b(?:instrucciones|instruções|istruzioni)"
        r"|忽略.{0,10}(?:指令|指示|说明|规则)",
        _FLAGS,
    ),
    "own-verdict": re.compile(
        rf"\b(?:choose|pick|select|prefer|vote\s+for|rank|rate|declare|judge|mark|score)\s+"
        rf"(?:me\b|this\s+{_ONE}\b|my\s+{_ONE}\b|(?:the\s+)?(?:first|second)\s+{_ONE}\b|{_ONE}\s+[ab12]\b)"
        rf"|\b{_ONE}\s+[ab12]\s+(?:is|should\s+be|must\s+be)\s+(?:the\s+)?(?:best|better|winner|chosen|preferred|selected)"
        r"|\b(?:verdict|winner|final\s+(?:answer|score|verdict))\s*(?:is|:|=)\s*[\"'\[*]*\s*(?:[ab12]|tie)\b"
        r"|\[\[\s*(?:a|b|c|tie|\d+)\s*\]\]",
        _FLAGS,
    ),
    "fake-reply": re.compile(r"\"(?:verdict|winner|ranking|preference|score|rating)\"\s*:", _FLAGS),
    "to-the-judge": re.compile(
        r"\b(?:note|message|instructions?|attention|dear|hey|hello)\b[\s,:]*(?:to|for)?\s*(?:the\s+|any\s+|all\s+)?"
        r"(?:judges?|evaluators?|graders?|raters?|reviewers?|annotators?)\b"
        r"|\b(?:you\s+are|as|acting\s+as)\s+(?:now\s+)?(?:the|an?)\s+(?:\w+\s+)?(?:judge|evaluator|grader|rater)\b",
        _FLAGS,
    ),
    "envelope": re.compile(r"^\s*(?:BEGIN|END)\s+[0-9a-f]{8,}", _FLAGS),
    "chat-template": re.compile(
        r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|end_header_id|system|user|assistant)\|>"
        r"|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</s>|<｜[^｜>]{1,30}｜>"
        r"|^\s*(?:###\s*)?(?:system|assistant)\s*(?:message|prompt)?\s*:\s*\S",
        _FLAGS,
    ),
}
_LOOKALIKES: Final = str.maketrans(
    "аеорсухіјѕԁһӏтмкАВЕКМНОРСТУХІЈЅαονιρτυκΑΒΕΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijsdhltmkABEKMHOPCTYXIJSaoviptukABEHIKMNOPTYX",
)
_HIDDEN: Final = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_ENCODED: Final = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{24,}={0,2}")
_LONGEST: Final = 200_000  # characters that are looked at


def injection_signs(content: Prompt) -> tuple[str, ...]:
    """The kinds of passages found that speak to a judge: also hidden by look-alikes, unseen characters or base64."""
    text = content if isinstance(content, str) else "\n".join(message.content for message in content)
    text = text[:_LONGEST]
    found = {name: None for name, pattern in _PATTERNS.items() if pattern.search(text)}
    plain = _unmasked(text)
    if plain != text:
        hidden = [name for name, pattern in _PATTERNS.items() if name not in found and pattern.search(plain)]
        found |= dict.fromkeys([*hidden, "hidden"] if hidden else [])
    if any(pattern.search(decoded) for decoded in _decoded(text) for pattern in _PATTERNS.values()):
        found["encoded"] = None
    return tuple(found)


def escaped(text: str) -> str:
    """The text with every such passage spelled in JSON's escapes: it can still be read, and hardly be obeyed."""
    if "hidden" in injection_signs(text):
        text = _unmasked(text)
    for pattern in _PATTERNS.values():
        text = pattern.sub(lambda found: "".join(f"\\u{ord(one):04x}" for one in found[0]), text)
    return text


def _unmasked(text: str) -> str:
    """The text as it looks: without unseen characters, look-alikes of Latin letters as those."""
    return _HIDDEN.sub("", unicodedata.normalize("NFKC", text)).translate(_LOOKALIKES)


def _decoded(text: str) -> list[str]:
    """What the text holds in base64."""
    found: list[str] = []
    for run in _ENCODED.findall(text)[:50]:
        try:
            found.append(base64.b64decode(run[: len(run) // 4 * 4], validate=True).decode("utf-8"))
        except (binascii.Error, ValueError):
            continue
    return found
