"""The page in a real Chromium: it loads from the disk, plays, compares blind, and is usable by all."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.browser import Browser, Page, needs_chromium, running_chromium
from tests.models.evaluations import write_evaluation
from xtts_export_callback.cli.main import main

pytestmark = needs_chromium
AXE = Path(__file__).parents[3] / "node_modules" / "axe-core" / "axe.min.js"
VOTE = "[...document.querySelectorAll('#blind button')].find(b => b.textContent === {!r})"
LISTEN = """
(() => {{
  const context = audio(), tap = context.createScriptProcessor(256, 1, 1), heard = window.heard = [];
  tap.onaudioprocess = (event) => heard.push(Math.max(...event.inputBuffer.getChannelData(0).map(Math.abs)));
  const connect = GainNode.prototype.connect;
  GainNode.prototype.connect = function (to) {{ connect.call(this, tap); return connect.call(this, to); }};
  tap.connect(context.destination);
}})()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my_voice")
    write_evaluation(folder)
    assert main(["report", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    found = browser.page()
    found.look()
    found.open(file)
    found.run("localStorage.clear()")
    yield found
    assert found.complaints == []
    found.send("Page.close")


def card(number: int, group: str = "s0-t0") -> str:
    return f"[data-group={group}] .clip:nth-child({number})"


def start_blind(page: Page, *, everybody: bool = False) -> int:
    """Open the comparison and start it; the number of trials."""
    page.click("#blind-open")
    if everybody:
        page.run("document.querySelectorAll('#blind input').forEach((box) => box.checked || box.click())")
    page.run(VOTE.format("Start") + ".click()")
    return int(page.run("vote.trials.length"))


def vote(page: Page, key: str) -> None:
    for listen in "ab":
        page.press(listen)
    page.wait("!document.querySelector('.votes button').disabled")
    page.press(key)


def vote_for(page: Page, name: str) -> None:
    is_left = page.run("vote.trials[vote.answers.length].left")
    vote(page, "1" if is_left == name else "3")


def test_it_loads_from_the_disk_and_asks_for_nothing_else(page: Page, file: Path) -> None:
    assert set(page.requests) <= {file.resolve().as_uri(), "data:,"}
    assert page.run("document.title") == f"{file.parent.name} · listening report"


def test_a_clip_plays_and_another_goes_on_at_the_same_place_without_a_gap(page: Page) -> None:
    page.run(LISTEN.format())
    page.click(f"{card(1)} .clip-name")
    page.wait("heard.some((level) => level > 0.02)")
    page.wait("Deck.current.position > 0.1")
    before = page.run("(window.first = heard.findIndex((level) => level > 0.001), Deck.current.position)")
    page.click(f"{card(2)} .clip-name")
    page.wait("Deck.current.position > 0.3")

    levels = page.run("heard.slice(first)")
    assert page.run("Deck.current.chosen") == 1
    assert before < 0.35
    page.complaints[:] = [line for line in page.complaints if "ScriptProcessor" not in line]  # it is the test's
    assert min(levels) > 0  # no block of 256 samples, 5 to 6 ms, is silent
    assert page.run(f"document.querySelector('{card(2)}').ariaPressed") == "true"


def test_a_click_into_the_waveform_goes_there_and_a_second_click_on_the_name_pauses(page: Page) -> None:
    page.click(f"{card(3)} .wave", across=0.6)
    page.wait("Deck.current?.playing")
    assert 0.55 < page.run("Deck.current.position") < 0.95

    page.click(f"{card(3)} .clip-name")
    page.wait("!Deck.current.playing")


def test_clips_of_different_level_are_played_equally_loud(page: Page) -> None:
    gains = page.run("[...document.querySelectorAll('[data-group=s0-t0] .clip')].map((clip) => +clip.dataset.gain)")

    assert gains == sorted(gains, reverse=True)  # the levels of the files rise
    assert gains[0] > 3 * gains[-1]


def test_it_stops_at_the_end_or_loops(page: Page) -> None:
    page.click(f"{card(1)} .wave", across=0.9)
    page.wait("Deck.current?.playing")
    page.wait("!Deck.current.playing && Deck.current.position === 0")

    page.click("[data-group=s0-t0] .loop")
    page.click(f"{card(1)} .wave", across=0.9)
    page.wait("Deck.current.playing && Deck.current.position < 0.5")
    assert page.run("Deck.current.loop")


def test_the_keyboard_alone_plays_chooses_loops_and_moves_on(page: Page) -> None:
    page.run("document.querySelector('[data-group=s0-t0] .play').focus()")
    page.press("Enter")
    page.wait("Deck.current?.playing")
    page.press("3")
    page.wait("Deck.current.chosen === 2")
    page.press("ArrowRight")
    page.wait("Deck.current.chosen === 3")
    page.press("l")
    page.wait("Deck.current.loop")
    page.press("j")
    assert page.run("document.activeElement.closest('.player').dataset.group") == "s1-t0"
    page.press("Enter")
    page.wait("Deck.current === Player.all[2].deck && Deck.current.playing")


def test_a_blind_comparison_hides_the_names_until_the_end_and_then_says_who_won(page: Page) -> None:
    trials = start_blind(page)
    hidden = page.run("dialog.innerHTML")
    for _ in range(trials):
        vote_for(page, "average_last_3")
    page.wait("document.querySelector('#blind .result')")

    assert trials == 3
    assert "average_last_3" not in hidden
    assert "checkpoint_5000" not in hidden
    result = page.run("document.querySelector('#blind .result').textContent")
    # Clopper and Pearson for 3 of 3: 0.025 ** (1/3) = 0.292
    assert result == (
        "You prefer average_last_3: 3 of 3 votes, 100 % (95 % interval 29 % to 100 %). This may be chance."
    )


def test_nobody_votes_before_both_are_heard(page: Page) -> None:
    start_blind(page)
    page.press("a")
    page.press("1")

    assert page.run("vote.answers.length") == 0
    assert page.run("document.querySelector('.votes button').disabled")


def test_of_three_or_more_the_favourite_has_the_highest_preference(page: Page) -> None:
    trials = start_blind(page, everybody=True)
    assert trials == 15 * 3
    script = "vote.answers = vote.trials.map((one) => ({choice: [one.left, one.right].sort()[0], ms: 1, comment: ''}))"
    page.run(f"{script}, showTrial()")

    rows = page.run("[...document.querySelectorAll('#blind tbody tr')].map((row) => row.innerText.split('\\t')[0])")
    assert rows == sorted(rows)
    assert page.run("document.querySelector('#blind .result').textContent").startswith("You prefer average_last_3.")


def test_an_unfinished_vote_is_there_after_loading_again(page: Page, file: Path) -> None:
    start_blind(page)
    vote(page, "2")
    order = page.run("JSON.stringify(vote.trials)")
    page.open(file)
    assert page.run("unfinished.innerText").startswith("Your blind comparison is not finished: 1 of 3.")

    page.run("unfinished.querySelector('button').click()")
    assert page.run("title.textContent") == "Comparison 2 of 3"
    assert page.run("JSON.stringify(vote.trials)") == order


def test_the_votes_are_saved_as_webmushra_saves_paired_comparisons(page: Page, tmp_path: Path) -> None:
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    start_blind(page)
    for key in ("2", "2"):
        vote(page, key)
    page.run("document.querySelector('#blind .comment input').value = 'a \"dry\" one, perhaps'")
    vote_for(page, "average_last_3")
    page.wait("document.querySelector('#blind .result')")
    page.run(VOTE.format("Save as CSV") + ".click()")
    page.wait("true")

    rows = downloaded(page, tmp_path / "paired_comparison.csv")
    assert list(rows[0]) == [
        *("session_test_id", "trial_id", "choice_reference", "choice_non_reference"),
        *("choice_answer", "choice_time", "choice_comment"),
    ]
    assert [row["choice_answer"] for row in rows] == ["undecided", "undecided", "correct"]
    assert {(row["choice_reference"], row["choice_non_reference"]) for row in rows} == {
        ("average_last_3", "checkpoint_5000")
    }
    assert rows[2]["choice_comment"] == 'a "dry" one, perhaps'
    assert all(int(row["choice_time"]) >= 0 for row in rows)


def downloaded(page: Page, path: Path) -> list[dict[str, str]]:
    for _ in range(200):
        page.run("new Promise((done) => setTimeout(done, 50))")
        if path.exists():
            return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    pytest.fail("nothing was downloaded")


def test_exact_intervals_are_those_of_clopper_and_pearson(page: Page) -> None:
    # scipy.stats.binomtest(9, 12).proportion_ci(0.95, "exact") and the like
    expected = {(9, 12): (0.428142, 0.945139), (0, 5): (0.0, 0.521824), (5, 5): (0.478176, 1.0)}

    for (hits, of), interval in expected.items():
        assert page.run(f"exactInterval({hits}, {of})") == pytest.approx(interval, abs=1e-5)


def test_bradley_terry_finds_the_strengths_that_votes_were_made_from(page: Page) -> None:
    # expected wins of strengths 4 : 2 : 1, many of them
    found = page.run("bradleyTerry([[0, 4e6, 4.8e6], [2e6, 0, 4e6], [1.2e6, 2e6, 0]])")

    assert found == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=1e-5)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page: Page, width: int, dark: bool) -> None:
    page.look(width=width, dark=dark)

    assert page.run("document.documentElement.scrollWidth") <= width


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core in node_modules; npm install --no-save axe-core")
@pytest.mark.parametrize("state", ["page", "setup", "trial", "result"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["light", "dark, on a phone"])
def test_a_checker_finds_no_fault_in_accessibility(page: Page, state: str, width: int, dark: bool) -> None:
    page.look(width=width, dark=dark)
    if state == "setup":
        page.click("#blind-open")
    elif state != "page":
        start_blind(page, everybody=True)
    if state == "result":
        page.run("vote.answers = vote.trials.map(() => ({choice: null, ms: 1, comment: ''})), showTrial()")
    page.run(AXE.read_text(encoding="utf-8") + "\n;0")
    found: Any = page.run(
        "axe.run().then((result) => result.violations.map((one) => [one.impact, one.id, one.nodes[0].html]))"
    )

    assert found == []
