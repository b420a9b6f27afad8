# The image of build Jobs that trace TorchScript for GPUs (images.buildGpu in the chart): NVIDIA's PyTorch, everything else
# from PyPI by hash. Its month must be that of the server's release or an older one: a module of a newer PyTorch may not
# load. It has not been built by this project, which reaches no image registry. Context: the top folder.
# PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror; nobody else needs them.
ARG BASE=nvcr.io/nvidia/pytorch:26.08-py3
FROM ${BASE}
COPY build_jobs/pytorch-gpu-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# PIP_CONSTRAINT of the base image pins its own versions of what we bring.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv --system-site-packages /opt/venv && \
    PIP_CONSTRAINT= /opt/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --ignore-installed --no-compile --only-binary :all: --require-hashes -r /tmp/requirements.txt && \
    packages="$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    echo /app > "$packages/app.pth" && \
    /opt/venv/bin/python -m pip uninstall -q -y pip && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1
# The base image lets FP32 products take TF32, 10 bits: `compare` would refuse them, and servers run them in FP32.
ENV TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0 NVIDIA_TF32_OVERRIDE=0
COPY operator/bert_operator/__init__.py /app/bert_operator/__init__.py
COPY operator/bert_operator/api /app/bert_operator/api
COPY build_jobs/bert_build /app/bert_build
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 1000:1000
ENTRYPOINT []
CMD ["python", "-m", "bert_build"]
