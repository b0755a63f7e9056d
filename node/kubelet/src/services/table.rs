//! The table of all Services, made anew as far as something has changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;

use super::{Viewpoint, routes, slices::Slices};
use crate::runtime::{ServiceRoutes, ServiceTable};

/// Makes the table. What it is made of is looked at as a whole each time; only what has changed is computed.
#[derive(Debug, Default)]
pub(super) struct TableMaker {
    here: Viewpoint,
    known: HashMap<String, Known>,
}

/// What a Service's routes were made of.
#[derive(Debug)]
struct Known {
    service: Arc<Service>,
    /// That of its slices; 0 for none.
    slices: u64,
    routes: Option<Arc<ServiceRoutes>>,
}

impl TableMaker {
    /// The table of these Services.
    pub(super) fn make(
        &mut self,
        services: Vec<Arc<Service>>,
        slices: &Slices,
        here: &Viewpoint,
    ) -> ServiceTable {
        if self.here != *here {
            self.here = here.clone();
            self.known.clear();
        }
        let mut before = std::mem::take(&mut self.known);
        let mut table = BTreeMap::new();
        for service in services {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
                continue;
            };
            let key = format!("{namespace}/{name}");
            let own = slices.of(&key);
            let revision = own.map_or(0, |own| own.revision);
            let known = before.remove(&key);
            let is_same = |known: &Known| Arc::ptr_eq(&known.service, &service) && known.slices == revision;
            let routes = match known {
                Some(known) if is_same(&known) => known.routes,
                known => {
                    let made = routes::of(&service, own, here).map(Arc::new);
                    // What reads as before is shared with it.
                    known.and_then(|known| known.routes).filter(|old| Some(old) == made.as_ref()).or(made)
                }
            };
            if let Some(routes) = &routes {
                table.insert(key.clone(), Arc::clone(routes));
            }
            self.known.insert(key, Known { service, slices: revision, routes });
        }
        ServiceTable { services: table }
    }
}
