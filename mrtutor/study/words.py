"""The screens of words between the questions, as HTML."""

import html

from mrtutor.study import page
from mrtutor.study.questions import Test
from mrtutor.study.results import to_csv
from mrtutor.study.session import Session
from mrtutor.study.store import Study

TITLES = {Test.PAIRS: "Test 1 of 2", Test.SEQUENCES: "Test 2 of 2"}


def welcome(study: Study) -> str:
    """First screen; a field for the code stands below it."""
    return page.text(
        "Reader study",
        f"Two short tests about brain MR pictures, {study.questions} questions and {study.minutes:g} minutes each. "
        "No picture serves a diagnosis.",
        "Please choose a code of lower-case letters, digits and hyphens. Do not use your name. With the same code you "
        "can go on later where you stopped.",
    )


def consent(session: Session) -> str:
    """What a reader agrees to, and under which code."""
    code = f"Your code is <b>{html.escape(session.reader)}</b>. Please write it down."
    return page.text("Before we begin", html.escape(session.study.consent), code)


def ready(study: Study, test: Test) -> str:
    """What the test that comes next asks for."""
    if test is Test.PAIRS:
        what = (
            f"You see two pictures of the same MR modality. One is a slice from <b>{html.escape(study.source)}</b>, "
            "the other is <b>synthetic</b>: a network painted it. Say which one is from the cohort.",
            "Mark the left picture with <kbd>1</kbd> or <kbd>←</kbd>, the right one with <kbd>2</kbd> or <kbd>→</kbd>, "
            "then confirm with <kbd>Enter</kbd>.",
        )
    else:
        what = (
            "You see FLAIR, T1, T1Gd and T2 of one <b>synthetic</b> patient. Rate how much they look like acquired MR "
            "pictures, from 0 (not at all) to 5 (just like them), and say whether the glioma looks IDH <b>mutant</b> "
            "or IDH <b>wild</b> type.",
            "Keys: <kbd>0</kbd> … <kbd>5</kbd>, <kbd>M</kbd> or <kbd>W</kbd>, then <kbd>Enter</kbd>.",
        )
    rules = (
        f"{study.questions} questions, {study.minutes:g} minutes in all. The clock at the top right starts with you, "
        "and at 0 the test ends. There is no way back to an earlier question, and you will not be told the answers."
    )
    return page.text(TITLES[test], *what, rules)


def paused(session: Session) -> str:
    """After a resume."""
    number = session.question.number
    return page.text(
        "Welcome back",
        f"{number - 1} of {session.study.questions} answers of this test are saved. Question {number} comes next; the "
        "clock goes on when you do.",
    )


def done(session: Session) -> str:
    """Last screen, with the reader's own answers to take away."""
    return page.text(
        "Thank you",
        f"{len(session.answers)} of {2 * session.study.questions} questions answered. Your answers are saved on this "
        "computer. You may close this page.",
        page.download(to_csv(session), f"reader-study-{session.reader}.csv"),
    )
