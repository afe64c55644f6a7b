# docker build --build-arg DEVICE=cpu --build-arg COMMIT="$(git rev-parse HEAD)" --tag mar .
# docker run --rm --gpus all --volume "$PWD:/work" mar mar --version
# docs/cluster.md says how it is used. The image of Debian is named by its version; pin its digest where you build for others.
FROM debian:12.11-slim
ARG DEVICE=cuda
COPY requirements.lock /opt/mar/source/
COPY packaging/install.sh /opt/mar/source/packaging/
RUN /opt/mar/source/packaging/install.sh packages "$DEVICE"
ARG COMMIT=unknown
COPY . /opt/mar/source/
RUN MAR_GIT_COMMIT="$COMMIT" /opt/mar/source/packaging/install.sh project && rm -rf /opt/mar/source
ENV PATH=/opt/mar/venv/bin:$PATH \
    LC_ALL=C.UTF-8 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
CMD ["mar", "--help"]
