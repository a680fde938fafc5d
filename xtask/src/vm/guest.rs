//! What a guest's root holds: busybox, the product, kernel modules, the caller's files, and the command.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::{Copy, tree::Tree};
use crate::{
    process,
    setup::kernels::{Kernel, MODULES_LOADED_AT_BOOT},
    workspace,
};

/// The product's own programs, found on the guest's PATH.
pub(crate) const PRODUCT_PROGRAMS: [&str; 2] = ["lattice-agent", "latticectl"];

const EMPTY_FOLDERS: [(&str, u32); 14] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/usr/local/bin", 0o755),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
];

const SMALL_FILES: [(&str, &str); 7] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost lattice-vm\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("/etc/hostname", "lattice-vm\n"),
    // A runtime copies it for its containers, and starts none where it is missing. There is nobody to ask.
    ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ("/etc/os-release", "ID=lattice-vm\nPRETTY_NAME=\"Lattice test VM\"\n"),
];

/// The kernel falls back to these where it cannot start /init; a VM that hangs in them would say less than a panic.
const APPLETS_LEFT_OUT: [&str; 3] = ["busybox", "init", "linuxrc"];

/// Puts the root together.
///
/// # Errors
///
/// Where a file for it is missing on this machine.
pub(crate) fn build(kernel: &Kernel, copies: &[Copy], command: &[String], marker: &str) -> Result<Tree> {
    let mut tree = Tree::new();
    for (path, permissions) in EMPTY_FOLDERS {
        tree.add_directory(path, permissions);
    }
    for (path, content) in SMALL_FILES {
        tree.add_file(path, 0o644, content);
    }
    // The kernel opens it for PID 1 before anything is mounted.
    tree.add_character_device("/dev/console", (5, 1));
    add_busybox(&mut tree)?;
    add_modules(&mut tree, kernel)?;
    let init = workspace::root().join("tests/vm/init.sh");
    tree.add_file(
        "/init",
        0o755,
        fs::read(&init).with_context(|| format!("cannot read {}", init.display()))?,
    );
    for name in PRODUCT_PROGRAMS {
        let program = workspace::host_program(name);
        if program.is_file() {
            tree.copy(&program, &Path::new("/usr/bin").join(name))?;
        } else {
            bail!("{} is not built: run `cargo xtask build`", program.display());
        }
    }
    for copy in copies {
        tree.copy(&copy.host, &copy.guest)?;
    }
    tree.add_file("/etc/lattice-vm/marker", 0o600, marker);
    tree.add_file("/etc/lattice-vm/command", 0o755, shell_script(command));
    Ok(tree)
}

fn add_busybox(tree: &mut Tree) -> Result<()> {
    let busybox = workspace::find_program("busybox").context("no busybox on PATH: run `cargo xtask setup`")?;
    let applets = process::capture(std::process::Command::new(&busybox).arg("--list"))?;
    tree.copy(&busybox, Path::new("/usr/bin/busybox"))?;
    for applet in applets.lines().filter(|applet| !APPLETS_LEFT_OUT.contains(applet)) {
        tree.add_symlink(format!("/usr/bin/{applet}"), "busybox");
    }
    Ok(())
}

/// All that `setup` kept, for a guest that wants to insmod more; the list names those that the guest loads itself.
fn add_modules(tree: &mut Tree, kernel: &Kernel) -> Result<()> {
    for module in kernel.modules()? {
        let name = module.file_name().context("a module's path ends in no name")?;
        tree.copy(&module, &Path::new("/usr/lib/modules").join(name))?;
    }
    let list: String = MODULES_LOADED_AT_BOOT
        .iter()
        .map(|name| format!("{name}.ko\n"))
        .collect();
    tree.add_file("/etc/lattice-vm/modules", 0o644, list);
    Ok(())
}

/// One word is a shell's line; several are a program and its arguments, passed on byte for byte.
fn shell_script(command: &[String]) -> String {
    match command {
        [line] => format!("{line}\n"),
        words => {
            let quoted: Vec<String> = words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
                .collect();
            format!("exec {}\n", quoted.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell itself says whether the quoting holds.
    #[track_caller]
    fn check_words_survive(words: &[&str]) {
        let command: Vec<String> = ["printf", "%s|"]
            .iter()
            .chain(words)
            .map(|word| (*word).to_owned())
            .collect();
        let script = shell_script(&command);
        let output = process::capture(std::process::Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(output, words.iter().map(|word| format!("{word}|")).collect::<String>());
    }

    #[test]
    fn several_words_reach_the_program_unchanged() {
        check_words_survive(&[
            "plain",
            "with space",
            "it's",
            "$HOME",
            "`id`",
            "\"",
            "",
            "a\nb",
            "*",
            "\\",
        ]);
    }

    #[test]
    fn one_word_is_a_line_of_shell() {
        assert_eq!(shell_script(&["false; exit 3".to_owned()]), "false; exit 3\n");
    }
}
