"""Which rows a cache keeps: the warm tier's own table against other policies, on a trace, without a service."""
