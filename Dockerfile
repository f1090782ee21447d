# The gateway, without root:
#   docker build -t buttress-gateway .
#   docker run -p 127.0.0.1:8080:8080 -v "$PWD/gateway:/etc/gateway:ro" buttress-gateway \
#     --upstream https://api.example.com --caller-keys-file /etc/gateway/keys
# The folder is mounted, not the file: editors write a new file in its place, which a mounted file does not follow.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# What `--version` names, where it is given: --build-arg GATEWAY_COMMIT="$(git rev-parse --short HEAD)"
ARG GATEWAY_COMMIT
RUN [ -n "$GATEWAY_COMMIT" ] || unset GATEWAY_COMMIT; \
    cargo install --locked --path crates/gateway --root /installed

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /installed/bin/buttress-gateway /usr/local/bin/buttress-gateway
USER 10001:10001
# On an address that is not loopback, of the gateway's own pages only /-/healthz and /-/readyz are shown (with --resumable on also
# /-/answers): --admin gives all of them a listener of their own.
ENV GATEWAY_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["buttress-gateway"]
