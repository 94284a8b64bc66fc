"""Pieces that Streamlit does not have: plain JavaScript modules in js/, which read the REST API themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

HERE = Path(__file__).parent / "js"
MODULES = sorted(file for file in HERE.glob("*.js") if file.name.count(".") == 1)  # without configuration
VERSION = hashlib.blake2b(b"".join(module.read_bytes() for module in MODULES), digest_size=8).hexdigest()
# Streamlit runs inline scripts only; this one fetches the module, whose imports are relative to its address.
LOADER = """
const module = import(new URL("app/static/components/{version}/{name}.js", document.baseURI).href);
export default function (component) {{
  let gone = false, end;
  module.then(({{ default: show }}) => {{ if (!gone) end = show(component); }});
  return () => {{ gone = true; end?.(); }};
}}
"""


def component(name: str, *styles: str) -> Callable[..., Any]:
    """The component of js/`name`.js, with base.css, the further `styles` and `name`.css: a function that mounts it.

    It takes `key` and `data`. The module's default export gets Streamlit's component, and again when `data` changes.
    """
    css = "\n".join((HERE / f"{file}.css").read_text() for file in ("base", *styles, name))
    return st.components.v2.component(f"studio_{name}", css=css, js=LOADER.format(version=VERSION, name=name))
