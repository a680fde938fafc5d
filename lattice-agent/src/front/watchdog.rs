//! A process of its own that ends an agent which hangs.
//!
//! While the agent does not answer, every exec in its containers waits. What releases them is that the fanotify group is closed, and
//! from outside only the end of the agent does that: so a hanging agent is killed. Nothing is lost by it: programs and maps are
//! pinned, the floor goes on judging, and whoever supervises the agent starts it again. An agent that dies by itself needs no
//! watchdog: the kernel closes the group.
//!
//! "Hangs" is said of the front's event thread, which alone decides whether execs wait: it beats once a second, whatever the judges
//! do. A stopped or frozen agent hangs. One that the kernel itself holds (uninterruptible sleep) dies when the kernel lets go of it.
//!
//! The heartbeat is a pipe, the watchdog's standard input; its end is the agent's end, and then the watchdog ends too. The watchdog
//! holds the agent by descriptor, so that it can never kill another process; and it does not hold the fanotify group.

use std::{
    io::{self, Write as _},
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt as _, parent_id},
    },
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::read,
};

use super::{counters::Counter, warn};
use crate::kernel::pidfd;

/// How often the agent shows that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// Silence is counted in slices, so that a machine that was suspended, which both sides sleep through, is one slice late and not dead.
const SLICE_MILLISECONDS: u16 = 500;
/// Slices of silence until the agent is killed: 3 seconds.
const SILENT_SLICES: u32 = 6;
/// How soon it is tried again where a watchdog could not be started. One that ended is replaced at once.
const RESTART_PAUSE: Duration = Duration::from_secs(10);

/// The agent's end. Given to the front in its options.
#[derive(Debug)]
pub struct Heartbeat {
    arguments: Vec<String>,
    state: State,
    last_beat: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Running(Running),
    /// Being started by a thread of its own: the event thread does not wait for a program to start.
    Starting(Receiver<io::Result<Running>>),
    Gone(Instant),
}

#[derive(Debug)]
struct Running {
    child: Child,
    pipe: ChildStdin,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its standard input is closed by now or within the moment, which ends it; one that hangs is not waited for.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            warn("cannot end the front's watchdog", &error);
        }
    }
}

/// Starts the watchdog: this very program with these arguments and the agent's process number behind them. They must lead it
/// to [`main`].
///
/// # Errors
/// When it cannot be started.
pub fn spawn(arguments: &[&str]) -> io::Result<Heartbeat> {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let state = State::Running(start(&arguments)?);
    Ok(Heartbeat {
        arguments,
        state,
        last_beat: None,
    })
}

fn start(arguments: &[String]) -> io::Result<Running> {
    let mut child = Command::new("/proc/self/exe")
        .args(arguments)
        .arg(std::process::id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .current_dir("/")
        // Its own group: what stops the agent from the terminal must not stop the watchdog.
        .process_group(0)
        .spawn()?;
    let pipe = child
        .stdin
        .take()
        .ok_or_else(|| io::Error::other("the watchdog has no standard input"))?;
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(Running { child, pipe })
}

impl Heartbeat {
    /// The watchdog's process, as long as it is known to run.
    pub fn process_id(&self) -> Option<u32> {
        match &self.state {
            State::Running(running) => Some(running.child.id()),
            State::Starting(_) | State::Gone(_) => None,
        }
    }

    /// Beats where it is time, without waiting.
    pub(super) fn beat(&mut self, restarts: &Counter) {
        let now = Instant::now();
        if self.last_beat.is_some_and(|last| now.duration_since(last) < BEAT / 2) {
            return;
        }
        self.last_beat = Some(now);
        let next = match &mut self.state {
            State::Running(running) => match running.pipe.write(&[1]) {
                Ok(_) => return,
                // Full: it has not read for hours, but it is there.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    warn("the front's watchdog is gone", &error);
                    self.restart()
                }
            },
            State::Starting(result) => match result.try_recv() {
                Ok(Ok(running)) => {
                    restarts.increment();
                    State::Running(running)
                }
                Ok(Err(error)) => {
                    warn("the front's watchdog cannot be started", &error);
                    State::Gone(now)
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => State::Gone(now),
            },
            State::Gone(since) if now.duration_since(*since) < RESTART_PAUSE => return,
            State::Gone(_) => self.restart(),
        };
        self.state = next;
    }

    fn restart(&mut self) -> State {
        let arguments = self.arguments.clone();
        let old = mem::replace(&mut self.state, State::Gone(Instant::now()));
        let (sender, receiver) = mpsc::channel();
        let starter = thread::Builder::new().name("front-watchdog".to_owned());
        let begin = move || {
            // Waits for the old one to be gone.
            drop(old);
            // Nobody listens where the front has ended: then the new one ends with its pipe.
            let _ = sender.send(start(&arguments));
        };
        match starter.spawn(begin) {
            Ok(_) => State::Starting(receiver),
            Err(error) => {
                warn("no thread to start the front's watchdog", &error);
                State::Gone(Instant::now())
            }
        }
    }
}

/// The watchdog process: ends with the agent, or ends it.
pub fn main(agent: u32) -> ExitCode {
    match watch(agent) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lattice-agent: the watchdog has ended: {error}");
            ExitCode::from(2)
        }
    }
}

fn watch(agent: u32) -> io::Result<ExitCode> {
    let agent_number = i32::try_from(agent).map_err(io::Error::other)?;
    let process = pidfd::open(agent_number)?;
    // Our parent cannot have been replaced by another process while it is our parent: so the descriptor is the agent.
    if parent_id() != agent {
        return Ok(ExitCode::SUCCESS);
    }
    let pipe = io::stdin();
    let mut silent_slices = 0;
    while silent_slices < SILENT_SLICES {
        match listen(&pipe, &process)? {
            Heard::Nothing => silent_slices += 1,
            Heard::End => return Ok(ExitCode::SUCCESS),
            Heard::Beat => {
                // Not through `Stdin`'s buffer: what it keeps is not seen by the next poll.
                if read(&pipe, &mut [0; 4096])? == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
                silent_slices = 0;
            }
        }
    }
    eprintln!(
        "lattice-agent: the agent (process {agent}) has not shown itself for {} s and holds up the execs of its containers: it is killed; \
         what is pinned stays in force",
        u32::from(SLICE_MILLISECONDS) * SILENT_SLICES / 1000
    );
    pidfd::kill(process.as_fd())?;
    Ok(ExitCode::from(1))
}

enum Heard {
    Beat,
    Nothing,
    End,
}

fn listen(pipe: &impl AsFd, process: &OwnedFd) -> io::Result<Heard> {
    let mut descriptors = [
        PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
        PollFd::new(process.as_fd(), PollFlags::POLLIN),
    ];
    while let Err(error) = poll(&mut descriptors, PollTimeout::from(SLICE_MILLISECONDS)) {
        if error != Errno::EINTR {
            return Err(error.into());
        }
    }
    let [is_beat, has_ended] = descriptors.map(|descriptor| descriptor.any() == Some(true));
    Ok(match (is_beat, has_ended) {
        (_, true) => Heard::End,
        (true, false) => Heard::Beat,
        (false, false) => Heard::Nothing,
    })
}
