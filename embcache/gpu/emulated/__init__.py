"""A device that this machine's CPU plays: the kernels compiled by g++, every thread of a block a fiber of `machine/`.

    device.py    EmulatedDevice, for whoever has no GPU: tests, first of all
    library.py   a compiled library of kernels and the machine in it, through ctypes
    build.py     compiles them, and keeps what it compiled
    memory.py    device memory, as sanitizers can judge its use
    machine/     CUDA C++ for g++, and the machine that runs it

It finds mistakes, it is not fast: thousands of times slower than a GPU.
"""
