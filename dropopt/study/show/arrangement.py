"""The order of the cards on a study's page: the one in words comes first below the history, in full width.

optuna-dashboard puts its own charts first and gives each card half the page. It has no setting for this; a style sheet
in its page changes it. If another version of the page has other parts, the selectors match nothing, and the order is
that of optuna-dashboard. The history stays where it is: with a style sheet that moves it, the page of a study of 300
trials hangs in Chromium while it loads.
"""

from __future__ import annotations

#: The card in words, and the drawing in it.
_CARD = r".MuiGrid-container > .MuiGrid-root:has(> * > * > #user-defined-plot\:dropopt-study)"
_DRAWING = r"#user-defined-plot\:dropopt-study"

#: The card is high enough for all its lines, so that none of them is hidden until a person scrolls.
STYLE = f"""<style>
{_CARD} {{ order: -1; flex: 0 0 100%; max-width: 100%; }}
{_DRAWING} {{ height: 880px; }}
@media (max-width: 1100px) {{ {_DRAWING} {{ height: 1060px; }} }}
</style>
"""


def arranged(page: bytes) -> bytes:
    """The page of optuna-dashboard, as HTML, with the style sheet."""
    return page.replace(b"</head>", STYLE.encode() + b"</head>", 1)
