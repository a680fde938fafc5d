//! From a document to a policy.

use super::{
    carried,
    decision::{self, Decided, Hook, Undecided},
    hook::{self, ReadHook, Sees},
    loaders,
    notes::Notes,
    schema::{self, OTHER_HOOK},
    target::{self, Selected},
};
use crate::{
    CodeLoading, ExecPolicy, FailSemantics, Mode, Scope, Target,
    document::{Diagnostic, Field, Findings, Node, Object},
    validity::{MAX_ENTRIES, OBJECT_NAME_ADVICE, check_object_name},
};

/// No policy about the start of programs needs more hooks; each is asked about each path.
const MAX_HOOKS: usize = 16;

/// Tetragon's two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TracingPolicyKind {
    /// `TracingPolicy`: in no namespace.
    Cluster,
    /// `TracingPolicyNamespaced`: for the pods of its namespace.
    Namespaced,
}

impl TracingPolicyKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cluster, Self::Namespaced];

    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "TracingPolicy",
            Self::Namespaced => "TracingPolicyNamespaced",
        }
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A policy for Tetragon, as what Lattice enforces of it, which is all that it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingPolicy {
    /// The kind that the document has.
    pub kind: TracingPolicyKind,
    /// What it comes to.
    pub policy: ExecPolicy,
    /// Where Lattice is stricter than Tetragon, or logs otherwise, by place in the file.
    pub notes: Vec<Diagnostic>,
}

/// Reads one document whose kind is known; `None` where anything was found wrong, or cannot be represented.
pub fn read_tracing_policy(findings: &Findings, kind: TracingPolicyKind, node: &Node) -> Option<TracingPolicy> {
    let notes = Notes::new(findings.file());
    let (policy, annotation) = read_plain(findings, &notes, kind, node)?;
    match annotation {
        None => Some(TracingPolicy {
            kind,
            policy,
            notes: notes.into_diagnostics(),
        }),
        Some(field) => {
            let carried = carried::read(&field, kind, &policy)?;
            Some(TracingPolicy {
                kind,
                policy: carried,
                notes: Vec::new(),
            })
        }
    }
}

/// What the document says for Tetragon, and the annotation that may say more for Lattice.
pub(super) fn read_plain<'n>(
    findings: &'n Findings,
    notes: &Notes,
    kind: TracingPolicyKind,
    node: &'n Node,
) -> Option<(ExecPolicy, Option<Field<'n>>)> {
    let before = findings.count();
    let object = Object::root(findings, node)?;
    object.field("apiVersion");
    object.field("kind");
    let metadata = read_metadata(&object, kind);
    let spec_field = object.required("spec");
    let read = spec_field.object().map(|spec| read_spec(spec, kind, notes));
    object.finish();
    let (selected, hooks, mode_option) = read?;
    let metadata = metadata?;
    let namespace = namespace_of(&spec_field, kind, &metadata, &selected);
    if findings.count() != before {
        return None;
    }
    let because = because(kind, &metadata.name, &hooks);
    let hooks: Vec<Hook> = hooks.into_iter().map(|read| read.hook).collect();
    let named = decision::named_paths(&hooks).len();
    let decided = match named + loaders::entries().count() > MAX_ENTRIES {
        true => {
            let message = format!("the policy names {named} paths, and a list holds at most {MAX_ENTRIES} entries");
            spec_field.report(
                None,
                message,
                "Split the workload, or write an ExecPolicy with scope image.",
            );
            return None;
        }
        false => decision::decide(&hooks, &because),
    };
    let decided = match decided {
        Ok(decided) => decided,
        Err(undecided) => {
            report_undecided(&spec_field, undecided);
            return None;
        }
    };
    let message = "Tetragon does not judge loaders, and Lattice does: the usual ones of x86-64 images are allowed as such, and a program \
                   with another one is refused";
    let advice = "List the path of any other loader like a program's.";
    notes.add(&spec_field, message, advice);
    if decided.posts_allowed {
        let message =
            "Tetragon also posts an event for what is allowed; Lattice counts it, and reports only what is refused";
        notes.add(&spec_field, message, "Nothing to do.");
    }
    let policy = policy(namespace?, metadata.name, selected, decided, mode_option);
    if let Err(faults) = policy.check() {
        for fault in faults {
            findings.add_fault(node.locate(&fault.field), &fault);
        }
        return None;
    }
    Some((policy, metadata.annotation))
}

fn policy(namespace: String, name: String, selected: Selected, decided: Decided, option: Option<Mode>) -> ExecPolicy {
    let mut entries = decided.entries;
    entries.extend(
        loaders::entries()
            .filter(|loader| entries.iter().all(|entry| entry.path != loader.path))
            .collect::<Vec<_>>(),
    );
    ExecPolicy {
        namespace,
        name,
        target: Target {
            workload: selected.workload,
            container: selected.container,
            image_digest: None,
        },
        mode: option.unwrap_or(decided.mode),
        fail: FailSemantics::default(),
        // Tetragon judges no mapping at the start of a program.
        code_loading: CodeLoading::Off,
        scope: Scope::Declared,
        generation: 0,
        entries,
        map: Vec::new(),
    }
}

fn because(kind: TracingPolicyKind, name: &str, hooks: &[ReadHook]) -> Vec<String> {
    let mut because = vec![format!("{} {name}", kind.name())];
    for message in hooks.iter().filter_map(|read| read.message.as_ref()) {
        if !because.contains(message) {
            because.push(message.clone());
        }
    }
    because
}

fn report_undecided(spec: &Field<'_>, undecided: Undecided) {
    let (message, advice) = match undecided {
        Undecided::Nothing => (
            "the policy refuses no start of a program, and reports none",
            "List what may start in matchArgs with NotEqual, and give the selector the action Sigkill, Override or Post.",
        ),
        Undecided::DenylistAlone => (
            "Lattice cannot represent this: the policy names what may not start and lets everything else run, and Lattice lets nothing \
             run that is not listed; a copy of the file under another name would run",
            "List what may start with NotEqual, besides or instead; a path in both lists is refused.",
        ),
        Undecided::OpenFromOneSide => (
            "Lattice cannot represent this: programs that no list names may start from the container's own tree and not from exec \
             sessions, or the other way round",
            "List what may start with NotEqual in a selector without matchPIDs; others may narrow it.",
        ),
        Undecided::TwoModes => (
            "Lattice cannot represent this: some starts are killed and others get EPERM alone, and a policy has one mode",
            "Give all selectors the same actions: Sigkill (with or without Override), or Override alone.",
        ),
    };
    spec.report(None, message, advice);
}

struct ReadMetadata<'n> {
    name: String,
    namespace: Option<String>,
    annotation: Option<Field<'n>>,
}

fn read_metadata<'n>(object: &Object<'n>, kind: TracingPolicyKind) -> Option<ReadMetadata<'n>> {
    let metadata = object.required("metadata").object()?;
    let name_field = metadata.required("name");
    let checked = |field: &Field<'n>, is_namespace| {
        let text = field.text()?;
        match check_object_name(text, is_namespace) {
            Ok(()) => Some(text.to_owned()),
            Err(message) => {
                field.report(Some(text), message, OBJECT_NAME_ADVICE);
                None
            }
        }
    };
    let name = checked(&name_field, false);
    let namespace_field = match kind {
        TracingPolicyKind::Namespaced => metadata.required("namespace"),
        TracingPolicyKind::Cluster => metadata.field("namespace"),
    };
    let namespace = match kind {
        TracingPolicyKind::Namespaced => checked(&namespace_field, true),
        TracingPolicyKind::Cluster => {
            if !schema::is_blank(&namespace_field) {
                let advice = "Make it a TracingPolicyNamespaced, or remove the field.";
                namespace_field.report(None, "objects of this kind lie in no namespace", advice);
            }
            None
        }
    };
    let mut annotation = None;
    for map in ["labels", "annotations"] {
        if let Some(strings) = metadata.field(map).object() {
            for (key, field) in strings.members() {
                if field.text().is_some() && map == "annotations" && key == carried::ANNOTATION {
                    annotation = Some(field);
                }
            }
        }
    }
    // What an API server adds says nothing about the policy.
    for name in [
        "creationTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        metadata.field(name);
    }
    metadata.finish();
    Some(ReadMetadata {
        name: name?,
        namespace,
        annotation,
    })
}

fn namespace_of(
    spec: &Field<'_>,
    kind: TracingPolicyKind,
    metadata: &ReadMetadata<'_>,
    selected: &Selected,
) -> Option<String> {
    match (kind, &metadata.namespace, &selected.namespace) {
        (TracingPolicyKind::Namespaced, Some(own), Some(named)) if own != named => {
            let message =
                format!("podSelector names the namespace {named}, and the policy lies in {own}, so it selects nothing");
            spec.report(None, message, "Remove the label.");
            None
        }
        (TracingPolicyKind::Namespaced, own, _) => own.clone(),
        (TracingPolicyKind::Cluster, _, Some(named)) => match check_object_name(named, true) {
            Ok(()) => Some(named.clone()),
            Err(message) => {
                spec.report(Some(named), message, OBJECT_NAME_ADVICE);
                None
            }
        },
        (TracingPolicyKind::Cluster, _, None) => {
            let message = match selected.has_pods {
                true => {
                    "Lattice cannot represent this: the policy is for the pods of all namespaces, and a policy here is for one"
                }
                false => {
                    "Lattice cannot represent this: a policy without podSelector holds for the host and for all pods"
                }
            };
            let advice = "Make it a TracingPolicyNamespaced in each namespace, or select k8s:io.kubernetes.pod.namespace in podSelector.";
            spec.report(None, message, advice);
            None
        }
    }
}

fn read_spec(spec: Object<'_>, kind: TracingPolicyKind, notes: &Notes) -> (Selected, Vec<ReadHook>, Option<Mode>) {
    let selected = target::read(&spec, notes);
    let mut hooks = Vec::new();
    let kprobes = schema::items(&spec, "kprobes");
    let fentries = schema::items(&spec, "fentries");
    let lsm_hooks = schema::items(&spec, "lsmhooks");
    let short_field = spec.field("tracing");
    let short = schema::items(&spec, "tracing");
    let count = kprobes.len() + fentries.len() + lsm_hooks.len() + short.len();
    if count > MAX_HOOKS {
        let message =
            format!("{count} hooks, more than the {MAX_HOOKS} that a policy about the start of programs can need");
        let advice = "Keep hooks about anything else in policies of their own.";
        spec.field("kprobes").report(None, message, advice);
    } else {
        for item in kprobes.iter().chain(&fentries) {
            hooks.extend(hook::read_function(item, false, notes));
        }
        for item in &lsm_hooks {
            hooks.extend(hook::read_lsm(item, notes));
        }
        for item in &short {
            hooks.extend(hook::read_function(item, true, notes));
        }
    }
    if !short.is_empty() {
        let message = "NOT CANONICAL: Tetragon has no field \"tracing\" and refuses the whole document; read as judging execve and \
                       execveat by the resolved path of the file";
        let advice = "Have it written anew by \"latticectl policy convert --to tracing-policy\".";
        notes.add(&short_field, message, advice);
    }
    for (name, reason) in [
        (
            "tracepoints",
            "no tracepoint sees scripts, and Lattice judges scripts too",
        ),
        ("uprobes", "it judges the start of programs, not what they call"),
        ("usdts", "it judges the start of programs, not what they report"),
        ("loader", "it reports no loading of code in this way"),
        (
            "enforcers",
            "the enforcer acts on system calls, by a program that Lattice does not have",
        ),
        ("lists", "lists of functions are not expanded"),
        ("selectorsMacros", "macros are not expanded"),
    ] {
        let advice = match name {
            "selectorsMacros" => "Write the conditions where the macro is used.",
            "lists" => "Write an item of kprobes for each function.",
            _ => OTHER_HOOK,
        };
        schema::refuse(&spec, name, reason, advice);
    }
    let mode = read_options(&spec);
    let has_hooks = count > 0;
    if !has_hooks && hooks.is_empty() {
        let advice = format!("Give the {} an item of lsmhooks.", kind.name());
        spec.field("lsmhooks")
            .report(None, "no hook judges the start of a program", &advice);
    }
    if hooks.len() == count {
        compare_system_calls(&spec, &hooks, notes);
        note_interpreters(&spec, &hooks, notes);
    }
    spec.finish();
    (selected, hooks, mode)
}

/// Lattice judges execve and execveat alike.
fn compare_system_calls(spec: &Object<'_>, hooks: &[ReadHook], notes: &Notes) {
    let of = |sees: Sees| hooks.iter().find(move |read| read.sees == sees);
    let kprobes = spec.field("kprobes");
    match (of(Sees::ExecveArgument), of(Sees::ExecveatArgument)) {
        (Some(execve), Some(execveat)) if !decision::are_equal(&execve.hook, &execveat.hook) => {
            let field = if execve.is_short {
                spec.field("tracing")
            } else {
                kprobes
            };
            field.report(
                None,
                "Lattice cannot represent this: execve and execveat are treated differently, and a program's start is judged alike \
                 whichever is called",
                "Give both the same selectors.",
            );
        }
        (Some(one), None) | (None, Some(one)) if !one.is_short => {
            let message = "the policy is about one of execve and execveat; Lattice judges both";
            notes.add(&kprobes, message, "Nothing to do.");
        }
        _ => {}
    }
}

fn note_interpreters(spec: &Object<'_>, hooks: &[ReadHook], notes: &Notes) {
    if !hooks.is_empty() && hooks.iter().all(|read| read.sees != Sees::EachStage) {
        let name = ["lsmhooks", "kprobes", "fentries", "tracing"]
            .into_iter()
            .find(|name| !schema::is_blank(&spec.field(name)))
            .unwrap_or("lsmhooks");
        let message = "the hook does not see a script's interpreter, and lets every one run; Lattice judges it: one that is not listed is refused";
        notes.add(
            &spec.field(name),
            message,
            "List the interpreters of listed scripts, too.",
        );
    }
}

fn read_options(spec: &Object<'_>) -> Option<Mode> {
    let mut mode = None;
    for item in schema::items(spec, "options") {
        let Some(option) = item.object() else { continue };
        let name_field = option.required("name");
        let value = option.field("value");
        match name_field.non_empty_text() {
            Some("policy-mode") => {
                // Enforce is what a policy does without the option; what it does to a start is said by its actions.
                match value.choice(&[("monitor", Some(Mode::Monitor)), ("enforce", None)]) {
                    Some(read) => mode = read,
                    None if !value.is_present() => {
                        value.report(None, "the option has no value", "Write monitor or enforce.");
                    }
                    None => {}
                }
            }
            // How Tetragon attaches its programs.
            Some("disable-kprobe-multi" | "disable-uprobe-multi" | "override-method" | "sleepable-preload-size") => {
                let _ = value.is_present().then(|| value.text());
            }
            Some(name) => {
                let message = "there is no such option; Tetragon would ignore it without a word";
                name_field.report(
                    Some(name),
                    message,
                    "Known here: policy-mode, disable-kprobe-multi, override-method.",
                );
            }
            None => {}
        }
        option.finish();
    }
    mode
}

/// Reads a document on its own, for what a writer wrote.
pub(super) fn read_written(file: &str, bytes: &[u8], kind: TracingPolicyKind) -> Option<ExecPolicy> {
    let nodes = crate::document::parse(file, bytes).ok()?;
    let findings = Findings::new(file);
    let [node] = nodes.as_slice() else { return None };
    read_plain(&findings, &Notes::new(file), kind, node).map(|(policy, _)| policy)
}
