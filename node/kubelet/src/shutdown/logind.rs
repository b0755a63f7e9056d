//! systemd's logind: delays of a shutdown, and the news of one.
//!
//! See <https://systemd.io/INHIBITOR_LOCKS/>.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use super::bus::{Argument, Bus, BusError, Call, Value};

const SERVICE: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SIGNAL: &str = "PrepareForShutdown";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Where programs leave settings for logind.
pub(super) const SETTINGS: &str = "/etc/systemd/logind.conf.d";
const OWN_SETTINGS: &str = "99-kubewasm.conf";
/// How often logind is asked whether it has read them.
const LOOKS: u32 = 5;
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// Delays the shutdown of the machine until it is dropped, or logind's time for it is over.
#[derive(Debug)]
pub(super) struct Inhibitor(#[expect(dead_code, reason = "it is held, and closed")] OwnedFd);

/// A connection to logind.
#[derive(Debug)]
pub(super) struct Logind {
    bus: Bus,
    /// The connection of logind: nobody else's word counts.
    owner: String,
}

impl Logind {
    /// Asks to be told of shutdowns.
    pub(super) async fn connect() -> Result<Self, BusError> {
        let mut bus = Bus::system().await?;
        let rule =
            format!("type='signal',sender='{SERVICE}',path='{PATH}',interface='{MANAGER}',member='{SIGNAL}'");
        bus.call(Call::of_bus("AddMatch", &[Argument::Text(&rule)])).await?;
        let owner = owner(&mut bus).await?;
        Ok(Self { bus, owner })
    }

    /// Has shutdowns delayed. Returns for how long logind does that at the most; where that is less than `wanted`, a setting
    /// is left for it, if that is possible.
    pub(super) async fn inhibit(
        &mut self,
        wanted: Duration,
        settings: &Path,
    ) -> Result<(Option<Inhibitor>, Duration), BusError> {
        let mut delay = self.delay().await?;
        if delay < wanted {
            match self.set_delay(wanted, settings).await {
                Ok(now) => delay = now,
                Err(error) => tracing::warn!(%error, "logind cannot be told to delay a shutdown for longer"),
            }
        }
        let arguments = ["shutdown", "kubewasm", "pods end before the machine does", "delay"];
        let arguments = arguments.map(Argument::Text);
        let mut answer = self.bus.call(self.manager("Inhibit", &arguments)).await?;
        let inhibitor = answer.take_fd().ok_or(BusError::Unexpected("an inhibitor without a descriptor"))?;
        Ok((Some(Inhibitor(inhibitor)), delay))
    }

    /// Waits for the next shutdown; false where it was called off.
    pub(super) async fn next_shutdown(&mut self) -> Result<bool, BusError> {
        loop {
            let signal = self.bus.next_signal().await?;
            if signal.path() != Some(PATH)
                || signal.interface() != Some(MANAGER)
                || signal.member() != Some(SIGNAL)
            {
                continue;
            }
            // Anybody may send us a signal; logind may have started anew since we have asked who it is.
            if signal.sender() != Some(&self.owner) {
                self.owner = owner(&mut self.bus).await?;
            }
            if signal.sender() != Some(&self.owner) {
                tracing::warn!(sender = signal.sender(), "somebody who is not logind tells of a shutdown");
                continue;
            }
            if let Some(Value::Boolean(shuts_down)) = signal.first() {
                return Ok(shuts_down);
            }
        }
    }

    fn manager<'a>(&self, member: &'a str, arguments: &'a [Argument<'a>]) -> Call<'a> {
        Call { destination: SERVICE, path: PATH, interface: MANAGER, member, arguments }
    }

    async fn delay(&mut self) -> Result<Duration, BusError> {
        let arguments = [Argument::Text(MANAGER), Argument::Text("InhibitDelayMaxUSec")];
        let call = Call {
            destination: SERVICE,
            path: PATH,
            interface: PROPERTIES,
            member: "Get",
            arguments: &arguments,
        };
        match self.bus.call(call).await?.first() {
            Some(Value::Number(microseconds)) => Ok(Duration::from_micros(microseconds)),
            _ => Err(BusError::Unexpected("a delay that is no number")),
        }
    }

    /// Leaves a setting, has logind read it, and returns the delay by then.
    async fn set_delay(&mut self, wanted: Duration, settings: &Path) -> Result<Duration, BusError> {
        write(settings, wanted).map_err(|(path, source)| BusError::Settings { path, source })?;
        // SIGHUP.
        let arguments = [Argument::Text("systemd-logind.service"), Argument::Text("all"), Argument::Int(1)];
        let reload = Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "KillUnit",
            arguments: &arguments,
        };
        self.bus.call(reload).await?;
        let mut pause = FIRST_LOOK;
        for _ in 0..LOOKS {
            let delay = self.delay().await?;
            if delay >= wanted {
                return Ok(delay);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.delay().await
    }
}

async fn owner(bus: &mut Bus) -> Result<String, BusError> {
    match bus.call(Call::of_bus("GetNameOwner", &[Argument::Text(SERVICE)])).await?.first() {
        Some(Value::Text(owner)) => Ok(owner),
        _ => Err(BusError::Unexpected("an owner that is no name")),
    }
}

fn write(settings: &Path, delay: Duration) -> Result<(), (PathBuf, std::io::Error)> {
    let path = settings.join(OWN_SETTINGS);
    let text = format!(
        "# Written by kubewasm, for shutdownGracePeriod.\n[Login]\nInhibitDelayMaxSec={}\n",
        delay.as_secs()
    );
    let write = || {
        std::fs::create_dir_all(settings)?;
        std::fs::write(&path, &text)
    };
    write().map_err(|source| (path.clone(), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_how_long() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("made"), Duration::from_secs(90)).unwrap();
        let text = std::fs::read_to_string(dir.path().join("made").join(OWN_SETTINGS)).unwrap();
        assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=90\n"), "{text}");
        let (path, _) = write(Path::new("/dev/null/x"), Duration::ZERO).unwrap_err();
        assert_eq!(path, Path::new("/dev/null/x").join(OWN_SETTINGS));
    }
}
