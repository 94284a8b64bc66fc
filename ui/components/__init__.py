"""Pieces that Streamlit does not have, in plain HTML and JavaScript."""
