"""Hardware, load, diagnosis, log and supervisor."""
