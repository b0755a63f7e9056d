use std::{collections::BTreeSet, fs, path::Path};

use super::*;
use crate::{AccessRules, PluginName};

#[test]
fn a_name_is_one_of_a_package_and_of_a_command() {
    for name in ["a", "pods", "pod-watch", "x2", "a-1"] {
        assert_eq!(check(name), Ok(()), "{name}");
        let plugin: PluginName = name.parse().unwrap();
        assert_eq!(plugin.as_str(), name);
    }
    let long = "a".repeat(LONGEST + 1);
    for name in ["", "-a", "a-", "a--b", "2a", "A", "a_b", "a.b", "a/b", "../a", "ä", "a b", "a\n", &long] {
        assert!(matches!(check(name), Err(ScaffoldNameError::Invalid(_))), "{name:?}");
    }
    for name in ["get", "plugin", "api-resources"] {
        assert_eq!(check(name), Err(ScaffoldNameError::Taken(name.to_owned())));
    }
    assert!(!check("a\u{1b}[2J").unwrap_err().to_string().contains('\u{1b}'));
}

#[test]
fn a_project_is_called_by_its_name_everywhere() {
    let files = files("pod-ages").unwrap();
    let contents = |path: &str| files.iter().find(|file| file.path == path).unwrap().contents.as_str();
    assert!(contents("Cargo.toml").contains("name = \"kubectl-pod-ages\""));
    assert!(contents("src/main.rs").contains("kubectl pod-ages [options]"));
    assert!(contents("README.md").starts_with("# kubectl pod-ages\n"));
    for file in &files {
        assert!(!file.contents.contains(NAME), "{}", file.path);
        assert!(Path::new(file.path).is_relative() && !file.path.contains(".."), "{}", file.path);
    }
    let paths: BTreeSet<_> = files.iter().map(|file| file.path).collect();
    assert_eq!(paths.len(), files.len(), "no file is there twice");
}

#[test]
fn what_it_may_ask_for_is_what_it_asks_for() {
    let rules: AccessRules = include_str!("access.yaml").parse().unwrap();
    assert_eq!(rules.rules().iter().map(ToString::to_string).collect::<Vec<_>>(), ["list pods"]);
}

#[test]
fn the_library_is_whole() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demos/plugins/kubectl-plugin");
    let mut found = BTreeSet::from(["kubectl-plugin/Cargo.toml".to_owned()]);
    let mut folders = vec![library.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    found
                        .insert(format!("kubectl-plugin/{}", path.strip_prefix(&library).unwrap().display()));
                }
            }
        }
    }
    let embedded: BTreeSet<_> = LIBRARY.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(embedded, found);
}

#[test]
fn the_commands_that_are_printed_are_those_of_the_readme() {
    let readme = include_str!("README.md.tmpl").replace(NAME, "x");
    for step in next_steps("x") {
        let front = step.split(" -- ").next().unwrap();
        assert!(readme.contains(front), "{step}");
    }
}
