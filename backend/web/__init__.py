"""The web server: REST API, media and pages on one port."""

serving = False  # True while `server.py` serves media beside the pages; `streamlit run app.py` alone has no such routes
