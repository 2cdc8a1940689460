"""`make gpu-check`: whether the hot tier is right on this machine's GPU, and how fast. JSON lines to --out.

    __main__.py   the command line: stages to run, or a file of lines to render
    stages.py     which stages there are, and how long each may take
    runner.py     runs each in a process of its own; the lines
    child.py      that process: one stage on one device
    check.py      what a stage is given: the device, its clock, the sizes
    check.cu      kernels of the check's own: ids, rows that prove themselves, plain gathers
    filled.py, direct.py, writing.py   full tables, lookups and changes of rows without the host's share of the work
    the others    a stage each

Needs Python with CuPy, Numba and NumPy, pytest for one stage, and nothing of the service. `--device emulated --small`
goes through the same stages on the CPU, where the figures mean nothing.
"""
