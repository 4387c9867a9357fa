# The image of Featherlight: `featherlight` and `featherlight-train`, run as a user without rights.
#
#   docker build --target cpu  -t featherlight .          any x86-64 (the default target where BuildKit builds)
#   docker build --target cuda -t featherlight:cuda .     NVIDIA GPUs; needs the crate feature `cuda`
#
# Builds with BuildKit and with the older builder. The older one builds every stage above the one asked for, so name the
# target there, or it fetches CUDA's images too. All base images are arguments: mirrors and machines without a registry
# give their own. An image for RUNTIME_IMAGE needs glibc and libgcc, no shell; one for CUDA_RUNTIME_IMAGE also cuBLAS and cuRAND,
# of the major version of CUDA_BUILD_IMAGE.

ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim
ARG CUDA_BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG CUDA_RUNTIME_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04


FROM ${RUST_IMAGE} AS rust


FROM rust AS build
# `release` links in a fraction of the time, for trying things out.
ARG PROFILE=dist
# More crate features: `--build-arg FEATURES=featherlight/otlp` sends traces to a collector.
ARG FEATURES=
WORKDIR /src
# The dependencies are a layer of their own, compiled beneath empty programs, so that a change of the sources does not
# compile them again. Nothing of the empty ones is kept: a program missing later is an error.
COPY Cargo.toml Cargo.lock ./
COPY train/Cargo.toml train/
RUN mkdir -p src/bin train/src \
    && for library in src/lib.rs train/src/lib.rs; do echo '//! Empty.' > "$library"; done \
    && for program in src/main.rs src/bin/featherlight-healthcheck.rs train/src/main.rs; do \
         printf '//! Empty.\nfn main() {}\n' > "$program"; \
       done \
    && cargo build --workspace --bins --locked --profile "$PROFILE" --features "$FEATURES" \
    && rm -r src train/src "target/$PROFILE"/featherlight*
COPY src src
COPY train train
COPY models models
# Cargo goes by the time of the files: the real sources may be older than the empty ones.
RUN find src train -name '*.rs' -exec touch {} + \
    && cargo build --workspace --bins --locked --profile "$PROFILE" --features "$FEATURES" \
    && mkdir /out \
    && for program in featherlight featherlight-train featherlight-healthcheck; do \
         cp "target/$PROFILE/$program" /out/; \
       done


FROM ${RUNTIME_IMAGE} AS cpu
LABEL org.opencontainers.image.title="Featherlight" \
      org.opencontainers.image.description="Fine-tunes vision transformers with LoRA and serves them over HTTP" \
      org.opencontainers.image.source="https://github.com/featherlight/featherlight" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/featherlight/
COPY --from=build /out/ /usr/local/bin/
# Here model folders are mounted. It is the working folder too, so that `--model my-model` finds /models/my-model.
WORKDIR /models
# Inside a container 127.0.0.1 is the container's alone. The ports are read by the health check as well: change them by
# FEATHERLIGHT_HTTP_PORT and FEATHERLIGHT_ADMIN_PORT, not by `--port` and `--admin-port`.
ENV FEATHERLIGHT_HOST=0.0.0.0 \
    FEATHERLIGHT_HTTP_PORT=8080
EXPOSE 8080
# By number: an orchestrator that insists on "not root" cannot look a name up.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["featherlight-healthcheck"]
ENTRYPOINT ["featherlight"]
CMD ["serve"]


FROM ${CUDA_BUILD_IMAGE} AS cuda-build
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup \
    CARGO_HOME=/usr/local/cargo \
    PATH=/usr/local/cargo/bin:${PATH}
ARG PROFILE=dist
ARG FEATURES=
# The least compute capability served: 8.0, which has bf16. The kernels travel as PTX for it; the driver compiles them for the
# card at hand when the program opens it, for every later one too.
ARG CUDA_COMPUTE_CAP=80
WORKDIR /src
# As above, the dependencies first: the kernels of candle take twenty minutes of a processor's time.
COPY Cargo.toml Cargo.lock ./
COPY train/Cargo.toml train/
RUN mkdir -p src/bin train/src \
    && for library in src/lib.rs train/src/lib.rs; do echo '//! Empty.' > "$library"; done \
    && for program in src/main.rs src/bin/featherlight-healthcheck.rs train/src/main.rs; do \
         printf '//! Empty.\nfn main() {}\n' > "$program"; \
       done \
    && cargo build --workspace --bins --locked --profile "$PROFILE" --features "cuda $FEATURES" \
    && rm -r src train/src "target/$PROFILE"/featherlight*
# Not before: it compiles the kernels in src.
COPY build.rs ./
COPY src src
COPY train train
COPY models models
RUN find src train -name '*.rs' -exec touch {} + \
    && cargo build --workspace --bins --locked --profile "$PROFILE" --features "cuda $FEATURES" \
    && mkdir /out \
    && for program in featherlight featherlight-train featherlight-healthcheck; do \
         cp "target/$PROFILE/$program" /out/; \
       done


# The programs look for CUDA's libraries where the loader does and in /usr/local/cuda/lib64, where this image has them. The
# driver is the host's: `docker run --gpus all` brings it in. Without it the service runs on the CPU.
FROM ${CUDA_RUNTIME_IMAGE} AS cuda
LABEL org.opencontainers.image.title="Featherlight (CUDA)" \
      org.opencontainers.image.description="Fine-tunes vision transformers with LoRA and serves them over HTTP" \
      org.opencontainers.image.source="https://github.com/featherlight/featherlight" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/featherlight/
COPY --from=cuda-build /out/ /usr/local/bin/
WORKDIR /models
ENV FEATHERLIGHT_HOST=0.0.0.0 \
    FEATHERLIGHT_HTTP_PORT=8080
EXPOSE 8080
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["featherlight-healthcheck"]
ENTRYPOINT ["featherlight"]
CMD ["serve"]


FROM cpu
