"""Styles that Streamlit's theme has no setting for: the header band, cards, a scrolling row of examples."""

from __future__ import annotations

import html
from collections.abc import Sequence

GRADIENT = "linear-gradient(100deg, #667eea 0%, #764ba2 62%, #c779d0 100%)"

STYLE = f"""<style>
.st-key-band {{ background: {GRADIENT}; border-radius: 0.9rem; padding: 1rem 1.4rem; }}
.st-key-band h1 {{ color: #fff; font-size: 1.5rem; font-weight: 700; margin: 0; padding: 0; line-height: 1.3; }}
.st-key-band p {{ color: #fff; margin: 0.1rem 0 0; }}
.studio-band {{ display: flex; flex-wrap: wrap; gap: 0.6rem 1.2rem; align-items: center;
  justify-content: space-between; }}
.studio-chips {{ display: flex; flex-wrap: wrap; gap: 0.5rem; justify-content: flex-end; }}
.studio-chips span {{ color: #fff; background: rgba(30, 20, 60, 0.32); border: 1px solid rgba(255, 255, 255, 0.45);
  border-radius: 999px; padding: 0.2rem 0.75rem; font-size: 0.85rem; white-space: nowrap; }}
/* The row of pages: 52 px, with a line of the gradient as its lower edge; its right end is the component `frame`. */
[data-testid="stHeader"] {{ height: 52px; min-height: 52px; background: light-dark(#fbfbfe, #0e1020);
  border-bottom: 3px solid; border-image: {GRADIENT} 1; }}
.st-key-frame {{ position: fixed; top: 8px; right: 3.2rem; width: auto; z-index: 999991; }}
[data-testid="stToolbar"] {{ z-index: 1; }}
.stMainBlockContainer {{ max-width: 86rem; padding-top: 4.2rem; padding-bottom: 3rem; }}
.studio-stage {{ min-height: 12rem; border: 1px dashed rgba(128, 132, 170, 0.5); border-radius: 0.9rem;
  display: flex; flex-direction: column; align-items: center; justify-content: center; text-align: center;
  padding: 1rem; }}
.st-key-stage_empty .studio-stage {{ aspect-ratio: 16 / 9; }}
.studio-stage b {{ font-size: 1.1rem; }}
.studio-stage span {{ opacity: 0.75; max-width: 30rem; }}
button[kind="primary"] {{ background: light-dark(#5468d8, #8b9cff); color: light-dark(#fff, #0e1020); }}
[role="radio"][aria-checked="true"] p {{ color: light-dark(#4355c0, #b3beff); }}
[data-testid="stMetricDelta"] p {{ color: light-dark(#4355c0, #b3beff); }}
[data-testid="stSliderThumbValue"] p {{ color: light-dark(#4355c0, #b3beff); }}
/* Derived from the text's colour: inside a dialog light-dark() always returns the light value. */
[data-testid="stCaptionContainer"] {{ color: color-mix(in srgb, currentColor 72%, transparent); opacity: 1; }}
[data-testid="stCaptionContainer"] p {{ color: inherit; opacity: 1; }}
button[kind="primary"] kbd {{ color: inherit; opacity: 1; }}
video {{ border-radius: 0.9rem; background: #12142a; }}
[role="dialog"] video {{ max-height: 62vh; }}
[class*="st-key-stage_"] video {{ max-height: 66vh; }}
.studio-download {{ display: inline-flex; align-items: center; gap: 0.5rem; min-height: 2.5rem; font-size: 0.875rem;
  border: 1px solid color-mix(in srgb, currentColor 14%, transparent); border-radius: 999px; padding: 0.25rem 0.75rem;
  color: inherit !important; text-decoration: none !important; }}
.studio-download::before {{ content: "download" / ""; font: 1rem "Material Symbols Rounded"; }}
.studio-download:hover, .studio-download:focus {{ border-color: #667eea; }}
[class*="st-key-poster_"] {{ position: relative; }}
[class*="st-key-poster_"] [data-testid="stElementContainer"]:has(.stButton) {{ position: static; }}
[class*="st-key-poster_"] .stButton button::after {{ content: ""; position: absolute; inset: 0; }}
[class*="st-key-poster_"] [data-testid="stElementToolbar"] {{ display: none; }}
[class*="st-key-poster_"] img {{ border-radius: 0.7rem; aspect-ratio: 16 / 9; object-fit: contain;
  width: 100%; background: #12142a; }}
[class*="st-key-poster_"] button {{ min-height: 0; padding: 0.1rem 0; text-align: left; }}
[class*="st-key-poster_"] [data-testid="stCaptionContainer"] {{ margin-top: -0.6rem; }}
.st-key-examples [role="radiogroup"], .st-key-examples [data-testid="stButtonGroup"] > div {{ flex-wrap: nowrap;
  overflow-x: auto; scrollbar-width: thin; }}
.st-key-examples button {{ white-space: nowrap; flex: none; }}
[class*="st-key-live_"] img, .studio-preview {{ aspect-ratio: 16 / 9; width: 100%; border-radius: 0.7rem; }}
[class*="st-key-live_"] img {{ object-fit: contain; background: #12142a; }}
[class*="st-key-live_"]:has(img) .studio-preview {{ display: none; }}
[class*="st-key-live_"] {{ max-width: 24rem; }}
.studio-preview {{ display: flex; align-items: center; justify-content: center; text-align: center; padding: 0.5rem;
  border: 1px dashed rgba(128, 132, 170, 0.5); font-size: 0.875rem; }}
@media (prefers-reduced-motion: reduce) {{
  * {{ animation: none !important; transition: none !important; }}
  [class*="st-key-live_"] img {{ display: none; }}
  [class*="st-key-live_"]:has(img) .studio-preview {{ display: flex; }}
}}
@media (max-width: 640px) {{
  .stMainBlockContainer {{ padding-left: 1rem; padding-right: 1rem; }}
  .studio-chips {{ justify-content: flex-start; }}
}}
</style>"""


# Create: the stage takes what the composer, a panel at the right edge with its own scroll, leaves. Below 1100 px the
# composer stands under the stage.
CREATE_STYLE = """<style>
.stMainBlockContainer:has(.st-key-create) { max-width: none; padding: 3rem 0.75rem 0; }
.stMain:has(.st-key-create) { scrollbar-gutter: auto; }
.st-key-stage { width: calc(100% - 338px); min-height: calc(100vh - 64px); }
.st-key-composer { position: fixed; right: 0; top: 52px; bottom: 0; width: 336px; gap: 0;
  border-left: 1px solid light-dark(#e2e4f2, #282c48); }
.st-key-composer > div, .st-key-composer [data-testid="stBidiComponentRegular"],
.st-key-composer [data-testid="stBidiComponentRegular"] > * { height: 100%; }
@media (max-width: 1100px) {
  .st-key-stage { width: 100%; min-height: 60vh; }
  .st-key-composer { position: static; width: 100%; border: 0; }
}
@media (max-width: 640px) {
  .stMainBlockContainer:has(.st-key-create) { padding: 3.25rem 0.75rem 0; }
  .st-key-stage { margin: 0 -0.75rem; width: calc(100% + 1.5rem); max-width: none; }
}
</style>"""


def band(title: str, sentence: str, chips: Sequence[str]) -> str:
    """The header band as HTML; all texts are escaped."""
    spans = "".join(f"<span>{html.escape(chip)}</span>" for chip in chips)
    return (
        f'<div class="studio-band"><div><h1>{html.escape(title)}</h1><p>{html.escape(sentence)}</p></div>'
        f'<div class="studio-chips">{spans}</div></div>'
    )


def preview_text(words: str) -> str:
    """Text in the place of a preview."""
    return f'<div class="studio-preview">{html.escape(words)}</div>'


def empty_stage(title: str, sentence: str) -> str:
    """A title and a sentence in the place of a video."""
    return f'<div class="studio-stage"><b>{html.escape(title)}</b><span>{html.escape(sentence)}</span></div>'
