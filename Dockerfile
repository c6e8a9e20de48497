# syntax=docker/dockerfile:1
# Arbiter in a container: built from source, run as nobody in particular, with nothing to write but its state.
#
#   docker build -t arbiter:0.1.0 .
#   docker run -p 8080:8080 -v arbiter-state:/var/lib/arbiter \
#       -e ARBITER_ADMIN_API_KEY -e ARBITER_SIGNING_SECRET -e ARBITER_STORAGE_ENCRYPTION_KEY \
#       -e ARBITER_PROXY__UPSTREAM_URL=http://tools:8081/mcp arbiter:0.1.0
#
# For a fleet, lay the code out by a profile of its traffic first, which saves four tenths of the processor time a request:
#
#   load-tests/bench/train --keep arbiter.profdata && docker build --build-arg PROFILE=arbiter.profdata -t arbiter:0.1.0 .

FROM rust:1.95-bookworm AS build
# cmake: for the C parts of the TLS library. The compiler is in the image.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches outlive a build, so that a change of one file does not compile every dependency again. What is in a cache
# is not in the image, hence the copy.
# A profile is named by its content: Cargo does not look into it to see that it changed. The target is named as it is when
# the profile is made.
ARG PROFILE=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    host=$(rustc -vV | sed -n 's/^host: //p') && \
    if [ -n "$PROFILE" ]; then \
        named=/tmp/$(sha256sum "$PROFILE" | cut -c1-16).profdata && cp "$PROFILE" "$named" && export RUSTFLAGS=-Cprofile-use=$named; \
    fi && \
    cargo build --release --locked --bin arbiter --target "$host" && cp "target/$host/release/arbiter" /usr/local/bin/arbiter

FROM debian:bookworm-slim
# ca-certificates: the roots that an `https://` upstream is verified against.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 0700 /var/lib/arbiter
COPY --from=build /usr/local/bin/arbiter /usr/local/bin/arbiter
COPY conf/arbiter.toml /etc/arbiter/arbiter.toml
COPY policies /etc/arbiter/policies
ENV ARBITER_POLICY__FILE=/etc/arbiter/policies \
    ARBITER_AUDIT__FILE_PATH=/var/lib/arbiter/audit.jsonl \
    ARBITER_STORAGE__BACKEND=sqlite \
    ARBITER_STORAGE__SQLITE_PATH=/var/lib/arbiter/arbiter.db
USER 65532:65532
WORKDIR /var/lib/arbiter
VOLUME /var/lib/arbiter
# 8080 agents; 3000 operators. The latter listens on the container's 127.0.0.1: reach it with
# `docker exec … arbiter …`, or set ARBITER_ADMIN__LISTEN_ADDR=0.0.0.0 and publish it where only operators can connect.
EXPOSE 8080 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["arbiter", "health"]
# Arbiter refuses to start without its key and secrets; none is in the image.
ENTRYPOINT ["arbiter"]
CMD ["serve", "--config", "/etc/arbiter/arbiter.toml"]
