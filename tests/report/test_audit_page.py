"""The page of an audit: what was found stands first, with examples, and no text of the data is markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftune.audit.everything import audit
from preftune.report.audit_page import view_page, write_audit_page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x00"


def rows() -> list[dict[str, Any]]:
    good = [{"prompt": f"q{i}", "chosen": f"a long good answer {i}.", "rejected": f"bad {i}."} for i in range(30)]
    twice = {"prompt": HOSTILE, "chosen": HOSTILE + "1", "rejected": HOSTILE + "2"}
    turned = twice | {"chosen": twice["rejected"], "rejected": twice["chosen"]}
    return [*good, good[0], twice, turned, {"prompt": "no answers"}]


def test_the_gravest_finding_stands_first_and_counts_are_in_the_headline() -> None:
    page = view_page(audit(rows(), skip=["mislabelled"]).as_dict())
    assert page.findings[0].finding.severity == "error"
    assert page.headline.startswith("1 error, ")
    assert page.counts["error"] == 1
    assert page.audit.read == "34" and page.audit.used == "33"
    assert dict(page.not_run).keys() >= {"leakage", "truncation"}


def test_text_of_the_data_is_never_markup(tmp_path: Path) -> None:
    file = write_audit_page(audit(rows(), skip=["mislabelled"]).as_dict(), tmp_path / "audit.html", source=HOSTILE)
    html = file.read_text(encoding="utf-8")
    assert "<script>alert" not in html and "<img src=x" not in html
    assert "&lt;script&gt;alert" in html
    assert "\x00" not in html
    assert "http://" not in html.replace("http://www.w3.org", "") and "https://" not in html


def test_clean_data_says_so() -> None:
    document = {"read": 2, "used": 2, "rejected": {}, "lengths": {}, "findings": []}
    assert view_page(document).headline == "Nothing was found that needs mending"


def test_foreign_documents_do_not_break_the_page(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "findings": [{"id": 3, "examples": "x", "rows": None}, "y", None],
        "sample": [],
        "not_run": 1,
    }
    assert write_audit_page(odd, tmp_path / "odd.html").is_file()
