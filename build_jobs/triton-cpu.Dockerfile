# A Triton for machines without a GPU, for tests, demos and development on one's own machine: production uses NVIDIA's
# public images, and this one is never published. The wheel nvidia-pytriton (Apache-2.0, from PyPI) carries the real
# tritonserver 2.51 (release 24.10, BSD-3-Clause) with the Python backend. Of CUDA it bundles only the runtime loader
# (libcudart) that the server is linked with; no cuDNN, no TensorRT. ONNX runs through our own Python-based backend.
# Context: the top folder. PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror.

FROM docker.io/library/debian:bookworm-slim AS venv
RUN --mount=type=cache,id=bookworm-venv-debs,target=/var/cache/apt --mount=type=cache,id=bookworm-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-venv
COPY build_jobs/triton-cpu-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# --no-deps: the wheel asks for a proxy and a client that a server doesn't need; the lock names all that it does need.
# The Python backend wants the stub of this Python beside itself. Nothing may leave the wheel's folder: RPATHs are relative.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --no-compile --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt && \
    /opt/venv/bin/python -m pip uninstall -q -y pip setuptools && \
    cd /opt/venv/lib/python3.11/site-packages/pytriton/tritonserver && \
    mv python_backend_stubs/3.11/triton_python_backend_stub backends/python/ && \
    rm -rf python_backend_stubs && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv

FROM docker.io/library/debian:bookworm-slim
RUN --mount=type=cache,id=triton-debs,target=/var/cache/apt --mount=type=cache,id=triton-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 libpython3.11 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old && \
    useradd --uid 1000 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin triton && \
    ln -s /opt/venv/lib/python3.11/site-packages/pytriton/tritonserver /opt/tritonserver && \
    ln -s /opt/tritonserver/bin/tritonserver /usr/local/bin/tritonserver
COPY --from=venv /opt/venv /opt/venv
# The backend's stub finds numpy and ONNX Runtime through the first python3 on PATH, never through PYTHONPATH.
# ONNX Runtime reports home unless told not to.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
# = /opt/tritonserver/backends/onnxruntime_python
COPY build_jobs/bert_build/handlers/onnxruntime_python/model.py /opt/venv/lib/python3.11/site-packages/pytriton/tritonserver/backends/onnxruntime_python/model.py
USER 1000:1000
ENTRYPOINT []
CMD ["tritonserver", "--model-repository=/models"]
