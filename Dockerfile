# syntax=docker/dockerfile:1
# One image for all agents and the command line. The environment is built from requirements.lock, hashes included.

FROM python:3.11-slim-bookworm AS build
WORKDIR /opt/headrace
ENV PIP_CACHE_DIR=/var/cache/pip PYTHONDONTWRITEBYTECODE=1
COPY headrace requirements.lock ./
# Empty: torch with CUDA from the lock. Otherwise the URL of torch's index of CPU builds.
ARG HEADRACE_TORCH_INDEX=""
# The same installation as `./headrace` does at its first start; the sources come later, so that a change in them keeps this layer.
RUN --mount=type=cache,target=/var/cache/pip \
    python -c "import runpy; runpy.run_path('headrace')['install']()"
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY streams streams
COPY agents agents
COPY connectors connectors
COPY infra infra
COPY benchmarks benchmarks
RUN .venv/bin/python -m pip install --no-deps --no-build-isolation --no-cache-dir --no-index .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/headrace headrace \
    && install -d -o headrace -g headrace -m 0750 /var/lib/headrace /var/cache/headrace
COPY --from=build /opt/headrace/.venv /opt/headrace/.venv
ENV PATH=/opt/headrace/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEADRACE_HOME=/var/lib/headrace \
    HEADRACE_CACHE=/var/cache/headrace
USER 10001
WORKDIR /var/lib/headrace
# Services are started with --port 9100; probes listen inside the container only.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9100/ready', timeout=2)"]
CMD ["headrace", "--help"]
