"""Feeds of changed rows at the owner: all is told, positions wait for who has not taken it, and for nobody for ever.

What a link sees is taken apart by the written layout, not by the reader's own code (tests/test_feed.py has that). The
limit on waiting is looked at by hand here, except where a test says so: a slow machine is no slow reader.
"""
