"""The HTTP service: the only room that knows HTTP.

supervisor    `embcache serve`: binds (listening), starts and keeps the owner and the fronts (keeper, process)
front         one process that answers; connection: HTTP/1.1 under it; app: the ASGI application; context: its parts
data          POST /v1/lookup: bodies and guard -> requests -> the lookup -> replies, buffers -> sending
tables, transfers, introspection    FastAPI's routes
reader        the front's hold on the owner; auth: tokens; failures: every error's form
"""
