"""What stands in for packages that need a machine of their own; put this folder on a process's PYTHONPATH."""
