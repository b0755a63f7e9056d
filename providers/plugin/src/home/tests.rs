use kubewasm_modules::Digest;

use super::*;
use crate::grants::Grants;

fn record(name: &str) -> PluginRecord {
    PluginRecord {
        name: name.parse().unwrap(),
        source: format!("r.example/{name}:v1"),
        pinned: format!("r.example/{name}@{}", Digest::of(name.as_bytes())),
        digest: Digest::of(name.as_bytes()),
        grants: Grants::parse_list("fs=ro:.").unwrap(),
        access: Some("[{verbs: [get], apiGroups: [''], resources: [pods]}]".parse().unwrap()),
        access_is_users: false,
        completions: false,
        signature_policy: None,
    }
}

#[test]
fn a_plugin_is_found_as_it_was_put_and_nothing_is_left_when_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let home = PluginHome::new(folder.path().join("data/kubewasm"));
    let program = Path::new("/opt/kubewasm");
    let companion = home.bin().join("kubectl_complete-pod_watch");
    let (watch, decoder) = (record("pod-watch"), record("decoder"));
    let linked = home.put(&PluginRecord { completions: true, ..watch.clone() }, program).unwrap();
    assert_eq!(linked.link, home.bin().join("kubectl-pod_watch"));
    assert_eq!(fs::read_link(&linked.link).unwrap(), program);
    assert_eq!(fs::read_link(&companion).unwrap(), program);
    home.put(&watch, Path::new("/other/kubewasm")).unwrap();
    assert_eq!(fs::read_link(&linked.link).unwrap(), Path::new("/other/kubewasm"));
    assert!(companion.symlink_metadata().is_err(), "it knows none any more");
    home.put(&decoder, program).unwrap();
    assert_eq!(home.find(&watch.name).unwrap().as_ref(), Some(&watch));
    let names: Vec<_> = home.list().unwrap().into_keys().map(String::from).collect();
    assert_eq!(names, ["decoder", "pod-watch"]);
    assert_eq!(fs::read_dir(home.bin()).unwrap().count(), 2, "nothing temporary stays");
    home.remove(&watch.name).unwrap();
    assert!(matches!(home.remove(&watch.name), Err(HomeError::Unknown { .. })));
    home.remove(&decoder.name).unwrap();
    assert!(!folder.path().join("data/kubewasm").exists());
}

#[test]
fn a_link_that_leads_elsewhere_is_listed_and_what_it_leads_to_stays() {
    let folder = tempfile::tempdir().unwrap();
    let home = PluginHome::new(folder.path().join("kubewasm"));
    fs::create_dir_all(home.bin()).unwrap();
    let other = folder.path().join("other");
    fs::write(&other, "a program").unwrap();
    symlink(&other, home.bin().join("kubectl-mine")).unwrap();
    let name: PluginName = "mine".parse().unwrap();
    let listed = home.list().unwrap().remove(&name).unwrap().unwrap();
    assert_eq!(listed, FoundPlugin::Stray(other.clone()));
    home.remove(&name).unwrap();
    assert!(other.exists() && !home.bin().exists());
}

#[test]
fn a_damaged_record_is_named_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let home = PluginHome::new(folder.path());
    home.put(&record("good"), Path::new("/x")).unwrap();
    fs::write(folder.path().join("plugins/bad.json"), "{").unwrap();
    fs::copy(folder.path().join("plugins/good.json"), folder.path().join("plugins/other.json")).unwrap();
    let mut all = home.list().unwrap();
    assert!(all.remove(&"good".parse().unwrap()).unwrap().is_ok());
    for name in ["bad", "other"] {
        let error = all.remove(&name.parse().unwrap()).unwrap().unwrap_err().to_string();
        assert!(error.contains(&format!("{name}.json is damaged")) && error.contains("-f"), "{error}");
    }
}

#[test]
fn a_folder_is_on_the_path_under_any_of_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let (bin, other) = (folder.path().join("bin"), folder.path().join("other"));
    fs::create_dir(&bin).unwrap();
    symlink(&bin, &other).unwrap();
    let path = |entry: &Path| std::env::join_paths([Path::new("/usr/bin"), entry]).unwrap();
    assert!(is_on_path(&bin, Some(&path(&bin))));
    assert!(is_on_path(&bin, Some(&path(&other))));
    assert!(!is_on_path(&bin, Some(&path(folder.path()))));
    assert!(!is_on_path(&bin, None));
}
