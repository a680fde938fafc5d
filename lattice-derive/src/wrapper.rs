//! Programs that start the program their arguments name: which of the arguments is it?

use crate::expand::Argument;

/// How a wrapper reads its command line, up to the program that it starts.
struct Wrapper {
    names: &'static [&'static str],
    /// Options whose value is the next argument, or follows directly (`-n10`, `--signal=TERM`).
    with_value: &'static [&'static str],
    /// Options without a value.
    flags: &'static [&'static str],
    /// Arguments before the program.
    positionals: usize,
    /// `NAME=VALUE` arguments before the program.
    assignments: bool,
}

const NONE: &[&str] = &[];

/// Sources: each program's manual page.
const WRAPPERS: &[Wrapper] = &[
    wrapper(
        &["tini", "tini-static", "docker-init"],
        &["-p", "-e"],
        &["-s", "-v", "-w", "-g", "-l", "-h"],
        0,
    ),
    wrapper(
        &["dumb-init"],
        &["-r", "--rewrite"],
        &[
            "-c",
            "--single-child",
            "-v",
            "--verbose",
            "-h",
            "--help",
            "-V",
            "--version",
        ],
        0,
    ),
    wrapper(&["catatonit"], NONE, &["-P", "-g", "-h", "-L", "-V"], 0),
    Wrapper {
        names: &["env"],
        with_value: &[
            "-u",
            "--unset",
            "-C",
            "--chdir",
            "-S",
            "--split-string",
            "-a",
            "--argv0",
        ],
        flags: &["-i", "--ignore-environment", "-", "-0", "--null", "-v", "--debug"],
        positionals: 0,
        assignments: true,
    },
    wrapper(&["gosu", "su-exec", "s6-setuidgid", "setuidgid"], NONE, NONE, 1),
    wrapper(
        &["chpst"],
        &[
            "-u", "-U", "-b", "-e", "-/", "-n", "-l", "-L", "-m", "-d", "-o", "-p", "-f", "-c", "-r", "-t", "-C",
        ],
        &["-v", "-P", "-0", "-1", "-2"],
        0,
    ),
    wrapper(
        &["setpriv"],
        &[
            "--reuid",
            "--regid",
            "--ruid",
            "--euid",
            "--rgid",
            "--egid",
            "--groups",
            "--inh-caps",
            "--ambient-caps",
            "--bounding-set",
            "--securebits",
            "--pdeathsig",
            "--selinux-label",
            "--apparmor-profile",
        ],
        &[
            "--nnp",
            "--no-new-privs",
            "--clear-groups",
            "--keep-groups",
            "--init-groups",
            "--reset-env",
        ],
        0,
    ),
    wrapper(&["nice"], &["-n", "--adjustment"], NONE, 0),
    wrapper(
        &["ionice"],
        &["-c", "--class", "-n", "--classdata"],
        &["-t", "--ignore"],
        0,
    ),
    wrapper(
        &["chrt"],
        &["-T", "-P", "-D"],
        &["-b", "-d", "-f", "-i", "-o", "-r", "-R", "-a", "-v"],
        1,
    ),
    wrapper(&["taskset"], NONE, &["-a", "-c"], 1),
    wrapper(
        &["timeout"],
        &["-s", "--signal", "-k", "--kill-after"],
        &["--foreground", "--preserve-status", "-v", "--verbose", "-p", "-f"],
        1,
    ),
    wrapper(&["nohup", "setarch", "linux64", "catchsegv", "chronic"], NONE, NONE, 0),
    wrapper(&["setsid"], NONE, &["-c", "--ctty", "-f", "--fork", "-w", "--wait"], 0),
    wrapper(
        &["stdbuf"],
        &["-i", "--input", "-o", "--output", "-e", "--error"],
        NONE,
        0,
    ),
    wrapper(
        &["time"],
        &["-f", "--format", "-o", "--output"],
        &["-p", "-v", "-a", "-q"],
        0,
    ),
    wrapper(
        &["flock"],
        &["-w", "--timeout", "-E"],
        &["-s", "-x", "-e", "-n", "-o", "-F", "-u", "--nonblock"],
        1,
    ),
    wrapper(
        &["xargs"],
        &[
            "-n",
            "-P",
            "-I",
            "-L",
            "-d",
            "-a",
            "-s",
            "-E",
            "--max-args",
            "--max-procs",
            "--delimiter",
            "--arg-file",
        ],
        &[
            "-0",
            "-r",
            "-t",
            "-p",
            "-x",
            "-o",
            "--null",
            "--no-run-if-empty",
            "--verbose",
        ],
        0,
    ),
    wrapper(&["prlimit"], NONE, &["-n", "-u", "-c"], 0),
];

const fn wrapper(
    names: &'static [&'static str],
    with_value: &'static [&'static str],
    flags: &'static [&'static str],
    positionals: usize,
) -> Wrapper {
    Wrapper {
        names,
        with_value,
        flags,
        positionals,
        assignments: false,
    }
}

/// What a wrapper will start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wrapped {
    /// The program and its arguments; empty where the wrapper starts nothing.
    pub(crate) command: Vec<Argument>,
    /// The PATH that the program is looked up in, where the wrapper sets one.
    pub(crate) path_variable: Option<Vec<u8>>,
    /// The working directory that the wrapper changes to.
    pub(crate) directory: Option<Vec<u8>>,
}

/// Why the started program cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unclear {
    Option(String),
    Argument(String),
}

/// Reads the arguments of the program `name`. `None` where it is no wrapper that we know.
pub(crate) fn unwrap(name: &[u8], arguments: &[Argument]) -> Option<Result<Wrapped, Unclear>> {
    let wrapper = WRAPPERS
        .iter()
        .find(|wrapper| wrapper.names.iter().any(|known| known.as_bytes() == name))?;
    Some(read(wrapper, arguments.to_vec()))
}

fn read(wrapper: &Wrapper, mut arguments: Vec<Argument>) -> Result<Wrapped, Unclear> {
    let mut wrapped = Wrapped::default();
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        let Some(bytes) = argument.known() else { break };
        let text = String::from_utf8_lossy(bytes).into_owned();
        if text == "--" {
            at += 1;
            break;
        }
        if !text.starts_with('-') || (text == "-" && !wrapper.flags.contains(&"-")) {
            break;
        }
        let (option, attached) = split_option(&text, wrapper);
        at += 1;
        if wrapper.with_value.contains(&option) {
            let value = match attached {
                Some(value) => Argument::from(value),
                None => {
                    at += 1;
                    arguments
                        .get(at - 1)
                        .cloned()
                        .ok_or_else(|| Unclear::Option(text.clone()))?
                }
            };
            match option {
                "-S" | "--split-string" if wrapper.assignments => {
                    arguments.splice(..at, split_string(&value)?);
                    at = 0;
                }
                "-C" | "--chdir" if wrapper.assignments => wrapped.directory = Some(known(&value)?),
                _ => {}
            }
        } else if wrapper.assignments && matches!(option, "-i" | "--ignore-environment" | "-") {
            // With an empty environment, execvp of glibc and musl looks here.
            wrapped.path_variable = Some(b"/bin:/usr/bin".to_vec());
        } else if !is_flags(&text, wrapper) {
            return Err(Unclear::Option(text));
        }
    }
    while let Some(Argument::Known(bytes)) = arguments.get(at).filter(|_| wrapper.assignments) {
        if !bytes.contains(&b'=') {
            break;
        }
        if let Some(value) = bytes.strip_prefix(b"PATH=") {
            wrapped.path_variable = Some(value.to_vec());
        }
        at += 1;
    }
    at += wrapper.positionals;
    wrapped.command = arguments.get(at..).unwrap_or_default().to_vec();
    Ok(wrapped)
}

fn known(argument: &Argument) -> Result<Vec<u8>, Unclear> {
    match argument {
        Argument::Known(bytes) => Ok(bytes.clone()),
        Argument::Unknown(text) => Err(Unclear::Argument(text.clone())),
    }
}

/// `--name=value`, `-nVALUE` and `-n`: the option and the value that is attached to it.
fn split_option<'a>(text: &'a str, wrapper: &Wrapper) -> (&'a str, Option<&'a str>) {
    if text.starts_with("--") {
        return text
            .split_once('=')
            .map_or((text, None), |(option, value)| (option, Some(value)));
    }
    match text.char_indices().nth(2) {
        Some((end, _)) if wrapper.with_value.contains(&&text[..end]) => (&text[..end], Some(&text[end..])),
        _ => (text, None),
    }
}

/// One flag, several in one argument (`-vg`), or the old `nice -10`.
fn is_flags(text: &str, wrapper: &Wrapper) -> bool {
    if wrapper.flags.contains(&text) {
        return true;
    }
    let letters = &text[1..];
    if wrapper.names.contains(&"nice")
        && letters
            .trim_start_matches('-')
            .bytes()
            .all(|byte| byte.is_ascii_digit())
    {
        return true;
    }
    let is_flag = |letter: char| {
        wrapper
            .flags
            .iter()
            .any(|flag| flag.strip_prefix('-').is_some_and(|one| one.chars().eq([letter])))
    };
    !text.starts_with("--") && !letters.is_empty() && letters.chars().all(is_flag)
}

/// `env -S`: words by blanks, with quotes; what has escapes or variables is not known.
fn split_string(value: &Argument) -> Result<Vec<Argument>, Unclear> {
    let text = known(value)?;
    let mut words: Vec<Argument> = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    for byte in text.iter().copied() {
        match (quote, byte) {
            (_, b'\\' | b'$') => return Err(Unclear::Argument(String::from_utf8_lossy(&text).into_owned())),
            (Some(open), _) if byte == open => quote = None,
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b' ' | b'\t') => words.extend(word.take().map(Argument::Known)),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(Argument::Known));
    Ok(words)
}

/// How a shell was called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShellCall {
    /// `-c LINE [NAME [ARGUMENT…]]`.
    Line {
        line: Argument,
        zero: Option<Argument>,
        arguments: Vec<Argument>,
    },
    /// `FILE [ARGUMENT…]`.
    File { file: Argument, arguments: Vec<Argument> },
    /// Reads its commands from standard input.
    Input,
}

const SHELLS: [&str; 9] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "rbash", "hush"];

/// Whether a program of this name reads shell text.
pub(crate) fn is_shell(name: &[u8]) -> bool {
    SHELLS.iter().any(|shell| shell.as_bytes() == name)
}

/// Reads a shell's arguments.
pub(crate) fn shell_call(arguments: &[Argument]) -> ShellCall {
    let mut is_line = false;
    let mut at = 0;
    while let Some(bytes) = arguments.get(at).and_then(Argument::known) {
        match bytes {
            b"--" | b"-" => {
                at += 1;
                break;
            }
            b"--rcfile" | b"--init-file" => at += 2,
            [b'-', b'-', ..] => at += 1,
            [b'-' | b'+', letters @ ..] if !letters.is_empty() => {
                is_line |= bytes[0] == b'-' && letters.contains(&b'c');
                at += if matches!(letters.last(), Some(b'o' | b'O')) {
                    2
                } else {
                    1
                };
            }
            _ => break,
        }
    }
    let rest = arguments.get(at..).unwrap_or_default();
    match (is_line, rest) {
        (true, [line, rest @ ..]) => ShellCall::Line {
            line: line.clone(),
            zero: rest.first().cloned(),
            arguments: rest.get(1..).unwrap_or_default().to_vec(),
        },
        (false, [file, arguments @ ..]) => ShellCall::File {
            file: file.clone(),
            arguments: arguments.to_vec(),
        },
        (_, []) => ShellCall::Input,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<Argument> {
        line.split('\u{1f}')
            .flat_map(|part| part.split(' '))
            .filter(|word| !word.is_empty())
            .map(Argument::from)
            .collect()
    }

    #[track_caller]
    fn check(line: &str, expected: Result<&str, &str>) {
        let words = arguments(line);
        let found = unwrap(words[0].known().unwrap(), &words[1..]).expect("a wrapper");
        let shown = |wrapped: Wrapped| {
            let word = |argument: &Argument| String::from_utf8_lossy(argument.known().unwrap()).into_owned();
            wrapped.command.iter().map(word).collect::<Vec<_>>().join(" ")
        };
        let expected = expected
            .map(str::to_owned)
            .map_err(|option| Unclear::Option(option.to_owned()));
        assert_eq!(found.map(shown), expected, "{line}");
    }

    #[test]
    fn wrapped_commands() {
        check("tini -- /app/server -v", Ok("/app/server -v"));
        check("tini -vg -p SIGTERM /app/server", Ok("/app/server"));
        check("tini --weird /app/server", Err("--weird"));
        check("dumb-init --rewrite 15:2 -- server", Ok("server"));
        check("dumb-init --rewrite=15:2 server", Ok("server"));
        check("env A=1 B=2 server --a=b", Ok("server --a=b"));
        check("env -i -u X server", Ok("server"));
        check("gosu user:group server", Ok("server"));
        check("nice -n 10 server", Ok("server"));
        check("nice -10 server", Ok("server"));
        check("nice -n10 server", Ok("server"));
        check("timeout -k 5 --signal=KILL 10 curl x", Ok("curl x"));
        check("stdbuf -oL server", Ok("server"));
        check("setpriv --reuid=1000 --clear-groups server", Ok("server"));
        check("env", Ok(""));
        check("timeout 5", Ok(""));
    }

    #[test]
    fn env_sets_the_path_and_splits_strings() {
        let found = unwrap(b"env", &arguments("PATH=/x server")).unwrap().unwrap();
        assert_eq!(found.path_variable.unwrap(), b"/x");
        let split = [
            Argument::from("-S"),
            Argument::from("python3 -u 'a b'"),
            Argument::from("/s"),
        ];
        let found = unwrap(b"env", &split).unwrap().unwrap();
        assert_eq!(found.command, ["python3", "-u", "a b", "/s"].map(Argument::from));
        let split = [Argument::from("-Spython3 $X")];
        assert!(unwrap(b"env", &split).unwrap().is_err());
    }

    #[test]
    fn shell_calls() {
        let line = |text: &str| ShellCall::Line {
            line: text.into(),
            zero: None,
            arguments: vec![],
        };
        assert_eq!(shell_call(&arguments("-c x")), line("x"));
        assert_eq!(shell_call(&arguments("-ec x")), line("x"));
        assert_eq!(shell_call(&arguments("-o pipefail -c x")), line("x"));
        assert_eq!(shell_call(&arguments("--login -eo pipefail -c x")), line("x"));
        assert_eq!(shell_call(&arguments("-e")), ShellCall::Input);
        let file = ShellCall::File {
            file: "/f".into(),
            arguments: vec!["a".into()],
        };
        assert_eq!(shell_call(&arguments("-e /f a")), file);
    }
}
