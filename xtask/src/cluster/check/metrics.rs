//! What a Prometheus reads, as one would: by an address, over TLS, with the certificate out of central's Secret.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::{
    NAMESPACE, World,
    central::{Certificate, Operator},
    wait_until,
};

const PORT: u16 = 9470;

/// Agent and central are read by who may, and by nobody else.
pub(super) fn are_scraped(world: &World) -> Result<()> {
    let scraper = Certificate::of(world, "metrics")?;
    let operator = Certificate::of(world, "operator")?;
    for (component, server, expected) in [
        ("lattice-agent", "agent.metrics.lattice", "\nlattice_ready 1\n"),
        ("lattice-central", "lattice-central", "\nlattice_central_ready 1\n"),
    ] {
        let pod = address(world, component)?;
        // The agent has its certificate since it enrolled, and is ready a moment after that.
        wait_until(component, std::time::Duration::from_secs(30), || {
            let text = scrape(world, &pod, server, Some(&scraper), &scraper)?;
            ensure!(text.ends_with("# EOF\n"), "{component} answers {text}");
            Ok(text.contains(expected))
        })?;
        for (whose, own) in [("an operator's", Some(&operator)), ("no", None)] {
            if let Ok(text) = scrape(world, &pod, server, own, &scraper) {
                bail!("{component} tells its metrics to who has {whose} certificate: {text}");
            }
        }
        let clear = curl(world, &[&format!("http://{pod}:{PORT}/metrics")]);
        ensure!(
            !clear.is_ok_and(|text| text.contains("lattice_")),
            "{component} tells its metrics in the clear"
        );
    }
    // The scraper's certificate opens nothing else.
    let refused = Operator::with(scraper).ask(world, &["status"]);
    ensure!(refused.is_err(), "central takes a scraper for an operator");
    Ok(())
}

fn address(world: &World, component: &str) -> Result<String> {
    let address = world.kubectl.run(&[
        "get",
        "pods",
        "--namespace",
        NAMESPACE,
        &format!("--selector=app.kubernetes.io/name={component}"),
        "--output=jsonpath={.items[0].status.podIP}",
    ])?;
    ensure!(!address.is_empty(), "{component} has no address");
    Ok(address)
}

fn scrape(
    world: &World,
    address: &str,
    server: &str,
    own: Option<&Certificate>,
    believes: &Certificate,
) -> Result<String> {
    let resolve = format!("{server}:{PORT}:{address}");
    let url = format!("https://{server}:{PORT}/metrics");
    let authority = believes.file("ca.crt");
    let mut arguments = vec!["--resolve", &resolve, "--cacert", &authority, &url];
    let files = own.map(|own| (own.file("tls.crt"), own.file("tls.key")));
    if let Some((certificate, key)) = &files {
        arguments.extend(["--cert", certificate, "--key", key]);
    }
    curl(world, &arguments)
}

fn curl(world: &World, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["--silent", "--show-error", "--fail", "--max-time", "10"];
    all.extend(arguments);
    super::super::component::run_inside(&world.place, Path::new("/usr/bin/curl"), &all).context("curl")
}
