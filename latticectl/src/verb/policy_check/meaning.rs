//! An object in one sentence.

use lattice_api::{
    Object,
    object::{
        ApprovalMode, CedarPolicy, Container, Handler, LatticeRollout, LatticeService, Probe, Runtime, Secret,
        TrustPolicy,
    },
};
use lattice_policy::{ExecPolicy, Mode, Origin, Role, Target, TracingPolicy};

/// What an object means.
pub(crate) fn of(object: &Object) -> String {
    match object {
        Object::ExecPolicy(policy) => exec_policy("ExecPolicy", policy),
        Object::TracingPolicy(TracingPolicy { kind, policy, .. }) => exec_policy(kind.name(), policy),
        Object::TrustPolicy(policy) => trust_policy(policy),
        Object::LatticeService(service) => lattice_service(service),
        Object::CedarPolicy(policy) => cedar_policy(policy),
        Object::LatticeRollout(rollout) => lattice_rollout(rollout),
        Object::Secret(secret) => secret_sentence(secret),
    }
}

fn exec_policy(kind: &str, policy: &ExecPolicy) -> String {
    let has_role = |role: Role| {
        policy
            .entries
            .iter()
            .filter(move |entry| entry.roles.contains(&role))
            .count()
    };
    let commands = has_role(Role::Target);
    let what = match commands {
        0 => "nothing may start".to_owned(),
        1 => "one program may start".to_owned(),
        _ => format!("{commands} programs may start"),
    };
    let mut details = Vec::new();
    let paths = policy
        .entries
        .iter()
        .filter(|entry| entry.sha256.is_none() && entry.roles.contains(&Role::Target))
        .count();
    if paths > 0 {
        details.push(format!("{paths} by path alone, whatever the file holds"));
    }
    for (origin, words) in [
        (Origin::ExecSession, "only from exec sessions"),
        (Origin::Init, "only from the entrypoint's tree"),
    ] {
        let count = policy.entries.iter().filter(|entry| entry.from == origin).count();
        if count > 0 {
            details.push(format!("{count} {words}"));
        }
    }
    let interpreters = has_role(Role::ScriptInterpreter);
    if interpreters > 0 {
        details.push(format!("{interpreters} as interpreter of listed scripts"));
    }
    let loaders = has_role(Role::ElfInterpreter);
    if loaders > 0 {
        details.push(format!("{loaders} as loader"));
    }
    let details = if details.is_empty() {
        String::new()
    } else {
        format!(" ({})", details.join(", "))
    };
    let rest = match policy.mode {
        Mode::Monitor => "whatever else starts is only reported",
        Mode::Enforce => "whatever else starts is killed before its first instruction",
        Mode::Deny => "whatever else starts is refused with EPERM",
    };
    let (namespace, name) = (&policy.namespace, &policy.name);
    format!(
        "{kind} {namespace}/{name}: in {}, {what}{details}; {rest}.",
        target(namespace, &policy.target)
    )
}

fn target(namespace: &str, target: &Target) -> String {
    let container = match (&target.container, &target.workload) {
        (None, None) => format!("every container of namespace {namespace}"),
        (Some(container), None) => format!("every container {container} of namespace {namespace}"),
        (None, Some(workload)) => format!("every container of workload {namespace}/{workload}"),
        (Some(container), Some(workload)) => format!("container {container} of workload {namespace}/{workload}"),
    };
    match target.image_digest {
        Some(digest) => format!("{container} if its image is {digest}"),
        None => container,
    }
}

fn trust_policy(policy: &TrustPolicy) -> String {
    format!(
        "TrustPolicy {}: an image of {} counts as signed if cosign signed it with the key in Secret {}.",
        policy.name, policy.spec.registry, policy.spec.cosign.public_key.secret_ref
    )
}

fn cedar_policy(policy: &CedarPolicy) -> String {
    format!(
        "CedarPolicy {}: {} of rules that decide what central deploys and derives; central checks them against its schema.",
        policy.name,
        count(policy.spec.policies.lines().count(), "line")
    )
}

fn lattice_service(service: &LatticeService) -> String {
    let spec = &service.spec;
    let containers = count(spec.containers.len(), "container");
    let init = match spec.init_containers.len() {
        0 => String::new(),
        more => format!(" after {}", count(more, "init container")),
    };
    let all = spec.containers.iter().chain(&spec.init_containers);
    let commands = all.map(exec_handlers).sum::<usize>();
    let probes = match commands {
        0 => "no probe or hook starts a program".to_owned(),
        1 => "one probe or hook starts a program".to_owned(),
        _ => format!("{commands} probes and hooks start programs"),
    };
    format!(
        "LatticeService {}/{}: {} of {containers}{init} in {}; {probes}.",
        service.namespace,
        service.name,
        count(spec.replicas as usize, "replica"),
        spec.environment
    )
}

fn exec_handlers(container: &Container) -> usize {
    let probes = [
        &container.liveness_probe,
        &container.readiness_probe,
        &container.startup_probe,
    ];
    let probes = probes.into_iter().flatten().map(|Probe { handler, .. }| handler);
    let hooks = container
        .lifecycle
        .iter()
        .flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop])
        .flatten();
    probes
        .chain(hooks)
        .filter(|handler| matches!(handler, Handler::Exec(_)))
        .count()
}

fn secret_sentence(secret: &Secret) -> String {
    let keys: Vec<_> = secret.data.keys().map(String::as_str).collect();
    let keys = if keys.is_empty() {
        "no key".to_owned()
    } else {
        keys.join(", ")
    };
    format!("Secret {}/{}: holds {keys}.", secret.namespace, secret.name)
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn lattice_rollout(rollout: &LatticeRollout) -> String {
    let LatticeRollout { namespace, name, spec } = rollout;
    if spec.runtime == Runtime::Monitor {
        return format!(
            "LatticeRollout {namespace}/{name}: namespace {namespace} stays in monitor, and what no list names is reviewed."
        );
    }
    let approval = match (spec.approval.mode, spec.approval.approvers) {
        (ApprovalMode::Auto, _) => "when Cedar permits it".to_owned(),
        (ApprovalMode::Manual, 1) => "when an operator approves".to_owned(),
        (ApprovalMode::Manual, count) => format!("when {count} operators approve"),
    };
    let steps = match spec.steps.as_slice() {
        [] => "at once".to_owned(),
        steps => {
            let each: Vec<_> = steps
                .iter()
                .map(|step| format!("{} of the pods for {}", step.pods, step.hold))
                .collect();
            format!("by steps ({}), then all", each.join(", "))
        }
    };
    format!(
        "LatticeRollout {namespace}/{name}: each workload of namespace {namespace} is looked at for {} of complete evidence, the last {} of \
         them without a miss, and {approval} it is enforced, {steps}.",
        spec.burn_in.min_duration, spec.burn_in.quiet_period
    )
}
