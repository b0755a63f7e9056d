//! Media types: which layers are modules, which are archives, and how an archive is packed.

/// Manifests and indexes that the store asks a registry for.
pub(crate) const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// A list of manifests.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerForm {
    /// A module, core or component, as it is.
    Module,
    /// A tar archive of changes to a root file system.
    Archive(Packing),
}

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// The layer of a module in the [Wasm OCI artifact][1], which is what is pushed.
///
/// [1]: https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/
pub(crate) const WASM: &str = "application/wasm";

/// The configuration of that artifact, which has one layer.
pub(crate) const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// The layer by which a Spin application is known: which components it has and how they are triggered.
pub(crate) const SPIN_APPLICATION: &str = "application/vnd.fermyon.spin.application.v1+config";

/// Manifest of an image or an artifact.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is accepted, for who has pushed something else.
pub(crate) const ACCEPTED: &str = "accepted are a module in one layer of type application/wasm (kubewasm module push, wkg oci push), \
     an image for wasi/wasm whose Entrypoint names a .wasm file, and a Spin application of one component";

/// Says what a layer of `media_type` holds; `None` for what no node can run.
///
/// The first four types are those of the [Wasm OCI artifact][1], of wasm-to-oci and its successors, Spin among them, and
/// of the Bytecode Alliance's first component registry; the rest are the [layers of container images][2], in OCI's words
/// and in Docker's.
///
/// [1]: https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/
/// [2]: https://github.com/opencontainers/image-spec/blob/main/layer.md
pub(crate) fn layer(media_type: &str) -> Option<LayerForm> {
    Some(match media_type {
        "application/wasm"
        | "application/vnd.wasm.content.layer.v1+wasm"
        | "application/vnd.module.wasm.content.layer.v1+wasm"
        | "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm" => LayerForm::Module,
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            LayerForm::Archive(Packing::Plain)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => LayerForm::Archive(Packing::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => LayerForm::Archive(Packing::Zstd),
        _ => return None,
    })
}

/// True for a configuration that has ENTRYPOINT, CMD, ENV and the like in it. The configurations of Wasm
/// artifacts (`application/vnd.wasm.config.v0+json`, the empty one, …) say nothing that running needs.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_by_media_type() {
        for (media_type, expected) in [
            ("application/wasm", Some(LayerForm::Module)),
            ("application/vnd.wasm.content.layer.v1+wasm", Some(LayerForm::Module)),
            ("application/vnd.module.wasm.content.layer.v1+wasm", Some(LayerForm::Module)),
            ("application/vnd.bytecodealliance.wasm.component.layer.v0+wasm", Some(LayerForm::Module)),
            ("application/vnd.wasm.content.layer.v1+data", None),
            ("application/vnd.oci.image.layer.v1.tar", Some(LayerForm::Archive(Packing::Plain))),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(LayerForm::Archive(Packing::Gzip))),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(LayerForm::Archive(Packing::Zstd))),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(LayerForm::Archive(Packing::Plain))),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(LayerForm::Archive(Packing::Gzip))),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", None),
            ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", None),
            ("text/plain", None),
            ("", None),
        ] {
            assert_eq!(layer(media_type), expected, "{media_type}");
        }
    }
}
