//! What a node offers, as a JSON document of a stable form: `lattice-agent probe -o json` and `latticectl doctor -o json`.
//!
//! It is versioned by `apiVersion`; within a version, fields and words are only ever added. What is empty is left out.

use std::{fmt, str::FromStr};

use lattice_policy::escape::{for_terminal, json_for_terminal};
use serde::{Deserialize, Serialize};

use crate::v1;

/// Group and version of the document.
const API_VERSION: &str = "lattice.dev/v1alpha1";
/// Its kind.
const KIND: &str = "NodeReport";

/// What trying brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingResult {
    /// It works.
    Offered,
    /// It works in part.
    Limited,
    /// It does not work.
    Missing,
    /// It could not be tried.
    Unknown,
}

impl FindingResult {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Offered, Self::Limited, Self::Missing, Self::Unknown];

    /// The word that stands for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for FindingResult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// A word that is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of offered, limited, missing and unknown")]
pub struct UnknownResult(String);

impl FromStr for FindingResult {
    type Err = UnknownResult;

    /// # Errors
    /// When it is none of the words.
    fn from_str(word: &str) -> Result<Self, UnknownResult> {
        let found = Self::ALL.into_iter().find(|result| result.word() == word);
        found.ok_or_else(|| UnknownResult(word.chars().take(80).collect()))
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in node_report.proto")]
pub struct NodeReportDocument {
    pub api_version: String,
    pub kind: String,
    pub node: String,
    pub kernel_release: String,
    pub architecture: String,
    pub agent_version: String,
    pub tier: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_tier: Option<u32>,
    pub findings: Vec<FindingDocument>,
    pub not_refused: Vec<NotRefusedDocument>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in node_report.proto")]
pub struct FindingDocument {
    pub check: String,
    pub result: String,
    pub found: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub consequence: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// One thing that the tier lets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each field is documented in node_report.proto")]
pub struct NotRefusedDocument {
    pub what: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Why text is no report.
#[derive(Debug, thiserror::Error)]
pub enum NodeReportError {
    /// Not the JSON.
    #[error("it is no report in JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// Another document, or of another version.
    #[error("it is a {kind:?} of {api_version:?}, not a {KIND} of {API_VERSION}")]
    Kind {
        /// What it says it is.
        kind: String,
        /// Of which version.
        api_version: String,
    },
}

/// The report as a JSON document over several lines.
pub fn to_json(report: &v1::NodeReport) -> String {
    // The document is made of strings, numbers, lists and structs, which JSON can always say.
    let json = serde_json::to_string_pretty(&NodeReportDocument::from(report.clone()))
        .expect("plain structs of strings, numbers and lists can be written as JSON");
    json_for_terminal(&json)
}

/// Reads what [`to_json`] wrote, also in a later release of the same version.
///
/// # Errors
/// When it is not JSON of that form, or of another kind or version.
pub fn from_json(text: &[u8]) -> Result<v1::NodeReport, NodeReportError> {
    let document: NodeReportDocument = serde_json::from_slice(text).map_err(NodeReportError::Json)?;
    if document.kind != KIND || document.api_version != API_VERSION {
        let short = |text: String| text.chars().take(80).collect();
        return Err(NodeReportError::Kind {
            kind: short(document.kind),
            api_version: short(document.api_version),
        });
    }
    Ok(document.into())
}

/// What a report comes to, as an exit code: 0 this node can enforce, 1 it cannot, 2 it could not be found out.
pub fn exit_code(report: &v1::NodeReport) -> u8 {
    let result_of = |check: &str| {
        let found = report.findings.iter().find(|finding| finding.check == check);
        found.and_then(|finding| finding.result.parse().ok())
    };
    match report.tier {
        0 if result_of("cgroups") == Some(FindingResult::Missing) => 1,
        0 if [result_of("bpf-lsm"), result_of("floor")].contains(&Some(FindingResult::Unknown)) => 2,
        0 => 1,
        _ => 0,
    }
}

/// What a tier means, in a line.
pub fn tier_sentence(tier: u32) -> &'static str {
    match tier {
        0 => "no tier",
        1 => "tier 1: BPF LSM refuses, before a program starts",
        2 => "tier 2: no BPF LSM here; what is not allowed is killed before its first instruction",
        _ => "a tier that this release does not know",
    }
}

/// The report for people, safe for a terminal: each finding with what follows and what to change, then what is not refused.
pub fn to_text(report: &v1::NodeReport) -> String {
    let tier = match exit_code(report) {
        0 => tier_sentence(report.tier),
        1 => "no tier: nothing can be enforced here",
        _ => "it could not be found out which tier this node has",
    };
    let mut lines = vec![format!("{}: {tier}", report.node)];
    if let Some(active) = report.active_tier {
        lines.push(format!("the agent runs, in tier {active}"));
    }
    lines.push(String::new());
    for finding in &report.findings {
        lines.push(format!(
            "{:<8}  {:<12}  {}",
            finding.result, finding.check, finding.found
        ));
        for (label, text) in [("follows", &finding.consequence), ("change", &finding.advice)] {
            if !text.is_empty() {
                lines.push(format!("{:24}{label}: {text}", ""));
            }
        }
    }
    if !report.not_refused.is_empty() {
        lines.push(String::new());
        lines.push(format!("Not refused in tier {} (docs/kernel-support.md):", report.tier));
        for item in &report.not_refused {
            lines.push(format!("* {}", item.what));
            if !item.why.is_empty() {
                lines.push(format!("  {}", item.why));
            }
        }
    }
    let safe: Vec<String> = lines.iter().map(|line| for_terminal(line)).collect();
    safe.join("\n")
}

impl From<v1::NodeReport> for NodeReportDocument {
    fn from(report: v1::NodeReport) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: KIND.into(),
            node: report.node,
            kernel_release: report.kernel_release,
            architecture: report.architecture,
            agent_version: report.agent_version,
            tier: report.tier,
            active_tier: report.active_tier,
            findings: report.findings.into_iter().map(Into::into).collect(),
            not_refused: report.not_refused.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<NodeReportDocument> for v1::NodeReport {
    fn from(document: NodeReportDocument) -> Self {
        Self {
            node: document.node,
            kernel_release: document.kernel_release,
            architecture: document.architecture,
            agent_version: document.agent_version,
            tier: document.tier,
            active_tier: document.active_tier,
            findings: document.findings.into_iter().map(Into::into).collect(),
            not_refused: document.not_refused.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::Finding> for FindingDocument {
    fn from(finding: v1::Finding) -> Self {
        Self {
            check: finding.check,
            result: finding.result,
            found: finding.found,
            consequence: finding.consequence,
            advice: finding.advice,
        }
    }
}

impl From<FindingDocument> for v1::Finding {
    fn from(document: FindingDocument) -> Self {
        Self {
            check: document.check,
            result: document.result,
            found: document.found,
            consequence: document.consequence,
            advice: document.advice,
        }
    }
}

impl From<v1::NotRefused> for NotRefusedDocument {
    fn from(not_refused: v1::NotRefused) -> Self {
        Self {
            what: not_refused.what,
            why: not_refused.why,
        }
    }
}

impl From<NotRefusedDocument> for v1::NotRefused {
    fn from(document: NotRefusedDocument) -> Self {
        Self {
            what: document.what,
            why: document.why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> v1::NodeReport {
        v1::NodeReport {
            node: "worker-1".into(),
            kernel_release: "6.12.1".into(),
            architecture: "x86_64".into(),
            agent_version: "0.1.0".into(),
            tier: 2,
            active_tier: None,
            findings: vec![v1::Finding {
                check: "bpf-lsm".into(),
                result: FindingResult::Missing.word().into(),
                found: "refused".into(),
                ..v1::Finding::default()
            }],
            not_refused: vec![v1::NotRefused {
                what: "a script on a volume".into(),
                why: String::new(),
            }],
        }
    }

    #[test]
    fn json_of_a_report_is_stable_and_read_back() {
        let expected = r#"{
  "apiVersion": "lattice.dev/v1alpha1",
  "kind": "NodeReport",
  "node": "worker-1",
  "kernelRelease": "6.12.1",
  "architecture": "x86_64",
  "agentVersion": "0.1.0",
  "tier": 2,
  "findings": [
    {
      "check": "bpf-lsm",
      "result": "missing",
      "found": "refused"
    }
  ],
  "notRefused": [
    {
      "what": "a script on a volume"
    }
  ]
}"#;
        assert_eq!(to_json(&report()), expected);
        assert_eq!(from_json(expected.as_bytes()).unwrap(), report());
        // A later release may say more.
        let later = expected.replacen('{', "{\n  \"more\": 1,", 1);
        assert_eq!(from_json(later.as_bytes()).unwrap(), report());
    }

    #[test]
    fn text_says_what_follows_and_what_to_change() {
        let mut report = report();
        report.findings[0].consequence = "tier 1 cannot be had".into();
        report.findings[0].advice = "boot with lsm=bpf\u{7}".into();
        report.active_tier = Some(2);
        assert_eq!(
            to_text(&report),
            "worker-1: tier 2: no BPF LSM here; what is not allowed is killed before its first instruction\n\
             the agent runs, in tier 2\n\
             \n\
             missing   bpf-lsm       refused\n\
             \x20                       follows: tier 1 cannot be had\n\
             \x20                       change: boot with lsm=bpf\\x07\n\
             \n\
             Not refused in tier 2 (docs/kernel-support.md):\n\
             * a script on a volume"
        );
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let error = from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn other_documents_are_refused() {
        let json = to_json(&report());
        check_refused("tier 2: this kernel refuses BPF LSM", "no report in JSON");
        check_refused(&json.replace("NodeReport", "Status"), "is a \"Status\"");
        check_refused(&json.replace("v1alpha1", "v2"), "of \"lattice.dev/v2\"");
        check_refused(&json.replace("\"tier\": 2", "\"tier\": -1"), "expected u32 at line 8");
    }

    #[test]
    fn results_are_read_as_they_are_written() {
        for result in FindingResult::ALL {
            assert_eq!(result.word().parse(), Ok(result));
        }
        assert!("".parse::<FindingResult>().is_err());
    }

    fn report_of(tier: u32, findings: &[(&str, FindingResult)]) -> v1::NodeReport {
        v1::NodeReport {
            tier,
            findings: findings
                .iter()
                .map(|(check, result)| v1::Finding {
                    check: (*check).into(),
                    result: result.word().into(),
                    ..v1::Finding::default()
                })
                .collect(),
            ..v1::NodeReport::default()
        }
    }

    #[test]
    fn no_and_not_found_out_are_two_things() {
        use FindingResult::{Limited, Missing, Offered, Unknown};
        let check = |tier, findings: &[_], expected| assert_eq!(exit_code(&report_of(tier, findings)), expected);
        check(1, &[("bpf-lsm", Offered), ("nri", Missing)], 0);
        check(2, &[("bpf-lsm", Missing), ("floor", Offered)], 0);
        check(2, &[("bpf-lsm", Unknown), ("floor", Offered)], 0);
        check(0, &[("bpf-lsm", Missing), ("floor", Missing)], 1);
        check(0, &[("bpf-lsm", Limited), ("floor", Unknown)], 2);
        check(0, &[("bpf-lsm", Unknown)], 2);
        check(0, &[("cgroups", Missing)], 1);
    }
}
