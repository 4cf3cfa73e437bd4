"""All audits of one set: what is run, what cannot be, how it is ranked, and the document of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preftune
from preftune.audit import everything
from preftune.audit.everything import AUDITS, Audit, audit
from preftune.audit.findings import Finding
from preftune.data.read import read_comparisons, read_pairs
from preftune.errors import PreftuneError
from preftune.report.audit_view import view_audit

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")
CHEAP = ("near-duplicates", "shortcuts", "mislabelled", "ceiling")


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of random words; the side that holds "please" is the chosen one."""
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(6, 12, size=3 * n)]
    return [
        {"id": f"r{i}", "prompt": f"{i} {asked}?", "chosen": f"{good} please.", "rejected": f"{bad}."}
        for i, (asked, good, bad) in enumerate(zip(said[::3], said[1::3], said[2::3], strict=True))
    ]


def voted(n: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    sides = {"chosen": "response_1", "rejected": "response_2"}
    votes = np.where(rng.random((n, 3)) < 0.9, 1, 2)
    return [
        {sides.get(name, name): value for name, value in row.items()} | {"annotators": votes[i].tolist()}
        for i, row in enumerate(rows(n))
    ]


@pytest.fixture(scope="module")
def of_pairs() -> Audit:
    data = rows(300)
    data[7] = data[3] | {"id": "again", "chosen": data[3]["rejected"], "rejected": data[3]["chosen"]}
    return audit([*data, {"prompt": "q"}], eval_data=rows(300)[:5])


@pytest.fixture(scope="module")
def of_votes() -> Audit:
    return audit(voted(150))


def test_pairs_get_all_audits_that_they_can_have(of_pairs: Audit) -> None:
    assert set(of_pairs.sections) == {
        "basics",
        "texts",
        "near-duplicates",
        "leakage",
        "shortcuts",
        "mislabelled",
        "ceiling",
    }
    assert of_pairs.not_run == {
        "truncation": "No tokenizer is given.",
        **dict.fromkeys(("agreement", "truth", "annotators"), "The data has no annotators' votes."),
        "person": "No person's answers are given.",
    }
    assert of_pairs.of_sample == () and of_pairs.looked_at == 300


def test_findings_are_ranked_and_each_said_once(of_pairs: Audit) -> None:
    found = of_pairs.findings
    assert [finding.id for finding in found[:2]] == ["leaked-prompts", "contradictions"]  # 5 rows, then 2
    grades = ["error", "warning", "info"]
    assert [finding.severity for finding in found] == sorted((finding.severity for finding in found), key=grades.index)
    assert len({finding.id for finding in found}) == len(found) and of_pairs.has_error


def test_votes_add_agreement_truth_and_annotators(of_votes: Audit) -> None:
    assert {"agreement", "truth", "annotators", "shortcuts", "mislabelled", "ceiling"} <= set(of_votes.sections)
    agreement = of_votes.sections["agreement"]
    assert (agreement.items, agreement.votes, agreement.annotators) == (150, 450, 3)
    assert of_votes.sections["ceiling"].agreement is not None
    assert of_votes.basics.kind == "comparison"


@pytest.mark.parametrize("fixture", ["of_pairs", "of_votes"])
def test_the_document_is_json_that_the_page_can_read(fixture: str, request: pytest.FixtureRequest) -> None:
    found: Audit = request.getfixturevalue(fixture)
    document = found.as_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["read"] == document["used"] + sum(document["rejected"].values())
    view = view_audit(document)
    assert view.miscount == "" and len(view.findings) == len(found.findings) and len(view.lengths) == 1
    assert all("not printed" not in fact.remark for fact in view.facts)
    mislabelled = document["mislabelled"]
    assert "probabilities" not in mislabelled and "findings" not in mislabelled  # a figure a row, and said elsewhere


def test_labels_get_the_audits_that_need_no_second_side() -> None:
    data = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 3 > 0} for i, row in enumerate(rows(120))
    ]
    found = audit(data, eval_data=data[:3])
    assert set(found.sections) == {"basics", "texts", "leakage"}
    assert found.not_run["shortcuts"] == "Labels have one answer each."
    assert not any(finding.id.startswith("shortcut") for finding in found.findings)


def test_only_and_skip_choose_the_audits() -> None:
    assert set(audit(rows(120), only=["texts"]).sections) == {"basics", "texts"}
    found = audit(rows(120), skip=[*CHEAP, "texts"])
    assert set(found.sections) == {"basics"}
    with pytest.raises(PreftuneError, match=r"no audit shortcut\. Did you mean shortcuts"):
        audit(rows(120), only=["shortcut"])
    with pytest.raises(PreftuneError, match=r"no audit xyz\. There are: texts, near-duplicates"):
        audit(rows(120), skip=["xyz"])


def test_an_audit_that_fails_is_said_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: Any) -> Any:
        raise PreftuneError("rensa is not installed.", mend='pip install "preftune[audit]"')

    def breaks(*_: Any) -> Any:
        raise ZeroDivisionError("by zero")

    monkeypatch.setitem(AUDITS, "near-duplicates", (lacks, AUDITS["near-duplicates"][1]))
    monkeypatch.setitem(AUDITS, "shortcuts", (breaks, AUDITS["shortcuts"][1]))
    found = audit(rows(120), only=["near-duplicates", "shortcuts", "texts"])
    assert set(found.sections) == {"basics", "texts"}
    assert found.not_run == {
        "near-duplicates": 'rensa is not installed. pip install "preftune[audit]"',
        "shortcuts": "It failed: ZeroDivisionError: by zero",
    }


def test_much_data_is_looked_at_in_part_and_it_is_said() -> None:
    data = rows(200)
    data[150] = data[3] | {"id": "again"}
    found = audit(data, look_at=60, only=["texts", "near-duplicates", "shortcuts"], seed=3)
    assert found.sections["near-duplicates"].n == found.looked_at == 60
    assert found.as_dict()["sample"] == {
        "looked_at": 60,
        "of": 200,
        "seed": 3,
        "audits": ["near-duplicates", "shortcuts"],
    }
    assert found.sections["texts"].n == 200 and found.basics.duplicates == 1  # from facts of all records
    again = audit(data, look_at=60, only=["near-duplicates", "shortcuts"], seed=3)
    assert again.sections["shortcuts"].as_dict() == found.sections["shortcuts"].as_dict()
    assert "sample" not in audit(data, look_at=None, only=["near-duplicates"]).as_dict()


def test_near_duplicates_read_in_turn_are_those_of_pairs_held(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(120)
    for place in (40, 90):
        data[place] = data[place - 30] | {"id": f"again {place}"}
    held = audit(data, only=["near-duplicates"], look_at=None).sections["near-duplicates"]
    monkeypatch.setattr(everything, "LOOKED_AT", 50)
    monkeypatch.setattr(everything, "BLOCK", 32)
    in_turn = audit(data, only=["near-duplicates"], look_at=None).sections["near-duplicates"]
    assert in_turn == held
    assert in_turn.repeats.value == pytest.approx(2 / 120)


def test_the_basic_finding_on_all_rows_stands_before_that_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        findings = (Finding("contradictions", "info", "of the sample", "", "", (), ""),)

    monkeypatch.setitem(AUDITS, "shortcuts", (lambda *_: Found(), lambda _: None))
    data = rows(150)
    data.append(data[0] | {"id": "x", "chosen": data[0]["rejected"], "rejected": data[0]["chosen"]})
    for most, title in ((50, "Comparisons labelled both ways"), (None, "of the sample")):
        found = audit(data, look_at=most, only=["shortcuts"]).findings
        assert [finding.title for finding in found if finding.id == "contradictions"] == [title]


def test_the_fit_of_the_preference_model_can_be_replaced() -> None:
    trained: list[int] = []

    def fit(pairs: Any) -> Any:
        trained.append(len(pairs))
        return lambda others: np.array([1.0 if "please" in str(pair.chosen) else -1.0 for pair in others])

    found = audit(rows(120), only=["mislabelled"], fit=fit)
    assert len(trained) == 5 and found.sections["mislabelled"].of_model.value == 1.0


def test_a_sample_for_a_person_is_drawn_blind_and_its_answers_are_reported(tmp_path: Path) -> None:
    data, file, answers = rows(120), tmp_path / "sample.jsonl", tmp_path / "answers.jsonl"
    audit(data, only=[], sample=30, sample_file=file, seed=4)
    drawn = read_comparisons(file).records
    assert len(drawn) == 30 and {one.id for one in drawn} <= {row["id"] for row in data}
    chosen = {row["id"]: row["chosen"] for row in data}
    first_is_chosen = [one.response_1 == chosen[one.id] for one in drawn]
    assert 5 < sum(first_is_chosen) < 25
    wrong = drawn[0].id
    lines = (
        json.dumps({"id": one.id, "choice": "first" if is_first != (one.id == wrong) else "second"})
        for one, is_first in zip(drawn, first_is_chosen, strict=True)
    )
    answers.write_text("\n".join(lines))
    person = audit(data, only=["person"], answers=answers, seed=4).sections["person"]
    assert (person.judged, person.wrong, person.rate.value) == (30, (wrong,), 1 / 30)
    with pytest.raises(PreftuneError, match="sample needs a file"):
        audit(data, sample=3)


def test_the_package_can_be_called() -> None:
    found = preftune.audit(rows(120), only=["texts"])
    assert isinstance(found, everything.Audit)
    assert read_pairs(rows(3)).read == 3 and preftune.audit.findings.Finding is Finding  # pyright: ignore


def test_importing_preftune_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'scipy', 'torch', 'pydantic'}"
    code = f"import sys, preftune; preftune.audit; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
