"""Final answers in texts: found in every form, compared by what they are, and found in bounded time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.rewards.answers_in_text import is_right

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = 72 altogether.\n#### 72"

RIGHT = [
    # numbers, as the whole text and announced
    ("42", "42"),
    (" 42.\n", "42"),
    ("42.0", "42"),
    ("It is 42", "42"),
    ("6 times 7 makes 42.", "42"),
    ("So we have 6*7 = 42 apples.", "42"),
    ("1,234", "1234"),
    ("The total is $1,234.00.", "1234"),
    ("The answer is 42.", "42"),
    ("The answer is: 42", "42"),
    ("the final answer is **42**.", "42"),
    ("**Answer:** 42", "42"),
    ("**Final Answer**: 42 apples", "42"),
    ("Answer: $42$", "42"),
    ("Final Answer:\n\n42", "42"),
    ("The answer is\n\\[42\\]", "42"),
    ("The answer is therefore 42, because 6 * 7 = 42.", "42"),
    ("The answer to the question is -42.", "-42"),
    ("The answer is 50%.", "0.5"),
    ("The answer is 1.2 \\times 10^3.", "1200"),
    ("Answer: x = 5", "5"),
    ("We get \\boxed{42}.", "42"),
    ("\\boxed{\\text{42 apples}}", "42"),
    ("$\\boxed{\\frac{1}{2}}$", "0.5"),
    ("\\boxed{\\frac{\\frac{1}{2}}{3}}", "\\frac{\\frac{1}{2}}{3}"),
    ("\\boxed{\\boxed{7}}", "7"),
    ("\\boxed 5", "5"),
    ("\\fbox{5}", "5"),
    ("<answer>42</answer>", "42"),
    ("<think>41?</think>\n<answer>\n42\n</answer>", "42"),
    ("<ANSWER>42</ANSWER>", "42"),
    ("<answer>The answer is \\boxed{42}</answer>", "42"),
    ("<answer>So there are 42 of them, in all</answer>", "42"),
    ("some work\n#### 42", "42"),
    ("#### 1,000", "1000"),
    ("#### Step 1\nwork\n#### Step 2\nThe answer is 42", "42"),
    ("The half is \\frac{1}{2}, so x = \\frac{1}{4}", "1/4"),
    # the last final answer counts
    ("The answer is 41. No: the answer is 42.", "42"),
    ("\\boxed{41} hmm, \\boxed{42}", "42"),
    ("\\boxed{41}. Wait.\n#### 42", "42"),
    ("<answer>41</answer> I mean <answer>42</answer>", "42"),
    ("The answer is 42. That is 2 more than 40.", "42"),
    ("<think>\\boxed{41}</think>The answer is 42", "42"),
    # the expected one may be a whole solution
    ("#### 72", GSM8K),
    ("She sold 72 clips.", GSM8K),
    ("\\boxed{\\frac14}", "We see that $x$ is $\\boxed{\\frac{1}{4}}$."),
    # choices
    ("B", "B"),
    ("(B)", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("B) Paris", "B"),
    ("B. Paris", "(B)"),
    ("The answer is (B).", "B"),
    ("The answer is B, since Lyon is smaller.", "B"),
    ("The correct option is (b) Paris", "B"),
    ("The correct choice is **B**", "B"),
    ("\\boxed{B}", "B"),
    ("\\boxed{\\text{(B)}}", "B"),
    ("I weigh (A) against (B). It must be (B)", "B"),
    ("Reasoning first.\n**B**", "B"),
    ("The answer is B.", "B. Paris"),
    ("Paris", "Paris"),
    # yes or no
    ("yes", "yes"),
    ("Yes, it does.", "yes"),
    ("**No.** It never was.", "no"),
    ("True", "yes"),
    ("The answer is no, because it is not.", "false"),
    ("It depends on much. The final answer is: Yes.", "True"),
    # words and formulas
    ("The answer is Paris.", "Paris"),
    ("Let me think.\nParis", "paris"),
    ("The capital is: the answer is the city of New York!", "City of New York"),
    ("\\boxed{x^2 + 1}", "x^2+1"),
    ("\\boxed{\\left( 3, \\frac{1}{2} \\right)}", "(3, 0.5)"),
    ("The answer is (3, 4).", "(3,4)"),
    ("\\boxed{\\dfrac{\\pi}{2}}", "\\frac{\\pi}{2}"),
    ("\\boxed{\\text{Evelyn}}", "Evelyn"),
    ("Evelyn.", "\\text{Evelyn}"),
    ("\\boxed{3\\sqrt{2}}", "3\\sqrt2"),
    ("\\boxed{11\\text{ cm}^2}", "11"),
    ("The final answer is $\\boxed{10\\%}$", "10"),
    ("\\boxed{x=5}", "5"),
    ("\\boxed{\\text{The answer is } 42}", "42"),
    ("\\boxed{-2, 3}", "-2,3"),
    ("\\boxed{(-\\infty, 3]}", "\\left(-\\infty,3\\right]"),
    ("**Final Answer**\n\n\\[ \\boxed{12} \\]", "12"),
    ("Therefore, the answer is (C) 5 meters.", "C"),
    ("Light travels at 3.0 × 10^8 m/s", "300000000"),
]

WRONG = [
    ("", "42"),
    ("   ", "42"),
    ("43", "42"),
    ("-42", "42"),
    ("420", "42"),
    ("4.2", "42"),
    ("1,23", "123"),
    ("no number here", "42"),
    ("The answer is 42. No: the answer is 41.", "42"),
    ("The answer is 42 or 41", "42"),
    ("The answer is 42, or maybe 41", "42"),
    ("\\boxed{42} and then \\boxed{41}", "42"),
    ("\\boxed{42}\\boxed{}", "42"),
    ("\\boxed{none of these, though 42 was near}\\boxed{nothing}", "42"),
    ("<answer>42</answer><answer>nothing</answer>", "42"),
    ("<think>\\boxed{42}</think>I do not know.", "42"),
    ("<think>the answer is 42", "42"),
    ("42\n#### 41", "42"),
    ("2", "2x"),
    ("2x", "2"),
    ("(3, 4)", "(4, 3)"),
    ("(3, 4)", "(3, 4, 5)"),
    ("C", "B"),
    ("The answer is C. B is wrong.", "B"),
    ("A good question.", "A"),
    ("Because of that I say nothing", "B"),
    ("no", "yes"),
    ("Nobody knows", "no"),
    ("No idea", "no"),
    ("London", "Paris"),
    ("Paris or London", "Paris"),
    ("The answer is not known", "Paris"),
    (".", "."),
]


@pytest.mark.parametrize(("text", "expected"), RIGHT)
def test_a_right_answer_is_found(text: str, expected: str) -> None:
    assert is_right(text, expected)


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_a_wrong_answer_is_no_right_one(text: str, expected: str) -> None:
    assert not is_right(text, expected)


@pytest.mark.parametrize("text", ["So it makes 42", "Yes 42 it is"])
def test_only_announced_answers_count_where_that_is_asked(text: str) -> None:
    assert is_right(text, "42")
    assert not is_right(text, "42", announced_only=True)
    assert is_right(f"{text}. The answer is 42", "42", announced_only=True)
    assert is_right("42", "42", announced_only=True)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["\\boxed{%s}", "<answer>%s</answer>", "#### %s", "Answer: %s"]))
def test_every_form_carries_every_number(number: int, form: str) -> None:
    text = f"First 17, then 4.\n{form % f'{number:,}'}"
    assert is_right(text, str(number)) and not is_right(text, str(number + 1))


@given(st.text(max_size=400), st.text(max_size=50))
def test_no_text_breaks_the_search(text: str, expected: str) -> None:
    is_right(text, expected)


GARBAGE = [
    "\\boxed{",
    "\\boxed{{{{",
    "\\boxed{}",
    "{",
    "<answer>",
    "</answer>",
    "<answer></answer>",
    "<think>",
    "####",
    "#### 1 ",
    "####\n",
    "answer",
    "answer to ",
    "answer: ",
    "the answer is ",
    "answer is *_ *_",
    "* _ ",
    "1",
    "1,",
    "1.1",
    "1,111",
    "1/",
    "-",
    "$",
    "9e9",
    "(A)",
    "A. ",
    "A.\n",
    "\n",
    " ",
    "yes ",
    "\\frac{1}{",
    "½",
    "ß²",
    "\u202e\u0000",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("expected", ["42", "B", "yes", "Paris", "(1, 2)"])
def test_garbage_is_read_in_bounded_work(expected: str) -> None:
    """Each takes milliseconds; work that grew with the square of the text would not end within the minute."""
    for piece in GARBAGE:
        assert is_right(piece * (100_000 // len(piece)), expected) in (True, False)
