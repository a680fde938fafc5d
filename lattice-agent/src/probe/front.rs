//! Whether fanotify asks before an exec, and whether its no is heard: on the trial's own file system, where it can freeze nobody.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use lattice_api::{node_report::FindingResult, v1::Finding};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    finding, offered,
    place::Place,
    program::{Ran, content, ended, start, write},
};
use crate::{containers::cgroup_tree::CgroupTree, kernel::fanotify::Group};

/// How long a question may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn front(place: &Place) -> Finding {
    let consequence = "scripts are not judged; their interpreters are".to_owned();
    match refuse_one(place) {
        Ok(Ran::Refused(Errno::EPERM)) => offered(
            "front",
            "fanotify asked before an exec, and its refusal ended it with EPERM",
        ),
        Ok(ran) => Finding {
            consequence,
            ..finding(
                "front",
                FindingResult::Missing,
                format!("fanotify asked, and its refusal was not heard ({ran:?})"),
            )
        },
        Err(error) => Finding {
            consequence,
            advice: "use a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, and run this with CAP_SYS_ADMIN".into(),
            ..finding(
                "front",
                FindingResult::Missing,
                format!("fanotify does not ask before an exec: {error}"),
            )
        },
    }
}

fn refuse_one(place: &Place) -> io::Result<Ran> {
    let program = place.programs().join("asked");
    write(&program, &content(3))?;
    let group = Group::open()?;
    group.watch(File::open(place.programs())?.as_fd())?;
    // Its own cgroup: nobody judges it there but the group.
    let own = CgroupTree::find().and_then(|tree| tree.of_process(std::process::id()));
    let child = start(&own.map_err(io::Error::other)?, &program)?;
    let end = Instant::now() + PATIENCE;
    let mut asked = 0;
    while asked == 0 && Instant::now() < end {
        let mut ready = [PollFd::new(group.as_fd(), PollFlags::POLLIN)];
        let left = end.saturating_duration_since(Instant::now());
        poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
        for question in group.read()?.questions {
            group.answer(question.file.as_fd(), false)?;
            asked += 1;
        }
    }
    // What is still asked is allowed when the group is closed.
    drop(group);
    let ran = ended(child)?;
    fs::remove_file(&program)?;
    match asked {
        0 => Err(io::Error::other(format!("it did not ask ({ran:?})"))),
        _ => Ok(ran),
    }
}
