//! `cluster up`: all of it or nothing.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    certificates,
    component::{self, Component},
    components,
    configuration::Configuration,
    down, images, kubeconfig,
    node::NODE_NAME,
    place::Place,
    programs::{self, Programs},
    say, status,
};

const LIMIT: Duration = Duration::from_secs(120);

/// # Errors
///
/// Where a part does not come up; then what did is ended again, and its logs stay.
pub(super) fn run(place: &Place) -> Result<()> {
    let _lock = place.lock()?;
    if status::is_up(place) {
        bail!(
            "cluster {0} is up already: cargo xtask cluster status; to start anew, cargo xtask cluster down --name {0} first",
            place.name
        );
    }
    let programs = Programs::ensure()?;
    // What a run that was killed may have left.
    down::clear(place)?;
    bring_up(place, &programs).inspect_err(|_| {
        if let Err(error) = down::clear(place) {
            eprintln!("cluster: what had started could not be ended: {error:#}");
        }
    })
}

fn bring_up(place: &Place, programs: &Programs) -> Result<()> {
    let started = Instant::now();
    let said = |text: &str| say(&format!("{:5.1} s  {text}", started.elapsed().as_secs_f32()));
    // Logs are of one run.
    if place.logs().exists() {
        fs::remove_dir_all(place.logs()).context("cannot remove the logs of the last run")?;
    }
    place.prepare()?;
    let groups = place.control_groups()?;
    groups.create()?;
    certificates::make(place)?;
    components::write_kubeconfigs(place)?;
    let configuration = Configuration::write(place, programs)?;

    let own = component::own_program()?;
    let mut hold = Command::new(&own);
    hold.args(["cluster", "hold", "--name", &place.name]);
    let mut running = vec![Component::start_outside(place, "holder", &mut hold)?];
    component::wait_until(place, "the node's namespaces", LIMIT, &mut running, || {
        place.node_is_ready().exists()
    })?;
    let holder = running[0].running().context("the holder has ended")?;
    let mut relay = Command::new(&own);
    relay
        .args(["cluster", "relay", "--holder", &holder.pid.to_string(), "--processes"])
        .arg(groups.system_processes())
        .arg("--port-file")
        .arg(place.port_file());
    running.push(Component::start_outside(place, "relay", &mut relay)?);
    // Half a number is none.
    let port = || -> Option<u16> {
        fs::read_to_string(place.port_file())
            .ok()?
            .strip_suffix('\n')?
            .parse()
            .ok()
    };
    component::wait_until(place, "the relay's port", LIMIT, &mut running, || port().is_some())?;
    let port = port().context("the relay's port is gone")?;
    kubeconfig::write(
        place,
        "admin",
        &format!("https://127.0.0.1:{port}"),
        &place.kubeconfig(),
    )?;
    said("namespaces, keys and configuration are made");

    let mut start = |name, command| -> Result<()> {
        running.push(Component::start(place, holder, name, &command)?);
        Ok(())
    };
    start("etcd", components::etcd(programs))?;
    start("containerd", components::containerd(programs, &configuration))?;
    start("kube-apiserver", components::api_server(programs, place))?;
    let kubectl = |arguments: &[&str]| {
        programs::kubectl(place).is_ok_and(|mut command| component::succeeds(command.args(arguments)))
    };
    component::wait_until(place, "the API server is ready", LIMIT, &mut running, || {
        kubectl(&["get", "--raw", "/readyz"])
    })?;
    said("the API server is ready");
    let ctr = programs.containerd("ctr");
    component::wait_until(place, "containerd answers", LIMIT, &mut running, || {
        component::run_inside(place, &ctr, &["version"]).is_ok()
    })?;
    images::import(place, images::PAUSE, &images::pause()?)?;
    said("containerd answers");

    let mut start = |name, command| -> Result<()> {
        running.push(Component::start(place, holder, name, &command)?);
        Ok(())
    };
    start(
        "kube-controller-manager",
        components::controller_manager(programs, place),
    )?;
    start("kube-scheduler", components::scheduler(programs, place))?;
    start("kubelet", components::kubelet(programs, place, &configuration))?;
    start("kube-proxy", components::proxy(programs, &configuration))?;
    component::wait_until(place, "the node is Ready", LIMIT, &mut running, || {
        kubectl(&[
            "wait",
            "--for=condition=Ready",
            &format!("node/{NODE_NAME}"),
            "--timeout=1s",
        ])
    })?;
    said("the node is Ready");
    // Without it no pod of the namespace is admitted.
    component::wait_until(place, "the default service account", LIMIT, &mut running, || {
        kubectl(&["get", "serviceaccount", "default"])
    })?;
    said(&format!("up; kubeconfig: {}", place.kubeconfig().display()));
    Ok(())
}
