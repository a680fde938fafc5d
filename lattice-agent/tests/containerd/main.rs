//! Real containers of a real containerd: the sink must know each before its program's first act, and must know its end.

mod daemon;
mod image;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use lattice_agent::containers::{
    ContainerInfo, Sink,
    cgroup_tree::{CgroupTree, cgroup_id},
    containerd::{Connection, ContainerdWatcher, Settings},
};
use tokio::runtime::Runtime;

use self::daemon::Daemon;

const IMAGE: &str = "registry.test/busybox:1";
const SECONDS: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq)]
enum Told {
    /// A container, and whether its program had done its first act by then.
    Started(Box<ContainerInfo>, bool),
    Stopped(u64),
}

/// Notes what it is told, and whether it came in time: a container's first act is to make a file of its name.
struct Witness {
    marks: PathBuf,
    told: Mutex<Vec<Told>>,
}

impl Sink for Witness {
    fn started(&self, container: ContainerInfo) -> Result<(), String> {
        let acted = self.marks.join(&container.container_id).exists();
        assert_eq!(
            cgroup_id(&container.cgroup_path),
            Some(container.cgroup_id),
            "{container:?}"
        );
        self.told
            .lock()
            .unwrap()
            .push(Told::Started(Box::new(container), acted));
        Ok(())
    }

    fn stopped(&self, cgroup_id: u64) {
        self.told.lock().unwrap().push(Told::Stopped(cgroup_id));
    }
}

impl Witness {
    fn new(daemon: &Daemon) -> Arc<Self> {
        Arc::new(Self {
            marks: daemon.marks(),
            told: Mutex::default(),
        })
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// What was said of a container, first to last.
    fn of(&self, id: &str) -> Vec<(ContainerInfo, bool)> {
        self.told()
            .into_iter()
            .filter_map(|told| match told {
                Told::Started(info, acted) if info.container_id == id => Some((*info, acted)),
                _ => None,
            })
            .collect()
    }

    fn has_stopped(&self, cgroup_id: u64) -> bool {
        self.told().contains(&Told::Stopped(cgroup_id))
    }
}

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SECONDS;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {SECONDS:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn watch(runtime: &Runtime, daemon: &Daemon, sink: Arc<Witness>) -> ContainerdWatcher {
    let settings = Settings {
        socket: daemon.socket(),
        namespaces: BTreeSet::new(),
    };
    let _context = runtime.enter();
    ContainerdWatcher::start(settings, CgroupTree::find().unwrap(), sink).unwrap()
}

#[track_caller]
fn wait_until_watching(watcher: &ContainerdWatcher) {
    let connection = watcher.connection();
    wait_for("the watcher is connected", || {
        *connection.borrow() == Connection::Watching
    });
}

fn first_act(id: &str) -> String {
    format!(": > /marks/{id}")
}

/// One private containerd serves all: each takes seconds to start.
#[test]
fn containers_are_known_before_their_first_act() {
    if let Some(reason) = daemon::missing() {
        return println!("skipped: containers_are_known_before_their_first_act: {reason}");
    }
    if let Err(error) = CgroupTree::find() {
        return println!("skipped: containers_are_known_before_their_first_act: {error}");
    }
    tracing_subscriber::fmt()
        .with_test_writer()
        .with_max_level(tracing::Level::INFO)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut daemon = Daemon::start();
    let (archive, digest) = image::build(&daemon.path(""), IMAGE, "one", &BTreeMap::new());
    daemon.import(&archive);
    let witness = Witness::new(&daemon);
    let watcher = watch(&runtime, &daemon, Arc::clone(&witness));
    wait_until_watching(&watcher);

    one_container_from_start_to_end(&daemon, &witness, &digest);
    many_short_containers(&daemon, &witness, &digest);
    what_has_no_labels_is_still_reported(&daemon, &witness);
    a_task_that_starts_again_is_told_again(&daemon, &witness);
    let long = a_watcher_that_comes_later_knows_what_runs(&runtime, &daemon);
    a_name_that_was_given_away_proves_nothing(&runtime, &mut daemon, &long);
    containerd_may_die_and_come_back(&mut daemon, &witness, &watcher, &long);
}

fn one_container_from_start_to_end(daemon: &Daemon, witness: &Witness, digest: &str) {
    let labels = [
        ("lattice.dev/namespace", "payments"),
        ("lattice.dev/workload", "payment-service"),
        ("lattice.dev/container", "server"),
        (
            "lattice.dev/image-digest",
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ),
    ];
    let script = first_act("one") + "; while [ ! -e /marks/go ]; do /bin/busybox usleep 10000; done";
    let output = daemon.run_container(&["-d"], IMAGE, "one", &labels, &script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("its pid is known and it runs", || {
        witness
            .of("one")
            .iter()
            .any(|(info, _)| info.pid.is_some() && info.is_running)
    });
    let told = witness.of("one");
    let (first, acted) = &told[0];
    assert!(!acted, "the container's program had started before it was known");
    assert!(!first.is_running);
    assert_eq!(
        [&first.namespace, &first.workload, &first.name, &first.pod],
        ["payments", "payment-service", "server", ""]
    );
    assert_eq!(first.image_reference, IMAGE);
    assert_eq!(first.image_digest.unwrap().to_string(), digest);
    let (last, _) = told.last().unwrap();
    assert_eq!(last.cgroup_id, first.cgroup_id);
    let pid = last.pid.unwrap();
    assert_eq!(CgroupTree::find().unwrap().of_process(pid).unwrap(), last.cgroup_path);
    assert!(daemon.ctr(&["task", "list"]).contains(&pid.to_string()));
    let procs = fs::read_to_string(last.cgroup_path.join("cgroup.procs")).unwrap();
    assert!(procs.lines().any(|line| line == pid.to_string()), "{procs}");
    assert_ne!(last.root_device, 0);
    assert!(!witness.has_stopped(first.cgroup_id));
    fs::write(daemon.marks().join("go"), "").unwrap();
    wait_for("its end is told", || witness.has_stopped(first.cgroup_id));
    let ends = witness
        .told()
        .iter()
        .filter(|told| **told == Told::Stopped(first.cgroup_id))
        .count();
    assert_eq!(ends, 1);
    daemon.ctr(&["task", "rm", "-f", "one"]);
    daemon.ctr(&["containers", "rm", "one"]);
}

fn many_short_containers(daemon: &Daemon, witness: &Witness, digest: &str) {
    let names: Vec<String> = (0..50).map(|number| format!("short-{number}")).collect();
    thread::scope(|scope| {
        for some in names.chunks(13) {
            scope.spawn(move || {
                for name in some {
                    let labels = [("lattice.dev/namespace", "payments"), ("lattice.dev/workload", "batch")];
                    let output = daemon.run_container(&["--rm"], IMAGE, name, &labels, &first_act(name));
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    assert!(daemon.marks().join(name).exists(), "{name} has not run");
                }
            });
        }
    });
    for name in &names {
        let told = witness.of(name);
        let (info, acted) = told.first().unwrap_or_else(|| panic!("{name} was never known"));
        assert!(!acted, "{name} was known too late");
        assert_eq!(info.image_digest.unwrap().to_string(), digest);
        assert_eq!((info.workload.as_str(), info.is_running), ("batch", false));
        wait_for("the end of a short container", || witness.has_stopped(info.cgroup_id));
    }
}

fn what_has_no_labels_is_still_reported(daemon: &Daemon, witness: &Witness) {
    let output = daemon.run_container(&["--rm"], IMAGE, "nameless", &[], &first_act("nameless"));
    assert!(output.status.success());
    let (info, acted) = witness.of("nameless").first().cloned().expect("it was never known");
    assert!(!acted);
    assert_eq!([&info.namespace, &info.workload], ["containerd/default", "nameless"]);
}

fn a_task_that_starts_again_is_told_again(daemon: &Daemon, witness: &Witness) {
    let output = daemon.run_container(&[], IMAGE, "again", &[], &first_act("again"));
    assert!(output.status.success());
    let first = witness.of("again")[0].0.cgroup_id;
    wait_for("its first end", || witness.has_stopped(first));
    daemon.try_ctr(&["task", "rm", "again"]);
    fs::remove_file(daemon.marks().join("again")).unwrap();
    let before = witness.of("again").len();
    daemon.ctr(&["task", "start", "again"]);
    let told = witness.of("again");
    let (info, acted) = told.get(before).expect("its second start was never known");
    assert!(!acted, "its second start was known too late");
    wait_for("its second end", || {
        witness
            .told()
            .iter()
            .filter(|told| matches!(told, Told::Stopped(_)))
            .count()
            > 0
            && witness.has_stopped(info.cgroup_id)
    });
}

/// Returns the identifier of a container that goes on running.
fn a_watcher_that_comes_later_knows_what_runs(runtime: &Runtime, daemon: &Daemon) -> String {
    let id = "long".to_owned();
    let script = first_act(&id) + "; exec /bin/busybox sleep 600";
    assert!(daemon.run_container(&["-d"], IMAGE, &id, &[], &script).status.success());
    wait_for("it runs", || daemon.marks().join(&id).exists());
    let later = Witness::new(daemon);
    let watcher = watch(runtime, daemon, Arc::clone(&later));
    wait_until_watching(&watcher);
    let told = later.of(&id);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0.is_running && told[0].0.pid.is_some(), "{told:?}");
    assert_eq!(watcher.running_count(), 1);
    id
}

fn a_name_that_was_given_away_proves_nothing(runtime: &Runtime, daemon: &mut Daemon, long: &str) {
    let (archive, other) = image::build(&daemon.path(""), IMAGE, "two", &BTreeMap::new());
    daemon.import(&archive);
    let later = Witness::new(daemon);
    let watcher = watch(runtime, daemon, Arc::clone(&later));
    wait_until_watching(&watcher);
    let (info, _) = &later.of(long)[0];
    assert_eq!(info.image_digest, None, "the digest of another image was believed");
    assert!(
        daemon
            .run_container(&["--rm"], IMAGE, "other", &[], &first_act("other"))
            .status
            .success()
    );
    assert_eq!(later.of("other")[0].0.image_digest.unwrap().to_string(), other);
}

fn containerd_may_die_and_come_back(daemon: &mut Daemon, witness: &Witness, watcher: &ContainerdWatcher, long: &str) {
    let connection = watcher.connection();
    let (running, _) = witness.of(long).last().cloned().unwrap();
    daemon.kill();
    wait_for("its absence is noticed", || *connection.borrow() == Connection::Away);
    assert!(
        !witness.has_stopped(running.cgroup_id),
        "what runs was given up with containerd"
    );
    // The container ends while containerd is away: only its cgroup tells.
    let pid = nix::unistd::Pid::from_raw(running.pid.unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.run();
    wait_until_watching(watcher);
    wait_for("the end of what ended meanwhile", || {
        witness.has_stopped(running.cgroup_id)
    });
    assert!(
        daemon
            .run_container(&["--rm"], IMAGE, "after", &[], &first_act("after"))
            .status
            .success()
    );
    let (_, acted) = witness.of("after").first().cloned().expect("it was never known");
    assert!(!acted);
    // Its image's name was given away while it ran; who saw it start knows better.
    assert!(
        witness
            .of(long)
            .iter()
            .all(|(info, _)| info.image_digest == running.image_digest),
        "{:?}",
        witness.of(long)
    );
    assert!(running.image_digest.is_some());
}
