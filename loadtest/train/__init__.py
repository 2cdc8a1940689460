"""`python -m loadtest train`: a model that learns ratings through a service, and predicts them from what it serves.

What is learned (ratings.py, model.py), in what steps (steps.py), by whom (learner.py, predictor.py) and what came of it
(seen.py, report.py, page.py) are four things; alone.py learns the same without a service. Speaks to the service through
the client alone.
"""
