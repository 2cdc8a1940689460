"""`python -m embcache.owner`, as process.py starts it."""

from embcache.owner.child import main

if __name__ == "__main__":
    main()
