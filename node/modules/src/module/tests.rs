use std::os::unix::fs::symlink;

use super::*;
use crate::testing::{EMPTY_MODULE, Fixture};

fn image(fixture: &Fixture) -> Image {
    let mut image = fixture.filesystem("r.io/app:v1", |root| {
        for directory in ["usr/bin", "srv/app", "opt"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join("usr/bin/multi"), EMPTY_MODULE).unwrap();
        fs::write(root.join("srv/app/hello.wasm"), [EMPTY_MODULE, b"\0"].concat()).unwrap();
        fs::write(root.join("top.wasm"), EMPTY_MODULE).unwrap();
        fs::write(root.join("opt/elf"), b"\x7fELF\x02").unwrap();
        fs::write(root.join("opt/empty"), b"").unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("multi", root.join("usr/bin/ls")).unwrap();
        symlink("/usr/bin/multi", root.join("usr/bin/cat")).unwrap();
        symlink("/usr/bin/gone", root.join("usr/bin/dangling")).unwrap();
        symlink("../../../../../../etc/passwd", root.join("opt/escape")).unwrap();
        symlink("self", root.join("opt/self")).unwrap();
        fs::hard_link(root.join("usr/bin/multi"), root.join("usr/bin/hard")).unwrap();
    });
    image.working_dir = Some("/srv/app".to_owned());
    image
}

#[tokio::test]
async fn commands_lead_to_files_as_execvp_would() {
    let fixture = Fixture::new();
    let image = image(&fixture);
    let root = fixture.store.rootfs(&image).unwrap();
    for (command, expected) in [
        ("multi", "usr/bin/multi"),
        ("ls", "usr/bin/multi"),
        ("cat", "usr/bin/multi"),
        ("hard", "usr/bin/hard"),
        ("top.wasm", "top.wasm"),
        ("/bin/ls", "usr/bin/multi"),
        ("./hello.wasm", "srv/app/hello.wasm"),
        ("../../top.wasm", "top.wasm"),
        ("../../../../../usr/bin/cat", "usr/bin/multi"),
    ] {
        let module = fixture.store.module(&image, command).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(module.path, root.join(expected), "{command}");
        assert_eq!(module.digest, Digest::of(&fs::read(&module.path).unwrap()), "{command}");
    }
}

#[tokio::test]
async fn the_path_of_the_image_decides() {
    let fixture = Fixture::new();
    let mut image = image(&fixture);
    image.env = vec![("PATH".to_owned(), "/nowhere:/srv/app".to_owned())];
    let module = fixture.store.module(&image, "hello.wasm").await.unwrap();
    assert!(module.path.ends_with("srv/app/hello.wasm"));
    let error = fixture.store.module(&image, "multi").await.unwrap_err();
    assert_eq!(error.to_string(), r#"exec: "multi": executable file not found in $PATH"#);
    assert!(fixture.store.module(&image, "top.wasm").await.is_ok(), "the root comes last");
}

#[tokio::test]
async fn commands_that_are_no_modules_say_why() {
    let fixture = Fixture::new();
    let image = image(&fixture);
    for (command, text) in [
        (
            "",
            r#"exec: "": the command is empty; set command: in the container or an entry point in the image"#,
        ),
        ("gone", r#"exec: "gone": executable file not found in $PATH"#),
        ("dangling", r#"exec: "dangling": executable file not found in $PATH"#),
        ("/gone", r#"exec: "/gone": no such file or directory"#),
        ("/usr/bin", r#"exec: "/usr/bin": is a directory"#),
        ("/top.wasm/x", r#"exec: "/top.wasm/x": Not a directory (os error 20)"#),
        ("/opt/escape", r#"exec: "/opt/escape": no such file or directory"#),
        ("/opt/self", r#"exec: "/opt/self": Too many levels of symbolic links (os error 40)"#),
        ("/opt/empty", r#"exec: "/opt/empty": the module is empty (0 bytes); build it again"#),
        (
            "/opt/elf",
            r#"exec: "/opt/elf": not a WebAssembly module: it looks like a Linux program for a container runtime; build it for WebAssembly, or schedule it to another node"#,
        ),
    ] {
        let error = fixture.store.module(&image, command).await.err().unwrap_or_else(|| panic!("{command}"));
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn digests_of_files_are_remembered_over_a_restart() {
    let fixture = Fixture::new();
    let image = image(&fixture);
    let first = fixture.store.module(&image, "multi").await.unwrap();
    // What is remembered is not read again: a file that changed behind the store's back shows it.
    fs::write(&first.path, [EMPTY_MODULE, b"changed"].concat()).unwrap();
    let reopened = Store::open(&fixture.root(), crate::StoreOptions::default()).unwrap();
    assert_eq!(reopened.module(&image, "ls").await.unwrap(), first);
}
