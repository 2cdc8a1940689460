"""`python -m loadtest`."""

import sys

try:
    from loadtest.cli import app

    app(prog_name="python -m loadtest")
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0].startswith(("embcache", "loadtest")):
        raise
    sys.exit(f"loadtest: no module {error.name}: it needs the dev extra: make setup")
