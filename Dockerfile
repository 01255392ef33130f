# The server in a container, on CPUs and, with docker run --gpus all, on GPUs.
# A smaller image for CPUs alone: --build-arg PIP_EXTRA_INDEX_URL=URL, that of PyTorch's CPU builds.
FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir '.[train,serve]' && useradd --create-home reground
USER reground
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
# Others can reach a container, so a key is needed: docker run -e REGROUND_API_KEY=... -p 127.0.0.1:8000:8000 reground
ENTRYPOINT ["reground", "serve", "--host", "0.0.0.0"]
