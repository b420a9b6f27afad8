# TorchServe 0.12 on CPUs: the real server (its jar and worker come with the PyPI package), PyTorch and Java from Debian.
# The public pytorch/torchserve images lack the tokenizer that our handler needs, and their entry point isn't the server.
# Context: the top folder. PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror.

FROM docker.io/library/debian:trixie-slim AS venv
# The first lines are the same as in other Dockerfiles, so that their images share these layers.
RUN --mount=type=cache,id=torch-base-debs,target=/var/cache/apt --mount=type=cache,id=torch-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN --mount=type=cache,id=torch-venv-debs,target=/var/cache/apt --mount=type=cache,id=torch-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
COPY build_jobs/torchserve-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# --no-deps: the lock names all that is needed. pip leaves at the end: nothing is installed at run time.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv --system-site-packages /opt/venv && \
    /opt/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --ignore-installed --no-compile --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt && \
    /opt/venv/bin/python -m pip uninstall -q -y pip && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv

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
# Up to here all is as in pytorch.Dockerfile and triton-cpu-torch.Dockerfile: a gigabyte is built, stored and pulled once.
# man1: without it the JRE cannot be set up on a slim base.
RUN --mount=type=cache,id=torch-debs,target=/var/cache/apt --mount=type=cache,id=torch-lists,target=/var/lib/apt/lists \
    mkdir -p /usr/share/man/man1 && apt-get update -q && apt-get install -q -y --no-install-recommends openjdk-21-jre-headless && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN useradd --uid 1000 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin torchserve
COPY --from=venv /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# What a pod starts and asks; the handler itself travels in each .mar.
COPY build_jobs/bert_build/handlers/torchserve/launch.py build_jobs/bert_build/handlers/torchserve/ready.py build_jobs/bert_build/handlers/torchserve/log4j2.xml /opt/bert-operator/
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT []
CMD ["python", "/opt/bert-operator/launch.py", "--help"]
