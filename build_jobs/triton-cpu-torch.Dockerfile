# A Triton that serves TorchScript on machines without a GPU, for tests and development on one's own machine: production
# uses NVIDIA's public images with their own PyTorch backend, and this one is never published. The same tritonserver 2.51
# (release 24.10) as in triton-cpu.Dockerfile, with our own Python-based backend and the PyTorch of the build image.
# Context: the top folder. PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror.

FROM docker.io/library/debian:trixie-slim AS server
# The first lines are the same as in other Dockerfiles, so that their images share these layers.
RUN --mount=type=cache,id=torch-base-debs,target=/var/cache/apt --mount=type=cache,id=torch-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN --mount=type=cache,id=torch-venv-debs,target=/var/cache/apt --mount=type=cache,id=torch-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN --mount=type=cache,id=torch-venv-debs,target=/var/cache/apt --mount=type=cache,id=torch-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends libpython3.13
COPY build_jobs/triton-cpu-torch-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# --no-deps: the wheel asks for a proxy and a client that a server doesn't need.
# The stub of the Python backend brings a Python 3.13 of its own, too old for Debian's extension modules: Debian's it is.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv /tmp/venv && \
    /tmp/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --no-compile --no-deps --only-binary :all: --require-hashes --target /opt/triton -r /tmp/requirements.txt && \
    cd /opt/triton/pytriton/tritonserver && \
    mv python_backend_stubs/3.13/triton_python_backend_stub backends/python/ && \
    rm -rf python_backend_stubs && \
    cp /usr/lib/*-linux-gnu/libpython3.13.so.1.0 "$(echo /opt/triton/nvidia_pytriton.libs/libpython3-*.13.so.1.0)" && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/triton

FROM docker.io/library/debian:trixie-slim
RUN --mount=type=cache,id=torch-base-debs,target=/var/cache/apt --mount=type=cache,id=torch-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
# OpenBLAS: the reference BLAS that torch would take otherwise is some ninety times slower.
# The packages' own tests are 130 MB that no server reads.
RUN --mount=type=cache,id=torch-debs,target=/var/cache/apt --mount=type=cache,id=torch-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-torch libopenblas0-pthread && \
    rm -rf /usr/lib/libtorch-test && find /usr/lib/python3/dist-packages -type d -name tests -prune -exec rm -rf {} + && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
# Up to here all is as in pytorch.Dockerfile and torchserve.Dockerfile: a gigabyte is built, stored and pulled once.
RUN useradd --uid 1000 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin triton
COPY --from=server /opt/triton /opt/triton
RUN ln -s /opt/triton/pytriton/tritonserver /opt/tritonserver && ln -s /opt/tritonserver/bin/tritonserver /usr/local/bin/tritonserver
# = /opt/tritonserver/backends/pytorch_python
COPY build_jobs/bert_build/handlers/pytorch_python/model.py /opt/triton/pytriton/tritonserver/backends/pytorch_python/model.py
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
ENTRYPOINT []
CMD ["tritonserver", "--model-repository=/models"]
