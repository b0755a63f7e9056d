//! The cluster's certificate authority and what it signs before the first program starts.
//!
//! One authority signs everything, as in a small kubeadm cluster: it is the client CA of the API server,
//! the CA that kubelets trust, and what the controller manager signs certificate requests with.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use jiff::{Span, Zoned, civil::Date};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate and its key, on disk as PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key, readable by its owner only.
    pub key: PathBuf,
}

/// Files of the cluster's public key infrastructure.
#[derive(Debug)]
pub struct Pki {
    /// The authority.
    pub ca: Pair,
    /// What the API server shows its clients.
    pub apiserver: Pair,
    /// Who the API server is to API servers behind it: [`FRONT_PROXY`].
    pub front_proxy: Pair,
    /// Who the API server is to a kubelet: [`KUBELET_CLIENT`].
    pub kubelet_client: Pair,
    /// Member of `system:masters`.
    pub admin: Pair,
    /// `system:kube-controller-manager`.
    pub controller_manager: Pair,
    /// `system:kube-scheduler`.
    pub scheduler: Pair,
    /// etcd's server certificate, and the API server's towards etcd.
    pub etcd: Pair,
    /// Signs service account tokens: here `certificate` holds the bare public key.
    pub service_account: Pair,
}

/// User name of the API server towards kubelets, kubeadm's choice.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// User name of the API server towards API servers behind it, kubeadm's choice.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// Makes all keys and certificates in `folder`. They are valid for a year, because the demo's may stay
/// for long.
///
/// # Errors
/// When a key cannot be made or a file cannot be written.
pub fn make(folder: &Path, apiserver_addresses: &[IpAddr]) -> Result<Pki> {
    let authority = authority(folder)?;
    let local = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let client = |name: &str, user: &str, group: Option<&str>| {
        authority.sign(name, user, group, &[], &[], &[ExtendedKeyUsagePurpose::ClientAuth])
    };
    let server = [ExtendedKeyUsagePurpose::ServerAuth];
    let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    Ok(Pki {
        ca: authority.files.clone(),
        apiserver: authority.sign(
            "apiserver",
            "kube-apiserver",
            None,
            &names,
            apiserver_addresses,
            &server,
        )?,
        front_proxy: client("front-proxy-client", FRONT_PROXY, None)?,
        kubelet_client: client("kubelet-client", KUBELET_CLIENT, None)?,
        admin: client("admin", "kubernetes-admin", Some("system:masters"))?,
        controller_manager: client("controller-manager", "system:kube-controller-manager", None)?,
        scheduler: client("scheduler", "system:kube-scheduler", None)?,
        etcd: authority.sign("etcd", "etcd", None, &["localhost"], &local, &both)?,
        service_account: service_account(folder)?,
    })
}

struct Authority<'a> {
    folder: &'a Path,
    issuer: CertifiedIssuer<'static, KeyPair>,
    files: Pair,
}

fn authority(folder: &Path) -> Result<Authority<'_>> {
    let mut params = params("kubernetes")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer =
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("cannot make the authority")?;
    let files = write_pair(folder, "ca", &issuer.pem(), issuer.key())?;
    Ok(Authority { folder, issuer, files })
}

impl Authority<'_> {
    fn sign(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        dns: &[&str],
        addresses: &[IpAddr],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Pair> {
        let mut params = params(user)?;
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        for &dns in dns {
            params.subject_alt_names.push(SanType::DnsName(dns.try_into().context("not a DNS name")?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("cannot sign the certificate of {name}"))?;
        write_pair(self.folder, name, &certificate.pem(), &key)
    }
}

/// A certificate's beginnings: common name and validity, from yesterday (clocks differ) for a year.
fn params(common_name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("cannot begin a certificate")?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let today = Zoned::now().date();
    let (year, month, day) = parts(today.saturating_sub(Span::new().days(1)))?;
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = parts(today.saturating_add(Span::new().years(1)))?;
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Year, month and day as rcgen wants them.
fn parts(date: Date) -> Result<(i32, u8, u8)> {
    Ok((i32::from(date.year()), u8::try_from(date.month())?, u8::try_from(date.day())?))
}

fn service_account(folder: &Path) -> Result<Pair> {
    let key = KeyPair::generate().context("cannot make a key")?;
    write_pair(folder, "service-account", &key.public_key_pem(), &key)
}

fn write_pair(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<Pair> {
    let pair =
        Pair { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    fs::write(&pair.certificate, certificate)
        .and_then(|()| write_private(&pair.key, &key.serialize_pem()))
        .with_context(|| format!("cannot write the key pair {name} to {}", folder.display()))?;
    Ok(pair)
}

/// Writes a file that only its owner can read, from its first byte on.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
