# CPU image of the command line. Build: docker build -t genrec .   Run: docker run --rm -v "$PWD/data:/app/data" genrec quickstart
FROM python:3.11-slim

ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=passive

RUN useradd --create-home genrec
WORKDIR /app
RUN pip install ${TORCH}
COPY pyproject.toml README.md LICENSE ./
COPY genrec ./genrec
COPY configs ./configs
COPY data/cards ./data/cards
RUN pip install . && mkdir -p /app/runs && chown -R genrec /app
USER genrec
ENTRYPOINT ["genrec"]
CMD ["--help"]
