# docker build --target cpu -t keyframe-receiver .          CPU alone
# docker build --target gpu -t keyframe-receiver:gpu .      with CUDA 13 and cuDNN 9, 2 GB more
# docker run --rm -v "$PWD/out:/out" keyframe-receiver      the demo; add --gpus all for the second
# docker run --rm -v "$PWD:/out" keyframe-receiver enhance talk.mp4 better.mp4
#
# The receiver runs as the owner of /out, or as --user says: docker/entrypoint. The versions are those
# of constraints.txt.
FROM debian:bookworm-slim AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY keyframes keyframes
COPY receiver receiver
RUN python3 -m venv /opt/receiver \
    && PIP_CONSTRAINT=constraints.txt /opt/receiver/bin/pip install --no-cache-dir '.[demo]' \
    && useradd --uid 1000 caller \
    && mkdir /out \
    && chown caller:caller /out
COPY docker/entrypoint docker/healthcheck.py /usr/local/bin/
ENV PATH=/opt/receiver/bin:$PATH
WORKDIR /out
ENTRYPOINT ["entrypoint"]
CMD ["demo", "--output", "/out"]
# Looks at `serve` alone; any other command is healthy while it runs.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["healthcheck.py", "/proc/1/cmdline"]

FROM cpu AS gpu
RUN PIP_CONSTRAINT=/src/constraints.txt /opt/receiver/bin/pip install --no-cache-dir '/src[gpu]'
# The NVIDIA container runtime brings the driver's part.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
