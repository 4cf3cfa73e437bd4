"""What a tokenizer and ``max_length`` make of pairs, before training: a receipt, and what is wrong with it (D26).

Everything goes through ``preftune.data.tokens``, so that it is what training would see.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preftune.audit.examples import EXAMPLES, example_of
from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.data.encoding import TokenIds, render_prompt, special_ids
from preftune.data.records import Pair
from preftune.data.tokens import Dropped, Tokenized, Tokenizer, TokenPair, TruncationMode, tokenize_pairs
from preftune.errors import PreftuneError

SAMPLE, SEED = 20_000, 42
CUT_LIMIT, NO_END_LIMIT, UNKNOWN_LIMIT = 0.01, 0.01, 0.001  # shares of pairs, of completions, of tokens
WHOLE = 0.99  # share of the pairs that the proposed max_length leaves whole
_LOOKED_AT = 100  # pairs by which a doubled BOS is told


@dataclass(frozen=True)
class TruncationAudit:
    """The tokens of ``n`` pairs, of which ``used`` can be trained on and the others are ``left_out`` by reason.

    ``receipt`` is training's, None where no pair is left. ``whole_length`` is the ``max_length`` that leaves 99% of the
    pairs whole. Shares are of pairs; of completions for ``no_end``, of tokens for ``unknown_tokens``.
    ``doubles_bos``: template and tokenizer both write BOS, of which preftune keeps one.
    """

    n: int
    used: int
    max_length: int | None
    truncation_mode: str
    left_out: Mapping[str, int]
    receipt: Mapping[str, Any] | None
    whole_length: int | None
    prompts_cut: Share
    completions_cut: Share
    one_side_cut: Share
    emptied: Share
    equal_by_cut: Share
    no_end: Share
    early_end: Share
    doubled_bos: Share
    unknown_tokens: Share
    doubles_bos: bool
    findings: tuple[Finding, ...]


def audit_truncation(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    max_length: int | None = None,
    truncation_mode: TruncationMode = "keep_completion",
    *,
    sample: int | None = SAMPLE,
    seed: int = SEED,
    progress: Callable[[int], object] | None = None,
) -> TruncationAudit:
    """What training would see of the pairs, or of a random ``sample`` of them; None takes all.

    Raises ``PreftuneError`` as ``tokenize_pairs`` does where the tokenizer can take none of the pairs.
    """
    looked_at = _sampled(pairs, sample, seed)
    numbered = [pair.model_copy(update={"id": str(place)}) for place, pair in enumerate(looked_at)]
    whole = tokenize_pairs(numbered, tokenizer, progress=progress)
    cut = whole if max_length is None else _cut(numbered, whole, tokenizer, max_length, truncation_mode)
    places = _cut_places(whole, cut) | _token_places(whole, looked_at, tokenizer)
    shares = _shares(places, len(looked_at), whole, tokenizer)
    whole_length = _whole_length(whole.records)
    doubles_bos = _doubles_bos(looked_at, tokenizer)
    findings = (
        _none_left(cut, max_length),
        _refused_finding(whole, looked_at),
        *_cut_findings(places, shares, looked_at, max_length, whole_length),
        *_token_findings(places, shares, looked_at),
        _doubling_finding() if doubles_bos else None,
    )
    return TruncationAudit(
        n=len(looked_at),
        used=len(cut.records),
        max_length=max_length,
        truncation_mode=truncation_mode,
        left_out=dict(Counter(dropped.reason for dropped in cut.dropped)),
        receipt=cut.receipt() if cut.records else None,
        whole_length=whole_length,
        doubles_bos=doubles_bos,
        findings=tuple(finding for finding in findings if finding is not None),
        **shares,
    )


def _sampled(pairs: Sequence[Pair], sample: int | None, seed: int) -> list[Pair]:
    if sample is None or len(pairs) <= sample:
        return list(pairs)
    return [pairs[place] for place in sorted(random.Random(seed).sample(range(len(pairs)), sample))]


def _cut(
    pairs: Sequence[Pair], whole: Tokenized[TokenPair], tokenizer: Tokenizer, max_length: int, mode: TruncationMode
) -> Tokenized[TokenPair]:
    try:
        return tokenize_pairs(pairs, tokenizer, max_length=max_length, truncation_mode=mode)
    except PreftuneError as error:
        if max_length < 2:
            raise
        left_out = tuple(Dropped(record.id, "no-pair-left", str(error.what)) for record in whole.records)
        return Tokenized(TokenPair, (), (*whole.dropped, *left_out), 0, 0, 0, 0)


def _cut_places(whole: Tokenized[TokenPair], cut: Tokenized[TokenPair]) -> dict[str, list[int]]:
    """The places of the pairs of which ``max_length`` cuts something, by what it cuts."""
    kept = {record.id: record for record in cut.records}
    both = [(int(record.id), record, kept[record.id]) for record in whole.records if record.id in kept]
    reasons = {dropped.id: dropped.reason for dropped in cut.dropped}
    ends = {place: tuple(map(_is_shorter, after.completions, before.completions)) for place, before, after in both}
    return {
        "prompts_cut": [place for place, before, after in both if _is_shorter(after.prompt, before.prompt)],
        "completions_cut": [place for place, cuts in ends.items() if any(cuts)],
        "one_side_cut": [place for place, (chosen, rejected) in ends.items() if chosen != rejected],
        "emptied": [int(number) for number, reason in reasons.items() if reason == "prompt-too-long"],
        "equal_by_cut": [int(number) for number, reason in reasons.items() if reason == "identical-after-truncation"],
    }


def _is_shorter(after: TokenIds, before: TokenIds) -> bool:
    return len(after) < len(before)


def _token_places(whole: Tokenized[TokenPair], pairs: Sequence[Pair], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """The places of the pairs that the tokenizer makes something odd of, by what it is; a completion each once."""
    bos, eos, special = tokenizer.bos_token_id, tokenizer.eos_token_id, special_ids(tokenizer)
    found: dict[str, list[int]] = {"no_end": [], "early_end": [], "doubled_bos": []}
    for record in whole.records:
        place = int(record.id)
        found["no_end"] += [place for ids in record.completions if ids[-1] not in special]
        if (
            eos is not None
            and _is_one_turn(pairs[place])
            and any((ids[:-1] == eos).any() for ids in record.completions)
        ):
            found["early_end"].append(place)
        if bos is not None and any(_has_twice(np.append(record.prompt, ids), bos) for ids in record.completions):
            found["doubled_bos"].append(place)
    return found


def _is_one_turn(pair: Pair) -> bool:
    return all(isinstance(side, str) or len(side) == 1 for side in (pair.chosen, pair.rejected))


def _has_twice(ids: TokenIds, token: int) -> bool:
    is_token = ids == token
    return bool((is_token[1:] & is_token[:-1]).any())


def _shares(
    places: Mapping[str, Sequence[int]], n: int, whole: Tokenized[TokenPair], tokenizer: Tokenizer
) -> dict[str, Share]:
    def of_pairs(name: str, title: str, explanation: str) -> Share:
        return share_of(len(places[name]), n, title, f"Share of pairs {explanation}")

    unknown, tokens = _unknown_tokens(whole.records, tokenizer)
    return {
        "prompts_cut": of_pairs("prompts_cut", "Prompts cut", "whose prompt loses tokens to max_length."),
        "completions_cut": of_pairs(
            "completions_cut", "Completions cut", "of which a completion loses its end, the EOS with it."
        ),
        "one_side_cut": of_pairs("one_side_cut", "One side cut", "of which one completion is cut and the other whole."),
        "emptied": of_pairs("emptied", "Cut to nothing", "left out because a completion has no token left."),
        "equal_by_cut": of_pairs("equal_by_cut", "Equal by the cut", "left out because the cut makes the sides equal."),
        "no_end": share_of(
            len(places["no_end"]),
            2 * len(whole.records),
            "Completions without end",
            "Share of uncut completions whose last token ends no turn.",
        ),
        "early_end": of_pairs("early_end", "EOS before the end", "of which a completion holds EOS before its end."),
        "doubled_bos": of_pairs("doubled_bos", "BOS twice", "with two BOS in a row."),
        "unknown_tokens": share_of(
            unknown,
            tokens,
            "Unknown tokens",
            "Share of tokens that the tokenizer does not know; none where it has none.",
        ),
    }


def _unknown_tokens(records: Iterable[TokenPair], tokenizer: Tokenizer) -> tuple[int, int]:
    """Unknown tokens and all tokens; none at all for a tokenizer whose unknown token is another special one too."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return 0, 0
    parts = [ids for record in records for ids in (record.prompt, *record.completions)]
    return int(sum((ids == unknown).sum() for ids in parts)), sum(map(len, parts))


def _whole_length(records: Sequence[TokenPair]) -> int | None:
    if not records:
        return None
    lengths = [len(record.prompt) + max(map(len, record.completions)) for record in records]
    return int(np.quantile(lengths, WHOLE, method="higher"))


def _doubles_bos(pairs: Sequence[Pair], tokenizer: Tokenizer) -> bool:
    """Whether a plain call of the tokenizer on a rendered prompt begins with two BOS."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    for pair in pairs[:_LOOKED_AT]:
        try:
            ids = tokenizer(render_prompt(pair, tokenizer))["input_ids"]
        except PreftuneError:  # a template that refuses this pair, which is told elsewhere
            continue
        if list(ids[:2]) == [bos, bos]:
            return True
    return False


def _none_left(cut: Tokenized[TokenPair], max_length: int | None) -> Finding | None:
    if cut.records:
        return None
    return Finding(
        id="no-pair-left",
        severity="error",
        title="max_length leaves no pair",
        what="With this max_length there is nothing to train on.",
        evidence=f"max_length {max_length}: {cut.dropped[-1].mend}",
        rows=(),
        remedy="Raise --max_length.",
    )


def _refused_finding(whole: Tokenized[TokenPair], pairs: Sequence[Pair]) -> Finding | None:
    if not whole.dropped:
        return None
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in Counter(each.reason for each in whole.dropped).most_common())
    return Finding(
        id="pairs-without-tokens",
        severity="warning",
        title="Pairs that training cannot use",
        what="They are left out once they are tokens, whatever max_length is.",
        evidence=f"{len(whole.dropped):,} of {count_of(len(pairs), 'pair')}: {reasons}.",
        rows=tuple(pairs[int(dropped.id)].id for dropped in whole.dropped),
        remedy=whole.dropped[0].mend,
    )


def _cut_findings(
    places: Mapping[str, Sequence[int]],
    shares: Mapping[str, Share],
    pairs: Sequence[Pair],
    max_length: int | None,
    whole_length: int | None,
) -> Iterable[Finding]:
    lost = sorted([*places["emptied"], *places["equal_by_cut"]])
    enough = f"max_length {whole_length:,} leaves {WHOLE:.0%} of the pairs whole." if whole_length else ""
    if lost:
        share = share_of(
            len(lost), len(pairs), "Pairs lost to max_length", "Share of pairs that the cut leaves useless."
        )
        yield Finding(
            id="lost-to-truncation",
            severity="error" if len(lost) > CUT_LIMIT * len(pairs) else "warning",
            title="Pairs that max_length makes useless",
            what="Nothing is left of a completion, or the two sides differ only in what is cut; they are left out.",
            evidence=(
                f"{len(lost):,} of {count_of(len(pairs), 'pair')} at max_length {max_length}: "
                f"{len(places['emptied']):,} cut to nothing, {len(places['equal_by_cut']):,} made equal."
            ),
            rows=_ids(lost, pairs),
            remedy=f"Raise --max_length, or shorten these. {enough}",
            share=share,
            examples=_examples(lost, pairs, "useless once cut"),
        )
    cut = places["completions_cut"]
    if len(cut) > CUT_LIMIT * len(pairs):
        yield Finding(
            id="completions-cut",
            severity="warning",
            title="Completions lose their end",
            what="A completion without its end has no EOS: the model learns to go on, and the cut side stands out.",
            evidence=(
                f"{len(cut):,} of {count_of(len(pairs), 'pair')} at max_length {max_length}, "
                f"{len(places['one_side_cut']):,} on one side only."
            ),
            rows=_ids(cut, pairs),
            remedy=f"Raise --max_length, or leave these out. {enough}",
            share=shares["completions_cut"],
            examples=_examples(cut, pairs, "a completion is cut"),
        )
    prompts = places["prompts_cut"]
    if len(prompts) > CUT_LIMIT * len(pairs):
        yield Finding(
            id="prompts-cut",
            severity="info",
            title="Prompts are cut",
            what="The answers were judged with the whole prompt and are learned with a part of it.",
            evidence=f"{len(prompts):,} of {count_of(len(pairs), 'pair')} at max_length {max_length}.",
            rows=_ids(prompts, pairs),
            remedy=f"Raise --max_length. {enough}",
            share=shares["prompts_cut"],
        )


def _token_findings(
    places: Mapping[str, Sequence[int]], shares: Mapping[str, Share], pairs: Sequence[Pair]
) -> Iterable[Finding]:
    no_end, unknown = shares["no_end"], shares["unknown_tokens"]
    if no_end.value is not None and no_end.value > NO_END_LIMIT:
        yield Finding(
            id="no-end-token",
            severity="error",
            title="Completions without an end token",
            what="Without EOS the model never learns to stop.",
            evidence=f"{len(places['no_end']):,} of {count_of(no_end.n, 'completion')}, none of them cut.",
            rows=_ids(sorted(set(places["no_end"])), pairs),
            remedy="Give the tokenizer an eos_token, or a chat template that closes the turn with a special token.",
            share=no_end,
        )
    if places["early_end"]:
        yield Finding(
            id="early-end-token",
            severity="warning",
            title="EOS inside of completions",
            what="The end token is written out in the text, and what follows it is learned as if it never ended.",
            evidence=f"{len(places['early_end']):,} of {count_of(len(pairs), 'pair')}.",
            rows=_ids(places["early_end"], pairs),
            remedy="Take the token out of the texts.",
            share=shares["early_end"],
            examples=_examples(places["early_end"], pairs, "EOS before the end"),
        )
    if places["doubled_bos"]:
        yield Finding(
            id="doubled-bos",
            severity="error",
            title="Two BOS in a row",
            what="A sequence that begins twice is one that no model saw in its training.",
            evidence=f"{len(places['doubled_bos']):,} of {count_of(len(pairs), 'pair')}.",
            rows=_ids(places["doubled_bos"], pairs),
            remedy="Take the token out of the texts, or out of the chat template.",
            share=shares["doubled_bos"],
        )
    if unknown.value is not None and unknown.value > UNKNOWN_LIMIT:
        yield Finding(
            id="unknown-tokens",
            severity="warning",
            title="Text that the tokenizer does not know",
            what="Unknown signs are all one token: what they said is lost.",
            evidence=f"{unknown.value:.2%} of {count_of(unknown.n, 'token')}.",
            rows=(),
            remedy="Use the model's own tokenizer, or another model for this language.",
            share=unknown,
        )


def _doubling_finding() -> Finding:
    return Finding(
        id="template-doubles-bos",
        severity="info",
        title="Template and tokenizer both write BOS",
        what="preftune keeps one of them; a tool that calls the tokenizer on rendered text gets two.",
        evidence="Rendered prompts begin with BOS, and the tokenizer adds another.",
        rows=(),
        remedy="Elsewhere call the tokenizer with add_special_tokens=False on rendered chats.",
    )


def _ids(places: Iterable[int], pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(pairs[place].id for place in places)


def _examples(places: Sequence[int], pairs: Sequence[Pair], why: str) -> tuple[dict[str, str], ...]:
    return tuple(example_of(pairs[place], why) for place in places[:EXAMPLES])
