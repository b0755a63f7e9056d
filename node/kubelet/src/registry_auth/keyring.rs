//! Which entry is for which image, after upstream's `BasicDockerKeyring` and `URLsMatch`.
//!
//! A key is a host, which may hold `*`, `?` and `[…]` in its parts, a port if it is not the scheme's, and the beginning
//! of a path. Of several that match, the one with the longest path is best, and a host that is spelled out is better
//! than a pattern.

use std::cmp::Reverse;

/// Docker's name for its own registry in configuration files.
const DOCKER_HUB: &str = "index.docker.io";

/// Bytes of a host in a key. Names of hosts have at most 253, and a Secret has room for a million.
const PATTERN_LIMIT: usize = 1024;

/// Things for registries, by key.
#[derive(Debug)]
pub(crate) struct Keyring<T>(Vec<(RegistryKey, T)>);

impl<T> Default for Keyring<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Keyring<T> {
    /// Adds a thing for all images that match `key`; the empty key is for every image.
    pub(crate) fn add(&mut self, key: &str, thing: T) {
        self.0.push((RegistryKey::parse(key), thing));
    }

    /// The things for the images of `repository`, best first. Of keys that are equally good, those that were added first
    /// come first.
    pub(crate) fn into_matching(self, repository: &str) -> Vec<T> {
        let (host, path) = location(repository);
        let mut found: Vec<_> = self.0.into_iter().filter(|(key, _)| key.applies(&host, &path)).collect();
        found.sort_by_cached_key(|(key, _)| {
            (Reverse(key.path.len()), key.is_pattern(), Reverse(key.host.clone()))
        });
        found.into_iter().map(|(_, thing)| thing).collect()
    }
}

/// Whether an image is one of a registry, which credentials are for, and no module at a URL.
pub(crate) fn is_of_registry(image: &str) -> bool {
    !image.strip_prefix("oci://").unwrap_or(image).contains("://")
}

/// Whether `key` is for the images of `repository`.
pub(crate) fn matches(key: &str, repository: &str) -> bool {
    let (host, path) = location(repository);
    RegistryKey::parse(key).applies(&host, &path)
}

/// Whether `key` names several hosts.
pub(crate) fn is_pattern(key: &str) -> bool {
    RegistryKey::parse(key).is_pattern()
}

/// The repository of an image reference, with its registry, without tag and digest: `app:v1` is of
/// `docker.io/library/app`.
pub(crate) fn repository(image: &str) -> String {
    let image = image.strip_prefix("oci://").unwrap_or(image);
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => format!("docker.io/{rest}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Host with port, and path, of a repository as [`repository`] writes it.
fn location(repository: &str) -> (String, String) {
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    (canonical_host(host).to_owned(), path.to_owned())
}

fn canonical_host(host: &str) -> &str {
    if host == "docker.io" { DOCKER_HUB } else { host }
}

#[derive(Debug)]
struct RegistryKey {
    host: String,
    path: String,
}

impl RegistryKey {
    fn parse(key: &str) -> Self {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        // `/v1/` and `/v2/` are what Docker itself writes behind a host.
        let path = match path {
            "v1" | "v2" => "",
            path => path.strip_prefix("v1/").or(path.strip_prefix("v2/")).unwrap_or(path),
        };
        Self { host: canonical_host(host).to_owned(), path: path.trim_end_matches('/').to_owned() }
    }

    fn is_pattern(&self) -> bool {
        self.host.is_empty() || self.host.contains(['*', '?', '['])
    }

    fn applies(&self, host: &str, path: &str) -> bool {
        (self.host.is_empty() || host_matches(&self.host, host)) && path.starts_with(&self.path)
    }
}

/// Part by part; a pattern does not go over a dot.
fn host_matches(pattern: &str, host: &str) -> bool {
    if pattern.len() > PATTERN_LIMIT {
        return false;
    }
    let split = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name.to_owned(), Some(port.to_owned()))
        }
        _ => (host.to_owned(), None),
    };
    let ((pattern, wanted), (host, port)) = (split(pattern), split(host));
    if wanted != port {
        return false;
    }
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == parts.len()
        && patterns.iter().zip(&parts).all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
}

/// Go's `filepath.Match` for texts without separators: `*`, `?`, `[a-z]`, `[^a-z]`. A pattern that is none matches
/// nothing. Backslashes are not in host names, and mean nothing here.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when what followed the last `*` did not match; each `*` makes those before it final, so that the
    // time is bounded by the product of both lengths.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(_), Some(byte)) => one(pattern.get(p..).unwrap_or_default(), *byte),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => (p, t) = (p + length, t + 1),
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Bytes of `pattern` that stand for the one byte; `None` when they do not match it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().skip(2).position(|b| *b == b']')? + 2;
            let class = pattern.get(1..end)?;
            let (negated, class) = match class {
                [b'^', rest @ ..] => (true, rest),
                class => (false, class),
            };
            let mut inside = false;
            let mut rest = class;
            while let [first, tail @ ..] = rest {
                rest = match tail {
                    [b'-', last, tail @ ..] => {
                        inside |= (*first..=*last).contains(&byte);
                        tail
                    }
                    tail => {
                        inside |= *first == byte;
                        tail
                    }
                };
            }
            (inside != negated).then_some(end + 1)
        }
        literal => (*literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_apply_by_host_port_and_path() {
        for (key, image, expected) in [
            ("127.0.0.1:5000", "127.0.0.1:5000/a:v1", true),
            ("127.0.0.1:5000", "127.0.0.1:5001/a:v1", false),
            ("127.0.0.1", "127.0.0.1:5000/a", false),
            ("https://reg.example.com/v1/", "reg.example.com/team/a", true),
            ("reg.example.com/v2/team", "reg.example.com/team/a", true),
            ("reg.example.com/team", "reg.example.com/team/a", true),
            ("reg.example.com/team/", "reg.example.com/team/a", true),
            ("reg.example.com/team", "reg.example.com/other/a", false),
            ("*.example.com", "reg.example.com/a", true),
            ("*.example.com", "a.reg.example.com/a", false),
            ("*.*.example.com", "a.reg.example.com/a", true),
            ("r*g.example.com", "reg.example.com/a", true),
            ("r*x.example.com", "reg.example.com/a", false),
            ("re?.example.com", "reg.example.com/a", true),
            ("re[a-h].example.com", "reg.example.com/a", true),
            ("re[^a-h].example.com", "reg.example.com/a", false),
            ("re[.example.com", "reg.example.com/a", false),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/a", true),
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "docker.io/library/nginx", true),
            ("docker.io/library", "nginx:v1", true),
            ("docker.io/team", "nginx", false),
            ("reg.example.com", "nginx", false),
            ("localhost", "localhost/a", true),
            ("", "r.io/a", true),
        ] {
            assert_eq!(matches(key, &repository(image)), expected, "{key} {image}");
        }
    }

    #[test]
    fn the_longest_path_is_best_then_a_host_that_is_spelled_out() {
        let mut ring = Keyring::default();
        for key in ["", "*.io", "r.io", "*.io/team", "r.io/team/app", "r.io", "x.io/team/app"] {
            ring.add(key, key);
        }
        assert_eq!(
            ring.into_matching("r.io/team/app"),
            ["r.io/team/app", "*.io/team", "r.io", "r.io", "*.io", ""]
        );
    }

    #[test]
    fn the_repository_of_an_image() {
        for (image, expected) in [
            ("app", "docker.io/library/app"),
            ("app:v1", "docker.io/library/app"),
            ("oci://r.io/app:v1", "r.io/app"),
            ("team/app@sha256:00", "docker.io/team/app"),
            ("docker.io/library/app:v1", "docker.io/library/app"),
            ("index.docker.io/library/app", "docker.io/library/app"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app"),
            ("127.0.0.1:5000/a/b:v1@sha256:00", "127.0.0.1:5000/a/b"),
            ("localhost/app:v1", "localhost/app"),
            ("r.io/team/app:v1", "r.io/team/app"),
        ] {
            assert_eq!(repository(image), expected, "{image}");
        }
    }

    #[test]
    fn modules_at_urls_are_of_no_registry() {
        for (image, expected) in [
            ("app", true),
            ("oci://r.io/app:v1", true),
            ("https://r.io/app.wasm", false),
            ("s3://bucket/app.wasm", false),
        ] {
            assert_eq!(is_of_registry(image), expected, "{image}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let host = format!("{}b", "a".repeat(2000));
        assert!(!matches(&"*a".repeat(500), &format!("{host}/x")));
        assert!(!matches(&"*".repeat(PATTERN_LIMIT + 1), "r.io/x"), "longer than any name");
    }
}
