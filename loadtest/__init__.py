"""Load tests, comparisons and the demo. Not shipped; see `python -m loadtest --help`."""
