"""The load tester: `python -m loadtest run`, `search` and `report`.

What is asked (requests.py), when (schedule.py), by whom (generator.py, fleet.py) and what came of it (tally.py,
series.py) are four things. Speaks to a service by its URL and through the client alone.
"""
