"""The face of a `Session`: one screen at a time, of core ipywidgets. It decides nothing and remembers nothing else.

`StudyFace("outputs/reader_study")` in the last line of a cell shows it; Voilà serves it as a page.
"""

import asyncio
import html
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as w

from mrtutor.study import page, words
from mrtutor.study.journal import DamagedJournal, SessionTaken
from mrtutor.study.pictures import served
from mrtutor.study.questions import Side, Test
from mrtutor.study.results import save_csv
from mrtutor.study.session import RATINGS, Session, StaleAnswer, Step
from mrtutor.study.store import open_study
from mrtutor.vocabulary import IDH, Modality

FALLBACK = "The reader study is a panel for a running kernel; a question of it stands in the picture below."


class StudyFace:
    """Screens of a study.

    Args:
        folder: of the study, see `mrtutor.study.prepare`.
        clock: seconds from any start.

    Raises:
        FileNotFoundError, ValueError: no study there, or a damaged one.
    """

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = Path(folder), clock
        self.study, self.pool = open_study(folder)
        self.session: Session | None = None
        self.chosen: dict[str, Any] = {}  # what is marked of the open question
        self._beats, self._ticking = 0, False
        self.bar, self.error = w.HTML(), w.HTML()
        self.body = w.VBox(layout=w.Layout(overflow="visible"))
        self.view = w.VBox([w.HTML(page.STYLE), self.bar, self.error, self.body])
        self.view.add_class("study")
        # Sent as one message when the field is left; letter by letter, a slow kernel saw the press before the last.
        self.code = w.Text(placeholder="your code, for example reader-1", continuous_update=False)
        self.draw()

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        from IPython.display import HTML, display

        display(HTML(page.SCRIPT))
        self._start_clock()
        return {**self.view._repr_mimebundle_(), "text/plain": FALLBACK}

    def enter(self, repair: bool = False) -> None:
        """Open the session of the code that was typed; a damaged one offers to go on from its last sound answer.

        Raises:
            ValueError: see `Session.open`.
        """
        reader = self.code.value.strip()
        self.session = Session.open(self.folder, self.study, self.pool, reader, repair=repair, clock=self._clock)

    def draw(self) -> None:
        """Show the screen that the session asks for."""
        self.chosen = {}
        step = None if self.session is None else self.session.step
        self.body.children = self._question() if step is Step.ASKING else self._words(step)
        self._draw_bar()

    def _words(self, step: Step | None) -> list[w.Widget]:
        """A screen of words and the button that leads on."""
        session = self.session
        if step is None:
            go = self._go("Continue", self.enter)
            return [w.HTML(words.welcome(self.study)), _row(self.code), _row(go), _enter()]
        if step is Step.DONE:
            return [w.HTML(words.done(session))]
        text, go = {
            Step.CONSENT: lambda: (words.consent(session), self._go("I agree", session.consent)),
            Step.READY: lambda: (words.ready(self.study, session.test), self._go("Start", session.begin)),
            Step.PAUSED: lambda: (words.paused(session), self._go("Go on", session.resume)),
        }[step]()
        return [w.HTML(text), _row(go), _enter()]

    def _question(self) -> list[w.Widget]:
        question = self.session.question
        pngs = [served(image) for image in question.pictures(self.pool)]
        chosen = self.chosen
        self._next = self._go("Next", lambda: self._answer(question.number, chosen))
        self._next.disabled = True
        if question.test is Test.PAIRS:
            asked = page.question(f"Which one is from {self.study.source}?", f"both {question.modality}")
            shown = page.pictures(pngs, ("left picture", "right picture"), "pair")
            sides = self._choices(
                "side", {Side.LEFT: ("◀  left", "1", "arrowleft"), Side.RIGHT: ("right  ▶", "2", "arrowright")}
            )
            rows, keys = [_row(*sides, self._next)], "<kbd>1</kbd> left · <kbd>2</kbd> right · <kbd>Enter</kbd> next"
        else:
            asked = page.question("How real does it look, and which type is it?", "all four are synthetic")
            shown = page.pictures(pngs, tuple(Modality), "four")
            ratings = self._choices("rating", {r: (str(r), str(r)) for r in RATINGS})
            types = self._choices("idh", {i: (f"IDH {i}", i[0]) for i in IDH})
            rows = [_row(_label("how real, 0 to 5"), *ratings), _row(_label("which type"), *types, self._next)]
            keys = "<kbd>0</kbd>…<kbd>5</kbd> rating · <kbd>M</kbd> mutant · <kbd>W</kbd> wild · <kbd>Enter</kbd> next"
        return [w.HTML(asked), w.HTML(shown), *rows, w.HTML(page.hint(keys))]

    # --- what the screens are made of

    def _go(self, caption: str, task: Callable[[], object], key: str = "enter") -> w.Button:
        """The button that leads on to the next screen."""
        button = _button(caption, "go", f"study-key-{key}")
        button.on_click(lambda _: self._told(task))
        return button

    def _choices(self, name: str, options: dict[Any, tuple[str, ...]]) -> list[w.Button]:
        """Buttons of which one can be marked: value -> (caption, keys …)."""
        buttons, chosen, go = {}, self.chosen, self._next  # this question's: a late press on an old button is lost
        for value, (caption, *keys) in options.items():
            buttons[value] = _button(caption, *(f"study-key-{key}" for key in keys))
            buttons[value].on_click(lambda _, value=value: mark(value))

        def mark(value: Any) -> None:
            chosen[name] = value
            for other, button in buttons.items():
                (button.add_class if other == value else button.remove_class)("chosen")
            wanted = {"side"} if name == "side" else {"rating", "idh"}
            go.disabled = not wanted <= set(chosen)

        return list(buttons.values())

    def _answer(self, number: int, chosen: dict[str, Any]) -> None:
        if "side" in chosen:
            self.session.answer_pair(number, chosen["side"])
        else:
            self.session.answer_sequence(number, chosen["rating"], chosen["idh"])

    def _told(self, task: Callable[[], object]) -> None:
        """Run what a press asks for and show what comes next; what goes wrong is said on the page, not thrown."""
        self.error.value = ""
        try:
            task()
        except StaleAnswer as stale:  # the time is up, or it was the second click of a double click
            self.error.value = page.error(str(stale)) if self.session.step is not Step.ASKING else ""
        except DamagedJournal as damage:
            self.error.value = page.error(str(damage))
            go_on = self._go("Go on from the last sound answer", lambda: self.enter(repair=True))
            self.body.children = [*self.body.children[:2], _row(go_on)]
            return
        except (ValueError, OSError, SessionTaken) as problem:
            self.error.value = page.error(str(problem))
            return
        self._shown_next()

    def _shown_next(self) -> None:
        """The next screen; at the end the CSV is written, and where that fails a button tries it again."""
        self.draw()
        if self.session.step is not Step.DONE:
            return
        try:
            save_csv(self.session, self.folder)
        except OSError as problem:
            self.error.value = page.error(
                f"All answers are kept, but their table could not be written ({problem}): make room on the disk and "
                "press Save again, or come back later with the same code."
            )
            self.body.children = [_row(self._go("Save again", lambda: None))]

    # --- the clock

    def _draw_bar(self) -> None:
        session = self.session
        if session is None or session.step in (Step.CONSENT, Step.DONE):
            self.bar.value = page.bar("Reader study · synthetic pictures · not for diagnosis", 0, "")
            return
        self._beats += 1
        title, share = words.TITLES[session.test], 0.0
        if (question := session.question) is not None:
            title += f" · question {question.number} of {self.study.questions}"
            share = (question.number - 1) / self.study.questions
        shown = page.clock(session.seconds_left, self._beats) if session.step is Step.ASKING else ""
        self.bar.value = page.bar(title, share, shown)

    def tick(self) -> None:
        """What happens every second: the clock moves, and a test whose time is up ends."""
        if self.session is None or self.session.step is not Step.ASKING:
            return
        try:
            ended = self.session.tick()
        except (SessionTaken, OSError) as problem:
            self.error.value = page.error(str(problem))
            return
        if ended:
            self.error.value = page.error("The time of this test is up. What you answered before is saved.")
            self._shown_next()
        else:
            self._draw_bar()

    def _start_clock(self) -> None:
        """Tick in the kernel's own loop; without a loop, as in a plain script, `tick` is for the caller."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if not self._ticking:
            self._ticking = True
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        while self.session is None or self.session.step is not Step.DONE:
            await asyncio.sleep(1)
            self.tick()


def _button(caption: str, *classes: str) -> w.Button:
    button = w.Button(description=caption, layout=w.Layout(width="auto"))
    for name in classes:
        button.add_class(name)
    return button


def _enter() -> w.HTML:
    return w.HTML(page.hint("<kbd>Enter</kbd>"))


def _row(*children: w.Widget) -> w.HBox:
    row = w.HBox(children)
    row.add_class("study-row")
    return row


def _label(caption: str) -> w.HTML:
    label = w.HTML(html.escape(caption))
    label.add_class("study-label")
    return label
