# The server alone: no torch, no training code, no build tools.
#   docker build -t carousel .                                                   CPU
#   docker build -t carousel:gpu --build-arg RUNTIME=onnxruntime-gpu .           NVIDIA GPU
#   docker run -v ./bundles/demo:/bundle:ro -p 50051:50051 -p 9090:9090 carousel
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG RUNTIME=onnxruntime
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY server/ server/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python -m venv /opt/carousel \
 && /opt/carousel/bin/pip install --no-cache-dir --constraint constraints.txt '.[redis,otel]' \
 && if [[ $RUNTIME == onnxruntime-gpu ]]; then \
      version=$(/opt/carousel/bin/python -c 'import onnxruntime; print(onnxruntime.__version__)') \
      && /opt/carousel/bin/pip uninstall --yes onnxruntime \
      && /opt/carousel/bin/pip install --no-cache-dir --constraint constraints.txt "onnxruntime-gpu[cuda,cudnn]==$version"; \
    fi \
 # the server never downloads a model: what the tokenizer library brings for that stays out
 && /opt/carousel/bin/pip uninstall --yes hf-xet huggingface-hub setuptools pip

FROM python:${PYTHON}-slim
COPY --from=build /opt/carousel /opt/carousel
ENV PATH=/opt/carousel/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    CAROUSEL_LISTEN=0.0.0.0:50051 \
    CAROUSEL_HTTP_LISTEN=0.0.0.0:9090
USER 10001:10001
EXPOSE 50051 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["carousel", "health", "--http", "127.0.0.1:9090"]
ENTRYPOINT ["carousel"]
CMD ["serve", "/bundle"]
