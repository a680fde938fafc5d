//! ExecPolicy between the domain and the wire.

use lattice_policy::{
    Entry, ExecPolicy, FailSemantics, FileDigest, FilePath, ImageDigest, InvalidPolicy, MapRule, Target, UnknownWord,
    validity::MAX_ENTRIES,
};

use crate::v1;

const SENDER_ADVICE: &str = "Sender and receiver may be of different releases: compare `latticectl status` of both.";

impl From<&ExecPolicy> for v1::ExecPolicy {
    fn from(policy: &ExecPolicy) -> Self {
        Self {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            target: Some(v1::Target {
                workload: policy.target.workload.clone(),
                container: policy.target.container.clone(),
                image_digest: policy.target.image_digest.map(|digest| digest.to_string()),
            }),
            mode: policy.mode.to_string(),
            fail: Some(v1::FailSemantics {
                unresolved: policy.fail.unresolved.to_string(),
                unknown: policy.fail.unknown.to_string(),
                map_full: policy.fail.map_full.to_string(),
                missing: policy.fail.missing.to_string(),
            }),
            code_loading: policy.code_loading.to_string(),
            scope: policy.scope.to_string(),
            generation: policy.generation,
            entries: policy.entries.iter().map(v1::Entry::from).collect(),
            map: policy.map.iter().map(v1::MapRule::from).collect(),
        }
    }
}

impl From<&Entry> for v1::Entry {
    fn from(entry: &Entry) -> Self {
        Self {
            path: entry.path.as_bytes().to_vec(),
            sha256: entry.sha256.map(|digest| digest.0.to_vec()).unwrap_or_default(),
            real_path: entry.real_path.as_ref().map(|path| path.as_bytes().to_vec()),
            size_bytes: entry.size_bytes,
            kind: entry.kind.map(|kind| kind.to_string()),
            roles: entry.roles.iter().map(ToString::to_string).collect(),
            from: entry.from.to_string(),
            applets: entry.applets.clone(),
            because: entry.because.clone(),
        }
    }
}

impl From<&MapRule> for v1::MapRule {
    fn from(rule: &MapRule) -> Self {
        Self {
            path: rule
                .path
                .as_ref()
                .map(|path| path.as_bytes().to_vec())
                .unwrap_or_default(),
            sha256: rule.sha256.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::ExecPolicy> for ExecPolicy {
    type Error = InvalidPolicy;

    /// Nothing has a default on the wire: the sender writes every field that is not `optional`.
    ///
    /// # Errors
    /// The first field that is missing, unknown, or against what every policy must hold ([`ExecPolicy::check`]).
    fn try_from(message: v1::ExecPolicy) -> Result<Self, InvalidPolicy> {
        for (field, count) in [("spec.entries", message.entries.len()), ("spec.map", message.map.len())] {
            // Before anything is converted, so that a hostile message costs no more than its own bytes.
            if count > MAX_ENTRIES {
                let text = format!("the list has {count} items, more than the {MAX_ENTRIES} that are held");
                return Err(InvalidPolicy::new(field, "", text, "Make the list shorter."));
            }
        }
        let target = required("spec.target", message.target)?;
        let fail = required("spec.fail", message.fail)?;
        let policy = Self {
            namespace: message.namespace,
            name: message.name,
            target: Target {
                workload: target.workload,
                container: target.container,
                image_digest: target.image_digest.map(|text| image_digest(&text)).transpose()?,
            },
            mode: word("spec.mode", &message.mode)?,
            fail: FailSemantics {
                unresolved: word("spec.fail.unresolved", &fail.unresolved)?,
                unknown: word("spec.fail.unknown", &fail.unknown)?,
                map_full: word("spec.fail.mapFull", &fail.map_full)?,
                missing: word("spec.fail.missing", &fail.missing)?,
            },
            code_loading: word("spec.codeLoading", &message.code_loading)?,
            scope: word("spec.scope", &message.scope)?,
            generation: message.generation,
            entries: message
                .entries
                .into_iter()
                .enumerate()
                .map(entry)
                .collect::<Result<_, _>>()?,
            map: message
                .map
                .into_iter()
                .enumerate()
                .map(map_rule)
                .collect::<Result<_, _>>()?,
        };
        match policy.check() {
            Ok(()) => Ok(policy),
            Err(mut faults) => Err(faults.swap_remove(0)),
        }
    }
}

fn entry((index, message): (usize, v1::Entry)) -> Result<Entry, InvalidPolicy> {
    let field = |name: &str| format!("spec.entries[{index}].{name}");
    let roles = message.roles.iter().enumerate();
    Ok(Entry {
        path: FilePath::from_bytes(message.path),
        sha256: file_digest(&field("sha256"), &message.sha256)?,
        real_path: message.real_path.map(FilePath::from_bytes),
        size_bytes: message.size_bytes,
        kind: message.kind.map(|kind| word(&field("kind"), &kind)).transpose()?,
        roles: roles
            .map(|(role_index, role)| word(&field(&format!("roles[{role_index}]")), role))
            .collect::<Result<_, _>>()?,
        from: word(&field("from"), &message.from)?,
        applets: message.applets,
        because: message.because,
    })
}

fn map_rule((index, message): (usize, v1::MapRule)) -> Result<MapRule, InvalidPolicy> {
    Ok(MapRule {
        path: (!message.path.is_empty()).then(|| FilePath::from_bytes(message.path)),
        sha256: file_digest(&format!("spec.map[{index}].sha256"), &message.sha256)?,
    })
}

fn required<T>(field: &str, message: Option<T>) -> Result<T, InvalidPolicy> {
    message.ok_or_else(|| InvalidPolicy::new(field, "", "the message has no such field", SENDER_ADVICE))
}

fn word<T: std::str::FromStr<Err = UnknownWord>>(field: &str, text: &str) -> Result<T, InvalidPolicy> {
    text.parse().map_err(|error: UnknownWord| {
        InvalidPolicy::new(
            field,
            text,
            format!("this value is none of: {}", error.known),
            SENDER_ADVICE,
        )
    })
}

fn file_digest(field: &str, bytes: &[u8]) -> Result<Option<FileDigest>, InvalidPolicy> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = bytes.try_into().map_err(|_| {
        let text = format!("a SHA-256 digest has 32 bytes, not {}", bytes.len());
        InvalidPolicy::new(field, "", text, SENDER_ADVICE)
    })?;
    Ok(Some(FileDigest(digest)))
}

fn image_digest(text: &str) -> Result<ImageDigest, InvalidPolicy> {
    text.parse().map_err(|_| {
        let message = "this is not sha256: and 64 lower-case hexadecimal digits";
        InvalidPolicy::new("spec.target.imageDigest", text, message, SENDER_ADVICE)
    })
}
