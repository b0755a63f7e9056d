//! Generates the worker protocol from `proto/worker.proto`, with a compiler written in Rust, so that
//! building needs no `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/worker.proto";
    println!("cargo::rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    tonic_prost_build::configure()
        // Values of environment variables are secrets as often as not, private keys and the credentials of proxies always: the
        // crate writes their Debug itself.
        .skip_debug(
            ["EnvVar", "TlsCertificate", "HttpProxy"].map(|message| format!("kubewasm.worker.v1.{message}")),
        )
        .compile_fds(descriptors)?;
    Ok(())
}
