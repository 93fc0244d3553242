# syntax=docker/dockerfile:1

# Builds with the registry and the compiled crates kept between builds.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/chatbot-ui-api /chatbot-ui-api

# glibc, libgcc and the certificate authorities, without which no provider can
# be asked; no shell, no package manager, no root.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /chatbot-ui-api /usr/local/bin/chatbot-ui-api
# Where a mounted .env.local is found.
WORKDIR /app
# In a container others are the only ones who ask. So users' URLs lead to no
# private address, unless PRIVATE_UPSTREAMS says which.
ENV HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/chatbot-ui-api", "health"]
ENTRYPOINT ["/usr/local/bin/chatbot-ui-api"]
CMD ["serve"]
