"""The pairs, one file each. Peers are in loadtest/peers.

Only these files may import embcache itself, since they measure parts of it without the service around.
"""
