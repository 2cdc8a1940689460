"""The hot tier: rows in GPU memory, private to one process. Needs NumPy and Numba; CuPy only where a GPU is used."""
