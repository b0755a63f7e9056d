//! What a user is asked before a plugin gets more than the API server.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use kubewasm_plugin::{AccessRules, ConsentNeeded, PluginName, PluginWishes};

use super::PluginSession;

/// Asks on a terminal; elsewhere what is needed must have been said before.
///
/// # Errors
/// When the answer is no, or there is nobody to ask. Nothing is to be changed then.
pub(super) fn ask(
    session: &PluginSession,
    name: &PluginName,
    needed: &ConsentNeeded,
    wishes: &PluginWishes,
    agrees: bool,
) -> anyhow::Result<()> {
    if needed.is_nothing() || agrees {
        return Ok(());
    }
    let wants = wants(needed, wishes);
    let is_asked = session.modules.is_for_people() && io::stdin().is_terminal() && io::stderr().is_terminal();
    if !is_asked {
        bail!(
            "{name} wants more than it has, and there is nobody to ask; nothing was changed. It wants to\n{wants}\nAgree with --grant, or to all of it with --yes"
        );
    }
    let mut terminal = io::stderr().lock();
    write!(terminal, "{name} wants to\n{wants}\nMay it? [y/N] ").context("cannot ask")?;
    terminal.flush().context("cannot ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("{name} may not; nothing was changed"),
    }
}

/// What is wanted, a line for each.
fn wants(needed: &ConsentNeeded, wishes: &PluginWishes) -> String {
    let mut lines: Vec<_> =
        needed.grants.iter().map(|grant| format!("  {} (--grant {grant})", grant.meaning())).collect();
    if needed.more_access {
        lines.push(format!(
            "  ask the API server, as you, to {}",
            requests(wishes.access.as_ref(), ", and to ")
        ));
    }
    lines.join("\n")
}

/// What a plugin may ask of the API server, in words.
pub(super) fn requests(access: Option<&AccessRules>, between: &str) -> String {
    match access {
        None => "do all that you may do".to_owned(),
        Some(access) if access.rules().is_empty() => "do nothing".to_owned(),
        Some(access) => access.rules().iter().map(ToString::to_string).collect::<Vec<_>>().join(between),
    }
}
