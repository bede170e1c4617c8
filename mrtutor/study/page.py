"""The looks of the study: dark and quiet around the pictures, large type, all of it on one screen of 1366 × 768.

Only core ipywidgets are used; this module has the style sheet, the script for keys, and the bits of HTML. Every text
from outside is escaped. A picture is an `<img>` without a name, a number or anything else that differs between the
two sorts.
"""

import base64
import html
from collections.abc import Sequence

STYLE = """
<style>
html:has(body[data-voila]), body[data-voila] { background: #16191d !important; }
body[data-voila] { margin: 0; padding: 0 !important; overflow: auto; }
body[data-voila] #rendered_cells { padding: 0 !important; }
body[data-voila] #rendered_cells > div { background: #16191d !important; padding: 0 !important; box-shadow: none; }
body[data-voila] :is(.jp-Cell, .jp-Cell-outputWrapper, .jp-OutputArea, .jp-OutputArea-child, .jp-OutputArea-output) {
  padding: 0 !important; margin: 0 !important; border: 0; }
body[data-voila] :is(.jp-OutputPrompt, .jp-OutputCollapser, .jp-CellHeader, .jp-CellFooter) { display: none; }
.study { background: #16191d; color: #e6e8ea; padding: 0 28px 10px; overflow: hidden; box-sizing: border-box; }
body[data-voila] .study { min-height: 100vh; }
.study > .widget-html { margin: 0; }
.study * { font-family: "Inter", "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
.study .widget-html, .study .widget-html-content { line-height: 1.45; overflow: visible; height: auto; }
.study .widget-html-content { color: #e6e8ea; font-size: 19px; }
.study-bar { display: flex; justify-content: space-between; align-items: baseline; height: 46px; padding-top: 12px;
  box-sizing: border-box; border-bottom: 1px solid #31363c; font-size: 17px; color: #aeb4ba; }
.study-clock { font-variant-numeric: tabular-nums; font-size: 22px; color: #e6e8ea; }
.study-clock.late { color: #f0b36a; }
.study-track { height: 3px; background: #262b31; margin-top: -2px; }
.study-track div { height: 3px; background: #7fa8d6; }
.study-text { max-width: 820px; margin: 8vh auto 0; }
.study-text h1 { font-size: 34px; font-weight: 600; margin: 0 0 18px; color: #fff; line-height: 1.2; }
.study-text p { margin: 0 0 16px; }
.study-text kbd, .study .hint kbd { border: 1px solid #59616a; border-radius: 4px; padding: 0 7px; font-size: .85em; }
.study-ask { text-align: center; font-size: 25px; margin: 12px 0 10px; color: #fff; }
.study-ask small { font-size: 17px; color: #aeb4ba; margin-left: 12px; }
.study-pictures { display: flex; justify-content: center; gap: 22px; }
.study-pictures figure { margin: 0; text-align: center; flex: 0 1 auto; min-width: 0; }
.study-pictures img { display: block; max-width: 100%; height: auto; aspect-ratio: 1; background: #000; }
.study-pair img { width: min(46vw, max(240px, 100vh - 250px)); }
.study-four { gap: 10px; }
.study-four img { width: min(23vw, max(180px, 100vh - 330px)); }
.study-four figcaption { font-size: 17px; color: #aeb4ba; padding-top: 3px; }
.study .study-row { justify-content: center; align-items: center; gap: 10px; overflow: visible; margin-top: 10px;
  flex-wrap: wrap; }
.study .study-row > .widget-html { margin: 0; }
.study .study-label .widget-html-content { font-size: 18px; color: #aeb4ba; min-width: 150px; text-align: right; }
.study button { background: #262b31; color: #e6e8ea; border: 2px solid #3b424a; border-radius: 8px; font-size: 19px;
  height: 48px; line-height: 44px; min-width: 64px; width: auto; padding: 0 20px; margin: 0; box-shadow: none; }
.study button:hover:enabled, .study button:focus { border-color: #7fa8d6; box-shadow: none; outline: none; }
.study button.chosen { background: #315c8c; border-color: #9cc3ee; color: #fff; }
.study button.go { background: #3f8f52; border-color: #3f8f52; color: #fff; min-width: 190px; }
.study button.go:disabled { background: #262b31; border-color: #3b424a; color: #737b84; opacity: 1; }
.study .hint { text-align: center; font-size: 15px; color: #8d949b; }
.study input[type=text] { background: #0d0f12; color: #fff; border: 2px solid #3b424a; border-radius: 8px;
  font-size: 22px; height: 50px; padding: 0 14px; }
.study input::placeholder { color: #8d949b; opacity: 1; }
.study .widget-text { width: 420px; height: 54px; margin: 0; }
.study-error { border-left: 4px solid #f0b36a; background: #2b241a; padding: 10px 16px; font-size: 18px; }
.study a { color: #9cc3ee; }
.study-lost { position: fixed; left: 0; right: 0; top: 0; z-index: 99; background: #8a4b16; color: #fff; padding: 14px;
  text-align: center; font: 20px Arial, sans-serif; }
</style>
"""

# Keys press the button that bears them (class study-key-…). The clock is the kernel's: if it stands still, the
# connection is lost, and the page says what to do.
SCRIPT = """
<script>
if (!window.studyKeys) {
  window.studyKeys = true;
  document.addEventListener('keydown', function (event) {
    const typing = event.target.closest('input, textarea, [contenteditable=true]');
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (typing && !(event.key === 'Enter' && typing.closest('.study'))) return;
    const button = document.querySelector('.study .study-key-' + CSS.escape(event.key.toLowerCase()));
    if (!button || button.disabled) return;
    event.preventDefault();
    event.stopPropagation();
    if (document.activeElement && document.activeElement !== document.body) document.activeElement.blur();
    setTimeout(function () { button.click(); }, typing ? 150 : 0);
  }, true);
  let seen = '', since = Date.now();
  setInterval(function () {
    const clock = document.querySelector('.study-clock[data-beat]');
    const beat = clock ? clock.dataset.beat : '';
    if (!clock || beat !== seen) { seen = beat; since = Date.now(); }
    const lost = Date.now() - since > 20000, shown = document.querySelector('.study-lost');
    if (lost && !shown) {
      const told = document.createElement('div');
      told.className = 'study-lost';
      told.setAttribute('role', 'alert');
      told.textContent = 'The connection is lost. Your answers are saved: reload this page and enter the same code.';
      document.body.appendChild(told);
    } else if (!lost && shown) shown.remove();
  }, 1000);
}
</script>
"""


def bar(title: str, share: float, clock: str) -> str:
    """Line at the top: where we are, how far, and the clock."""
    track = f'<div class="study-track"><div style="width:{100 * min(1, max(0, share)):.1f}%"></div></div>'
    return f'<div class="study-bar"><span>{html.escape(title)}</span>{clock}</div>{track}'


def clock(seconds: float, beat: int) -> str:
    """mm:ss left; amber in the last two minutes. `beat` tells the page that the kernel lives."""
    whole = int(seconds + 0.999)
    late = " late" if seconds < 120 else ""
    return (
        f'<span class="study-clock{late}" role="timer" data-beat="{beat}">'
        f"{whole // 60}:{whole % 60:02d} <small>left</small></span>"
    )


def text(title: str, *paragraphs: str) -> str:
    """A screen of words; the paragraphs are HTML and not escaped here."""
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return f'<div class="study-text"><h1>{html.escape(title)}</h1>{body}</div>'


def question(words: str, small: str = "") -> str:
    """The question above the pictures."""
    extra = f"<small>{html.escape(small)}</small>" if small else ""
    return f'<div class="study-ask">{html.escape(words)}{extra}</div>'


def pictures(pngs: Sequence[bytes], captions: Sequence[str], kind: str) -> str:
    """Pictures in a row; `kind` is "pair" or "four". Captions name the place or the modality, never the origin."""
    figures = []
    for png, caption in zip(pngs, captions, strict=True):
        source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
        words = f"<figcaption>{html.escape(caption)}</figcaption>" if kind == "four" else ""
        figures.append(f'<figure><img src="{source}" alt="{html.escape(caption)}">{words}</figure>')
    return f'<div class="study-pictures study-{kind}">{"".join(figures)}</div>'


def error(words: str) -> str:
    """A message that a screen reader announces."""
    return f'<div class="study-error" role="alert">{html.escape(words)}</div>' if words else ""


def alone(words: str) -> str:
    """A message as the whole page, where there is no study to show."""
    return f'{STYLE}<div class="study"><div class="study-text">{error(words)}</div></div>'


def hint(words: str) -> str:
    """What the keys do; HTML."""
    return f'<div class="hint">{words}</div>'


def download(csv_text: str, name: str) -> str:
    """A link that saves a text as a file."""
    packed = base64.b64encode(csv_text.encode()).decode("ascii")
    link = f"data:text/csv;charset=utf-8;base64,{packed}"
    return f'<a download="{html.escape(name)}" href="{link}">Download my answers (CSV)</a>'
