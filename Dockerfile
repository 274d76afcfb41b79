# The server alone: no torch, no training code, no build tools, no pip. What is installed is locked in deploy/image.
#   docker build -t carousel .                                                   CPU
#   docker build -t carousel:gpu --build-arg RUNTIME=onnxruntime-gpu .           NVIDIA GPU
#   docker build --target sbom --output . .                                      the list of packages, sbom.cdx.json
#   docker run -v ./bundles/demo:/bundle:ro -p 50051:50051 -p 9090:9090 carousel
# The locks are for Python 3.11. Give the base image's digest too, IMAGE@sha256:..., where builds must be equal for ever.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG RUNTIME=onnxruntime
ARG SOURCE_DATE_EPOCH=1767225600
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} PYTHONHASHSEED=0 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY deploy/image/ deploy/image/
RUN python -m venv /tools \
 && /tools/bin/pip install --require-hashes --only-binary :all: --requirement deploy/image/build.txt \
 && python -m venv --without-pip /opt/carousel \
 && /tools/bin/pip --python /opt/carousel/bin/python install --no-deps --require-hashes --only-binary :all: \
      --requirement "deploy/image/${RUNTIME}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY server/ server/
# Compiled files name the hash of their source instead of its time, so that they are equal in every build.
RUN /tools/bin/python -m hatchling build -t wheel \
 && /tools/bin/pip --python /opt/carousel/bin/python install --no-deps --no-index dist/*.whl \
 && mkdir /opt/carousel/share \
 && /tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
      --output-file /opt/carousel/share/sbom.cdx.json /opt/carousel/bin/python \
 && find /opt/carousel/bin -type f ! -name carousel -delete \
 && /opt/carousel/bin/python -m compileall -q -j 1 --invalidation-mode unchecked-hash /opt/carousel/lib \
 && find /opt/carousel -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH}" {} +

FROM scratch AS sbom
COPY --from=build /opt/carousel/share/sbom.cdx.json /

FROM ${BASE}
LABEL org.opencontainers.image.title="Carousel" \
      org.opencontainers.image.description="A server for recurrent language models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# The server starts no other program. What installs programs goes.
RUN ["python", "-m", "pip", "uninstall", "--yes", "--quiet", "--root-user-action", "ignore", "setuptools", "wheel", "pip"]
COPY --from=build /opt/carousel /opt/carousel
ENV PATH=/opt/carousel/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CAROUSEL_LISTEN=0.0.0.0:50051 \
    CAROUSEL_HTTP_LISTEN=0.0.0.0:9090
USER 10001:10001
EXPOSE 50051 9090 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["carousel", "health", "--http", "127.0.0.1:9090"]
ENTRYPOINT ["carousel"]
CMD ["serve", "/bundle"]
