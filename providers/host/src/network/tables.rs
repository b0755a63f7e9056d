//! What a cluster says of its network, for the sockets of guests with addresses of their own.
//!
//! ```text
//!   who embeds the host ── TablesUpdate ──► [NetworkTables] ◄── destination ── a guest's connect or send
//!     (whole tables, then changes)             Services
//! ```
//!
//! There is one [`NetworkTables`] for a host ([`Host::tables`](crate::Host::tables)). It is empty until it is
//! told something, and everything goes where it is sent.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use kubewasm_rules::Protocol;

use super::{
    affinity::Affinities,
    firewalls::{Firewalls, RuleChanges},
    services::{Refused, ServiceChanges, ServiceTable},
};

/// The tables of the network, which all guests of a host share. Level-triggered: who keeps them up to date sends whole tables
/// once, and then what has changed since the revision that is known to be there.
#[derive(Debug, Default)]
pub struct NetworkTables {
    tables: RwLock<Tables>,
    affinities: Mutex<Affinities>,
    firewalls: Firewalls,
}

/// The tables at one revision.
#[derive(Debug, Default)]
struct Tables {
    /// `None`: nobody has told anything yet.
    revision: Option<u64>,
    services: ServiceTable,
}

/// A change of the tables, which takes effect as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesUpdate {
    /// The revision that this is a change of. `None`: these are the whole tables.
    pub base: Option<u64>,
    /// That of the tables with this update.
    pub revision: u64,
    /// What has changed of Services.
    pub services: ServiceChanges,
    /// What has changed of the rules of pods. `None`: nothing, also where these are whole tables.
    pub rules: Option<RuleChanges>,
}

/// The tables are not those that an update is a change of: one was lost, and whole tables are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tables are not those that this is a change of")]
pub struct OutOfStep;

impl NetworkTables {
    /// Applies an update, or nothing of it.
    ///
    /// # Errors
    /// [`OutOfStep`].
    pub fn apply(&self, update: TablesUpdate) -> Result<(), OutOfStep> {
        let TablesUpdate { base, revision, services, rules } = update;
        if base.is_none() {
            // Made aside: sockets need not wait for it.
            let mut fresh = Tables { revision: Some(revision), ..Tables::default() };
            fresh.services.apply(services);
            let before = std::mem::replace(&mut *self.write(), fresh);
            drop(before);
            self.apply_rules(rules, true);
            return Ok(());
        }
        let mut tables = self.write();
        if tables.revision != base {
            return Err(OutOfStep);
        }
        tables.revision = Some(revision);
        tables.services.apply(services);
        drop(tables);
        self.apply_rules(rules, false);
        Ok(())
    }

    fn apply_rules(&self, rules: Option<RuleChanges>, is_whole: bool) {
        if let Some(rules) = rules {
            self.firewalls.apply(rules, is_whole);
        }
    }

    /// What is allowed of the traffic of pods.
    pub fn firewalls(&self) -> &Firewalls {
        &self.firewalls
    }

    /// Where what `client`, an address of the sending pod, sends to `wanted` is to go. `wanted` itself, unless it is an
    /// address of a Service: then to an endpoint, one that is chosen anew with each call, or for as long as the Service's
    /// affinity says. To be called for each connection; for datagrams, see [`NetworkTables::is_endpoint`].
    ///
    /// Whether the answer may be reached is another question, which is asked about the answer and about `wanted`.
    ///
    /// # Errors
    /// [`Refused`]: there is nobody to send it to.
    pub fn destination(
        &self,
        client: IpAddr,
        transport: Protocol,
        wanted: SocketAddr,
    ) -> Result<SocketAddr, Refused> {
        let Some(rule) = self.read().services.find(transport, wanted)? else { return Ok(wanted) };
        rule.admits(client)?;
        let endpoints = rule.endpoints()?;
        let choose = || endpoints[rand::random_range(0..endpoints.len())];
        let Some(timeout) = rule.affinity else { return Ok(choose()) };
        let at = SocketAddr::new(wanted.ip(), wanted.port());
        let (key, now) = ((client, transport, at), Instant::now());
        let mut affinities = self.affinities();
        let endpoint = affinities.find(&key, now).filter(|known| endpoints.contains(known));
        let endpoint = endpoint.unwrap_or_else(choose);
        affinities.note(key, endpoint, now, timeout);
        Ok(endpoint)
    }

    /// Whether what is sent to `wanted`, an address of a Service, may go to `endpoint`. The datagrams of one socket go
    /// where the first has gone for as long as this is so.
    pub fn is_endpoint(&self, transport: Protocol, wanted: SocketAddr, endpoint: SocketAddr) -> bool {
        let rule = self.read().services.find(transport, wanted);
        rule.is_ok_and(|rule| rule.is_some_and(|rule| rule.endpoints.contains(&endpoint)))
    }

    /// Whether something that is sent there is for a Service, whoever may answer for it. Nothing is chosen, or remembered.
    pub fn is_service(&self, transport: Protocol, wanted: SocketAddr) -> bool {
        !matches!(self.read().services.find(transport, wanted), Ok(None))
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn affinities(&self) -> MutexGuard<'_, Affinities> {
        self.affinities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
