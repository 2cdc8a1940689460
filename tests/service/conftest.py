"""What the tests of the service share."""

from __future__ import annotations

import os

from hypothesis import settings

# The first example may compile a kernel, and other work may share the cores: time says nothing here.
settings.register_profile("service", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "60")))
settings.load_profile("service")
