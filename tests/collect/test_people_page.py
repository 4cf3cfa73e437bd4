"""The annotation page in a real browser: hostile texts do nothing, keys do what they say, nothing typed is lost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preftune.collect.people_desk import Rules
from preftune.collect.people_items import Item
from preftune.data.records import Comparison
from tests.collect.people_browser import CHROMIUM, Page, browser
from tests.collect.people_site import gold, site_app

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

# Each would set window.hacked, load from elsewhere, or cover the page, were it ever taken for more than text.
HOSTILE = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<iframe src=javascript:parent.hacked=1>",
    "<body onload=window.hacked=1>",
    "<details open ontoggle=window.hacked=1>x</details>",
    "<input autofocus onfocus=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video>",
    "<math><mtext></mtext><style><img src onerror=window.hacked=1></style></math>",
    "<a href=javascript:window.hacked=1>a</a>",
    "<form action=javascript:window.hacked=1><button>b</button></form>",
    "<style>*{display:none!important}</style>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    "<object data=javascript:window.hacked=1></object>",
    "<template><script>window.hacked=1</script></template>",
    "</script><script>window.hacked=1</script>",
    "</textarea></title><script>window.hacked=1</script>",
    "<!--><script>window.hacked=1</script>-->",
    "<img src=https://evil.example/p.png>",
    "<div style='position:fixed;inset:0;z-index:9999;background:red'>cover</div>",
    "[a](javascript:window.hacked=1)",
    "[a](JaVaScRiPt:window.hacked=1)",
    "[a](java\nscript:window.hacked=1)",
    "[a](&#106;avascript:window.hacked=1)",
    "[a](data:text/html,<script>window.hacked=1</script>)",
    "[a](vbscript:window.hacked=1)",
    "[a](//evil.example)",
    "[a]: javascript:window.hacked=1\n\n[a]",
    "<javascript:window.hacked=1>",
    "<https://evil.example/auto>",
    "![i](https://evil.example/i.png)",
    "![i](javascript:window.hacked=1)",
    '![i](x" onerror="window.hacked=1)',
    "[![i](https://evil.example/n.png)](javascript:window.hacked=1)",
    "`<script>window.hacked=1</script>`",
    "```html\n<script>window.hacked=1</script>\n```",
    '```"><script>window.hacked=1</script>\nx\n```',
    "| <script>window.hacked=1</script> | b |\n|---|---|\n| <img src=x onerror=window.hacked=1> | d |",
    "# <img src=x onerror=window.hacked=1>",
    "> <svg onload=window.hacked=1>",
    "- <svg onload=window.hacked=1>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
    "&#60;script&#62;window.hacked=1&#60;/script&#62;",
    "\\<script>window.hacked=1\\</script>",
    "{{constructor.constructor('window.hacked=1')()}}",
    "${window.hacked=1}",
    "\u202e<script>window.hacked=1</script>\u202c",
    "\u2066\u2067\u2068 never closed",
    "\x00<script>\x00window.hacked=1</script>",
    "\ufeff<script>window.hacked=1</script>",
    "＜script＞window.hacked=1＜/script＞",
    "<scr\u200bipt>window.hacked=1</scr\u200bipt>",
    "Z" + "\u0301\u0323\u0334" * 300,
    "<x" * 5000,
    "*" * 10_000,
    "_a_" * 3000,
    ">" * 3000,
    "- " * 2000 + "x",
    "x" * 100_000,
    "long paragraph. " * 7000,
    "\n\n".join(f"## Part {k}\n\n" + "Sixty screens of text. " * 40 for k in range(120)),
    "__proto__",
    '{"__proto__": {"hacked": 1}}',
    "مرحبا <b>بالعالم</b> \u200f(1)\u200e",
    "\u2028window.hacked=1\u2029",
    "",
]


@contextmanager
def served(folder: Path, items: list[Item], rules: Rules, **more: object) -> Iterator[str]:
    """The address of the page over ``items``."""
    import uvicorn

    with site_app(folder, items, rules, **more) as (app, _), socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def plain(n: int) -> list[Item]:
    return [Item(Comparison(prompt=f"question {k}", response_1=f"good {k}", response_2=f"bad {k}")) for k in range(n)]


def enter(page: Page, address: str, name: str = "Ann") -> None:
    """Opens the page as somebody who was never here."""
    page.events.clear()
    page.look(1200, 800)
    page.open(f"{address}/page/page.css")
    page.wait("location.pathname == '/page/page.css' && document.readyState == 'complete'")
    page.run("localStorage.clear()")
    page.open(address)
    page.wait("!document.getElementById('join').hidden")
    page.run("document.getElementById('name').focus()")
    page.type(name)
    page.press("Enter")
    ready(page, 0)


def ready(page: Page, answered: int) -> None:
    """Until an item is shown after so many answers, and keys are heard."""
    page.wait(f"document.getElementById('standing').textContent.startsWith('{answered} answered')")
    page.wait("!document.getElementById('work').hidden")
    time.sleep(0.35)


def votes(folder: Path) -> list[dict[str, object]]:
    from preftune.collect.people_export import comparison_rows

    return [vote for row, _ in comparison_rows(folder / "votes.sqlite") for vote in row["annotators"]]


def test_no_text_of_a_model_does_anything_on_the_page(page: Page, tmp_path: Path) -> None:
    rows = [[*HOSTILE[k : k + 3], "x", "x"] for k in range(0, len(HOSTILE), 3)]
    items = [Item(Comparison(prompt=row[0] or "x", response_1=row[1], response_2=row[2])) for row in rows]
    with served(tmp_path, items, Rules(people_per_item=1, shuffle=False)) as address:
        enter(page, address, "<img src=x onerror=window.hacked=1>")
        for k in range(len(items)):
            if k:
                page.press("1")
                ready(page, k)
            if k % 4 == 0:
                page.press("m")  # as written, and back
                page.press("m")
        state = page.run(
            "({hacked: window.hacked ?? null, loaded: performance.getEntriesByType('resource').map(each => each.name),"
            " alien: document.querySelectorAll('main script, main img, main iframe, main a, main style, main svg,"
            " main form:not(#join), main object, main video, main [style], main [onerror]').length})"
        )
        assert state["hacked"] is None
        assert state["alien"] == 0
        assert all(url.startswith(address) for url in [*state["loaded"], *page.requested()])
        assert page.said() == []
        # Whatever a text has, the buttons can be reached.
        assert page.run(
            "[...document.querySelectorAll('.choice')].every(button => {"
            " const { x, y, width, height } = button.getBoundingClientRect();"
            " return button.contains(document.elementFromPoint(x + width / 2, y + height / 2)) })"
        )


def test_keys_choose_go_back_and_give_reasons(page: Page, tmp_path: Path) -> None:
    with served(tmp_path, plain(6), Rules(people_per_item=1)) as address:
        enter(page, address)
        shown = page.run("document.getElementById('answer-1').innerText")
        page.press("w")
        page.press("n")
        page.type("because 2 > 1")
        page.press("2")  # a key within the field is text
        page.press("Enter")
        page.press("1")
        ready(page, 1)
        (vote,) = votes(tmp_path)
        assert vote["reason"] == "because 2 > 12" and vote["strength"] == 2
        assert vote["choice"] == ("first" if shown.startswith("good") else "second")
        assert page.run("document.getElementById('reason').value") == ""
        for answered, key in ((2, "3"), (3, "4"), (4, "s")):
            page.press(key)
            ready(page, answered)
        assert sorted(str(vote["choice"]) for vote in votes(tmp_path))[:2] == ["both_bad", str(vote["choice"])]
        page.press("u")
        page.wait("document.getElementById('banner').innerText.includes('Skipped')")
        page.press("u")
        page.wait("document.getElementById('banner').innerText.includes('Both bad')")
        time.sleep(0.35)
        page.press("t")
        ready(page, 4)
        assert [vote["choice"] for vote in votes(tmp_path)].count("tie") == 2
        assert page.said() == []


def test_a_key_held_or_pressed_twice_answers_one_item(page: Page, tmp_path: Path) -> None:
    with served(tmp_path, plain(6), Rules(people_per_item=1)) as address:
        enter(page, address)
        page.press("1")
        page.press("1")
        page.press("1", autoRepeat=True)
        ready(page, 1)
        assert len(votes(tmp_path)) == 1


def test_time_stands_still_while_the_page_is_hidden_and_drafts_outlive_a_reload(page: Page, tmp_path: Path) -> None:
    with served(tmp_path, plain(3), Rules(people_per_item=1)) as address:
        enter(page, address)
        entered = time.monotonic()
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        page.press("e")
        page.press("n")
        page.type("half a rea")
        page.run(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
        time.sleep(1.5)
        page.open(address)  # the browser came back after a crash
        page.wait("document.getElementById('reason').value == 'half a rea'")
        assert page.run("document.querySelector('.strength[aria-pressed=true]').dataset.strength") == "3"
        time.sleep(0.4)
        page.press("1")
        ready(page, 1)
        (vote,) = votes(tmp_path)
        assert vote["reason"] == "half a rea"
        assert isinstance(vote["seconds"], float)
        assert 0.4 <= vote["seconds"] < time.monotonic() - entered - 1.4


def test_an_answer_given_while_the_server_is_away_is_sent_when_it_is_back(page: Page, tmp_path: Path) -> None:
    with served(tmp_path, plain(3), Rules(people_per_item=1)) as address:
        enter(page, address)
        page.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        page.press("2")
        page.wait("document.getElementById('said').innerText.includes('kept here')")
        assert votes(tmp_path) == []
        page.send(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        ready(page, 1)
        assert len(votes(tmp_path)) == 1


@pytest.mark.parametrize(("width", "height"), [(360, 740), (820, 1180), (1600, 900)])
def test_nothing_sticks_out_sideways(page: Page, tmp_path: Path, width: int, height: int) -> None:
    wide = (
        "x" * 3000
        + "\n\n| "
        + " | ".join(["a column"] * 40)
        + " |\n"
        + "|---" * 40
        + "|\n\n```\n"
        + "y" * 2000
        + "\n```"
    )
    items = [Item(Comparison(prompt=wide, response_1=wide, response_2="short"))]
    with served(tmp_path, items, Rules(people_per_item=1), rubric=wide) as address:
        enter(page, address)
        page.look(width, height, phone=width < 500)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        bar = page.run("document.getElementById('desk').getBoundingClientRect().height / innerHeight")
        assert bar < 0.3


def test_everything_has_a_name_for_who_cannot_see_it(page: Page, tmp_path: Path) -> None:
    with served(tmp_path, plain(2), Rules(people_per_item=1), rubric="# Right before nice") as address:
        enter(page, address)
        tree = page.send("Accessibility.getFullAXTree")["nodes"]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
        assert not [each for each in named if each[0] in ("button", "textbox", "region", "group") and not each[1]]
        assert {"Prompt", "Answer 1", "Answer 2", "Guidelines"} <= {name for role, name in named if role == "region"}
        assert page.run("document.activeElement.id") == "ask"
        assert page.run("document.getElementById('said').getAttribute('role')") == "status"


def test_the_page_of_progress_shows_everybody(page: Page, tmp_path: Path) -> None:
    items = [*plain(6), gold(1)]
    with served(tmp_path, items, Rules(people_per_item=1, gold_every=2)) as address:
        enter(page, address, "<b>Ann</b>")
        page.press("1")
        ready(page, 1)
        page.open(f"{address}/progress")
        page.wait("document.querySelector('#table tr td')", 120)
        assert page.run("document.querySelector('#table tr td').textContent") == "<b>Ann</b>"
        assert page.said() == []
