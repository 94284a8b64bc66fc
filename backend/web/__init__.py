"""The doors: REST, media and pages on one port."""
