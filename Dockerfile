# The gateway, without root:
#   docker build -t buttress-gateway .
#   docker run -p 8080:8080 -v "$PWD/keys:/keys:ro" buttress-gateway \
#     --upstream https://api.example.com --caller-keys-file /keys
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
# Beyond loopback only /-/healthz and /-/readyz are shown: --admin gives the other pages a listener of their own.
ENV GATEWAY_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["buttress-gateway"]
