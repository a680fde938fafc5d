//! Everything that runs while the demo plays. Fields end in their order: first who depends, last what is depended on.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    agent::Agent,
    attacker::Attacker,
    central::Central,
    containerd::Containerd,
    events::{Events, Since},
    expectations::EXPECTATIONS,
    http, interrupt,
    place::Place,
    progress,
    registry::Registry,
    report::{EventSeen, Observation, Report, WaitStatus},
};

/// The container whose service is attacked.
pub(super) const SERVICE: &str = "payment-service-1";
/// A second replica: in its writable layer the ELF interpreter gets replaced, after which it is good for nothing else.
pub(super) const REPLICA: &str = "payment-service-2";

pub(super) struct World {
    pub(super) events: Events,
    pub(super) agent: Agent,
    pub(super) containerd: Containerd,
    pub(super) central: Central,
    pub(super) registry: Registry,
    pub(super) attacker: Attacker,
    pub(super) place: Place,
    pub(super) report: Report,
}

impl Drop for World {
    fn drop(&mut self) {
        interrupt::disregard();
    }
}

/// What happened when something was tried.
pub(super) struct Try {
    pub(super) status: WaitStatus,
    pub(super) facts: Vec<(&'static str, String)>,
}

impl World {
    /// Tries something, and notes how it ended, whether the canary left its mark, and which events came.
    ///
    /// # Errors
    ///
    /// Where it could not be tried.
    pub(super) fn attempt(
        &mut self,
        name: &'static str,
        mark: Option<&str>,
        act: impl FnOnce(&mut Self) -> Result<Try>,
    ) -> Result<()> {
        let since = self.events.now()?;
        if let Some(mark) = mark {
            self.clear_mark(mark)?;
        }
        let Try { status, facts } = act(self)?;
        self.note(name, since, mark, status, facts)
    }

    /// The second half of [`attempt`](Self::attempt), for what needs its own first half.
    ///
    /// # Errors
    ///
    /// Where events cannot be read.
    pub(super) fn note(
        &mut self,
        name: &'static str,
        since: Since,
        mark: Option<&str>,
        status: WaitStatus,
        facts: Vec<(&'static str, String)>,
    ) -> Result<()> {
        progress::say(&format!("→ {status}"));
        let mut events = Vec::new();
        for expectation in EXPECTATIONS.iter().filter(|expectation| expectation.name == name) {
            for wanted in expectation.events {
                let event = self
                    .events
                    .find(since, |event| is_about(event, wanted.path, wanted.role))?;
                events.push(event);
            }
            if expectation.is_silent {
                events.push(self.events.find_unwanted(since, |_| true)?);
            }
        }
        let events: Vec<Option<EventSeen>> = events
            .iter()
            .map(|event| event.as_ref().map(EventSeen::from_document))
            .collect();
        for event in events.iter().flatten() {
            progress::say(&format!("event {}: {}", event.sequence, event.message));
        }
        // After the events: whatever was going to leave a mark has done so by then.
        let mark = mark.map(|mark| self.containerd.marks().join(mark).exists());
        if let Some(left) = mark {
            progress::say(if left {
                "the canary left its mark"
            } else {
                "the canary left no mark"
            });
        }
        self.observe(
            name,
            Observation {
                status: Some(status),
                mark,
                events,
                facts,
            },
        );
        Ok(())
    }

    /// Notes facts alone.
    pub(super) fn note_facts(&mut self, name: &'static str, facts: Vec<(&'static str, String)>) {
        self.observe(
            name,
            Observation {
                facts,
                ..Observation::default()
            },
        );
    }

    fn observe(&mut self, name: &'static str, observation: Observation) {
        for difference in self.report.observe(name, observation) {
            progress::say(&format!("NOT AS EXPECTED: {difference}"));
        }
    }

    fn clear_mark(&self, mark: &str) -> Result<()> {
        let path = self.containerd.marks().join(mark);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// An exec session in a container.
    ///
    /// # Errors
    ///
    /// Where `ctr` cannot be run.
    pub(super) fn exec(&self, container: &str, program: &[&str]) -> Result<Try> {
        progress::say(&format!("$ ctr task exec … {container} {}", shown(program)));
        let session = self.containerd.exec(container, program)?;
        progress::quote(&session.stdout);
        progress::quote(&session.stderr);
        Ok(Try {
            status: session.status,
            facts: vec![("output", session.stdout.trim().to_owned())],
        })
    }

    /// As [`exec`](Self::exec), and how often the attacker's server was asked meanwhile.
    ///
    /// # Errors
    ///
    /// Where `ctr` cannot be run.
    pub(super) fn exec_counting_downloads(&self, container: &str, program: &[&str]) -> Result<Try> {
        let before = self.attacker.downloads();
        let mut tried = self.exec(container, program)?;
        tried.facts = vec![("downloads", (self.attacker.downloads() - before).to_string())];
        Ok(tried)
    }

    /// Waits until the newest policies and modes are with the agent.
    ///
    /// # Errors
    ///
    /// Where they do not get there.
    pub(super) fn wait_for_container(&self, container: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = interrupt::wait_for(Duration::from_secs(30), || {
            let status = self.agent_status()?;
            let containers = status["containers"].as_array().cloned().unwrap_or_default();
            let found = containers.into_iter().find(|item| item["containerId"] == container);
            last = found.clone().unwrap_or(status);
            Ok(found.filter(&accept))
        })?;
        match found {
            Some(container) => Ok(container),
            None => bail!("container {container} is not as it should be at the agent: {last}"),
        }
    }

    /// What the agent itself says.
    ///
    /// # Errors
    ///
    /// Where it cannot be asked.
    pub(super) fn agent_status(&self) -> Result<Value> {
        let socket = self.place.socket("agent").display().to_string();
        self.central.ask_agent(&socket, &["status"])
    }

    /// Shows what a person on the node would see.
    ///
    /// # Errors
    ///
    /// Where the agent cannot be asked.
    pub(super) fn show_agent_status(&self) -> Result<()> {
        let socket = self.place.socket("agent").display().to_string();
        self.central.show(&["--agent", &socket, "status"])
    }

    /// The HTTP status of the server's health page.
    pub(super) fn healthz(&self, listen: &str) -> String {
        match http::get(&format!("http://{listen}/healthz"), "*/*") {
            Ok(answer) => answer.status.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// # Errors
    ///
    /// Where the server does not come up.
    pub(super) fn wait_for_server(&self, listen: &str) -> Result<()> {
        let up = interrupt::wait_for(Duration::from_secs(20), || {
            Ok((self.healthz(listen) == "200").then_some(()))
        })?;
        match up {
            Some(()) => Ok(()),
            None => bail!("the server at {listen} does not answer: {}", self.healthz(listen)),
        }
    }

    /// The second hole of the server: writes a file in its container.
    ///
    /// # Errors
    ///
    /// Where the server does not do it.
    pub(super) fn upload(&self, listen: &str, path: &str, content: &[u8]) -> Result<()> {
        progress::say(&format!(
            "$ curl --data-binary @file http://{listen}/upload?path={path}"
        ));
        let answer = http::post(&format!("http://{listen}/upload?path={path}"), content)?;
        if answer.status != 200 {
            bail!("the server could not write {path}: {}", answer.body.trim());
        }
        Ok(())
    }

    /// The first hole of the server: lets it start a shell.
    ///
    /// # Errors
    ///
    /// Where the server does not answer.
    pub(super) fn convert(&self, listen: &str, line: &str) -> Result<Try> {
        progress::say(&format!("$ curl --data '{line}' http://{listen}/convert"));
        let answer = http::post(&format!("http://{listen}/convert"), line.as_bytes())?;
        let (end, output) = answer.body.split_once('\n').unwrap_or((&answer.body, ""));
        progress::quote(&answer.body);
        let number = |text: &str| text.parse().context("the server did not say how its shell ended");
        let status = match end.split_once(' ') {
            Some(("exited", code)) => WaitStatus::from_exit_code(number(code)?),
            Some(("signal", signal)) => WaitStatus::Signal(number(signal)?),
            _ => WaitStatus::NotStarted(end.to_owned()),
        };
        Ok(Try {
            status,
            facts: vec![("output", output.trim().to_owned())],
        })
    }
}

/// Lets a moment pass in which an unwanted thing would happen.
///
/// # Errors
///
/// Where the demo was asked to stop.
pub(super) fn pause(time: Duration) -> Result<()> {
    thread::sleep(time);
    interrupt::check()
}

fn is_about(event: &Value, path: &str, role: &str) -> bool {
    let violation = &event["violation"];
    let ends_so = |field: &str| {
        let found = violation[field].as_str().unwrap_or_default();
        // A whole name at the end: `sh` is in /bin/sh, not in /bin/dash.
        found == path || found.ends_with(path) && (path.starts_with('/') || found.ends_with(&format!("/{path}")))
    };
    // A tracepoint sees which file was mapped as ELF interpreter, and not by which path.
    let is_nameless = role == "elf-interpreter" && ["path", "pathAsPassed"].iter().all(|field| violation[*field] == "");
    violation["role"] == role && (is_nameless || ends_so("path") || ends_so("pathAsPassed"))
}

fn shown(program: &[&str]) -> String {
    let quoted = program.iter().map(|word| {
        if word.contains(' ') {
            format!("'{word}'")
        } else {
            (*word).to_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(path: &str, as_passed: &str, wanted: &str, expected: bool) {
        let event = json!({"violation": {"role": "target", "path": path, "pathAsPassed": as_passed}});
        assert_eq!(
            is_about(&event, wanted, "target"),
            expected,
            "{path} {as_passed} {wanted}"
        );
        assert!(!is_about(&event, wanted, "elf-interpreter"));
    }

    #[test]
    fn events_are_found_by_whole_names() {
        check("/usr/bin/dash", "/bin/sh", "sh", true);
        check("/usr/bin/dash", "/usr/bin/dash", "sh", false);
        check("/usr/bin/wget", "/usr/bin/wget", "/usr/bin/wget", true);
        check("/usr/bin/wget2", "wget2", "/usr/bin/wget", false);
        check("", "", "sh", false);
    }
}
