# docker build -t embcache .                              host memory and disk
# docker build -t embcache:gpu --build-arg EXTRA=gpu .    with CuPy for CUDA 13; EXTRA=gpu-cuda12 for CUDA 12
# docker run -p 7070:7070 -v rows:/data -v ./config.toml:/etc/embcache/config.toml:ro embcache
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG EXTRA=""
ENV PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/opt/embcache/kernels \
    EMBCACHE_SERVER__HOST=0.0.0.0 \
    EMBCACHE_COLD__PATH=/data \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY clients clients
COPY storage storage
COPY embcache embcache
# One line, which .ci/run takes from here. The kernels are compiled for the CPU that builds the image; on another kind
# of CPU the first start compiles them again.
RUN pip install --no-cache-dir ./clients ".${EXTRA:+[$EXTRA]}" && python -m embcache.host.warm

RUN useradd --system --uid 10001 embcache \
    && mkdir -p /data /etc/embcache "$NUMBA_CACHE_DIR" \
    && chown -R embcache /data "$NUMBA_CACHE_DIR"
COPY config.toml /etc/embcache/config.toml
WORKDIR /
USER embcache
VOLUME /data
EXPOSE 7070
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('EMBCACHE_SERVER__PORT', '7070') + '/healthz', timeout=3)"]
CMD ["embcache", "serve", "/etc/embcache/config.toml"]
