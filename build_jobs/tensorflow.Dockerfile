# The image of build Jobs that make or read SavedModels: TensorFlow for CPUs, everything from PyPI by hash. It knows
# neither torch nor transformers, as pytorch.Dockerfile knows no TensorFlow. Context: the top folder.
# PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror; nobody else needs them.

FROM docker.io/library/debian:trixie-slim AS venv
# The first lines are the same as in other Dockerfiles, so that their images share these layers.
RUN --mount=type=cache,id=python-base-debs,target=/var/cache/apt --mount=type=cache,id=python-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN --mount=type=cache,id=python-venv-debs,target=/var/cache/apt --mount=type=cache,id=python-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
COPY build_jobs/tensorflow-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# --no-deps: the lock leaves out what TensorFlow asks for and no job imports: Keras, TensorBoard, libclang.
# The C++ headers are 240 MB that only compilers read.
# Of Amazon's services jobs know S3 only; botocore describes 440 others in 27 MB.
# pip leaves the environment at the end: jobs install nothing. /app holds our own packages, see the last layers.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --no-compile --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt && \
    packages="$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    echo /app > "$packages/app.pth" && rm -rf "$packages/tensorflow/include" && \
    find "$packages/botocore/data" -mindepth 1 -maxdepth 1 -type d ! -name s3 -exec rm -r {} + && \
    /opt/venv/bin/python -m pip uninstall -q -y pip && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv

FROM docker.io/library/debian:trixie-slim
RUN --mount=type=cache,id=python-base-debs,target=/var/cache/apt --mount=type=cache,id=python-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN useradd --uid 1000 --no-log-init --no-create-home --home-dir /work --shell /usr/sbin/nologin bert
COPY --from=venv /opt/venv /opt/venv
# ONNX Runtime and the hub's client report home unless told not to. TensorFlow looks for no GPU and logs errors only.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_TELEMETRY=1 CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=2
COPY operator/bert_operator/__init__.py /app/bert_operator/__init__.py
COPY operator/bert_operator/api /app/bert_operator/api
COPY build_jobs/bert_build /app/bert_build
# The root file system is read-only at run time: byte code is made now.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 1000:1000
ENTRYPOINT []
CMD ["python", "-m", "bert_build"]
