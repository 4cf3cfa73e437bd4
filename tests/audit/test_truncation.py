from typing import Any

import pytest

from preftune.audit.truncation import TruncationAudit, audit_truncation
from preftune.data.records import Message, Pair
from preftune.data.tokens import tokenize_pairs
from preftune.errors import PreftuneError
from tests.tiny_world import BOS, CHAT_TEMPLATE, EOS, make_tokenizer, pair_rows

PLAIN = make_tokenizer(merges_letters=False)  # a token a byte, BOS before a text and EOS after it


def pair(name: str, prompt: str = "prompt", chosen: str = "good", rejected: str = "bad") -> Pair:
    return Pair(id=name, prompt=prompt, chosen=chosen, rejected=rejected)


def chat(name: str, prompt: str = "prompt", chosen: str = "good", rejected: str = "bad") -> Pair:
    def turn(role: str, content: str) -> tuple[Message, ...]:
        return (Message(role=role, content=content),)

    return Pair(
        id=name, prompt=turn("user", prompt), chosen=turn("assistant", chosen), rejected=turn("assistant", rejected)
    )


def rows_of(audit: TruncationAudit) -> dict[str, tuple[str, ...]]:
    return {finding.id: finding.rows for finding in audit.findings}


def test_without_a_limit_nothing_is_cut_and_the_receipt_is_trainings() -> None:
    pairs = [Pair(**row) for row in pair_rows(30)]
    audit = audit_truncation(pairs, PLAIN)
    assert (audit.n, audit.used, audit.left_out, audit.findings) == (30, 30, {}, ())
    assert audit.receipt == tokenize_pairs(pairs, PLAIN).receipt()
    assert (audit.completions_cut.value, audit.no_end.value, audit.doubled_bos.value) == (0.0, 0.0, 0.0)
    assert audit.unknown_tokens.value is None, "a byte-level tokenizer knows everything"


@pytest.mark.parametrize("mode", ["keep_completion", "keep_start"])
@pytest.mark.parametrize("max_length", [20, 40, 60])
def test_the_receipt_is_trainings_at_any_length(mode: Any, max_length: int) -> None:
    pairs = [Pair(**row) for row in pair_rows(30)] + [pair("short")]
    audit = audit_truncation(pairs, PLAIN, max_length, mode)
    assert audit.receipt == tokenize_pairs(pairs, PLAIN, max_length=max_length, truncation_mode=mode).receipt()
    assert audit.used + sum(audit.left_out.values()) == audit.n == 31
    assert sum(audit.left_out.values()) == round(31 * (audit.emptied.value or 0) + 31 * (audit.equal_by_cut.value or 0))


def test_what_the_cut_takes_is_told_by_row() -> None:
    # With BOS, 7 tokens of prompt; with EOS, 5 and 4 of completion: 12 at most.
    rows = [pair(f"whole-{i}") for i in range(6)]
    rows.append(pair("one side", chosen="good and longer"))
    rows.append(pair("both sides", chosen="good and longer", rejected="bad and longer"))
    rows.append(pair("equal", chosen="the same words first", rejected="the same words second"))
    rows.append(pair("no room", prompt="a prompt that is long"))
    audit = audit_truncation(rows, PLAIN, 16, "keep_start")
    found = rows_of(audit)
    assert found["lost-to-truncation"] == ("equal", "no room")
    assert found["completions-cut"] == ("one side", "both sides")
    assert (audit.emptied.value, audit.equal_by_cut.value) == (0.1, 0.1)
    assert (audit.completions_cut.value, audit.one_side_cut.value) == (0.2, 0.1)
    assert audit.left_out == {"identical-after-truncation": 1, "prompt-too-long": 1}
    assert audit.whole_length == 29  # 7 of the prompt and 22 of the longest completion, its EOS included


def test_a_prompt_is_cut_before_its_completion() -> None:
    rows = [pair(f"r{i}", prompt="a prompt that is rather long", chosen="good!") for i in range(3)]
    audit = audit_truncation(rows, PLAIN, 20)
    assert rows_of(audit) == {"prompts-cut": ("r0", "r1", "r2")}
    assert audit.completions_cut.value == 0.0


def test_a_length_that_leaves_nothing_is_an_error_finding() -> None:
    audit = audit_truncation([pair("a"), pair("b")], PLAIN, 3, "keep_start")
    assert (audit.used, audit.receipt, audit.left_out) == (0, None, {"no-pair-left": 2})
    assert [(finding.id, finding.severity) for finding in audit.findings] == [("no-pair-left", "error")]
    with pytest.raises(PreftuneError, match="max_length is 1"):
        audit_truncation([pair("a")], PLAIN, 1)


def test_completions_without_an_end_are_found() -> None:
    tokenizer = make_tokenizer(merges_letters=False, adds_bos=False)
    tokenizer.eos_token = None
    audit = audit_truncation([pair("a"), pair("b")], tokenizer)
    assert rows_of(audit) == {"no-end-token": ("a", "b")}
    assert (audit.no_end.value, audit.no_end.n) == (1.0, 4)


def test_end_tokens_written_out_inside_are_found() -> None:
    rows = [pair("plain"), pair("inside", chosen=f"good{EOS} and more"), pair("at the end", chosen=f"good{EOS}")]
    audit = audit_truncation(rows, PLAIN)
    assert rows_of(audit) == {"early-end-token": ("inside",)}


def test_two_bos_in_a_row_are_found_where_training_would_see_them() -> None:
    rows = [pair("once", prompt=f"{BOS}prompt"), pair("twice", prompt=f"{BOS}{BOS}prompt"), pair("plain")]
    audit = audit_truncation(rows, PLAIN)
    assert rows_of(audit)["doubled-bos"] == ("twice",)


def test_a_template_that_doubles_bos_is_said_and_does_no_harm_here() -> None:
    doubling = make_tokenizer(merges_letters=False, chat_template=f"{{{{ '{BOS}' }}}}{CHAT_TEMPLATE}")
    audit = audit_truncation([chat("a"), chat("b")], doubling)
    assert audit.doubles_bos and audit.doubled_bos.value == 0.0
    assert [(finding.id, finding.severity) for finding in audit.findings] == [("template-doubles-bos", "info")]
    assert not audit_truncation([chat("a")], make_tokenizer(merges_letters=False)).doubles_bos


def test_unknown_tokens_are_counted() -> None:
    tokenizer = make_tokenizer(merges_letters=False)
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    audit = audit_truncation([pair("a", chosen="good <unk> day"), pair("b")], tokenizer)
    assert audit.unknown_tokens.value == pytest.approx(1 / audit.unknown_tokens.n)
    assert "unknown-tokens" in rows_of(audit)


def test_pairs_that_a_template_refuses_are_told_with_the_reason() -> None:
    refuses = "{% if messages[0]['content'] == 'odd' %}{{ raise_exception('odd') }}{% endif %}" + CHAT_TEMPLATE
    audit = audit_truncation([chat("a"), chat("b", prompt="odd")], make_tokenizer(chat_template=refuses))
    assert rows_of(audit) == {"pairs-without-tokens": ("b",)}
    assert audit.left_out == {"template-refuses": 1}


def test_rows_of_one_id_are_told_apart() -> None:
    rows = [pair("same", chosen="the same words first", rejected="the same words second"), pair("same"), pair("same")]
    audit = audit_truncation(rows, PLAIN, 16, "keep_start")
    assert (audit.used, rows_of(audit)["lost-to-truncation"]) == (2, ("same",))


def test_a_sample_is_drawn_by_the_seed() -> None:
    rows = [pair(f"r{i}", prompt="p" * (i + 1)) for i in range(60)]
    first, again, other = (audit_truncation(rows, PLAIN, sample=10, seed=seed) for seed in (1, 1, 2))
    assert first.n == 10 and first.receipt == again.receipt != other.receipt
    assert audit_truncation(rows, PLAIN, sample=None).n == 60


def test_a_chat_without_template_is_the_users_error() -> None:
    with pytest.raises(PreftuneError, match="chat template"):
        audit_truncation([chat("a")], make_tokenizer(chat_template=None))
