# The image of build Jobs on CPUs: PyTorch from Debian, everything else from PyPI by hash. Context: the top folder.
# PyPI's own torch is the CUDA build (5.5 GB installed) and has no place here.
# PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror; nobody else needs them.

FROM docker.io/library/debian:trixie-slim AS venv
# The first lines are the same as in other Dockerfiles, so that their images share these layers.
RUN --mount=type=cache,id=torch-base-debs,target=/var/cache/apt --mount=type=cache,id=torch-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN --mount=type=cache,id=torch-venv-debs,target=/var/cache/apt --mount=type=cache,id=torch-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
COPY build_jobs/pytorch-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# Of Amazon's services jobs know S3 only; botocore describes 440 others in 27 MB.
# pip leaves the environment at the end: jobs install nothing. /app holds our own packages, see the last layers.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv --system-site-packages /opt/venv && \
    /opt/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --ignore-installed --no-compile --only-binary :all: --require-hashes -r /tmp/requirements.txt && \
    packages="$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    echo /app > "$packages/app.pth" && find "$packages/botocore/data" -mindepth 1 -maxdepth 1 -type d ! -name s3 -exec rm -r {} + && \
    /opt/venv/bin/python -m pip uninstall -q -y pip && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv

FROM docker.io/library/debian:trixie-slim
RUN --mount=type=cache,id=torch-base-debs,target=/var/cache/apt --mount=type=cache,id=torch-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
# Only torch: with Debian's own onnx or onnxruntime beside PyPI's, exports die ("unique name 'LRN'").
# OpenBLAS: the reference BLAS that torch would take otherwise is some ninety times slower.
# The packages' own tests are 130 MB that no job reads.
RUN --mount=type=cache,id=torch-debs,target=/var/cache/apt --mount=type=cache,id=torch-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-torch libopenblas0-pthread && \
    rm -rf /usr/lib/libtorch-test && find /usr/lib/python3/dist-packages -type d -name tests -prune -exec rm -rf {} + && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
# Up to here all is as in torchserve.Dockerfile and triton-cpu-torch.Dockerfile: a gigabyte is built, stored and pulled once.
RUN useradd --uid 1000 --no-log-init --no-create-home --home-dir /work --shell /usr/sbin/nologin bert
COPY --from=venv /opt/venv /opt/venv
# ONNX Runtime and the hub's client report home unless told not to.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1
COPY operator/bert_operator/__init__.py /app/bert_operator/__init__.py
COPY operator/bert_operator/api /app/bert_operator/api
COPY build_jobs/bert_build /app/bert_build
# The root file system is read-only at run time: byte code is made now.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 1000:1000
ENTRYPOINT []
CMD ["python", "-m", "bert_build"]
