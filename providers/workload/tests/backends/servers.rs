//! Servers of others, each alone on a port of its own, and killed when dropped.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The password of all of them that have one.
pub(crate) const PASSWORD: &str = "s3cret-password";

#[derive(Clone, Copy)]
enum Kind {
    Redis,
    Nats,
    S3,
}

/// A server. What it keeps outlives its process.
pub(crate) struct Server {
    kind: Kind,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl Server {
    pub(crate) async fn redis() -> Self {
        Self::new(Kind::Redis).await
    }

    pub(crate) async fn nats() -> Self {
        Self::new(Kind::Nats).await
    }

    pub(crate) async fn s3() -> Self {
        Self::new(Kind::S3).await
    }

    async fn new(kind: Kind) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut server = Self { kind, port, dir: tempfile::tempdir().unwrap(), child: None };
        server.start().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::Redis => format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port),
            Kind::Nats => format!("nats://user:{PASSWORD}@127.0.0.1:{}", self.port),
            Kind::S3 => format!("http://127.0.0.1:{}", self.port),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn start(&mut self) {
        let (port, dir) = (self.port.to_string(), self.dir.path());
        let mut command = match self.kind {
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args([
                    "--bind",
                    "127.0.0.1",
                    "--port",
                    &port,
                    "--save",
                    "",
                    "--requirepass",
                    PASSWORD,
                ]);
                command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir);
                command
            }
            Kind::Nats => {
                let mut command = Command::new(tool("nats-server").join("nats-server"));
                command.args([
                    "-a",
                    "127.0.0.1",
                    "-p",
                    &port,
                    "--user",
                    "user",
                    "--pass",
                    PASSWORD,
                    "-js",
                    "-sd",
                ]);
                command.arg(dir);
                command
            }
            Kind::S3 => {
                let mut command = Command::new(tool("moto").join("moto_server"));
                command.args(["-H", "127.0.0.1", "-p", &port]);
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child =
            Some(child.expect("the server cannot be started; `make setup` installs what tests need"));
        while !self.answers().await {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server has ended before it has answered: {ended:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn answers(&self) -> bool {
        let (question, answer) = match self.kind {
            Kind::Redis => (format!("AUTH {PASSWORD}\r\nPING\r\n"), "+PONG"),
            Kind::Nats => (String::new(), "INFO"),
            Kind::S3 => ("GET / HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1"),
        };
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await else { return false };
        if stream.write_all(question.as_bytes()).await.is_err() {
            return false;
        }
        let mut said = String::new();
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if said.contains(answer) {
                return true;
            }
            if said.contains("-LOADING") {
                return false;
            }
        }
        false
    }

    /// Ends it at once, as a power cut does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// It does nothing any more, and its connections stay.
    pub(crate) fn freeze(&self) {
        let id = self.child.as_ref().unwrap().id();
        assert!(Command::new("kill").args(["-STOP", &id.to_string()]).status().unwrap().success());
    }

    pub(crate) fn thaw(&self) {
        let id = self.child.as_ref().unwrap().id();
        assert!(Command::new("kill").args(["-CONT", &id.to_string()]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The folder of a program that `tests/tools` builds, once.
fn tool(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools").join(name).join("build.sh");
    let made = Command::new(script).stderr(Stdio::inherit()).output().expect("the script cannot be run");
    assert!(made.status.success(), "{name} cannot be built");
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim_end())
}
