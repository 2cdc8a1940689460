"""The owner: the one process that writes rows. Holds the store and the arena, answers readers over a Unix socket.

The only room that imports embcache_storage. `process.py` starts it from another process and imports neither.
"""
