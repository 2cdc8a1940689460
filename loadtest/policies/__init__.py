"""Which rows a cache keeps: our tables, warm and hot, against other policies, on a trace, without a service."""
