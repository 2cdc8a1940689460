"""`python -m embcache` is `embcache`."""

from embcache.cli.app import main

if __name__ == "__main__":
    main()
