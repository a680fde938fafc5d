//! From a LatticeService to what a derivation needs of it.

use lattice_api::object::{Container, Handler, LatticeService, Probe};
use lattice_derive::{ContainerSpec, EnvValue, EnvVar, ServiceSpec};

/// The part of a service that says what runs.
pub fn service_spec(service: &LatticeService) -> ServiceSpec {
    ServiceSpec {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        containers: service.spec.containers.iter().map(container_spec).collect(),
        init_containers: service.spec.init_containers.iter().map(container_spec).collect(),
    }
}

fn container_spec(container: &Container) -> ContainerSpec {
    let lifecycle = container.lifecycle.as_ref();
    ContainerSpec {
        name: container.name.clone(),
        command: container.command.clone(),
        args: container.args.clone(),
        env: container
            .env
            .iter()
            .map(|variable| EnvVar {
                name: variable.name.clone(),
                value: match (&variable.value, &variable.value_from) {
                    (_, Some(_)) => EnvValue::Unknown,
                    (value, None) => EnvValue::Literal(value.clone().unwrap_or_default()),
                },
            })
            .collect(),
        working_dir: container.working_dir.clone(),
        readiness_probe: probe_command(container.readiness_probe.as_ref()),
        liveness_probe: probe_command(container.liveness_probe.as_ref()),
        startup_probe: probe_command(container.startup_probe.as_ref()),
        post_start: command(lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref())),
        pre_stop: command(lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref())),
    }
}

fn probe_command(probe: Option<&Probe>) -> Vec<String> {
    command(probe.map(|probe| &probe.handler))
}

/// Only `exec` starts a program in the container.
fn command(handler: Option<&Handler>) -> Vec<String> {
    match handler {
        Some(Handler::Exec(action)) => action.command.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use lattice_api::object::{Object, read_objects};

    use super::*;

    fn read(container: &str) -> ContainerSpec {
        let text = format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: LatticeService\nmetadata: {{name: a, namespace: payments}}\n\
             spec:\n  environment: staging\n  containers:\n  - name: server\n    image: r.example.com/p:v1\n{container}"
        );
        let objects = read_objects("service.yaml", text.as_bytes()).unwrap();
        let [Object::LatticeService(service)] = objects.as_slice() else {
            panic!("{objects:?}")
        };
        let spec = service_spec(service);
        assert_eq!((spec.name.as_str(), spec.namespace.as_str()), ("a", "payments"));
        spec.containers[0].clone()
    }

    #[test]
    fn only_exec_probes_and_hooks_start_programs() {
        let exec = read(
            "    command: [/app/server]\n    args: [serve]\n    workingDir: /app\n    env: [{name: A, value: b}, {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n    readinessProbe: {exec: {command: [/bin/sh, -c, 'curl -fs localhost']}}\n    lifecycle: {preStop: {exec: {command: [/app/drain]}}}\n",
        );
        assert_eq!(exec.readiness_probe, ["/bin/sh", "-c", "curl -fs localhost"]);
        assert_eq!(
            (exec.command, exec.args),
            (vec!["/app/server".to_owned()], vec!["serve".to_owned()])
        );
        assert_eq!(exec.pre_stop, ["/app/drain"]);
        assert_eq!(exec.working_dir.as_deref(), Some("/app"));
        assert_eq!(exec.env[0].value, EnvValue::Literal("b".to_owned()));
        assert_eq!(exec.env[1].value, EnvValue::Unknown);
        let http = read("    readinessProbe: {httpGet: {path: /healthz, port: 8080}}\n");
        assert_eq!(http.readiness_probe, Vec::<String>::new());
    }
}
