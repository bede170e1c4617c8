"""The page of the reader study: one screen at a time, for JupyterLab and Voilà.

Python writes each screen as an HTML form into one widget; the browser checks that a form is complete, and the script
sends it as JSON through a hidden text field. Nothing is loaded from outside, no screen holds anything that tells
synthetic pictures from others, and no torch is imported, so the page opens at once.
"""

import html
import json
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd
from IPython.display import HTML, display

from mrtutor.apps.reader_study import PAIRS, RATINGS, SEQUENCES, SIDES, TESTS, Session, Study, served
from mrtutor.vocabulary import IDH, Modality

STYLE = """<style>
body[data-voila], body[data-voila] :is(#rendered_cells, #rendered_cells div) { background: #16191d !important;
  padding: 0 !important; margin: 0 !important; border: 0; box-shadow: none; max-width: none; }
.study, .study form { background: #16191d; color: #e6e8ea; color-scheme: dark; overflow: hidden; padding: 5px; }
.study * { font-family: system-ui, sans-serif; font-size: 18px; box-sizing: border-box; }
.study :is(.widget-html, .widget-html-content) { height: auto; line-height: 1.45; overflow: visible; }
.study article { max-width: 760px; margin: 5vh auto 0; }
.study fieldset { display: flex; flex-wrap: wrap; justify-content: center; align-items: center; gap: 10px;
  border: 0; padding: 0; margin: 10px 0; min-width: 0; text-align: center; }
.study :is(button, [type=text], fieldset label) { min-height: 46px; padding: 2px 16px; border-radius: 8px; }
.study fieldset label { display: flex; align-items: center; gap: 6px; border: 2px solid #59626b; }
.study label:has(img) { flex-direction: column; padding: 2px; }
.study label:has(:checked) { background: #315c8c; border-color: #9cc3ee; }
.study .frame { display: block; overflow: auto; background: #000; width: min(44vw, 66vh); aspect-ratio: 1; }
.study span > .frame { width: max(min(22vw, 52vh), min(42vw, 260px)); }
.study img { display: block; width: calc(var(--zoom, 100) * 1%); max-width: none;
  filter: brightness(calc(var(--brightness, 100) * 1%)) contrast(calc(var(--contrast, 100) * 1%)); }
.study [role=alert]:not(:empty) { border-left: 4px solid #f0b36a; background: #2b241a; padding: 8px 14px; }
</style>"""

# A key checks the radio button that names it. Enter is the browser's own: it sends a form that is complete.
SCRIPT = """<script>
if (!window.mrtutorStudy) {
  const study = window.mrtutorStudy = { sent: 0 };
  const one = (what) => document.querySelector('.study ' + what);
  const send = (message) => {
    const field = one('.study-bridge input');
    field.value = JSON.stringify({ ...message, screen: one('form').dataset.screen, sent: ++study.sent });
    field.dispatchEvent(new Event('change', { bubbles: true }));
  };
  document.addEventListener('submit', (event) => {
    const form = event.target.closest('.study form');
    if (!form) return;
    event.preventDefault();
    send(Object.fromEntries(new FormData(form, event.submitter)));
    form.querySelectorAll('button').forEach((button) => { button.disabled = true; });
    const lost = 'The connection is lost. Your answers are saved: reload this page and enter your code.';
    setTimeout(() => { form.querySelector('[role=alert]').textContent = lost; }, 20000);  // if it is still shown
  });
  document.addEventListener('keydown', (event) => {
    const at = document.activeElement, here = at.closest('.study') || (at === document.body && at.dataset.voila);
    const radio = one('[data-keys~="' + CSS.escape(event.key.toLowerCase()) + '"]');
    if (!radio || !here || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    radio.click();
    radio.focus();
  }, true);
  setInterval(() => {
    const form = one('form'), clock = one('time');
    if (form && form !== study.form) {
      if (study.form || document.body.dataset.voila) form.querySelector('[autofocus]').focus({ preventScroll: true });
      Object.assign(study, { form, shown: Date.now() });
    }
    if (!clock) return;
    const left = Math.max(0, Math.ceil(clock.dataset.left - (Date.now() - study.shown) / 1000));
    clock.textContent = Math.floor(left / 60) + ':' + String(left % 60).padStart(2, '0') + ' left';
    if (!left) send({ do: 'tick' });
  }, 500);
}
</script>"""

SCREENS = {
    "welcome": """<h1>Reader study</h1><p>Two short tests about brain MR pictures, {questions} questions and {minutes:g}
minutes each. No picture serves a diagnosis. Choose a code of lower-case letters, digits and hyphens, such as reader-1,
not your name. To go on with a session, type your whole code, such as reader-1.2c9a41.</p>
<label>Your code <input type="text" name="code" autocomplete="off" autocapitalize="none" autofocus></label>
<button name="do" value="enter">Continue</button>""",
    "consent": """<h1>Before we begin</h1><p>I take part of my own free will and may stop at any time. My answers, and
the time I take for each, are stored on this computer under the code that I choose, not under my name. The pictures are
synthetic or from {source}; none serves a diagnosis.</p><p>Your code is <b>{code}</b>. Write it down: you need all of
it to go on later.</p><button name="do" value="advance" autofocus>I agree</button>""",
    "ready": """<h1>Test {place} of 2</h1><p>{task} Enter leads on.</p><p>{questions} questions, {minutes:g} minutes in
all; at 0 the test ends. There is no way back to an earlier question, and you will not be told the answers.</p>
<button name="do" value="practise">Try one first</button> <button name="do" value="advance" autofocus>Start</button>""",
    "paused": """<h1>{answered} answers are saved</h1><button name="do" value="advance" autofocus>Go on</button>""",
    "done": """<h1>Thank you</h1><p>{answered} questions answered, all saved. You may close this page.</p>
<a download="my-answers.csv" href="data:text/csv;base64,{csv}" autofocus>Download my answers (CSV)</a>""",
}
TASKS = {
    PAIRS: """You see two pictures of the same modality. One is from the cohort, the other is <b>synthetic</b>: a
network made it. Choose the synthetic one: click on it, or press 1 or 2.""",
    SEQUENCES: """You see FLAIR, T1, T1Gd and T2 of one <b>synthetic</b> patient. Rate how much they look like acquired
MR pictures, from 0 (not at all) to 5 (just like them), and say whether the glioma looks IDH mutant or wild type: press
0 to 5, M or W.""",
}
SLIDER = """<label>{0} <input type="range" min="40" max="300" value="100"
oninput="this.form.style.setProperty('--{0}', this.value)"></label>"""


class StudyPage(w.VBox):
    """The study in `folder` (FileNotFoundError, ValueError: as `Study.open`), as the last line of a cell."""

    def __init__(self, folder: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.study, self.clock = Study.open(folder), clock
        self.session: Session | None = None
        self.practising, self._count = False, 0
        self.screen, bridge = w.HTML(), w.Text(continuous_update=False, layout={"display": "none"})
        bridge.add_class("study-bridge")
        bridge.observe(lambda change: self.act(json.loads(change["new"])), "value")
        super().__init__([self.screen, bridge])
        self.add_class("study")
        self._show()

    def __repr__(self) -> str:
        return "The reader study, a page for a running kernel."

    def _repr_mimebundle_(self, **options: Any) -> Any:
        display(HTML(STYLE + SCRIPT))
        return super()._repr_mimebundle_(**options)

    def act(self, message: dict[str, str]) -> None:
        """Do what a form says, and show the next screen: "do" is enter, advance, practise, answer or tick."""
        if message["screen"] != self._name():  # the answer to another screen comes too late
            return
        session, do, problem = self.session, message["do"], ""
        try:
            if do == "tick":
                if not session.tick():
                    return
                problem = "The time of this test is up. What you answered before is saved."
            elif do == "enter":
                code = message["code"].strip()
                self.session = (Session.resume if "." in code else Session.start)(self.study, code, self.clock)
            elif do == "practise" or self.practising:
                self.practising = not self.practising
            elif do == "advance":
                session.advance()
            else:
                session.answer(session.number, message["said"], int(message["rating"]) if "rating" in message else None)
        except (ValueError, OSError) as error:
            problem = str(error)
        self._show(problem)

    def _name(self) -> str:
        session = self.session
        return f"{session.step}-{session.test}-{session.number}-{self.practising}" if session else "welcome"

    def _show(self, problem: str = "") -> None:
        study, session, clock = self.study, self.session, ""
        if self.practising:
            body = self._question(session.test, study.questions, "Practice, nothing is stored")
        elif session and session.step == "asking":
            body = self._question(session.test, session.item, f"Question {session.number} of {study.questions}")
            clock = f'<time role="timer" style="float: right" data-left="{session.seconds_left:.1f}"></time>'
        else:
            body = f"<article>{self._words()}</article>"
        self._count += 1  # a screen that comes again is shown again
        head = f'Reader study, not for diagnosis{clock}<div role="alert">{html.escape(problem)}</div>'
        names = f'data-screen="{self._name()}" data-count="{self._count}" data-lm-suppress-shortcuts="true"'
        self.screen.value = f"<form {names}>{head}{body}</form>"

    def _words(self) -> str:
        study, session = self.study, self.session
        words = {"questions": study.questions, "minutes": study.minutes, "source": html.escape(study.source)}
        if session is None:
            return SCREENS["welcome"].format(**words)
        table = pd.DataFrame(session.answers, columns=["test", "number", "said", "rating", "seconds", "at"])
        words["csv"] = b64encode(table.to_csv(index=False).encode()).decode()  # no items, to compare with other readers
        words |= {"code": session.head["code"], "place": 1 + TESTS.index(session.test), "task": TASKS[session.test]}
        return SCREENS[session.step].format(answered=len(table), **words)

    def _question(self, test: str, item: int, title: str) -> str:
        if test == PAIRS:
            modality = self.study.modalities[item]
            shown = zip((1, 2), SIDES, self.study.pairs[item], strict=True)
            pictures = [_choice("said", s, f"{n} arrow{s}", f"{s} {_frame(p, modality)}") for n, s, p in shown]
            rows = _row(f"{title}: which {modality} picture is synthetic?", pictures)
        else:
            shown = zip(self.study.sequences[item], Modality, strict=True)
            rows = _row(f"{title}: one synthetic patient", [f"<span>{m}{_frame(p, m)}</span>" for p, m in shown])
            rows += _row("How real, 0 to 5?", [_choice("rating", n, n, n) for n in RATINGS])
            rows += _row("Which type?", [_choice("said", idh, idh[0], f"IDH {idh}") for idh in IDH])
        sliders = [SLIDER.format(name) for name in ("zoom", "brightness", "contrast")]
        rows += _row("", [*sliders, '<button name="do" value="answer">Next</button>'])
        return rows.replace("required", "required autofocus", 1)


def _choice(name: str, value: object, keys: object, inside: object) -> str:
    return f'<label><input type="radio" name="{name}" value="{value}" data-keys="{keys}" required>{inside}</label>'


def _frame(picture: Any, modality: str) -> str:
    source = b64encode(served(picture)).decode()
    return f'<span class="frame"><img alt="picture, {modality}" src="data:image/png;base64,{source}"></span>'


def _row(legend: str, parts: list[str]) -> str:
    return f"<fieldset><legend>{legend}</legend>{''.join(parts)}</fieldset>"
