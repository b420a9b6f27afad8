# The image of profile Jobs: the real Model Analyzer and perf_analyzer, which measure a Triton in the same pod. Context:
# the top folder. trixie, because perf_analyzer needs glibc 2.38; x86_64, because it is built for nothing else.
# PIP_CERT, PIP_INDEX_URL and the secret `ca` are for builders behind a proxy or a mirror; nobody else needs them.

FROM docker.io/library/debian:trixie-slim AS venv
# The first lines are the same as in other Dockerfiles, so that their images share these layers.
RUN --mount=type=cache,id=python-base-debs,target=/var/cache/apt --mount=type=cache,id=python-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN --mount=type=cache,id=python-venv-debs,target=/var/cache/apt --mount=type=cache,id=python-venv-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3-venv && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
COPY build_jobs/analyzer-requirements.txt /tmp/requirements.txt
ARG PIP_CERT
ARG PIP_INDEX_URL
# --no-deps: the lock names all that is needed, and leaves out what Model Analyzer asks for and never uses.
RUN --mount=type=cache,target=/var/cache/pip --mount=type=secret,id=ca,target=/run/ca.crt \
    python3 -m venv /opt/venv && \
    /opt/venv/bin/python -m pip install -q --cache-dir /var/cache/pip --no-compile --no-deps --only-binary :all: --require-hashes -r /tmp/requirements.txt && \
    echo /app > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth" && \
    /opt/venv/bin/python -m pip uninstall -q -y pip && \
    find /opt/venv -type d -name tests -prune -exec rm -rf {} + && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv

FROM docker.io/library/debian:trixie-slim
RUN --mount=type=cache,id=python-base-debs,target=/var/cache/apt --mount=type=cache,id=python-base-lists,target=/var/lib/apt/lists \
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old
RUN useradd --uid 1000 --no-log-init --no-create-home --home-dir /work --shell /usr/sbin/nologin bert
COPY --from=venv /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg
COPY build_jobs/bert_build/handlers/no_gpu /app
COPY operator/bert_operator/__init__.py /app/bert_operator/__init__.py
COPY operator/bert_operator/api /app/bert_operator/api
COPY build_jobs/bert_build /app/bert_build
# The root file system is read-only at run time: byte code is made now.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app
USER 1000:1000
ENTRYPOINT []
CMD ["python", "-m", "bert_build", "profile"]
