//! What is allowed of a pod's traffic, and what was refused of it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use kubewasm_rules::{PodRules, Protocol};

/// Characters of a name that are kept of a look-up: the longest that names may have.
const NAME: usize = 253;

/// The rules of one pod, for all of its guests. They can change while guests run: connections that exist stay.
#[derive(Debug, Default)]
pub struct Firewall {
    rules: RwLock<Arc<PodRules>>,
    ingress: Refused,
    egress: Refused,
}

/// What was refused of one kind.
#[derive(Debug, Default)]
struct Refused {
    count: AtomicU64,
    last: Mutex<Option<Refusal>>,
}

/// Something that was refused, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What a peer has sent to a port.
    From(Protocol, SocketAddr, u16),
    /// What a guest has sent, by the pod's rules.
    To(Protocol, SocketAddr),
    /// What a guest has sent, by its own list.
    Unlisted(Protocol, SocketAddr),
    /// A name that a guest has looked up and that is not on its list.
    UnlistedName(String),
}

/// What was refused of a pod's traffic so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Connections and datagrams to it.
    pub ingress: u64,
    /// Connections, datagrams and look-ups of its guests.
    pub egress: u64,
    /// The last of each kind, for people.
    pub last: Vec<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(protocol, peer, port) => {
                write!(f, "{protocol} from {} to port {port}, which no NetworkPolicy allows", peer.ip())
            }
            Self::To(protocol, to) => write!(f, "{protocol} to {to}, which no NetworkPolicy allows"),
            Self::Unlisted(protocol, to) => {
                write!(
                    f,
                    "{protocol} to {to}, which is not in the annotation of what the container may reach"
                )
            }
            Self::UnlistedName(name) => {
                write!(
                    f,
                    "a look-up of {name}, which is not in the annotation of what the container may reach"
                )
            }
        }
    }
}

impl Firewall {
    /// From now on, these count.
    pub fn set(&self, rules: Arc<PodRules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Those that count now.
    #[must_use]
    pub fn rules(&self) -> Arc<PodRules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was refused so far.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        let both = [&self.ingress, &self.egress];
        let last = both.map(|refused| refused.last.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let [ingress, egress] = both.map(|refused| refused.count.load(Ordering::Relaxed));
        Refusals { ingress, egress, last: last.iter().flatten().map(ToString::to_string).collect() }
    }

    /// Takes note of something that was refused.
    pub(crate) fn refused(&self, mut refusal: Refusal) {
        if let Refusal::UnlistedName(name) = &mut refusal
            && let Some((end, _)) = name.char_indices().nth(NAME)
        {
            name.truncate(end);
        }
        tracing::debug!(%refusal, "refused");
        let kind = match refusal {
            Refusal::From(..) => &self.ingress,
            Refusal::To(..) | Refusal::Unlisted(..) | Refusal::UnlistedName(_) => &self.egress,
        };
        kind.count.fetch_add(1, Ordering::Relaxed);
        *kind.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_counted_and_the_last_of_it_is_known() {
        let firewall = Firewall::default();
        assert_eq!(firewall.refusals(), Refusals::default());
        let at = |text: &str| text.parse().unwrap();
        firewall.refused(Refusal::From(Protocol::Tcp, at("192.0.2.1:5000"), 80));
        firewall.refused(Refusal::Unlisted(Protocol::Udp, at("[2001:db8::1]:53")));
        firewall.refused(Refusal::UnlistedName("example.com".to_owned()));
        let Refusals { ingress, egress, last } = firewall.refusals();
        assert_eq!((ingress, egress), (1, 2));
        assert_eq!(
            last,
            [
                "TCP from 192.0.2.1 to port 80, which no NetworkPolicy allows",
                "a look-up of example.com, which is not in the annotation of what the container may reach",
            ]
        );
    }
}
