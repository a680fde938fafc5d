//! The agent's program on this machine's kernel, with a BPF file system and a cgroup of its own: its admin listener, its policy folder,
//! and its probe.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::{fs::symlink, net::UnixStream, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use lattice_api::node_report::from_json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lattice-agent");
/// Longer than anything here should take, on a loaded machine too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than the agent's looks without a reason are apart, and more than a loaded machine needs.
const SOON: Duration = Duration::from_secs(15);

/// A node of its own.
struct Node {
    folder: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Node {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let hierarchy = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        });
        let cgroup = hierarchy
            .expect("a cgroup2 mount")
            .join(format!("lattice-agent-test-{name}-{}", std::process::id()));
        fs::create_dir(&cgroup).expect("this test needs root");
        let node = Self { folder, cgroup };
        for folder in ["bpf", "policies"] {
            fs::create_dir(node.path(folder)).unwrap();
        }
        let mounted = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(node.path("bpf"))
            .status();
        assert!(mounted.unwrap().success());
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent; returns when its admin socket answers.
    fn start(&self, more: &[&str]) -> Agent {
        self.start_by(Command::new(PROGRAM), more)
    }

    /// Starts the agent by a command that becomes it.
    fn start_by(&self, mut launcher: Command, more: &[&str]) -> Agent {
        let log = self.path("agent.log");
        let child = launcher
            .args(["run", "--node", "node-a"])
            .arg("--bpf-file-system")
            .arg(self.path("bpf"))
            .arg("--state")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.path("run/agent.sock"))
            .arg(format!("--cgroup={}=payments/server/main", self.cgroup.display()))
            .args(more)
            .env("NO_COLOR", "1")
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let agent = Agent(child);
        self.eventually(PATIENCE, "the agent is ready", || self.log().contains(" ready "));
        agent
    }

    /// A certificate for this node and its key, by their paths.
    fn certificate(&self) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["node-a.node.lattice".into()]).unwrap();
        let (certificate, key_file) = (self.path("node.pem"), self.path("node.key"));
        fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (certificate.display().to_string(), key_file.display().to_string())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    #[track_caller]
    fn eventually(&self, within: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + within;
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "not within {within:?}: {what}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status and text of a page of the admin listener.
    fn page(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("run/admin.sock")).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Starts a program in the container.
    fn exec(&self, program: &str) -> ExitStatus {
        let entered = format!("echo 0 >{}/cgroup.procs; exec {program}", self.cgroup.display());
        Command::new("/bin/sh").args(["-c", &entered]).status().unwrap()
    }

    fn is_killed(&self) -> bool {
        self.exec("/bin/true").signal() == Some(9)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is pinned goes with it.
        let _ = Command::new("umount").arg(self.path("bpf")).status();
        // The cgroup may still hold a task that dies.
        let _ = fs::remove_dir(&self.cgroup);
    }
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // As a crash does.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn policy(mode: &str) -> String {
    format!(
        "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: server, namespace: payments}}\n\
         spec: {{mode: {mode}, entries: [{{path: /app/server}}]}}\n"
    )
}

#[test]
fn policies_in_a_folder_are_taken_up_however_they_get_there() {
    let node = Node::new("folder");
    let file = node.path("policies/server.yaml");
    let folder = node.path("policies");
    let _agent = node.start(&["--policies", folder.to_str().unwrap()]);
    assert!(!node.is_killed());
    fs::write(&file, policy("enforce")).unwrap();
    node.eventually(SOON, "written", || node.is_killed());
    // As an editor writes.
    fs::write(node.path("policies/.server.yaml.new"), policy("monitor")).unwrap();
    fs::rename(node.path("policies/.server.yaml.new"), &file).unwrap();
    node.eventually(SOON, "moved into place", || !node.is_killed());
    // Broken: named, counted, and without effect.
    fs::write(&file, policy("enforce").replace("mode", "mood")).unwrap();
    node.eventually(SOON, "broken", || {
        node.page("/metrics").1.contains("\nlattice_policy_files_broken 1\n")
    });
    assert!(!node.is_killed() && node.log().contains("spec.mood"));
    // As a mounted ConfigMap changes: all files are links through one that is replaced.
    for (data, mode) in [("..1", "monitor"), ("..2", "enforce")] {
        fs::create_dir(folder.join(data)).unwrap();
        fs::write(folder.join(data).join("server.yaml"), policy(mode)).unwrap();
    }
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/server.yaml", folder.join("link.yaml")).unwrap();
    fs::remove_file(&file).unwrap();
    node.eventually(SOON, "linked", || {
        let metrics = node.page("/metrics").1;
        metrics.contains("\nlattice_policy_files_broken 0\n")
            && metrics.contains("\nlattice_containers{mode=\"monitor\"} 1\n")
    });
    symlink("..2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    node.eventually(SOON, "swapped", || node.is_killed());
    fs::remove_file(folder.join("link.yaml")).unwrap();
    node.eventually(SOON, "removed", || !node.is_killed());
}

#[test]
fn a_restart_with_a_broken_file_opens_nothing() {
    let node = Node::new("broken");
    let file = node.path("policies/server.yaml");
    let folder = node.path("policies");
    let start = || node.start(&["--policies", folder.to_str().unwrap()]);
    fs::write(&file, policy("enforce")).unwrap();
    let agent = start();
    assert!(node.is_killed());
    drop(agent);

    // Its last good state was kept.
    fs::write(&file, policy("enforce").replace("mode", "mood")).unwrap();
    let agent = start();
    assert!(node.is_killed(), "{}", node.log());
    assert!(node.log().contains("spec.mood") && node.log().contains("its last good state stays in force"));
    let metrics = node.page("/metrics").1;
    assert!(metrics.contains("\nlattice_policy_files_broken 1\n"), "{metrics}");
    assert!(metrics.contains("\nlattice_policy_sources_unknown 0\n"), "{metrics}");
    assert!(
        metrics.contains("\nlattice_containers{mode=\"enforce\"} 1\n"),
        "{metrics}"
    );
    assert_eq!(node.page("/readyz").0, 200);
    drop(agent);

    // What was kept is damaged: the kernel still has it, and the agent leaves it there.
    let kept = node.path("state/policy-files.last-good");
    let mut content = fs::read(&kept).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&kept, content).unwrap();
    for _ in 0..2 {
        let _agent = start();
        assert!(node.is_killed(), "{}", node.log());
        let (status, text) = node.page("/readyz");
        assert_eq!(status, 503, "{text}");
        assert!(
            text.contains("1 of the policy files cannot be understood")
                && text.contains("1 containers stay as they were"),
            "{text}"
        );
        let metrics = node.page("/metrics").1;
        assert!(metrics.contains("\nlattice_policy_sources_unknown 1\n"), "{metrics}");
        assert!(metrics.contains("\nlattice_containers_held 1\n"), "{metrics}");
    }
    let _agent = start();
    fs::write(&file, policy("monitor")).unwrap();
    node.eventually(SOON, "put right", || !node.is_killed());
    assert_eq!(node.page("/readyz").0, 200);
}

#[test]
fn a_restart_without_what_central_said_opens_nothing() {
    let node = Node::new("forgotten");
    let folder = node.path("policies");
    fs::write(node.path("policies/server.yaml"), policy("enforce")).unwrap();
    let agent = node.start(&["--policies", folder.to_str().unwrap()]);
    assert!(node.is_killed());
    drop(agent);
    // As where the policy had come from a central that is away, and the state folder was lost, or damaged.
    let (certificate, key) = node.certificate();
    for content in [None, Some("lattice-state 1 00")] {
        fs::remove_dir_all(node.path("state")).unwrap();
        if let Some(content) = content {
            fs::create_dir(node.path("state")).unwrap();
            fs::write(node.path("state/policies.last-good"), content).unwrap();
        }
        let _agent = node.start(&[
            "--central",
            "https://127.0.0.1:1",
            "--client-cert",
            &certificate,
            "--client-key",
            &key,
            "--ca",
            &certificate,
        ]);
        assert!(node.is_killed(), "{}", node.log());
        let (status, text) = node.page("/readyz");
        assert_eq!(status, 503, "{text}");
        assert!(
            text.contains("central was not reached yet") && text.contains("1 containers stay as they were"),
            "{text}"
        );
    }
}

#[test]
fn a_restart_with_damaged_modes_opens_nothing() {
    let node = Node::new("modes");
    let folder = node.path("policies");
    let start = || node.start(&["--policies", folder.to_str().unwrap()]);
    fs::write(node.path("policies/server.yaml"), policy("enforce")).unwrap();
    let agent = start();
    assert!(node.is_killed());
    drop(agent);
    // The file says less than what was in force.
    fs::write(node.path("policies/server.yaml"), policy("monitor")).unwrap();
    fs::write(node.path("state/modes.last-good"), "lattice-state 1 00").unwrap();
    let agent = start();
    assert!(node.is_killed(), "{}", node.log());
    assert!(
        node.page("/readyz")
            .1
            .contains("the modes that were set at this agent are not known"),
        "{}",
        node.page("/readyz").1
    );
    drop(agent);
    fs::remove_file(node.path("state/modes.last-good")).unwrap();
    let _agent = start();
    assert!(!node.is_killed());
}

#[test]
fn ready_is_only_who_enforces_what_is_to_be_enforced() {
    let node = Node::new("ready");
    let (certificate, key) = node.certificate();
    // Nobody listens there.
    let central = [
        "--central",
        "https://127.0.0.1:1",
        "--client-cert",
        &certificate,
        "--client-key",
        &key,
        "--ca",
        &certificate,
    ];
    let agent = node.start(&central);
    let (status, text) = node.page("/readyz");
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("policies: central was not reached yet"), "{text}");
    assert!(
        text.contains("links: ok") && text.contains("maps: ok") && text.contains("events: ok"),
        "{text}"
    );
    assert_eq!(node.page("/healthz").0, 200);
    assert_eq!(node.page("/").0, 404);
    drop(agent);

    let folder = node.path("policies");
    let _agent = node.start(&["--policies", folder.to_str().unwrap()]);
    let (status, text) = node.page("/readyz");
    assert_eq!(status, 200, "{text}");
    // Somebody takes a program away while it runs.
    let links = fs::read_dir(node.path("bpf/lattice"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join("links");
    fs::remove_file(links.join("lattice_fork")).unwrap();
    let (status, text) = node.page("/readyz");
    assert_eq!(status, 503, "{text}");
    assert!(text.starts_with("links: not attached: lattice_fork"), "{text}");
}

#[test]
fn health_is_the_admin_listeners_word_as_an_exit_code() {
    let node = Node::new("health");
    let admin = format!("unix:{}", node.path("run/admin.sock").display());
    let health = |more: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(["health", "--admin", &admin])
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(health(&[]).0, Some(2), "nobody is there to be asked");
    let policies = node.path("policies").display().to_string();
    let _agent = node.start(&["--policies", &policies]);
    assert_eq!((health(&[]).0, health(&["--ready"]).0), (Some(0), Some(0)));
    fs::write(node.path("policies/broken.yaml"), "kind: ExecPolicy\n").unwrap();
    node.eventually(SOON, "not ready", || health(&["--ready"]).0 == Some(1));
    assert_eq!(health(&["--ready"]).1, node.page("/readyz").1);
    assert_eq!(
        health(&[]).0,
        Some(0),
        "it is not ready, but nothing is gained by starting it anew"
    );
}

#[test]
fn an_agent_in_a_cgroup_namespace_of_its_own_enters_the_hosts() {
    let node = Node::new("cgroup-namespace");
    // Where a runtime puts a pod: a namespace that begins at the pod's own cgroup shows nothing of another's.
    let own = node.cgroup.with_extension("pod");
    fs::create_dir(&own).unwrap();
    let mut launcher = Command::new("sh");
    launcher
        .args([
            "-c",
            r#"echo $$ > "$1/cgroup.procs" && shift && exec unshare --cgroup -- "$@""#,
            "sh",
        ])
        .arg(&own)
        .arg(PROGRAM);
    // Process 1 may be closed to everybody, and this test is in the host's namespace as well.
    let host = std::process::id().to_string();
    let agent = node.start_by(launcher, &["--host-process", &host]);
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/cgroup")).unwrap();
    assert_eq!(namespace(&agent.0.id().to_string()), namespace("self"));
    assert!(
        node.log().contains("entered the host's cgroup namespace"),
        "{}",
        node.log()
    );
    drop(agent);
    // Its watchdog is there for a moment longer.
    node.eventually(SOON, "the cgroup is empty", || fs::remove_dir(&own).is_ok());
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let node = Node::new("metrics");
    fs::write(node.path("policies/server.yaml"), policy("enforce")).unwrap();
    let folder = node.path("policies");
    let _agent = node.start(&["--policies", folder.to_str().unwrap()]);
    assert!(node.is_killed());
    node.eventually(SOON, "the event is counted", || {
        node.page("/metrics")
            .1
            .contains("\nlattice_events_total{kind=\"violation\"} 1\n")
    });
    let metrics = node.page("/metrics").1;
    let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
    let shown: BTreeSet<String> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(name)
        .collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    // What comes after is central's.
    let (of_agent, _) = page.split_once("\n## Central").unwrap();
    let documented: BTreeSet<String> = of_agent
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `lattice_")?.split_once('`')?.0.to_owned()))
        .map(|name| format!("lattice_{name}"))
        .collect();
    let only = |left: &BTreeSet<String>, right: &BTreeSet<String>| left.difference(right).cloned().collect::<Vec<_>>();
    assert_eq!((only(&shown, &documented), only(&documented, &shown)), (vec![], vec![]));
    for line in [
        "lattice_containers{mode=\"enforce\"} 1",
        "lattice_policies 1",
        "lattice_ready 1",
        "lattice_healthy 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
    }
}

#[test]
fn the_probe_finds_the_tier_that_the_agent_takes_and_leaves_nothing() {
    let output = Command::new(PROGRAM)
        .args(["probe", "-o", "json", "--node", "here"])
        .output()
        .unwrap();
    let report = from_json(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), report.node.as_str()),
        (Some(0), "here"),
        "{report:?}"
    );
    let node = Node::new("probe");
    let _agent = node.start(&[]);
    assert!(
        node.page("/metrics")
            .1
            .contains(&format!("\nlattice_tier {}\n", report.tier)),
        "{report:?}"
    );
    assert!(!report.not_refused.is_empty());
    // Neither a cgroup nor a mount.
    let left = fs::read_dir(node.cgroup.parent().unwrap()).unwrap().flatten();
    let mut left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("lattice-probe-"));
    assert!(left.next().is_none());

    // Who may not try has found nothing out, and says so.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", PROGRAM, "probe", "-o", "json"])
        .output()
        .unwrap();
    let report = from_json(&output.stdout).unwrap();
    assert_eq!((output.status.code(), report.tier), (Some(2), 0), "{report:?}");
    let lsm = report
        .findings
        .iter()
        .find(|finding| finding.check == "bpf-lsm")
        .unwrap();
    assert_eq!(
        (lsm.result.as_str(), lsm.advice.contains("CAP_SYS_ADMIN")),
        ("unknown", true),
        "{lsm:?}"
    );
}
