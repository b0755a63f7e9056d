//! With plugins that are shell scripts: for what real ones do not do.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

struct Plugin {
    dir: tempfile::TempDir,
}

impl Plugin {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        // A process that is forked meanwhile must not hold the script open for writing.
        std::fs::write(dir.path().join("new"), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(dir.path().join("new"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        Self { dir }
    }

    async fn run_within(&self, within: Duration) -> Result<String, PluginFailure> {
        let dir = self.dir.path();
        let variables = [("CNI_COMMAND", "ADD".to_owned()), ("DIR", dir.display().to_string())];
        let answer = run(&dir.join("plugin"), &variables, b"the configuration", within).await?;
        Ok(String::from_utf8(answer).unwrap())
    }

    async fn run(&self) -> Result<String, PluginFailure> {
        self.run_within(PATIENCE).await
    }

    async fn error(&self) -> String {
        self.run().await.unwrap_err().to_string()
    }
}

#[tokio::test]
async fn a_plugin_has_its_variables_its_input_and_nothing_else() {
    let answer = Plugin::new("cat; echo; env | cut -d= -f1 | sort | tr '\\n' ' '").run().await.unwrap();
    let (input, names) = answer.split_once('\n').unwrap();
    assert_eq!(input, "the configuration");
    // What a shell adds by itself.
    let names: Vec<_> =
        names.split(' ').filter(|name| !["", "PWD", "SHLVL", "_", "OLDPWD"].contains(name)).collect();
    assert_eq!(names, ["CNI_COMMAND", "DIR", "PATH"]);
}

#[tokio::test]
async fn a_plugin_need_not_read_what_it_is_told() {
    assert_eq!(Plugin::new("exec 0<&-; echo '{}'").run().await.unwrap(), "{}\n");
}

#[tokio::test]
async fn an_error_is_what_the_plugin_says() {
    for (script, expected) in [
        (r#"echo '{"code": 11, "msg": "no route", "details": "to there"}'; exit 1"#, "no route; to there"),
        (r#"echo '{"code": 7, "msg": ""}'; exit 1"#, "error 7"),
        (r#"echo '{"code": 7, "msg": "two\u000alines"}'; exit 1"#, "two lines"),
        ("echo broken >&2; exit 3", "exit status: 3; it said: \"broken\""),
        ("echo garbage; exit 3", "exit status: 3; it said: \"garbage\""),
        ("echo '{}'; exit 3", "exit status: 3; it said: \"{}\""),
        ("kill -9 $$", "signal: 9 (SIGKILL); it said: \"\""),
    ] {
        assert_eq!(Plugin::new(script).error().await, expected, "{script}");
    }
    let long = Plugin::new("yes word | head -c 100000 >&2; exit 1").error().await;
    assert!(long.len() < 2 * WORDS, "{}", long.len());
}

#[tokio::test]
async fn what_says_too_much_is_killed() {
    assert!(Plugin::new("yes").error().await.contains("more than 1048576 bytes"));
    // What is for people is thrown away, and does not hold it up.
    let answer = Plugin::new("yes | head -c 1000000 >&2; echo '{}'").run().await.unwrap();
    assert_eq!(answer, "{}\n");
}

/// Whether a process is there that is no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn what_hangs_is_killed() {
    let ended = Plugin::new("sleep 1000").run_within(Duration::from_secs(1)).await;
    assert_eq!(ended.unwrap_err().to_string(), "it has not ended within 1 s, and was killed");
}

/// With what it has started, which may be a plugin of its own that holds its output open.
#[tokio::test]
async fn what_nobody_waits_for_any_more_is_killed() {
    let plugin = Plugin::new("sleep 1000 & echo $! > $DIR/started; wait");
    let started = plugin.dir.path().join("started");
    let pid = || std::fs::read_to_string(&started).unwrap_or_default().trim().to_owned();
    let is_started = async {
        while pid().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = plugin.run() => panic!("{ended:?}"),
        () = is_started => {}
    }
    let pid = pid();
    while lives(&pid) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_run_says_so() {
    let dirs = [PathBuf::from("/nonexistent/a"), "/nonexistent/b".into()];
    let error = find("bridge", &dirs).unwrap_err().to_string();
    assert_eq!(error, "failed to find plugin \"bridge\" in path [/nonexistent/a /nonexistent/b]");
    let error = run(Path::new("/nonexistent/bridge"), &[], b"", PATIENCE).await.unwrap_err();
    assert!(matches!(&error, PluginFailure::Spawn(_)), "{error}");
}
