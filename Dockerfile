# syntax=docker/dockerfile:1
# Two images from one file: `server` (no TensorFlow) and `trainer`.
#   docker build --target server -t convzoo:server .
#   docker build --target trainer -t convzoo:trainer .
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/convzoo
ENV PATH=/opt/convzoo/bin:$PATH
WORKDIR /src

FROM base AS server
COPY requirements-serve.lock ./
RUN pip install --require-hashes -r requirements-serve.lock
COPY pyproject.toml README.md LICENSE ./
COPY zoo zoo
COPY training training
COPY serving serving
RUN pip install --no-deps --no-build-isolation . && rm -rf /src/*
# The server needs no rights: it reads the models and listens above 1024.
RUN useradd --uid 10001 --create-home convzoo && mkdir -p /models && chown convzoo /models
USER 10001
WORKDIR /home/convzoo
VOLUME /models
EXPOSE 8501 8500
# The same as TF Serving's image: a model base path at /models, REST on 8501, gRPC on 8500.
ENTRYPOINT ["convzoo"]
CMD ["serve", "--base-path", "/models", "--host", "0.0.0.0"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/readyz', timeout=2)"]

FROM base AS trainer
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY zoo zoo
COPY training training
COPY serving serving
RUN pip install --no-deps --no-build-isolation . && rm -rf /src/*
RUN useradd --uid 10001 --create-home convzoo && mkdir -p /models /runs && chown convzoo /models /runs
USER 10001
WORKDIR /runs
VOLUME ["/models", "/runs"]
ENTRYPOINT ["convzoo"]
CMD ["--help"]
