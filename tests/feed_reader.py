"""A reader process for test_feed.py: opens a feed, and says what it sees for each line of its standard input.

Arguments: the data folder; "follows", to acknowledge all that comes, or "ignores", to ask for nothing.
"""

from __future__ import annotations

import json
import sys
import threading

from embcache.attachment import Attachment
from embcache.feed import Feed, FeedLost

folder, manner = sys.argv[1:]
attachment = Attachment.connect(folder, 20.0)
feed = Feed.open(attachment)
taken = 0
lost = ""


def follow() -> None:
    global taken, lost
    try:
        while True:
            taken = feed.next(taken).result().number
    except FeedLost as error:
        lost = str(error)


following = threading.Thread(target=follow, daemon=True)
if manner == "follows":
    following.start()
print("ready", flush=True)
for line in sys.stdin:
    if line == "until lost\n":
        following.join()
    position = attachment.arena.position
    word = attachment.ring.feed == feed.number
    seen = {"position": position, "valid": feed.valid, "word": word, "taken": taken, "lost": lost}
    print(json.dumps(seen), flush=True)
