"""The web server: REST API, media and pages on one port."""
