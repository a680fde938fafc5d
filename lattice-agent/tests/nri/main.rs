//! A real containerd with NRI: no container's first program runs unjudged, whatever happens to the agent.
//!
//! Half of the containers start a program that the policy lists, half one that it does not; the first act of both is to leave a
//! mark on a host folder. The witness of execs is the kernel's own tracepoint. `LATTICE_TEST_CONTAINERS` says how many short-lived
//! containers there are (default 100); the numbers of the other cases grow with it.

mod agent;
mod cgroups;
mod cri;
mod daemon;
#[expect(dead_code, reason = "shared with the tests on containerd without NRI")]
#[path = "../containerd/image.rs"]
mod image;
mod witness;

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use lattice_agent::containers::cgroup_tree::CgroupTree;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::runtime::Runtime;

use self::{
    agent::{Agent, Counters},
    cgroups::Cgroups,
    cri::{Cri, Pod},
    daemon::{Daemon, HOOKED, PLAIN, wait_for},
    witness::Witness,
};

const NAMESPACE: &str = "nri-test";
const CONTAINER: &str = "short";
const IMAGE: &str = "registry.test/short:1";
const PAUSE_IMAGE: &str = "registry.test/pause:1";
const ENDS_WITHIN: Duration = Duration::from_secs(180);
/// What a killed program's exit code is.
const KILLED: i32 = 128 + 9;

/// So many of a hundred, or of what `LATTICE_TEST_CONTAINERS` says.
fn percent(part: u32) -> u32 {
    let all: u32 = std::env::var("LATTICE_TEST_CONTAINERS").map_or(100, |text| text.parse().unwrap());
    all * part / 100
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Listed,
    Unlisted,
}

impl Kind {
    fn of(attempt: u32) -> Self {
        if attempt.is_multiple_of(2) {
            Self::Listed
        } else {
            Self::Unlisted
        }
    }
}

/// How a container came out.
#[derive(Debug, Clone, Copy)]
struct Seen {
    kind: Kind,
    exit_code: i32,
    /// Its program ran.
    marked: bool,
}

/// Ends in this order: the witness's mount lies in the daemon's folder, and the cgroups hold what the daemon leaves.
struct World {
    witness: Witness,
    daemon: Daemon,
    cgroups: Cgroups,
    cri: Cri,
    runtime: Runtime,
    attempts: AtomicU32,
    /// Path of each kind of program, in its image; known to no other test.
    programs: [String; 2],
    /// That of pods.
    pause_program: String,
    /// Whether the agent refuses before a tracepoint sees the program start.
    is_tier_1: bool,
}

impl World {
    fn build() -> Result<Self, String> {
        let tree = CgroupTree::find().map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let cgroups = Cgroups::create(&tree);
        let daemon = Daemon::start(&cgroups, PAUSE_IMAGE);
        let prefix = format!("/bin/busybox-{}-", std::process::id());
        let programs = ["listed", "unlisted"].map(|kind| format!("{prefix}{kind}"));
        let witness =
            Witness::start(&daemon.path(""), &prefix).map_err(|error| format!("no trace instance: {error}"))?;
        let busybox = fs::read(daemon::find("busybox").unwrap()).unwrap();
        // The same program in other bytes.
        let other = [&busybox[..], b"\n"].concat();
        let files = [
            (&programs[0][1..], 0o755, &busybox[..]),
            (&programs[1][1..], 0o755, &other[..]),
        ];
        let (archive, digest) = image::build_of(&daemon.path(""), IMAGE, &files, &json!({}));
        daemon.import(&archive);
        let pause_program = format!("{prefix}pause");
        let pause = json!({"Entrypoint": [pause_program, "sleep", "3600"]});
        let (archive, _) = image::build_of(
            &daemon.path(""),
            PAUSE_IMAGE,
            &[(&pause_program[1..], 0o755, &busybox)],
            &pause,
        );
        daemon.import(&archive);
        let policies = daemon.path("agent/policies");
        fs::create_dir_all(&policies).unwrap();
        let policy = format!(
            "apiVersion: lattice.dev/v1alpha1\nkind: ExecPolicy\nmetadata: {{name: short, namespace: {NAMESPACE}}}\nspec:\n  \
             target: {{container: {CONTAINER}, imageDigest: \"{digest}\"}}\n  mode: enforce\n  \
             fail: {{unresolved: closed, unknown: closed, mapFull: closed, missing: open}}\n  entries:\n  - {{path: {}, sha256: \"{}\"}}\n",
            programs[0],
            image::digest(&busybox).trim_start_matches("sha256:"),
        );
        fs::write(policies.join("short.yaml"), policy).unwrap();
        let cri = runtime.block_on(Cri::connect(&daemon.socket())).unwrap();
        wait_for("the CRI serves", ENDS_WITHIN, || runtime.block_on(cri.is_ready()));
        Ok(Self {
            runtime,
            daemon,
            witness,
            cgroups,
            cri,
            attempts: AtomicU32::new(0),
            programs,
            pause_program,
            is_tier_1: false,
        })
    }

    fn pod(&self, name: &str, handler: &str) -> Pod {
        let (cgroup, pauses) = (self.cgroups.of_pod(name), self.witness.count(&self.pause_program));
        let pod = self
            .runtime
            .block_on(self.cri.run_pod(NAMESPACE, name, &cgroup, handler));
        let pod = pod.unwrap_or_else(|status| panic!("pod {name}: {status:?}\n{}", self.daemon.logs()));
        // The pod is there before its own program starts, whose exec must not be counted among those of its containers.
        wait_for("the pod's own program starts", ENDS_WITHIN, || {
            self.witness.count(&self.pause_program) > pauses
        });
        pod
    }

    /// One container from its creation to its removal.
    fn container(&self, pod: &Pod, kind: Kind) -> Seen {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let mark = format!("mark-{attempt}");
        let command = [
            self.programs[kind as usize].as_str(),
            "touch",
            &format!("/marks/{mark}"),
        ]
        .map(str::to_owned);
        let command = command.each_ref().map(String::as_str);
        let marks = self.daemon.marks();
        self.runtime.block_on(async {
            let id = self
                .cri
                .run_container(pod, CONTAINER, attempt, IMAGE, &command, &marks)
                .await
                .unwrap_or_else(|status| panic!("container {attempt}: {status:?}\n{}", self.daemon.logs()));
            let deadline = Instant::now() + ENDS_WITHIN;
            let exit_code = loop {
                if let Some(code) = self.cri.exit_code(&id).await.unwrap() {
                    break code;
                }
                assert!(Instant::now() < deadline, "container {attempt} does not end");
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            self.cri.remove_container(&id).await.unwrap();
            Seen {
                kind,
                exit_code,
                marked: marks.join(&mark).exists(),
            }
        })
    }

    /// So many containers, half of each kind, some at the same time.
    fn containers(&self, pod: &Pod, count: u32) -> Vec<Seen> {
        const AT_ONCE: u32 = 4;
        thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE)
                .map(|first| {
                    let numbers = (first..count).step_by(AT_ONCE as usize);
                    scope.spawn(move || {
                        numbers
                            .map(|number| self.container(pod, Kind::of(number)))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        })
    }

    /// Execs that the witness saw so far, of both kinds.
    fn execs(&self) -> u64 {
        self.programs
            .iter()
            .map(|program| self.witness.count(program) as u64)
            .sum()
    }

    /// Holds what the witness saw since `before` against what was started: it sees each exec in tier 2, where it is killed after it, and in
    /// tier 1 those alone that were not refused. Returns how many there were.
    #[track_caller]
    fn check_witness(&self, before: u64, seen: &[Seen]) -> u64 {
        let started = seen.len() as u64;
        let expected = if self.is_tier_1 { count_listed(seen).1 } else { started };
        assert_eq!(
            self.execs() - before,
            expected,
            "the witness saw other execs than were started and not refused"
        );
        started
    }
}

/// How far each counter went.
struct Between<'counters> {
    before: &'counters Counters,
    after: &'counters Counters,
}

impl Between<'_> {
    fn of(&self, name: &str) -> u64 {
        let value = |counters: &Counters| counters.get(name).copied().unwrap_or(0);
        value(self.after) - value(self.before)
    }

    fn verdicts(&self, reason: &str) -> u64 {
        self.of(&format!("lattice_verdicts_total{{reason=\"{reason}\"}}"))
    }

    /// Judged as something of a container, whatever came of it.
    fn judged(&self) -> u64 {
        self.after
            .keys()
            .filter(|name| name.starts_with("lattice_verdicts_total"))
            .filter(|name| {
                // What is mapped is judged too, in tier 1, and is no exec.
                !["\"outside\"", "\"runtime-helper\"", "\"mapped-", "\"mapping\""]
                    .iter()
                    .any(|reason| name.contains(reason))
            })
            .map(|name| self.of(name))
            .sum()
    }
}

/// The one thing that must never happen.
#[track_caller]
fn nothing_unlisted_ran(seen: &[Seen]) {
    let unlisted: Vec<_> = seen.iter().filter(|seen| seen.kind == Kind::Unlisted).collect();
    assert!(!unlisted.is_empty());
    let ran: Vec<_> = unlisted
        .iter()
        .filter(|seen| seen.marked || seen.exit_code != KILLED)
        .collect();
    assert!(ran.is_empty(), "{} of {} unguarded: {ran:?}", ran.len(), unlisted.len());
}

fn count_listed(seen: &[Seen]) -> (u64, u64) {
    let listed = seen.iter().filter(|seen| seen.kind == Kind::Listed);
    let ran = listed.clone().filter(|seen| seen.marked && seen.exit_code == 0);
    (listed.count() as u64, ran.count() as u64)
}

#[test]
fn no_first_exec_is_unguarded() {
    if let Some(reason) = daemon::missing() {
        return println!("skipped: no_first_exec_is_unguarded: {reason}");
    }
    let world = match World::build() {
        Ok(world) => world,
        Err(reason) => return println!("skipped: no_first_exec_is_unguarded: {reason}"),
    };
    let mut world = world;
    {
        let mut agent = Agent::start(&world.runtime, &world.cgroups, &world.daemon);
        world.is_tier_1 = agent.is_tier_1();
        println!("in tier {}", if world.is_tier_1 { 1 } else { 2 });
        let world = &world;
        let pod = world.pod("plain", PLAIN);
        short_lived_containers_are_judged_from_their_first_exec(world, &agent, &pod);
        let hooked = a_hook_of_the_bundle_passes_and_the_container_does_not(world, &agent);
        for _ in 0..percent(2).max(1) {
            nor_while_the_agent_hangs(world, &mut agent, &pod);
        }
        nor_while_the_agent_is_away(world, &mut agent, &pod, &hooked);
        nor_while_the_agent_restarts(world, &mut agent, &pod);
    }
    without_an_agent_everything_runs(&world);
    containerd_may_die_and_come_back(&mut world);
}

fn short_lived_containers_are_judged_from_their_first_exec(world: &World, agent: &Agent<'_>, pod: &Pod) {
    let count = percent(100);
    let (execs, before, started) = (world.execs(), agent.counters(), Instant::now());
    let seen = world.containers(pod, count);
    let took = started.elapsed();
    nothing_unlisted_ran(&seen);
    let after = agent.counters();
    let between = Between {
        before: &before,
        after: &after,
    };
    let outcome = |word: &str| between.of(&format!("lattice_nri_starts_total{{outcome=\"{word}\"}}"));
    let (guarded, late, unresolved) = (outcome("guarded"), outcome("late"), outcome("unresolved"));
    println!(
        "{count} containers in {took:.1?}: {guarded} guarded before their first exec, {late} late, {unresolved} unresolved"
    );
    assert_eq!(
        guarded + late + unresolved,
        u64::from(count),
        "the runtime did not ask for each"
    );
    assert_eq!(unresolved, 0, "{}", agent.log_text());
    let (listed, ran) = count_listed(&seen);
    assert!(
        ran + late >= listed,
        "{ran} of {listed} listed programs ran although only {late} were late"
    );
    let execs = world.check_witness(execs, &seen);
    assert_eq!(
        between.judged(),
        execs,
        "execs by the witness are not those that were judged: {after:?}"
    );
    assert_eq!(between.verdicts("listed-digest"), ran);
}

/// Returns a pod whose containers have a hook.
fn a_hook_of_the_bundle_passes_and_the_container_does_not(world: &World, agent: &Agent<'_>) -> Pod {
    const CONTAINERS: u64 = 5;
    let pod = world.pod("hooked", HOOKED);
    let mark = world.daemon.marks().join("hook");
    let before = agent.counters();
    for _ in 0..CONTAINERS {
        assert!(!mark.exists());
        nothing_unlisted_ran(&[world.container(&pod, Kind::Unlisted)]);
        fs::remove_file(&mark).expect("the createContainer hook was refused");
    }
    let after = agent.counters();
    let between = Between {
        before: &before,
        after: &after,
    };
    let helpers = between.verdicts("runtime-helper");
    println!("{CONTAINERS} containers with a hook: {helpers} execs of the runtime and its hooks passed");
    // Whether runc itself starts once more in the container's cgroup depends on when it is moved there.
    assert!((CONTAINERS..=2 * CONTAINERS).contains(&helpers), "{after:?}");
    assert_eq!(
        between.judged(),
        CONTAINERS,
        "a hook was judged as the container's program"
    );
    let listed = world.container(&pod, Kind::Listed);
    assert!(listed.marked && mark.exists(), "{listed:?}");
    fs::remove_file(&mark).unwrap();
    pod
}

/// A listed program runs (again): the agent is asked, and answers.
fn is_guarding(world: &World, pod: &Pod) {
    wait_for("listed programs run again", ENDS_WITHIN, || {
        world.container(pod, Kind::Listed).marked
    });
}

fn nor_while_the_agent_hangs(world: &World, agent: &mut Agent<'_>, pod: &Pod) {
    is_guarding(world, pod);
    let (before, told) = (agent.counters(), agent.notices("late-start"));
    agent.signal(Signal::SIGSTOP);
    let seen = thread::scope(|scope| {
        let started = Instant::now();
        let containers = scope.spawn(|| world.containers(pod, 8));
        thread::sleep(Duration::from_secs(3).saturating_sub(started.elapsed()));
        agent.signal(Signal::SIGCONT);
        containers.join().unwrap()
    });
    nothing_unlisted_ran(&seen);
    // The front's watchdog may have ended it, or be about to.
    let restarts = agent.until_registered();
    is_guarding(world, pod);
    let (after, late_starts) = (agent.counters(), agent.notices("late-start") - told);
    println!(
        "the agent hung for 3 s with {} starts, of which {late_starts} were told as late; its watchdog ended it {restarts} times",
        seen.len()
    );
    // Where there is no watchdog the same agent goes on: what the runtime did not wait for is counted and told.
    if world.is_tier_1 {
        let between = Between {
            before: &before,
            after: &after,
        };
        let late = between.of("lattice_nri_starts_total{outcome=\"late\"}");
        assert!(
            late >= 1 && late_starts == late,
            "{late} late, {late_starts} told: {}",
            agent.log_text()
        );
    }
    agent.until_registered();
    is_guarding(world, pod);
}

fn nor_while_the_agent_is_away(world: &World, agent: &mut Agent<'_>, pod: &Pod, hooked: &Pod) {
    // What hooks there are the agent learns anew from each container that has one.
    assert!(world.container(hooked, Kind::Listed).marked);
    fs::remove_file(world.daemon.marks().join("hook")).unwrap();
    let (execs, before) = (world.execs(), agent.counters());
    agent.kill();
    let count = percent(20);
    let mut seen = world.containers(pod, count);
    // A hook that was known before still passes; the container's program does not.
    seen.push(world.container(hooked, Kind::Unlisted));
    nothing_unlisted_ran(&seen);
    fs::remove_file(world.daemon.marks().join("hook")).expect("the hook was refused while the agent was away");
    let execs = world.check_witness(execs, &seen);
    println!("the agent was away for {execs} starts: no program ran");
    assert_eq!(count_listed(&seen).1, 0, "what is pending is closed for all");
    agent.run();
    agent.until_registered();
    let after = agent.counters();
    let between = Between {
        before: &before,
        after: &after,
    };
    assert_eq!(between.verdicts("pending"), execs, "{after:?}");
    is_guarding(world, pod);
}

fn nor_while_the_agent_restarts(world: &World, agent: &mut Agent<'_>, pod: &Pod) {
    let (execs, before) = (world.execs(), agent.counters());
    let done = AtomicBool::new(false);
    let (seen, restarts) = thread::scope(|scope| {
        let containers = scope.spawn(|| {
            let seen = world.containers(pod, percent(40));
            done.store(true, Ordering::Relaxed);
            seen
        });
        let mut restarts = 0;
        while !done.load(Ordering::Relaxed) {
            agent.kill();
            agent.run();
            restarts += 1;
            // A different moment of its start each time, from before the pins are read to after it is registered.
            thread::sleep(Duration::from_millis(restarts * 130 % 1500));
        }
        (containers.join().unwrap(), restarts)
    });
    nothing_unlisted_ran(&seen);
    agent.until_registered();
    let after = agent.counters();
    let between = Between {
        before: &before,
        after: &after,
    };
    let execs = world.check_witness(execs, &seen);
    let (listed, ran) = count_listed(&seen);
    println!(
        "{restarts} restarts during {} starts: {ran} of {listed} listed programs ran, no unlisted one",
        seen.len()
    );
    assert_eq!(
        between.judged(),
        execs,
        "execs by the witness are not those that were judged: {after:?}"
    );
    is_guarding(world, pod);
}

fn without_an_agent_everything_runs(world: &World) {
    let pod = world.pod("control", PLAIN);
    let seen = world.containers(&pod, 10);
    assert!(seen.iter().all(|seen| seen.marked && seen.exit_code == 0), "{seen:?}");
}

fn containerd_may_die_and_come_back(world: &mut World) {
    world.daemon.kill();
    let World { daemon, cgroups, .. } = world;
    daemon.run(cgroups);
    world.cri = world.runtime.block_on(Cri::connect(&world.daemon.socket())).unwrap();
    wait_for("the CRI serves again", ENDS_WITHIN, || {
        world.runtime.block_on(world.cri.is_ready())
    });
    let agent = Agent::start(&world.runtime, &world.cgroups, &world.daemon);
    let pod = world.pod("later", PLAIN);
    nothing_unlisted_ran(&world.containers(&pod, 4));
    let before = agent.counters()["lattice_nri_registrations_total"];
    world.daemon.kill();
    world.daemon.run(&world.cgroups);
    world.cri = world.runtime.block_on(Cri::connect(&world.daemon.socket())).unwrap();
    wait_for("the CRI serves once more", ENDS_WITHIN, || {
        world.runtime.block_on(world.cri.is_ready())
    });
    wait_for("the plugin is taken again", ENDS_WITHIN, || {
        agent.counters()["lattice_nri_registrations_total"] > before
    });
    is_guarding(world, &pod);
    nothing_unlisted_ran(&world.containers(&pod, 4));
}
