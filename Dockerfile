# docker build --target cpu -t keyframe-receiver .          CPU alone
# docker build --target gpu -t keyframe-receiver:gpu .      with CUDA 13 and cuDNN 9, 2 GB more
# docker run --rm -v "$PWD/out:/out" keyframe-receiver      the demo; add --gpus all for the second
FROM debian:bookworm-slim AS cpu
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY keyframes keyframes
COPY receiver receiver
RUN python3 -m venv /opt/receiver \
    && /opt/receiver/bin/pip install --no-cache-dir '.[demo]' \
    && useradd --create-home caller \
    && mkdir /out \
    && chown caller /out
ENV PATH=/opt/receiver/bin:$PATH
USER caller
WORKDIR /home/caller
ENTRYPOINT ["receiver"]
CMD ["demo", "--output", "/out"]

FROM cpu AS gpu
USER root
RUN /opt/receiver/bin/pip install --no-cache-dir '/src[gpu]'
# The NVIDIA container runtime brings the driver's part.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER caller
