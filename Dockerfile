# The page, the HTTP API and the commands on a CPU; docs/install.md says how to build and run it.

ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
# What compiles the kernels; nothing of it is in the image that runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/microdreamer
ENV PATH=/opt/microdreamer/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# TORCH_INDEX: of PyTorch's builds for CPUs; without one PyPI's build for CUDA is taken, which works too and is gigabytes larger.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# hadolint ignore=DL3013
RUN pip install "setuptools>=77" wheel ninja && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
# EXTRAS: those of pyproject.toml, with commas between.
ARG EXTRAS=web
WORKDIR /source
COPY . .
# hadolint ignore=DL3013
RUN USE_CUDA=0 pip install --no-build-isolation ".[$EXTRAS]"
# Of the package as it was installed, not of the sources beside it: fails where it has no kernels.
WORKDIR /
RUN python -m microdreamer.kernels.extension

FROM python:${PYTHON}
RUN useradd --create-home --uid 1000 maker && install -d -o maker /results
COPY --from=build /opt/microdreamer /opt/microdreamer
# Everything that is needed is inside: no library may look for more in the network.
ENV PATH=/opt/microdreamer/bin:$PATH PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 GRADIO_ANALYTICS_ENABLED=False
USER 1000
WORKDIR /results
VOLUME /results
EXPOSE 8081
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/health', timeout=4)"]
ENTRYPOINT ["microdreamer"]
CMD ["page", "--host", "0.0.0.0", "--results", "/results/jobs"]
