//! What a certificate signing request asks for, read from its bytes.

use std::net::IpAddr;

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer as _,
};

/// Longest request that is looked at, in bytes. The API server bounds objects by a megabyte and more; a request of a node is
/// some hundred bytes.
const LONGEST: usize = 64 << 10;

/// What stands before a node's name in the name of its user.
pub(crate) const NODE_USER: &str = "system:node:";
/// The group of all nodes.
pub(crate) const NODES: &str = "system:nodes";

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be the node, to the API server.
    Client,
    /// To be the node's addresses, to callers of the node.
    Serving,
}

impl Purpose {
    /// That of a signer, where it is one that signs for nodes.
    pub(crate) fn of_signer(signer: &str) -> Option<Self> {
        match signer {
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Self::Client),
            "kubernetes.io/kubelet-serving" => Some(Self::Serving),
            _ => None,
        }
    }

    /// What a key with such a certificate must be good for, and, last, what it may be in addition.
    fn usages(self) -> [&'static str; 3] {
        let purpose = match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        };
        ["digital signature", purpose, "key encipherment"]
    }

    /// Whether these usages are those of the signer: all that are needed, and nothing beside what is allowed.
    fn fits(self, usages: &[String]) -> bool {
        let [signature, purpose, encipherment] = self.usages();
        [signature, purpose].iter().all(|needed| usages.iter().any(|usage| usage == needed))
            && usages.iter().all(|usage| [signature, purpose, encipherment].contains(&usage.as_str()))
    }
}

/// A request of a node for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRequest {
    /// Name of the node that the certificate would be of.
    pub(crate) node: String,
    /// Names that it would be good for.
    pub(crate) names: Vec<String>,
    /// Addresses that it would be good for.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Why a request is not one that a node makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("it is {0} bytes long; a node's has no more than {LONGEST}")]
    TooLong(usize),
    #[error("it holds no certificate request in PEM")]
    NotPem,
    #[error("its certificate request is not understood")]
    NotUnderstood,
    #[error("it is not signed with the key that it names")]
    NotSigned,
    #[error("its subject is not exactly one common name, {NODE_USER}NAME, and one organization, {NODES}")]
    Subject,
    #[error("its usages are not those of the signer: {}, and {} if need be", .0.usages()[..2].join(", "), .0.usages()[2])]
    Usages(Purpose),
    #[error("it asks for names or addresses, which a client certificate has none of")]
    NamesOfClient,
    #[error("it asks for no name and no address")]
    NoNames,
    #[error("it asks for something that is neither a name nor an address")]
    OtherNames,
}

/// Reads a request for a signer of this purpose, by the rules of
/// [Kubernetes' own signers](https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers).
pub(crate) fn read(purpose: Purpose, bytes: &[u8], usages: &[String]) -> Result<NodeRequest, RequestError> {
    if bytes.len() > LONGEST {
        return Err(RequestError::TooLong(bytes.len()));
    }
    let (_, pem) = parse_x509_pem(bytes).map_err(|_| RequestError::NotPem)?;
    if !["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(&pem.label.as_str()) {
        return Err(RequestError::NotPem);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| RequestError::NotUnderstood)?;
    if !rest.is_empty() {
        return Err(RequestError::NotUnderstood);
    }
    request.verify_signature().map_err(|_| RequestError::NotSigned)?;
    let node = subject(&request).ok_or(RequestError::Subject)?;
    let (names, addresses) = alternative_names(&request)?;
    let nothing = names.is_empty() && addresses.is_empty();
    match purpose {
        Purpose::Client if !nothing => return Err(RequestError::NamesOfClient),
        Purpose::Serving if nothing => return Err(RequestError::NoNames),
        Purpose::Client | Purpose::Serving => {}
    }
    if !purpose.fits(usages) {
        return Err(RequestError::Usages(purpose));
    }
    Ok(NodeRequest { node, names, addresses })
}

/// The node that a request is about.
fn subject(request: &X509CertificationRequest<'_>) -> Option<String> {
    let subject = &request.certification_request_info.subject;
    // One of each and nothing else: two attributes, of which one is the organization and one the name.
    if subject.iter_attributes().count() != 2 {
        return None;
    }
    let organization = subject.iter_organization().next()?.as_str().ok()?;
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let node = name.strip_prefix(NODE_USER).filter(|node| !node.is_empty())?;
    (organization == NODES).then(|| node.to_owned())
}

fn alternative_names(
    request: &X509CertificationRequest<'_>,
) -> Result<(Vec<String>, Vec<IpAddr>), RequestError> {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(found) = extension else { continue };
        for name in &found.general_names {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    addresses.push(address(bytes).ok_or(RequestError::OtherNames)?);
                }
                _ => return Err(RequestError::OtherNames),
            }
        }
    }
    Ok((names, addresses))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    pub(crate) fn pem(subject: &[(DnType, &str)], names: &[&str]) -> Vec<u8> {
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap().into_bytes()
    }

    pub(crate) fn of_node(node: &str, names: &[&str]) -> Vec<u8> {
        let name = format!("{NODE_USER}{node}");
        pem(&[(DnType::OrganizationName, NODES), (DnType::CommonName, &name)], names)
    }

    pub(crate) fn usages(of: &str) -> Vec<String> {
        vec!["digital signature".to_owned(), of.to_owned()]
    }

    #[test]
    fn a_request_of_a_node_is_read() {
        let client = read(Purpose::Client, &of_node("a", &[]), &usages("client auth")).unwrap();
        assert_eq!(client, NodeRequest { node: "a".into(), names: vec![], addresses: vec![] });
        let mut encipherment = usages("server auth");
        encipherment.push("key encipherment".into());
        let serving = of_node("a.b", &["a.b", "10.0.0.1", "fd00::1"]);
        let serving = read(Purpose::Serving, &serving, &encipherment).unwrap();
        assert_eq!(serving.names, ["a.b"]);
        assert_eq!(serving.addresses, ["10.0.0.1", "fd00::1"].map(|a| a.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn what_no_node_asks_for_is_told_apart() {
        let client = |pem: &[u8]| read(Purpose::Client, pem, &usages("client auth")).unwrap_err();
        let organization = (DnType::OrganizationName, NODES);
        let name = (DnType::CommonName, "system:node:a");
        for subject in [
            vec![],
            vec![organization.clone()],
            vec![name.clone()],
            vec![(DnType::OrganizationName, "system:masters"), name.clone()],
            vec![organization.clone(), (DnType::CommonName, "a")],
            vec![organization.clone(), (DnType::CommonName, "system:node:")],
            vec![organization.clone(), (DnType::OrganizationalUnitName, "more"), name.clone()],
        ] {
            assert_eq!(client(&pem(&subject, &[])), RequestError::Subject, "{subject:?}");
        }
        assert_eq!(client(&of_node("a", &["a"])), RequestError::NamesOfClient);
        assert_eq!(client(b"no pem"), RequestError::NotPem);
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(client(other.as_bytes()), RequestError::NotPem);
        let broken = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        assert_eq!(client(broken.as_bytes()), RequestError::NotUnderstood);
        assert_eq!(client(&vec![b' '; LONGEST + 1]), RequestError::TooLong(LONGEST + 1));
    }

    #[test]
    fn usages_are_those_of_the_signer_and_no_others() {
        let request = of_node("a", &["a"]);
        let read = |usages: &[&str]| {
            let usages: Vec<_> = usages.iter().map(|&usage| usage.to_owned()).collect();
            read(Purpose::Serving, &request, &usages)
        };
        read(&["server auth", "digital signature"]).unwrap();
        for wrong in [
            &["digital signature"][..],
            &["server auth"],
            &["digital signature", "client auth"],
            &["digital signature", "server auth", "client auth"],
            &[],
        ] {
            assert_eq!(read(wrong), Err(RequestError::Usages(Purpose::Serving)), "{wrong:?}");
        }
    }

    #[test]
    fn a_request_that_somebody_else_signed_is_refused() {
        use x509_parser::pem::Pem;
        let bytes = of_node("a", &[]);
        let mut der = Pem::iter_from_buffer(&bytes).next().unwrap().unwrap().contents;
        // A letter of the name: the signature is of another request.
        let at = der.windows(13).position(|window| window == b"system:node:a").unwrap();
        der[at + 12] = b'b';
        let changed = pem_of(&der);
        assert_eq!(
            read(Purpose::Client, changed.as_bytes(), &usages("client auth")),
            Err(RequestError::NotSigned)
        );
    }

    /// Lines of base64 are made by hand: nothing else here needs them.
    fn pem_of(der: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
        for line in der.chunks(48) {
            for three in line.chunks(3) {
                let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
                    << (8 * (3 - three.len()));
                for digit in 0..4 {
                    let sign = DIGITS[(bits >> (18 - 6 * digit)) as usize & 63];
                    text.push(if digit > three.len() { '=' } else { char::from(sign) });
                }
            }
            text.push('\n');
        }
        text + "-----END CERTIFICATE REQUEST-----\n"
    }

    #[test]
    fn an_address_of_a_mailbox_is_nothing_that_a_node_serves() {
        let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name("a@example.org".try_into().unwrap()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        assert_eq!(
            read(Purpose::Serving, pem.as_bytes(), &usages("server auth")),
            Err(RequestError::OtherNames)
        );
    }
}
