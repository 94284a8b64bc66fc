"""Styles that Streamlit's theme has no setting for: the row of pages and the panels of Create."""

from __future__ import annotations

GRADIENT = "linear-gradient(100deg, #667eea 0%, #764ba2 62%, #c779d0 100%)"

STYLE = f"""<style>
/* The row of pages: 52 px, with a line of the gradient as its lower edge; its right end is the component `frame`. */
[data-testid="stHeader"] {{ height: 52px; min-height: 52px; background: light-dark(#fbfbfe, #0e1020);
  border-bottom: 3px solid; border-image: {GRADIENT} 1; }}
.st-key-frame {{ position: fixed; top: 8px; right: 3.2rem; width: auto; z-index: 999991; }}
[data-testid="stToolbar"] {{ z-index: 1; }}
.stMainBlockContainer {{ max-width: 86rem; padding-top: 4.2rem; padding-bottom: 3rem; }}
button[kind="primary"] {{ background: light-dark(#5468d8, #8b9cff); color: light-dark(#fff, #0e1020); }}
@media (prefers-reduced-motion: reduce) {{
  * {{ animation: none !important; transition: none !important; }}
  .stMainBlockContainer {{ padding-left: 1rem; padding-right: 1rem; }}
}}
</style>"""


def wide_page(key: str) -> str:
    """The style of a page whose container has this key: as wide as the window, with small margins."""
    page = f".stMainBlockContainer:has(.st-key-{key})"
    return f"""<style>
{page} {{ max-width: none; padding: 4.2rem 1.5rem 3rem; }}
@media (max-width: 640px) {{ {page} {{ padding: 4rem 0.75rem 3rem; }} }}
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
