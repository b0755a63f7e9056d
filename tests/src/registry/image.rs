//! The two shapes in which a module lies in a registry.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use oci_client::client::{Config, ImageLayer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Layer type of a bare module, of the CNCF's artifact layout
/// (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>).
const WASM_LAYER: &str = "application/wasm";

/// Config type of that layout.
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// What is pushed.
#[derive(Clone, Debug)]
pub enum Content {
    /// A module alone: one layer that is the module.
    Artifact(Vec<u8>),
    /// A classic container image for `wasi/wasm`: files in a tar layer, and the command to run.
    Image {
        /// Name and content of each file, names relative to the root.
        files: Vec<(String, Vec<u8>)>,
        /// ENTRYPOINT.
        entrypoint: Vec<String>,
        /// CMD.
        cmd: Vec<String>,
        /// Environment, each `NAME=value`.
        env: Vec<String>,
    },
    /// A classic image of a program that does what the name says that it is called by, as busybox does.
    MultiCall {
        /// Its name in `/bin`, by which it is run.
        name: String,
        /// The program.
        module: Vec<u8>,
        /// Its other names: symbolic links beside it.
        links: Vec<String>,
    },
}

impl Content {
    /// A classic image that holds `module` as `/name` and runs it.
    #[must_use]
    pub fn program(name: &str, module: Vec<u8>) -> Self {
        Self::Image {
            files: vec![(name.to_owned(), module)],
            entrypoint: vec![format!("/{name}")],
            cmd: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The layers and the config that are uploaded.
    ///
    /// # Errors
    /// When a layer cannot be packed.
    pub(super) fn encode(&self) -> Result<(Vec<ImageLayer>, Config)> {
        match self {
            Self::Artifact(module) => {
                let config = json!({
                    "architecture": "wasm",
                    "os": "wasip1",
                    "layerDigests": [digest(module)],
                });
                let layer = ImageLayer::new(module.clone(), WASM_LAYER.to_owned(), None);
                Ok((vec![layer], Config::new(config.to_string(), WASM_CONFIG.to_owned(), None)))
            }
            Self::Image { files, entrypoint, cmd, env } => {
                let tar = pack(files, &[]).context("cannot pack the layer")?;
                classic(&tar, &json!({ "Entrypoint": entrypoint, "Cmd": cmd, "Env": env }))
            }
            Self::MultiCall { name, module, links } => {
                let links: Vec<_> = links.iter().map(|link| (format!("bin/{link}"), name.clone())).collect();
                let tar = pack(&[(format!("bin/{name}"), module.clone())], &links);
                classic(
                    &tar.context("cannot pack the layer")?,
                    &json!({ "Entrypoint": [format!("/bin/{name}")] }),
                )
            }
        }
    }
}

/// A classic image of one layer.
fn classic(tar: &[u8], config: &Value) -> Result<(Vec<ImageLayer>, Config)> {
    let config = json!({
        "architecture": "wasm",
        "os": "wasi",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(tar)] },
    });
    let layer = ImageLayer::oci_v1_gzip(compress(tar).context("cannot compress the layer")?, None);
    Ok((vec![layer], Config::oci_v1(config.to_string(), None)))
}

/// An archive of files, and of symbolic links with what they lead to.
fn pack(files: &[(String, Vec<u8>)], links: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, name, target)?;
    }
    archive.into_inner()
}

fn compress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_image_names_its_layer_by_what_is_in_it() {
        let image = Content::program("hello", b"\0asm".to_vec());
        let (layers, config) = image.encode().unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(layers[0].data.as_ref()).read_to_end(&mut tar).unwrap();
        let config: Value = serde_json::from_slice(&config.data).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));
        assert_eq!(config["config"]["Entrypoint"][0], "/hello");
        let mut archive = tar::Archive::new(tar.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [std::path::PathBuf::from("hello")]);
    }

    #[test]
    fn an_artifact_is_the_module_itself() {
        let (layers, config) = Content::Artifact(b"\0asm".to_vec()).encode().unwrap();
        assert_eq!(layers[0].data.as_ref(), b"\0asm");
        assert_eq!((layers[0].media_type.as_str(), config.media_type.as_str()), (WASM_LAYER, WASM_CONFIG));
    }
}
