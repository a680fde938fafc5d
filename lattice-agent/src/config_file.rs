//! `--config FILE`: the settings of `run` in TOML, whose keys are the names of the flags. Flags win.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command, CommandFactory as _, parser::ValueSource};
use toml::{Spanned, Value};

use crate::cli::Arguments;

const SUBCOMMAND: &str = "run";
/// Flags that are about the command line itself.
const NO_SETTINGS: [&str; 3] = ["config", "help", "version"];

/// Why a file of settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read.
    #[error("--config {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or has a key or a value that is none.
    #[error("{}:{line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, with the key.
        problem: String,
    },
}

/// The command line with what the file says put behind it, save for what the command line says itself.
///
/// # Errors
/// When the file cannot be read, or has something that is no setting.
pub(crate) fn with_file(given: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    // Whatever is wrong with the command line is said when all of it is there.
    let command = Arguments::command();
    let Ok(matches) = command.clone().ignore_errors(true).try_get_matches_from(&given) else {
        return Ok(given);
    };
    let (Some(run), Some((SUBCOMMAND, found))) = (command.find_subcommand(SUBCOMMAND), matches.subcommand()) else {
        return Ok(given);
    };
    let Some(path) = found.get_one::<PathBuf>("config") else {
        return Ok(given);
    };
    let is_given = |argument: &Arg| found.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.clone(),
        source,
    })?;
    let mut all = given;
    all.extend(flags(run, path, &text, is_given)?);
    Ok(all)
}

fn flags(
    run: &Command,
    path: &Path,
    text: &str,
    is_given: impl Fn(&Arg) -> bool,
) -> Result<Vec<OsString>, ConfigError> {
    let invalid = |offset: usize, problem: String| ConfigError::Invalid {
        path: path.to_owned(),
        line: 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count(),
        problem,
    };
    let table: BTreeMap<Spanned<String>, Value> = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        invalid(offset, error.message().to_owned())
    })?;
    let mut flags = Vec::new();
    for (key, value) in &table {
        let (name, offset) = (key.get_ref(), key.span().start);
        let argument = run
            .get_arguments()
            .find(|argument| argument.get_long() == Some(name) && !NO_SETTINGS.contains(&name.as_str()));
        let Some(argument) = argument else {
            return Err(invalid(
                offset,
                format!("`{name}` is no setting; `lattice-agent run --help` lists them, without the dashes"),
            ));
        };
        let wrong = |wanted: &str| invalid(offset, format!("`{name}` must be {wanted}, and is {value}"));
        let values = match (argument.get_action(), value) {
            (ArgAction::SetTrue, Value::Boolean(is_set)) => {
                if *is_set && !is_given(argument) {
                    flags.push(format!("--{name}").into());
                }
                continue;
            }
            (ArgAction::SetTrue, _) => return Err(wrong("true or false")),
            (ArgAction::Append, Value::Array(values)) => values.iter().collect(),
            (_, value) => vec![value],
        };
        for value in values {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                _ => {
                    return Err(wrong(
                        "a text or a number, or a list of them where the flag may be repeated",
                    ));
                }
            };
            if !is_given(argument) {
                flags.push(format!("--{name}={value}").into());
            }
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{self, Settings};

    fn parse(text: &str, given: &[&str]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        let mut command_line: Vec<OsString> = ["lattice-agent", "run"].map(Into::into).into();
        command_line.push(format!("--config={}", path.display()).into());
        command_line.extend(given.iter().map(Into::into));
        let all = with_file(command_line).map_err(|error| {
            let text = error.to_string();
            text.replace(&folder.path().display().to_string(), "…")
        })?;
        match Arguments::try_parse_from(all)
            .map_err(|error| error.to_string())?
            .command
        {
            cli::Command::Run(settings) => Ok(*settings),
            _ => Err("another command".to_owned()),
        }
    }

    #[test]
    fn the_file_has_what_flags_have_and_flags_win() {
        let text = "policies = \"/a\"\nspool-size = 7\ncgroup = [\"/c=n/w/c\", \"/d=n/w/d\"]\nallow-bpf = \"one\"\n\
                    denylist = \"/list\"\nkill-denied = true\nunknown = \"kill\"\n";
        let settings = parse(text, &[]).unwrap();
        assert_eq!(settings.policies.unwrap(), Path::new("/a"));
        assert_eq!((settings.spool_size, settings.kill_denied), (7, true));
        assert_eq!(settings.cgroup, ["/c=n/w/c", "/d=n/w/d"]);
        assert_eq!(settings.allow_bpf, ["one"]);
        let settings = parse(text, &["--policies", "/b", "--cgroup", "/e=n/w/e", "--spool-size=9"]).unwrap();
        assert_eq!(settings.policies.unwrap(), Path::new("/b"));
        assert_eq!((settings.spool_size, settings.cgroup), (9, vec!["/e=n/w/e".to_owned()]));
        // What one flag demands may be in the file.
        let text = "client-cert = \"c\"\nclient-key = \"k\"\nca = \"a\"\n";
        assert!(parse(text, &["--central", "https://central:7443"]).is_ok());
        assert!(parse("", &["--central", "https://central:7443"]).is_err());
    }

    #[test]
    fn every_flag_is_a_key() {
        let command = Arguments::command();
        let run = command.find_subcommand(SUBCOMMAND).unwrap();
        for argument in run.get_arguments() {
            let Some(name) = argument.get_long().filter(|name| !NO_SETTINGS.contains(name)) else {
                continue;
            };
            let value = match argument.get_action() {
                ArgAction::SetTrue => "true",
                ArgAction::Set | ArgAction::Append => "\"1\"",
                other => panic!("--{name} is {other:?}, which no file can say"),
            };
            let text = format!("{name} = {value}");
            let flags = flags(run, Path::new("agent.toml"), &text, |_| false).unwrap();
            assert_eq!(flags.len(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_no_setting_is_named_with_its_line() {
        for (text, expected) in [
            (
                "policies = \"/a\"\n\npolices = \"/b\"\n",
                "…/agent.toml:3: `polices` is no setting; `lattice-agent run --help` lists them, without the dashes",
            ),
            (
                "config = \"/other\"",
                "…/agent.toml:1: `config` is no setting; `lattice-agent run --help` lists them, without the dashes",
            ),
            (
                "kill-denied = 1",
                "…/agent.toml:1: `kill-denied` must be true or false, and is 1",
            ),
            (
                "\nnode = [\"a\"]",
                "…/agent.toml:2: `node` must be a text or a number, or a list of them where the flag may be repeated, and is [\"a\"]",
            ),
        ] {
            assert_eq!(parse(text, &[]).err().as_deref(), Some(expected), "{text}");
        }
        assert!(parse("node = ", &[]).err().unwrap().starts_with("…/agent.toml:1: "));
        assert!(parse("spool-size = 0", &[]).err().unwrap().contains("--spool-size"));
        let missing = with_file(
            ["lattice-agent", "run", "--config", "/nowhere/agent.toml"]
                .map(Into::into)
                .into(),
        );
        assert!(
            missing
                .unwrap_err()
                .to_string()
                .contains("--config /nowhere/agent.toml")
        );
    }
}
