//! Serves Envoy extensions that are WebAssembly modules.
