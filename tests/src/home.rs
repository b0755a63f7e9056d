//! The folder that holds everything of one set-up, and its end.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};

use crate::{process, progress::say};

/// Name of the file whose presence tells the watchdog to keep the logs.
const KEEP: &str = "keep-logs";

/// Name of the folder of logs.
const LOGS: &str = "logs";

/// Time for killed processes to disappear.
const END: Duration = Duration::from_secs(20);

/// A folder that holds everything of one set-up: data, credentials, logs. Readable by its owner only.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    /// Its end of a pipe is what keeps a temporary home alive: the watchdog cleans up when it closes.
    _watchdog: Option<Child>,
}

impl Home {
    /// A new folder that goes when this process goes, with every process that belongs to it: the kernel
    /// closes a pipe to a watchdog then, in whatever way we ended.
    ///
    /// # Errors
    /// When the folder cannot be made or the watchdog cannot be started.
    pub fn temporary() -> Result<Self> {
        // Short, because the paths of Unix sockets below it may have 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("kubewasm-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        let watchdog = Command::new(watchdog_program()?)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal is for us; the watchdog has work to do after it.
            .process_group(0)
            .spawn()
            .context("cannot start the watchdog")?;
        let home = Self { path: folder.keep(), _watchdog: Some(watchdog) };
        home.folder(LOGS)?;
        Ok(home)
    }

    /// A folder that stays until [`Home::remove`].
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn persistent(path: &Path) -> Result<Self> {
        make_private(path)?;
        let home = Self { path: path.to_owned(), _watchdog: None };
        home.folder(LOGS)?;
        Ok(home)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        make_private(&path)?;
        Ok(path)
    }

    /// The folder of logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join(LOGS)
    }

    /// Where the program `name` logs to.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Keeps the logs of a temporary home when all else goes, and returns the folder they are in.
    ///
    /// # Errors
    /// When the wish cannot be written down.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        fs::write(self.path.join(KEEP), "").context("cannot write to the home folder")?;
        Ok(self.logs())
    }

    /// Ends all processes that belong to the folder `path`, unmounts what is mounted there, and removes it. Fine when it is not there.
    /// Logs stay where [`Home::keep_logs`] was called or `KUBEWASM_KEEP` is set.
    ///
    /// # Errors
    /// When a process does not end or something cannot be removed.
    pub async fn remove(path: &Path) -> Result<()> {
        process::end_all_under(path, END).await?;
        unmount_all_under(path)?;
        let keep = path.join(KEEP).exists()
            || std::env::var_os("KUBEWASM_KEEP").is_some_and(|value| !value.is_empty());
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", path.display()))?;
            if keep && (entry.file_name() == LOGS || entry.file_name() == KEEP) {
                continue;
            }
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
                _ => fs::remove_file(entry.path()),
            };
            removed.with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
        if !keep {
            fs::remove_dir(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Home {
    /// A test that fails leaves its logs behind.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(logs) = self.keep_logs()
        {
            say(&format!("The logs of this run stay in {}.", logs.display()));
        }
    }
}

/// Unmounts what nodes have mounted below `folder`, the newest first.
fn unmount_all_under(folder: &Path) -> Result<()> {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot list what is mounted")?;
    // The fifth field is where. Nothing below a home has a name that would be written in another way there.
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for place in places.filter(|place| place.starts_with(&folder)).collect::<Vec<_>>().into_iter().rev() {
        umount2(place, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", place.display()))?;
    }
    Ok(())
}

/// Makes a folder that only its owner can look into.
fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// The watchdog's program: built by cargo beside whatever of this package is being run.
fn watchdog_program() -> Result<PathBuf> {
    let program = build_folder()?.join("kubewasm-watchdog");
    if !program.is_file() {
        bail!("{} is not there: build it with `make build`", program.display());
    }
    Ok(program)
}

/// The folder into which cargo puts programs (`target/debug`), found from the program that runs now.
///
/// # Errors
/// When the running program cannot be told.
pub fn build_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell which program this is")?;
    let folder = own.parent().context("this program is in no folder")?;
    // Tests run from a folder below the one for programs.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}
