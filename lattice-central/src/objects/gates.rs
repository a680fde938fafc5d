//! The Cedar policies: together the last good set, whatever they were read from.

use std::{collections::BTreeMap, sync::Arc};

use super::last_good::LastGood;
use crate::gate::{Gate, PolicySource};

/// The Cedar policies are kept together, since only the set as a whole was good; nothing that is read has such a name.
pub(super) const KEPT_AS: &str = "policies.cedar";

/// The last good set, and what is wrong with a newer one.
pub(super) struct Gates {
    /// `None` before the first look: then no policies is a change too, from those that were kept.
    texts: Option<BTreeMap<String, String>>,
    unreadable: BTreeMap<String, String>,
    gate: Arc<Gate>,
    problems: BTreeMap<String, Vec<String>>,
}

impl Gates {
    /// Those that were good last, before a restart; without any, everything is denied.
    pub(super) fn of_before(last_good: &LastGood) -> Self {
        let kept: Option<BTreeMap<String, String>> = last_good
            .read(KEPT_AS)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let gate = Gate::read(&sources(&kept.unwrap_or_default())).unwrap_or_default();
        Self {
            texts: None,
            unreadable: BTreeMap::new(),
            gate: Arc::new(gate),
            problems: BTreeMap::new(),
        }
    }

    /// Takes what was found now: texts, and why others could not be read, each by what holds it. Whether anything is different.
    pub(super) fn take(
        &mut self,
        texts: BTreeMap<String, String>,
        unreadable: BTreeMap<String, String>,
        last_good: &LastGood,
    ) -> bool {
        if self.texts.as_ref() == Some(&texts) && unreadable == self.unreadable {
            return false;
        }
        let sources = sources(&texts);
        (self.texts, self.unreadable) = (Some(texts), unreadable);
        self.problems.clear();
        for (origin, problem) in &self.unreadable {
            self.problems
                .entry(origin.clone())
                .or_default()
                .push(format!("{origin}: cannot read it: {problem}"));
        }
        match Gate::read(&sources) {
            // Half a set of rules is another set of rules: a file that cannot be read may hold the forbid.
            Ok(gate) if self.unreadable.is_empty() => {
                self.gate = Arc::new(gate);
                // A map of strings has no value that JSON lacks.
                let kept = serde_json::to_vec(&self.texts).unwrap_or_default();
                last_good.keep(KEPT_AS, &kept);
            }
            Ok(_) => {}
            Err(problems) => {
                for problem in problems {
                    self.problems
                        .entry(problem.file.clone())
                        .or_default()
                        .push(problem.to_string());
                }
            }
        }
        true
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// What is wrong, by what holds the policies.
    pub(super) fn problems(&self) -> &BTreeMap<String, Vec<String>> {
        &self.problems
    }
}

fn sources(texts: &BTreeMap<String, String>) -> Vec<PolicySource> {
    texts
        .iter()
        .map(|(file, text)| PolicySource {
            file: file.clone(),
            text: text.clone(),
        })
        .collect()
}
