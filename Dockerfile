# One image for both agents and the command line: the one binary runs either.
#
#   docker build -t strait .                          builds in a container; needs the network in the build stage only
#   cargo build --release --bin strait && docker build -t strait --target runtime-host .
#                                                     takes the binary from the host, and needs no network if the base is there
#                                                     (the host's C library must not be newer than the base's)
#
# The order of the stages matters: docker without BuildKit builds every stage before the one that is asked for.
ARG RUNTIME_IMAGE=debian:bookworm-slim
ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUNTIME_IMAGE} AS runtime-base
# Fixed numbers, so that a volume has one owner from release to release. The folders exist in the image because a new volume takes
# its owner from the folder that it is mounted on.
RUN install -d -o 10001 -g 10001 /data /data/lake /data/state
USER 10001:10001
WORKDIR /data
# Which agent `strait` and the health check talk to: the one in this container.
ENV STRAIT_AGENT=http://127.0.0.1:7401
EXPOSE 7401 7402
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD strait health --agent "$STRAIT_AGENT"
ENTRYPOINT ["/usr/local/bin/strait"]
CMD ["--help"]

FROM runtime-base AS runtime-host
COPY target/release/strait /usr/local/bin/strait

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin strait && cp target/release/strait /strait

FROM runtime-base AS runtime
COPY --from=build /strait /usr/local/bin/strait
