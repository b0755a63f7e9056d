//! What a spec's image is to the module store: a name, and what else is asked of it.

use std::path::{Path, PathBuf};

use kubewasm_modules::{Digest, ImageName};
use url::Url;

use crate::wasm_extension::{FetchProtocol, ImageSpec, PullPolicy};

/// What an extension's module is fetched by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleRequest {
    /// Its name in the store. It has the pin in it, where the file is the module.
    pub name: ImageName,
    /// The digest that the module must have.
    pub digest: Option<Digest>,
    /// Whether the source is asked for what is here.
    pub policy: PullPolicy,
    /// Authorities to trust besides, in PEM.
    pub ca_bundle: Option<String>,
}

/// An image that cannot be asked for, in a sentence with the field's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidImage(String);

impl ModuleRequest {
    /// What `image` asks for. `directories` are those that modules of this machine may be in, and relative paths are below the
    /// first of them.
    ///
    /// # Errors
    /// [`InvalidImage`].
    pub fn new(image: &ImageSpec, directories: &[PathBuf]) -> Result<Self, InvalidImage> {
        let digest = match image.sha256.as_deref() {
            None | Some("") => None,
            Some(text) => Some(read_digest(text)?),
        };
        let name = match image.protocol {
            FetchProtocol::Oci => image.uri.clone(),
            FetchProtocol::LocalFs => local(&image.uri, directories)?,
            FetchProtocol::S3 => format!("s3://{}", image.uri),
            FetchProtocol::Http => format!("http://{}", image.uri),
            FetchProtocol::Https => format!("https://{}", image.uri),
        };
        if image.uri.contains("://") {
            return Err(InvalidImage("image.uri has no scheme, which image.protocol says".to_owned()));
        }
        let is_file = image.protocol != FetchProtocol::Oci;
        let pinned = match digest {
            Some(digest) if is_file => format!("{name}@{digest}"),
            _ => name,
        };
        let name: ImageName =
            pinned.parse().map_err(|error| InvalidImage(format!("image.uri cannot be used: {error}")))?;
        if is_file == matches!(name, ImageName::Reference(_)) || matches!(name, ImageName::Path(_)) {
            return Err(InvalidImage("image.uri is no name of the kind that image.protocol says".to_owned()));
        }
        let policy = image.pull_policy.unwrap_or_else(|| default_policy(&name, digest.is_some()));
        Ok(Self { name, digest, policy, ca_bundle: image.ca_bundle.clone() })
    }
}

fn read_digest(text: &str) -> Result<Digest, InvalidImage> {
    format!("sha256:{}", text.to_ascii_lowercase())
        .parse()
        .map_err(|_| InvalidImage("image.sha256 is 64 hexadecimal digits".to_owned()))
}

/// What cannot mean something else tomorrow need not be asked for again; for tags it is as for containers.
fn default_policy(name: &ImageName, is_pinned: bool) -> PullPolicy {
    let is_settled = match name {
        ImageName::Reference(reference) => {
            reference.digest().is_some() || reference.tag().is_some_and(|tag| tag != "latest")
        }
        ImageName::Url(url) => url.digest().is_some(),
        ImageName::Path(_) => false,
    };
    if is_pinned || is_settled { PullPolicy::IfNotPresent } else { PullPolicy::Always }
}

/// The URL of a file below one of these directories.
fn local(uri: &str, directories: &[PathBuf]) -> Result<String, InvalidImage> {
    let Some(first) = directories.first() else {
        return Err(InvalidImage(
            "this server takes no modules of its own machine; its operator names a directory for them with --local-modules"
                .to_owned(),
        ));
    };
    let path = first.join(uri);
    let has_parents = path.components().any(|part| part == std::path::Component::ParentDir);
    let is_below = |directory: &PathBuf| path.strip_prefix(directory).is_ok_and(|rest| rest != Path::new(""));
    if has_parents || !directories.iter().any(is_below) {
        return Err(InvalidImage(format!("image.uri {uri:?} is not below a directory of --local-modules")));
    }
    let url = Url::from_file_path(&path).map_err(|()| InvalidImage("image.uri is no path".to_owned()))?;
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";

    fn image(protocol: FetchProtocol, uri: &str, sha256: Option<&str>) -> ImageSpec {
        let sha256 = sha256.map(str::to_owned);
        ImageSpec {
            protocol,
            uri: uri.to_owned(),
            sha256,
            pull_policy: None,
            pull_secret: None,
            ca_bundle: None,
        }
    }

    fn request(image: &ImageSpec) -> Result<ModuleRequest, String> {
        let directories = ["/srv/modules".into(), "/opt/more".into()];
        ModuleRequest::new(image, &directories).map_err(|error| error.to_string())
    }

    #[test]
    fn the_protocol_is_the_scheme() {
        use FetchProtocol::{Http, Https, LocalFs, Oci, S3};
        use PullPolicy::{Always, IfNotPresent};
        for (protocol, uri, name, policy) in [
            (Https, "h.example/a/f.wasm", "https://h.example/a/f.wasm", Always),
            (Http, "127.0.0.1:8080/f.wasm", "http://127.0.0.1:8080/f.wasm", Always),
            (S3, "my-bucket/path/to/f.wasm", "s3://my-bucket/path/to/f.wasm", Always),
            (LocalFs, "f.wasm", "file:///srv/modules/f.wasm", Always),
            (LocalFs, "a b/ä%2e.wasm", "file:///srv/modules/a%20b/%C3%A4%252e.wasm", Always),
            (LocalFs, "/opt/more/f.wasm", "file:///opt/more/f.wasm", Always),
            (Oci, "r.example/f:v1", "r.example/f:v1", IfNotPresent),
            (Oci, "r.example/f:latest", "r.example/f:latest", Always),
        ] {
            let request = request(&image(protocol, uri, None)).unwrap();
            assert_eq!((request.name.to_string(), request.policy), (name.to_owned(), policy), "{uri}");
        }
        // Without a tag, it is the newest.
        assert_eq!(request(&image(Oci, "r.example/f", None)).unwrap().policy, Always);
    }

    #[test]
    fn a_digest_is_that_of_the_module() {
        let digest = format!("sha256:{}", HEX.to_lowercase());
        let file = request(&image(FetchProtocol::Https, "h/f.wasm", Some(HEX))).unwrap();
        assert_eq!(file.name.to_string(), format!("https://h/f.wasm@{digest}"));
        // A reference's own digest is another one: that of a manifest.
        let artifact = request(&image(FetchProtocol::Oci, "r.example/f", Some(HEX))).unwrap();
        assert_eq!(
            artifact.name.to_string(),
            request(&image(FetchProtocol::Oci, "r.example/f", None)).unwrap().name.to_string()
        );
        for request in [file, artifact] {
            assert_eq!(
                (request.digest.unwrap().to_string(), request.policy),
                (digest.clone(), PullPolicy::IfNotPresent)
            );
        }
        assert_eq!(request(&image(FetchProtocol::Oci, "r.example/f", Some(""))).unwrap().digest, None);
        let mut always = image(FetchProtocol::Https, "h/f.wasm", Some(HEX));
        always.pull_policy = Some(PullPolicy::Always);
        assert_eq!(request(&always).unwrap().policy, PullPolicy::Always);
    }

    #[test]
    fn what_cannot_be_asked_for_says_why() {
        use FetchProtocol::{Http, Https, LocalFs, Oci, S3};
        for (image, complaint) in [
            (image(Https, "https://h/f", None), "has no scheme"),
            (image(Https, "u:hunter2@h/f", None), "image.uri cannot be used"),
            (image(Http, "h/f?token=hunter2", None), "image.uri cannot be used"),
            (image(S3, "bucket", None), "image.uri cannot be used"),
            (image(Oci, "/etc/passwd", None), "no name of the kind"),
            (image(Oci, "./f.wasm", None), "no name of the kind"),
            (image(Oci, "UPPER", None), "image.uri cannot be used"),
            (image(LocalFs, "../f.wasm", None), "is not below"),
            (image(LocalFs, "a/../../f.wasm", None), "is not below"),
            (image(LocalFs, "/etc/passwd", None), "is not below"),
            (image(LocalFs, "/srv/modules", None), "is not below"),
            (image(LocalFs, "/srv/modules2/f", None), "is not below"),
            (image(Https, "h/f", Some("abc")), "64 hexadecimal digits"),
            (image(Https, "h/f", Some(&"x".repeat(64))), "64 hexadecimal digits"),
        ] {
            let refused = request(&image).unwrap_err();
            assert!(refused.contains(complaint) && !refused.contains("hunter2"), "{refused}");
        }
        let none = ModuleRequest::new(&image(LocalFs, "f.wasm", None), &[]).unwrap_err();
        assert!(none.to_string().contains("--local-modules"));
    }
}
