"""The style of comparisons, on the page and in the report."""

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from ..cards.plots import COLORMAP
from ..cards.word_plots import AGAINST, AGAINST_DARK, FOR, FOR_DARK
from .drawing import STUDENT, TEACHER, opacity_of

OPACITY = 0.75

LIGHT = """--ink: #1a1a1a; --paper: #fff; --faint: #595959; --rule: #c8c8c8; --bar: #b9d3e6; --mark: #e8f1f8;
  --for: {for_light}; --against: {against_light}; --more: 127 191 123; --less: 194 165 207;
  --agree: #767676; --differ: #d55e00;"""
DARK = """--ink: #f2f2f2; --paper: #161616; --faint: #b4b4b4; --rule: #4a4a4a; --bar: #2c5878; --mark: #1f2d38;
  --for: {for_dark}; --against: {against_dark}; --more: 27 120 55; --less: 118 42 131;
  --agree: #9a9a9a; --differ: #ff8a3d;"""

STYLE = """
.e2kd {{ {light} container-type: inline-size; width: 100%;
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
{dark_rule}
.e2kd, .e2kd * {{ box-sizing: border-box; }}
.e2kd * {{ color: inherit; }}
.e2kd h1 {{ font-size: 1.4rem; font-weight: 700; margin: 0 0 .25rem; }}
.e2kd h2 {{ font-size: 1.15rem; font-weight: 700; margin: 0 0 .5rem; }}
.e2kd h3 {{ font-size: 1rem; font-weight: 600; margin: 0; }}
.e2kd p {{ margin: 0; }}
.e2kd a {{ text-decoration: underline; }}
.e2kd .verdict {{ background: var(--mark); border-inline-start: .4rem solid var(--agree); padding: .5rem .75rem;
  margin: 0 0 .5rem; }}
.e2kd .verdict.differ {{ border-inline-start: .4rem dashed var(--differ); }}
.e2kd .error {{ border: 2px solid; padding: .5rem .75rem; }}
.e2kd .facts, .e2kd .legend, .e2kd .note, .e2kd .true {{ color: var(--faint); font-size: .9rem; }}
.e2kd .facts b {{ color: var(--ink); font-weight: 600; }}
.e2kd > section + section {{ border-top: 1px solid var(--rule); margin-top: 1.5rem; padding-top: 1.5rem; }}
.e2kd .tiles {{ display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 1rem; margin: .75rem 0; }}
.e2kd .top-classes {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; margin: .75rem 0; }}
.e2kd figure {{ margin: 0; }}
.e2kd figure img {{ display: block; width: 100%; height: auto; margin: .25rem 0; border-radius: .2rem; }}
.e2kd .picture {{ position: relative; }}
.e2kd figure .layer {{ position: absolute; inset: 0; margin: 0; opacity: var(--opacity, {opacity}); }}
.e2kd ol {{ list-style: none; margin: 0; padding: 0; font-size: .9rem; }}
.e2kd li {{ display: flex; justify-content: space-between; gap: .5rem; padding: .1rem .35rem; margin: .15rem 0;
  background: linear-gradient(var(--bar), var(--bar)) no-repeat left / var(--p) 100%; }}
.e2kd li:has(button) {{ padding: 0; }}
.e2kd li button {{ all: unset; box-sizing: border-box; display: flex; justify-content: space-between; gap: .5rem;
  width: 100%; padding: .1rem .35rem; cursor: pointer; border-radius: .15rem; text-align: start; }}
.e2kd li button:hover span[dir] {{ text-decoration: underline; }}
.e2kd li button[aria-pressed=true] {{ font-weight: 700; box-shadow: inset 0 0 0 1px currentColor; }}
.e2kd li .percent {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
.e2kd .scale {{ display: inline-block; width: 4.5rem; height: .75rem; vertical-align: middle; border: 1px solid; }}
.e2kd .viridis {{ background: linear-gradient(to right, {viridis}); }}
.e2kd .signed {{ background: linear-gradient(to right, rgb({teacher}), #8888, rgb({student})); }}
.e2kd .legend {{ margin: .75rem 0 .5rem; }}
.e2kd .legend .for, .e2kd .legend .against {{ color: var(--ink); padding: .1em .2em; }}
.e2kd .legend .key {{ display: inline-block; margin-inline-end: 1rem; }}
.e2kd .row {{ display: grid; grid-template-columns: 11rem 1fr; gap: .25rem 1rem; margin-top: .75rem; }}
.e2kd .row .facts span {{ display: block; }}
.e2kd .words {{ line-height: 2; white-space: pre-wrap; }}
.e2kd .for, .e2kd .against {{ border-radius: .2em; padding: .1em 0; print-color-adjust: exact; }}
.e2kd .for {{ background: rgb(var(--for) / var(--s)); }}
.e2kd .against {{ background: rgb(var(--against) / var(--s)); }}
.e2kd .for.lined {{ text-decoration: underline solid; text-underline-offset: .3em; }}
.e2kd .against.lined {{ text-decoration: underline dotted; text-underline-offset: .3em; }}
/* The last row, before the table of scores, is the difference of both models. */
.e2kd .row:has(+ details) {{ --for: var(--more); --against: var(--less); }}
.e2kd details {{ margin-top: .75rem; }}
.e2kd summary {{ cursor: pointer; width: fit-content; }}
.e2kd :is(summary, a, button, input, .scores):focus-visible {{ outline: 3px solid currentColor; outline-offset: 2px; }}
.e2kd .scores {{ overflow-x: auto; }}
.e2kd table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: auto; }}
.e2kd th, .e2kd td {{ border: 0; border-bottom: 1px solid var(--rule); padding: .15rem .6rem; text-align: end;
  overflow-wrap: normal; }}
.e2kd th[scope=row] {{ text-align: start; font-weight: normal; }}
.e2kd .summary {{ display: flex; flex-wrap: wrap; gap: .1rem 1.5rem; }}
.e2kd .summary div {{ display: flex; gap: .4rem; }}
.e2kd dl, .e2kd dd {{ margin: 0; }}
.e2kd .summary dt {{ color: var(--faint); }}
.e2kd .summary dt::after {{ content: ":"; }}
.e2kd .scatter {{ display: block; width: 100%; max-width: 19rem; height: auto; font-size: 11px; }}
.e2kd .scatter text {{ fill: var(--ink); }}
.e2kd .scatter :is(path, rect) {{ fill: none; stroke: var(--rule); }}
.e2kd .scatter .agree {{ fill: var(--agree); stroke: var(--paper); }}
.e2kd .scatter .differ {{ fill: none; stroke: var(--differ); stroke-width: 2; }}
.e2kd .scatter [data-position], .e2kd .scatter a {{ cursor: pointer; pointer-events: bounding-box; }}
@container (max-width: 40rem) {{
  .e2kd .tiles {{ grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .75rem; }}
  .e2kd .row {{ grid-template-columns: 1fr; }}
  .e2kd .row .facts span {{ display: inline; margin-inline-end: .75rem; }}
}}
"""


def style(dark: str) -> str:
    """Make the style sheet of everything inside an element of the class `e2kd`.

    Args:
        dark: Rule around the dark colours with `{}` in their place, as `".dark .e2kd {{ {} }}"`.
    """
    values = np.linspace(0, 1, 9)
    # As transparent as the maps are there.
    colours = np.column_stack([colormaps[COLORMAP](values)[:, :3], opacity_of(values)])
    stops = ", ".join(to_hex(colour, keep_alpha=True) for colour in colours)
    light = LIGHT.format(for_light=_numbers(FOR), against_light=_numbers(AGAINST))
    dark = dark.format(DARK.format(for_dark=_numbers(FOR_DARK), against_dark=_numbers(AGAINST_DARK)))
    return STYLE.format(
        light=light,
        dark_rule=dark,
        viridis=stops,
        student=_numbers(STUDENT),
        teacher=_numbers(TEACHER),
        opacity=OPACITY,
    )


def _numbers(colour: tuple[int, int, int]) -> str:
    return " ".join(map(str, colour))
