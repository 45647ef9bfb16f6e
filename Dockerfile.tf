# Serves TensorFlow SavedModels: docker build -f Dockerfile.tf -t modelserver-tf .
# How to build and run it, and how to build on it: docs/deployment.md
FROM python:3.11-slim

# A package index to use instead of pip's own.
ARG PIP_INDEX_URL=""
ARG TENSORFLOW_VERSION=2.21.0
# Pins what the tests ran with. For another TENSORFLOW_VERSION give /dev/null.
ARG CONSTRAINTS=constraints.txt

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

RUN useradd --uid 1000 --create-home --no-log-init modelserver

# The framework in a layer of its own, which a change of the server's code leaves alone.
WORKDIR /usr/src/modelserver
COPY constraints.txt ./
RUN pip install -c "${CONSTRAINTS}" "tensorflow-cpu==${TENSORFLOW_VERSION}"
COPY pyproject.toml README.md LICENSE ./
COPY modelserver ./modelserver
COPY servers ./servers
RUN pip install -c "${CONSTRAINTS}" "tensorflow-cpu==${TENSORFLOW_VERSION}" ".[tensorflow,grpc,fast]"

# The folder of a program that is added: COPY model.py ./ and ENTRYPOINT ["python", "-m", "model"].
WORKDIR /app
USER 1000
# As in TensorFlow Serving's image: what is served where the arguments name no model.
ENV MODEL_NAME=model \
    MODEL_BASE_PATH=/models
EXPOSE 8080
# Port and protocol are the server's own: from the flags of process 1 and the environment. The certificate is not
# checked: it is for the name that clients use.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import http.client, ssl, sys; from modelserver.settings import resolve; told = resolve({}, open('/proc/1/cmdline').read().split('\\0')); client = http.client; server = client.HTTPSConnection('localhost', told.http_port, timeout=4, context=ssl._create_unverified_context()) if told.ssl_certfile else client.HTTPConnection('localhost', told.http_port, timeout=4); server.request('GET', '/'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "tfserver"]
