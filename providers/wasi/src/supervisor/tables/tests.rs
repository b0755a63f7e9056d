use super::*;

fn table(services: &[(&str, u8)]) -> ServiceTable {
    let routes =
        |address| ServiceRoutes { cluster_ips: vec![[10, 96, 0, address].into()], routes: Vec::new() };
    let services = services.iter().map(|(key, address)| ((*key).to_owned(), Arc::new(routes(*address))));
    ServiceTable { services: services.collect() }
}

/// Base, revision, keys that are set, and keys that are removed.
type Told = (Option<u64>, u64, Vec<String>, Vec<String>);

fn told(tables: &Tables, has: Option<u64>) -> Option<Told> {
    let update = tables.log().since(has)?;
    let set = update.services.into_iter().map(|(key, _)| key).collect();
    Some((update.base, update.revision, set, update.removed_services))
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// Workers keep what an earlier agent has told them until this one knows better, be it that there is nothing.
#[test]
fn nothing_is_said_before_anything_is_known() {
    let tables = Tables::default();
    assert_eq!(told(&tables, None), None);
    tables.set_services(&table(&[]));
    assert_eq!(told(&tables, None), Some((None, 1, Vec::new(), Vec::new())));
    assert_eq!(told(&tables, Some(1)), None);
}

#[test]
fn a_worker_is_told_what_it_lacks() {
    let tables = Tables::default();
    tables.set_services(&table(&[("a", 1), ("b", 1)]));
    tables.set_services(&table(&[("a", 1), ("b", 2), ("c", 1)]));
    tables.set_services(&table(&[("a", 1), ("c", 1)]));
    for (has, expected) in [
        (None, (None, 3, keys(&["a", "c"]), Vec::new())),
        (Some(1), (Some(1), 3, keys(&["c"]), keys(&["b"]))),
        (Some(2), (Some(2), 3, Vec::new(), keys(&["b"]))),
    ] {
        assert_eq!(told(&tables, has), Some(expected), "{has:?}");
    }
    assert_eq!(told(&tables, Some(3)), None);
    tables.set_services(&table(&[("a", 1), ("c", 1)]));
    assert_eq!(*tables.newest.borrow(), 3, "nothing has changed");
    tables.set_services(&table(&[("a", 1), ("b", 3), ("c", 1)]));
    assert_eq!(told(&tables, Some(1)), Some((Some(1), 4, keys(&["b", "c"]), Vec::new())), "b is there again");
}

/// Only so many removals are remembered.
#[test]
fn a_worker_that_lacks_too_much_is_told_everything() {
    let tables = Tables::default();
    let many: Vec<String> = (0..=REMOVALS).map(|n| format!("s{n}")).collect();
    let all: Vec<(&str, u8)> = many.iter().map(|key| (key.as_str(), 1)).collect();
    tables.set_services(&table(&all));
    tables.set_services(&table(&all[1..]));
    tables.set_services(&table(&all[2..]));
    assert_eq!(told(&tables, Some(1)).unwrap().3, keys(&["s1", "s0"]));
    tables.set_services(&table(&[]));
    assert_eq!(told(&tables, Some(1)), Some((None, 4, Vec::new(), Vec::new())));
    let (base, _, set, removed) = told(&tables, Some(3)).unwrap();
    assert_eq!((base, set, removed.len()), (Some(3), Vec::new(), REMOVALS - 1));
}
