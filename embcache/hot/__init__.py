"""The hot tier in the hierarchy: what is asked of GPU memory, what moves up into it, and what happens without it."""
