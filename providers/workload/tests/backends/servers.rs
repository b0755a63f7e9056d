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
/// The user of NATS, which a URL holds percent-encoded.
const USER: &str = "us@er";

#[derive(Clone, Copy)]
enum Kind {
    Redis,
    Nats,
    /// Asks for a token in place of a user and a password.
    NatsWithToken,
    S3,
}

/// A server. What it keeps outlives its process.
pub(crate) struct Server {
    kind: Kind,
    port: u16,
    /// What it asks for when it is started the next time.
    password: &'static str,
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

    pub(crate) async fn nats_with_token() -> Self {
        Self::new(Kind::NatsWithToken).await
    }

    pub(crate) async fn s3() -> Self {
        Self::new(Kind::S3).await
    }

    async fn new(kind: Kind) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut server =
            Self { kind, port, password: PASSWORD, dir: tempfile::tempdir().unwrap(), child: None };
        server.start().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::Redis => format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port),
            Kind::Nats => self.url_of(&format!("us%40er:{PASSWORD}@")),
            Kind::NatsWithToken => self.url_of(&format!("{PASSWORD}@")),
            Kind::S3 => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// The URL of a server of NATS for this user, with what parts a user from a host.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("nats://{user}127.0.0.1:{}", self.port)
    }

    /// A client of a server of NATS that knows nothing of back ends.
    pub(crate) async fn nats_client(&self) -> async_nats::Client {
        let options =
            async_nats::ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned());
        options.connect(self.url_of("")).await.unwrap()
    }

    /// Takes this password alone, and nobody who is connected is any more.
    pub(crate) async fn restart_with_password(&mut self, password: &'static str) {
        self.kill();
        self.password = password;
        self.start().await;
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
                    self.password,
                ]);
                command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir);
                command
            }
            Kind::Nats | Kind::NatsWithToken => {
                let mut command = Command::new(tool("nats-server").join("nats-server"));
                command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]).arg(dir);
                match self.kind {
                    Kind::NatsWithToken => command.args(["--auth", self.password]),
                    _ => command.args(["--user", USER, "--pass", self.password]),
                };
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
            Kind::Redis => (format!("AUTH {}\r\nPING\r\n", self.password), "+PONG"),
            Kind::Nats | Kind::NatsWithToken => (String::new(), "INFO"),
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
