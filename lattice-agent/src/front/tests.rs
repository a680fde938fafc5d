//! The front on this kernel: real overlays in a mount namespace of the test's own, real programs, judges that answer, hang and panic.

mod world;

use std::{
    env, fs,
    os::{
        fd::AsFd as _,
        unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use self::world::{Asked, Recorder, World, world};
use super::{Answer, Failure, Front, FrontError, Options, root, watchdog};

/// Longer than any answer here takes, shorter than the bound of 2 s.
const AT_ONCE: Duration = Duration::from_millis(1500);

fn options(failure: Failure, milliseconds: u64) -> Options {
    Options {
        failure,
        answer_within: Duration::from_millis(milliseconds),
        heartbeat: None,
    }
}

macro_rules! world {
    ($name:literal) => {
        match world() {
            Ok(world) => world,
            Err(reason) => return println!("skipped: {}: {reason}", $name),
        }
    };
}

/// What becomes of a program under one answer: whether it ran, its signal, its exec's error.
#[track_caller]
fn check(world: &World, answer: Answer, has_run: bool, signal: Option<i32>, error: Option<i32>) {
    let judge = Recorder::new(move |_: &Asked| answer);
    let front = Front::start(judge.clone()).unwrap();
    let device = front.watch(world.root(), 1).unwrap();
    assert_eq!(device, world.device(), "the device is that of mountinfo");
    let seen = world.run("busybox-mark");
    assert_eq!((seen.has_mark, seen.signal, seen.error), (has_run, signal, error));
    let asked = judge.asked();
    assert_eq!(asked.len(), 1, "a static program asks once: {asked:?}");
    assert_eq!((asked[0].device, asked[0].inode), (device, world.inode("busybox-mark")));
    assert_eq!(
        asked[0].bytes,
        fs::metadata(world.root().join("busybox-mark")).unwrap().len()
    );
    let counts = front.counts();
    assert_eq!((counts.asked, counts.allowed + counts.denied), (1, 1));
    assert_eq!(counts.denied, u64::from(!has_run));
    assert_eq!((counts.killed, counts.kill_failed), (u64::from(signal.is_some()), 0));
    front.forget(device, 1).unwrap();
    assert!(world.run("busybox-mark").has_mark, "a forgotten root is not judged");
    assert_eq!(judge.asked().len(), 1);
}

#[test]
fn each_answer_has_its_effect() {
    let world = world!("each_answer_has_its_effect");
    check(&world, Answer::Allow, true, None, None);
    check(&world, Answer::Deny, false, None, Some(libc::EPERM));
    check(&world, Answer::KillAndDeny, false, Some(libc::SIGKILL), None);
}

#[test]
fn a_layer_on_another_file_system_does_not_hide_the_device() {
    let world = match World::with_lower_on_tmpfs() {
        Ok(world) => world,
        Err(reason) => {
            return println!("skipped: a_layer_on_another_file_system_does_not_hide_the_device: {reason}");
        }
    };
    let shown = fs::metadata(world.root().join("busybox-mark")).unwrap().dev();
    assert_ne!(shown, u64::from(world.device()), "stat shows the layer");
    check(&world, Answer::Allow, true, None, None);
}

#[test]
fn script_interpreter_and_loader_each_ask() {
    let world = world!("script_interpreter_and_loader_each_ask");
    let judge = Recorder::new(|_: &Asked| Answer::Allow);
    let front = Front::start(judge.clone()).unwrap();
    front.watch(world.root(), 1).unwrap();
    assert!(world.run("script").has_mark);
    let inodes = |names: &[&str]| names.iter().map(|name| world.inode(name)).collect::<Vec<_>>();
    assert_eq!(judge.take_inodes(), inodes(&["script", "bin/sh"]));
    let (program, loader) = match world.add_dynamic() {
        Ok(names) => names,
        Err(reason) => return println!("skipped: script_interpreter_and_loader_each_ask (loader): {reason}"),
    };
    assert!(world.run(&program).has_mark);
    assert_eq!(judge.take_inodes(), inodes(&[&program, &loader]));
    // Refused as the interpreter, it ends the program before its first instruction.
    let refused = world.inode(&loader);
    let judge = Recorder::new(move |asked: &Asked| {
        if asked.inode == refused {
            Answer::Deny
        } else {
            Answer::Allow
        }
    });
    drop(front);
    let front = Front::start(judge).unwrap();
    front.watch(world.root(), 1).unwrap();
    let seen = world.run(&program);
    assert_eq!((seen.has_mark, seen.error), (false, Some(libc::EPERM)));
}

#[test]
fn an_ignored_file_is_asked_for_again_when_written_to_or_flushed() {
    let world = world!("an_ignored_file_is_asked_for_again_when_written_to_or_flushed");
    let judge = Recorder::new(|_: &Asked| Answer::AllowAndIgnore);
    let front = Front::start(judge.clone()).unwrap();
    let device = front.watch(world.root(), 1).unwrap();
    let expect = |count: usize, why: &str| {
        assert!(world.run("busybox-mark").has_mark);
        assert_eq!(judge.asked().len(), count, "{why}");
    };
    expect(1, "the first exec asks");
    expect(1, "the second does not");
    world.append("busybox-mark");
    expect(2, "a modified file asks again (copied up from the lower layer)");
    expect(2, "then it is ignored again");
    world.append("busybox-mark");
    expect(3, "a modified file asks again (in the upper layer)");
    front.flush().unwrap();
    expect(4, "a flush asks again");
    front.forget(device, 1).unwrap();
    front.watch(world.root(), 2).unwrap();
    expect(5, "a root that is watched anew keeps no verdict");
    assert_eq!(front.counts().ignored, 5);
}

#[test]
fn a_verdict_from_before_a_flush_is_not_kept() {
    let world = world!("a_verdict_from_before_a_flush_is_not_kept");
    let judge = Recorder::new(|_: &Asked| {
        thread::sleep(Duration::from_millis(400));
        Answer::AllowAndIgnore
    });
    let front = Front::start(judge.clone()).unwrap();
    front.watch(world.root(), 1).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            judge.wait_until_asked(1);
            front.flush().unwrap();
        });
        assert!(world.run("busybox-mark").has_mark);
    });
    assert!(world.run("busybox-mark").has_mark);
    assert_eq!((judge.asked().len(), front.counts().ignored), (2, 1));
}

#[test]
fn a_panic_is_answered_with_the_failure_and_the_next_is_judged() {
    let world = world!("a_panic_is_answered_with_the_failure_and_the_next_is_judged");
    for (failure, has_run) in [(Failure::Allow, true), (Failure::Deny, false)] {
        let judge = Recorder::new(|_: &Asked| {
            // Unwinds as a panic does, but says nothing: a log with backtraces that are meant hides those that are not.
            std::panic::resume_unwind(Box::new("on purpose"))
        });
        let front = Front::start_with(judge.clone(), options(failure, 2000)).unwrap();
        front.watch(world.root(), 1).unwrap();
        // More often than there are threads: a panic does not cost one.
        for _ in 0..6 {
            let seen = world.run("busybox-mark");
            assert_eq!(
                (seen.has_mark, seen.error),
                (has_run, (!has_run).then_some(libc::EPERM))
            );
        }
        let counts = front.counts();
        assert_eq!((counts.panicked, counts.timed_out, counts.asked), (6, 0, 6));
        assert!(front.is_running());
    }
}

#[test]
fn a_hung_judge_is_given_up_and_others_judge_on() {
    let world = world!("a_hung_judge_is_given_up_and_others_judge_on");
    let hung = world.inode("busybox-mark");
    let judge = Recorder::hanging(move |asked: &Asked| (asked.inode != hung).then_some(Answer::Deny));
    let front = Front::start_with(judge.clone(), options(Failure::Allow, 300)).unwrap();
    front.watch(world.root(), 1).unwrap();
    // Twice as often as there are threads: they are replaced.
    for _ in 0..8 {
        let start = Instant::now();
        assert!(world.run("busybox-mark").has_mark);
        assert!(
            (Duration::from_millis(300)..AT_ONCE).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(
            world.run("busybox-other").error,
            Some(libc::EPERM),
            "the others are judged meanwhile"
        );
    }
    assert_eq!((front.counts().timed_out, front.counts().stalled), (8, 0));
    // When the limit is reached nothing waits for nobody.
    for _ in 8..16 {
        assert!(world.run("busybox-mark").has_mark);
    }
    let start = Instant::now();
    assert!(world.run("busybox-other").has_mark);
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(front.counts().stalled, 1);
    // And when they come back, everything is judged as before.
    judge.release();
    let deadline = Instant::now() + AT_ONCE;
    while world.run("busybox-other").has_mark {
        assert!(Instant::now() < deadline, "the threads that came back do not judge");
    }
    let counts = front.counts();
    assert_eq!(counts.asked, counts.allowed + counts.denied);
}

#[test]
fn a_late_kill_has_no_effect() {
    let world = world!("a_late_kill_has_no_effect");
    let judge = Recorder::new(|_: &Asked| {
        thread::sleep(Duration::from_millis(600));
        Answer::KillAndDeny
    });
    let front = Front::start_with(judge, options(Failure::Allow, 200)).unwrap();
    front.watch(world.root(), 1).unwrap();
    let seen = world.run("sleep-it");
    assert_eq!(
        (seen.has_mark, seen.signal, seen.error),
        (true, None, None),
        "it runs longer than the judge thinks"
    );
    assert_eq!((front.counts().killed, front.counts().timed_out), (0, 1));
}

#[test]
fn the_end_of_the_front_lets_pending_execs_go_on() {
    let world = world!("the_end_of_the_front_lets_pending_execs_go_on");
    let judge = Recorder::hanging(|_: &Asked| None);
    let front = Front::start_with(judge.clone(), options(Failure::Deny, 60_000)).unwrap();
    front.watch(world.root(), 1).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            judge.wait_until_asked(1);
            drop(front);
        });
        assert!(world.run("busybox-mark").has_mark);
    });
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    judge.release();
}

#[test]
fn many_at_once_are_all_answered() {
    let world = world!("many_at_once_are_all_answered");
    let judge = Recorder::new(|_: &Asked| Answer::Allow);
    let front = Front::start(judge).unwrap();
    front.watch(world.root(), 1).unwrap();
    // A burst that fills the questions held at once, from a process tree that the test does not wait in.
    let burst = "i=0; while [ $i -lt 400 ]; do /busybox-other true & i=$((i+1)); done; wait; : > /mark";
    assert!(world.run_with("bin/sh", &["-c", burst]).has_mark);
    let counts = front.counts();
    assert_eq!(counts.asked, 401);
    assert_eq!(
        (
            counts.allowed,
            counts.timed_out,
            counts.read_failed,
            counts.answer_failed
        ),
        (401, 0, 0, 0)
    );
}

#[test]
fn what_is_not_a_containers_own_overlay_is_refused() {
    let world = world!("what_is_not_a_containers_own_overlay_is_refused");
    let front = Front::start(Recorder::new(|_: &Asked| Answer::Deny)).unwrap();
    #[track_caller]
    fn refused(front: &Front, path: &Path) {
        let error = front.watch(path, 1).unwrap_err();
        assert!(
            matches!(
                error,
                FrontError::NotAnOverlay { .. } | FrontError::NotTheContainersOwn { .. }
            ),
            "{path:?}: {error}"
        );
    }
    refused(&front, Path::new("/"));
    refused(&front, Path::new("/proc/self/root"));
    refused(&front, Path::new("/proc"));
    refused(&front, world.scratch());
    // An overlay that the agent itself lives on, as in a node that is a container.
    let protected = root::Protected::of(world.device(), "the agent's program");
    let error = root::open(world.root(), &protected).unwrap_err();
    assert!(matches!(error, FrontError::NotTheContainersOwn { .. }), "{error}");
    assert!(error.to_string().contains("the agent's program"), "{error}");
    assert!(
        Command::new("true").status().unwrap().success(),
        "the host's programs go on"
    );
    assert_eq!(front.counts().asked, 0);
    assert!(matches!(
        front.watch(Path::new("/no/such/root"), 1),
        Err(FrontError::Open { .. })
    ));
}

const ROLE: &str = "LATTICE_FRONT_TEST_ROLE";
const ROOT: &str = "LATTICE_FRONT_TEST_ROOT";

/// This test program is three processes: the test, the agent that hangs, and the agent's watchdog.
#[test]
fn the_watchdog_ends_an_agent_that_hangs() {
    const NAME: &str = "front::tests::the_watchdog_ends_an_agent_that_hangs";
    if env::var(ROLE).is_ok_and(|role| role == "agent") {
        // The watchdog's last argument is a number; the test runner takes it for another filter.
        return match env::args().next_back().and_then(|last| last.parse().ok()) {
            Some(number) => std::process::exit(i32::from(watchdog::main(number) != std::process::ExitCode::SUCCESS)),
            None => agent(NAME),
        };
    }
    let world = world!("the_watchdog_ends_an_agent_that_hangs");
    let ready = world.scratch().join("ready");
    let mut agent = Command::new("/proc/self/exe")
        .args([NAME, "--exact", "--nocapture"])
        .env(ROLE, "agent")
        .env(ROOT, world.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready.exists() {
        assert!(
            Instant::now() < deadline && agent.try_wait().unwrap().is_none(),
            "the agent does not start"
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(world.run("busybox-mark").error, Some(libc::EPERM), "the agent judges");
    // It beats: the watchdog leaves it alone for longer than the silence it would punish.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(
        world.run("busybox-mark").error,
        Some(libc::EPERM),
        "the agent judges on"
    );
    let process = crate::kernel::pidfd::open(agent.id().cast_signed()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(agent.id().cast_signed()),
        nix::sys::signal::SIGSTOP,
    )
    .unwrap();
    let start = Instant::now();
    assert!(
        world.run("busybox-mark").has_mark,
        "what waited for the agent goes on when it is gone"
    );
    let waited = start.elapsed();
    // No sooner than the silence that is punished; how much later depends on the machine.
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert_eq!(agent.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(crate::kernel::pidfd::kill(process.as_fd()).is_err());
}

fn agent(name: &str) {
    let root = env::var_os(ROOT).expect("the test names the root");
    let root = Path::new(&root);
    let heartbeat = watchdog::spawn(&[name, "--nocapture", "--test-threads=1"]).unwrap();
    let first = heartbeat.process_id().expect("it was started").cast_signed();
    let options = Options {
        heartbeat: Some(heartbeat),
        ..Options::default()
    };
    let front = Front::start_with(Recorder::new(|_: &Asked| Answer::Deny), options).unwrap();
    front.watch(root, 1).unwrap();
    // The watchdog that is to act is the second: the first one is ended, and replaced.
    crate::kernel::pidfd::kill(crate::kernel::pidfd::open(first).unwrap().as_fd()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while front.counts().watchdog_restarted == 0 {
        assert!(Instant::now() < deadline, "the watchdog is not replaced");
        thread::sleep(Duration::from_millis(20));
    }
    fs::write(root.parent().expect("below the scratch folder").join("ready"), "").unwrap();
    thread::sleep(Duration::from_secs(60));
    panic!("the test did not stop the agent");
}
