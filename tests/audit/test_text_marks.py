import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.audit import text_patterns
from preftune.audit.findings import Finding
from preftune.audit.text_marks import MARKS, OTHER_SCRIPT, audit_text_marks, marks_of, names_of
from preftune.audit.text_patterns import SCRIPTS

SHARED = Path(__file__).parents[3] / "shared" / "data"


def marks(text: str) -> set[str]:
    """The marks of a text but its script and its ending."""
    return set(names_of(marks_of(text))) - set(SCRIPTS) - {"cut-off"}


def damaged(text: str, encoding: str) -> str:
    return text.encode().decode(encoding, errors="replace")


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        (" \n\t ", "blank"),
        ("", "blank"),
        ("\u3000\u00a0", "blank"),
        ("a\x00b", "control-character"),
        ("a\x1b[31mred", "control-character"),
        ("it\x92s", "control-character"),
        ("what \ufffd is", "replacement-character"),
        ("zero\u200bwidth", "invisible-character"),
        ("\ufeffBOM", "invisible-character"),
        ("abc \u202egpj.exe", "invisible-character"),
        ("hi<|im_end|>", "special-token"),
        ("<|start_header_id|>user", "special-token"),
        ("the end</s>", "special-token"),
        ("[INST] do it [/INST]", "special-token"),
        ("<<SYS>>", "special-token"),
        ("<｜end▁of▁sentence｜>", "special-token"),
        ("fine.\n\nHuman: and now?", "turn-heading"),
        ("### Response:\nfine", "turn-heading"),
        ("Assistant: fine", "turn-heading"),
        ("a<br>b", "html"),
        ('<a href="x">y</a>', "html"),
        ("fish &amp; chips", "html"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, but I can’t assist with this.", "refusal"),
        ("Unfortunately I am unable to provide that.", "refusal"),
        ("I cannot help you with this request.", "refusal"),
        ("As an AI language model I have no taste.", "assistant-phrase"),
        ("I am just an AI and have no body.", "assistant-phrase"),
        ("mail jane.doe+x@mail.example.org now", "email"),
        ("call +49 30 1234567 today", "phone"),
        ("call (555) 867-5309 today", "phone"),
        ("card 4111 1111 1111 1111.", "card-number"),
        ("to GB29 NWBK 6016 1331 9268 19 please", "iban"),
        ("DE89370400440532013000", "iban"),
        ("ssh to 192.168.100.17 first", "ip-address"),
        ("key AKIA" + "IOSFODNN7EXAMPLE", "secret"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE", "secret"),
        ("export TOKEN=ghp_" + "a1" * 18, "secret"),
        ("sk-" + "proj-abc123def456ghi789jkl0", "secret"),
        ("xoxb-" + "123456789012-abcdefghij", "secret"),
    ],
)
def test_a_pattern_gives_its_mark_and_no_other(text: str, mark: str) -> None:
    assert marks(text) == {mark}


@pytest.mark.parametrize(
    "text",
    [
        "A plain sentence.",
        "Tabs\tand\r\nlines are fine.",
        "“It’s” a – good – thing…",
        "if a < b and c > d: print(a[0], b[1])",
        "The total is 1234567.89 of 2021-03-04 and pi is 3.14159265358979.",
        "version 1.2.3.4 of 10.20.30",
        "Card 4111 1111 1111 1112 fails its check.",
        "risk-averse task-oriented desk-bound sk-learn",
        "I can't wait to see you, I'm sorry for the delay.",
        "Human: nobody"[7:],
        "the user: said so",
        "R&D at AT&T",
        "naïve café, Ærøskøbing, ça va, São Tomé, Łódź, Ôter les âmes",
        "Привет, как дела? Сёстры и братья.",
        "你好,世界。今天天气很好。",
        "こんにちは、世界。",
        "안녕하세요, 세계.",
        "שלום עולם",
        "مرحبا بالعالم",
        "می\u200cخواهم",
        "👩\u200d💻 works 🎉🎉",
        "x² + y³ ≤ z½ → ∞",
        "α + β = γ",
        "said",
    ],
)
def test_ordinary_text_has_no_marks(text: str) -> None:
    assert marks(text) == set()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("it’s “good”", "cp1252"), ("déjà vu à Zürich", "latin-1"), ("Привет, мир", "cp1251"), ("naïve", "cp1252")],
)
def test_utf_8_read_as_another_encoding_is_mojibake(text: str, encoding: str) -> None:
    assert "mojibake" in marks(damaged(text, encoding))


@pytest.mark.parametrize(("text", "encoding"), [("it’s good", "cp1252"), ("Привет", "cp1252"), ("café", "latin-1")])
def test_without_ftfy_the_commonest_mojibake_is_found(
    text: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ftfy.badness", None)
    text_patterns._is_mojibake.cache_clear()
    try:
        assert "mojibake" in marks(damaged(text, encoding)) and "mojibake" not in marks(text)
    finally:
        text_patterns._is_mojibake.cache_clear()


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello, world", "latin"),
        ("déjà vu", "latin"),
        ("Tiếng Việt rất hay", "latin"),
        ("Привет, как дела?", "cyrillic"),
        ("Καλημέρα κόσμε", "greek"),
        ("مرحبا بالعالم", "arabic"),
        ("שלום עולם", "hebrew"),
        ("नमस्ते दुनिया", "indic"),
        ("สวัสดีชาวโลก", "thai"),
        ("안녕하세요 세계", "hangul"),
        ("你好,世界", "han"),
        ("日本語の文です", "japanese"),
        ("Ich wohne in Москва und Berlin", "latin"),
        ("Это слово API и HTTP в русском тексте", "cyrillic"),
        ("አማርኛ", "other-script"),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert set(names_of(marks_of(text))) & set(SCRIPTS) == {script}


@pytest.mark.parametrize("text", ["42", "3.5 + 4", "👍", "…", "»"])
def test_a_text_without_letters_has_no_script(text: str) -> None:
    assert marks_of(text) == 0


def test_a_long_text_that_stops_in_the_middle_is_cut_off() -> None:
    long = "This goes on for a good while, far longer than a hundred characters, so that it should end with a mark"
    assert "cut-off" in names_of(marks_of(long)) and "cut-off" in names_of(marks_of(f"{long},\n"))
    assert "cut-off" not in names_of(marks_of(f"{long}.")) and "cut-off" not in names_of(marks_of(long[:50]))


@given(st.text())
def test_any_text_can_be_marked(text: str) -> None:
    mask = marks_of(text)
    assert 0 <= mask < 1 << len(MARKS) <= 1 << 32
    assert marks_of(text + "\ud800") >= 0
    assert text_patterns.masked(text) is not None


@pytest.mark.parametrize(
    "piece",
    [
        "eyJ-",
        "sk-",
        "+1 ",
        "+1(1)",
        "a@b.",
        "<a ",
        "<|",
        "AA11",
        "1.2.3.4.",
        "A ",
        "&#1",
        "\n##",
        "i'm sorry ",
        "é",
        "1",
    ],
)
def test_hostile_texts_take_no_longer_than_others(piece: str) -> None:
    """A pattern that grows with the square of the length takes hours here."""
    text = f"-----BEGIN {piece * 100_000}"
    assert marks_of(text) > 0 and len(text_patterns.masked(text)) == len(text)


def audit(chosen: Sequence[str], rejected: Sequence[str], prompts: Sequence[str] | None = None) -> dict[str, Finding]:
    prompts = prompts or ["What now?"] * len(chosen)
    texts = [
        dict(zip(("prompt", "chosen", "rejected"), row, strict=True))
        for row in zip(prompts, chosen, rejected, strict=True)
    ]
    columns = [[marks_of(text) for text in part] for part in (prompts, chosen, rejected)]
    ids = [f"r{number}" for number in range(len(chosen))]
    found = audit_text_marks(*columns, ids, lambda places: [texts[place] for place in places])
    assert found.n == len(chosen)
    return {finding.id: finding for finding in found.findings}


def test_a_mark_that_tells_the_winner_is_a_shortcut() -> None:
    refusal, answer = "I'm sorry, but I can't help with that.", "Take two of them."
    found = audit([refusal] * 45 + [answer] * 55, [answer] * 45 + [refusal] * 5 + [answer] * 50)
    finding = found["shortcut-refusal"]
    assert finding.severity == "warning" and finding.rows == tuple(f"r{i}" for i in range(50))
    assert finding.share is not None and (finding.share.value, finding.share.n) == (0.9, 50)
    assert finding.examples[0]["chosen"] == refusal


@pytest.mark.parametrize(("won", "lost"), [(30, 30), (12, 4), (62, 38)], ids=["even", "too few", "too near one half"])
def test_a_mark_that_does_not_tell_the_winner_is_none(won: int, lost: int) -> None:
    marked, plain = "As an AI, I say so.", "I say so."
    rest = [plain] * 100
    found = audit([marked] * won + [plain] * lost + rest, [plain] * won + [marked] * lost + rest)
    assert not [name for name in found if name.startswith("shortcut")]


def test_what_should_be_nowhere_is_found_anywhere() -> None:
    n = 300
    chosen, rejected, prompts = (["Fine as it is."] * n for _ in range(3))
    prompts[3] = "<|im_start|>user\nhello<|im_end|>"
    rejected[7] = "key AKIA" + "IOSFODNN7EXAMPLE"
    chosen[9] = "fine\n\nHuman: more"
    rejected[11] = "brok\ufffdn"
    chosen[13] = "call +49 30 1234567"
    found = audit(chosen, rejected, prompts)
    assert {name: finding.rows for name, finding in found.items()} == {
        "special-tokens": ("r3",),
        "secrets": ("r7",),
        "turn-headings": ("r9",),
        "broken-characters": ("r11",),
        "personal-data": ("r13",),
    }
    assert found["special-tokens"].severity == "warning" and found["broken-characters"].severity == "info"
    assert all("hint" in finding.evidence for finding in found.values())


def test_examples_show_no_secret_and_no_personal_data() -> None:
    secret, mail = "AKIA" + "IOSFODNN7EXAMPLE", "jane.doe@mail.example.org"
    found = audit(["Fine."] * 30, [f"key {secret} for {mail}", *["Fine."] * 29])
    shown = json.dumps([finding.examples for finding in found.values()], ensure_ascii=False)
    assert {"secrets", "personal-data"} <= found.keys()
    assert secret not in shown and mail not in shown and "AKIA••••" in shown


def test_rendered_prompts_are_an_error() -> None:
    found = audit(["Yes."] * 50, ["No."] * 50, ["<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"] * 50)
    assert found["special-tokens"].severity == "error" and len(found["special-tokens"].rows) == 50


def test_answers_in_another_script_are_found() -> None:
    prompts = ["Как дела?"] * 40 + ["How are you?"] * 60
    chosen = ["Хорошо."] * 40 + ["42"] * 60
    rejected = ["Fine."] * 40 + ["Well."] * 60
    found = audit(chosen, rejected, prompts)
    assert len(found["other-script"].rows) == 40
    assert found[f"shortcut-{OTHER_SCRIPT}"].share is not None
    assert "loses" in found[f"shortcut-{OTHER_SCRIPT}"].title


def test_too_few_pairs_are_said_to_be_too_few() -> None:
    assert set(audit(["a"] * 5, ["b"] * 5)) == {"few-pairs-for-marks"}
    assert set(audit([], [])) == {"few-pairs-for-marks"}


def test_figures_count_parts_and_sides() -> None:
    html = "<p>so</p>"
    parts = [[html, "a"], [html, html], ["a", html]]
    found = audit_text_marks(*(np.array([marks_of(text) for text in part], np.uint32) for part in parts), ["1", "2"])
    figures = found.marks["html"]
    assert (figures.prompt, figures.chosen, figures.rejected) == (1, 2, 1)
    assert (figures.chosen_only, figures.rejected_only) == (1, 0)
    assert figures.wins.n == 1 and found.scripts == {"latin": 2}


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_real_transcripts_show_their_next_turns() -> None:
    rows = [json.loads(line) for line in (SHARED / "hh-harmless" / "transcripts.jsonl").open(encoding="utf-8")]
    chosen = [marks_of(row["chosen"]) for row in rows]
    assert all("turn-heading" in names_of(mask) for mask in chosen)
    refusing = sum("refusal" in names_of(mask) for mask in chosen)
    assert 0 < refusing < len(rows)
