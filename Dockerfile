# The gateway, without root:
#   docker build -t buttress-gateway .
#   docker run -p 127.0.0.1:8080:8080 -v "$PWD/gateway:/etc/gateway:ro" buttress-gateway \
#     --upstream https://api.example.com --caller-keys-file /etc/gateway/keys
# Mount the folder, not the file: editors replace a file with a new one, which a file mount does not follow.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The commit in `--version`, if given: --build-arg GATEWAY_COMMIT="$(git rev-parse --short HEAD)"
ARG GATEWAY_COMMIT
RUN [ -n "$GATEWAY_COMMIT" ] || unset GATEWAY_COMMIT; \
    cargo install --locked --profile dist --features jemalloc --path crates/gateway --root /installed

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /installed/bin/buttress-gateway /usr/local/bin/buttress-gateway
USER 10001:10001
# On this address only the pages /-/healthz and /-/readyz are served (with --resumable on also /-/answers); --admin serves all
# of them on a second address.
ENV GATEWAY_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["buttress-gateway"]
