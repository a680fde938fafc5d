//! Follows one command to everything that it starts: the program, its interpreters, and the programs that it names.
//!
//! ```text
//!   words ─► program (PATH, links) ─► use as target ─► ELF interpreter │ #! interpreter ─► …
//!                 └─ its arguments: wrapper ─► program    shell ─► text ─► words ─► …    run-parts ─► folder
//! ```

use std::collections::BTreeSet;

use lattice_policy::{FilePath, ImageDigest, Origin, Role};

use crate::{
    error::{CommandField, CommandProblem, DeriveError, Diagnostic, Problem},
    expand::Argument,
    layer::{ElfInterpreter, FileContent, ScriptText},
    path,
    shebang::{self, SHEBANG_DEPTH_MAX, Shebang},
    tree::{FileId, Found, ImageTree, LookupError},
    wrapper::{self, ShellCall, Unclear},
};

/// Programs and texts that one container's derivation follows at most.
pub(crate) const STEPS_MAX: usize = 20_000;
/// How deep a program may name a program that names a program.
const DEPTH_MAX: usize = 32;

/// One reason for one file.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) file: FileId,
    /// As it was looked up.
    pub(crate) path: FilePath,
    pub(crate) real_path: FilePath,
    pub(crate) role: Role,
    pub(crate) from: Origin,
    /// From the cause to the file.
    pub(crate) chain: Vec<String>,
}

/// The circumstances in which a command is met.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) field: CommandField,
    pub(crate) from: Origin,
    /// What cannot be found is an error; else it is a diagnostic, and nothing is listed.
    pub(crate) strict: bool,
    /// `None` where only a run can tell.
    pub(crate) path_variable: Option<Vec<u8>>,
    /// `None` where only a run can tell.
    pub(crate) directory: Option<FilePath>,
    pub(crate) chain: Vec<String>,
    pub(crate) depth: usize,
}

impl Place {
    /// The same place, one step further.
    pub(crate) fn step(&self, reason: String) -> Self {
        let mut next = self.clone();
        next.chain.push(reason);
        next.depth += 1;
        next
    }
}

/// A program that was found.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) file: FileId,
    pub(crate) path: FilePath,
    pub(crate) real_path: FilePath,
    links: Vec<(FilePath, FilePath)>,
}

pub(crate) struct Walk<'a> {
    pub(crate) tree: &'a ImageTree,
    pub(crate) container: &'a str,
    pub(crate) image: ImageDigest,
    pub(crate) uses: Vec<Use>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Texts that were followed, with their arguments: scripts may start each other.
    pub(crate) seen: BTreeSet<(Vec<u8>, Vec<Argument>, bool, bool)>,
    steps: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(tree: &'a ImageTree, container: &'a str, image: ImageDigest) -> Self {
        let (uses, diagnostics, seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self {
            tree,
            container,
            image,
            uses,
            diagnostics,
            seen,
            steps: 0,
        }
    }

    /// Follows a command: its program, and what that starts.
    pub(crate) fn start(&mut self, place: &Place, command: &[Argument]) -> Result<(), DeriveError> {
        self.count_step()?;
        let Some(word) = command.first() else { return Ok(()) };
        let bytes = match word {
            Argument::Known(bytes) => bytes,
            Argument::Unknown(text) => {
                let what = format!("the program's name is {}", shown(text.as_bytes()));
                return self.not_listed(place, text.as_bytes(), Problem::CannotBeKnown { what });
            }
        };
        if place.depth > DEPTH_MAX {
            let what = format!("programs name each other more than {DEPTH_MAX} times over");
            return self.not_listed(place, bytes, Problem::CannotBeKnown { what });
        }
        let program = match self.find(place, bytes) {
            Ok(program) => program,
            Err(problem) => return self.problem(place, bytes, problem),
        };
        if [&program.path, &program.real_path]
            .into_iter()
            .any(path::is_loader_name)
        {
            return self.problem(place, bytes, Problem::Loader { path: program.path });
        }
        let place = place.step(found_as(bytes, &program));
        if let Err(problem) = self.require(&place, &program, Role::Target, 0) {
            return self.problem(&place, bytes, problem);
        }
        let arguments = &command[1..];
        match &self.tree.facts(program.file).content {
            FileContent::Elf { .. } => self.arguments(&place, path::base_name(program.path.as_bytes()), arguments),
            FileContent::Script(text) => {
                let Some(Shebang { interpreter, argument }) = shebang::parse(&text.bytes) else {
                    return Ok(());
                };
                let mut line: Vec<Argument> = argument.map(Argument::Known).into_iter().collect();
                line.push(Argument::Known(program.path.as_bytes().to_vec()));
                line.extend_from_slice(arguments);
                let place = place.step(format!("#! line of {} starts {interpreter}", program.path));
                self.arguments(&place, path::base_name(interpreter.as_bytes()), &line)
            }
            FileContent::Other(Some(text)) => {
                // The kernel refuses it with ENOEXEC; a shell or execvp then reads it as shell text.
                self.text(&place, &program.path, text, arguments)
            }
            FileContent::Other(None) => Ok(()),
        }
    }

    /// Looks a program up as execvp does.
    pub(crate) fn find(&self, place: &Place, word: &[u8]) -> Result<Program, Problem> {
        let unknown_directory = || Problem::CannotBeKnown {
            what: "the working directory is set by what runs before".into(),
        };
        if word.contains(&b'/') {
            let directory = match &place.directory {
                Some(directory) => directory,
                None if word.starts_with(b"/") => &FilePath::from("/"),
                None => return Err(unknown_directory()),
            };
            return self.program(path::absolute(directory, word));
        }
        let Some(path_variable) = &place.path_variable else {
            return Err(Problem::CannotBeKnown {
                what: "PATH is set by what runs before".into(),
            });
        };
        for entry in path_variable.split(|byte| *byte == b':') {
            let directory = if entry.starts_with(b"/") {
                FilePath::from_bytes(entry)
            } else {
                path::absolute(place.directory.as_ref().ok_or_else(unknown_directory)?, entry)
            };
            if let Ok(program) = self.program(path::absolute(&directory, word)) {
                return Ok(program);
            }
        }
        Err(Problem::NotInPath {
            path_variable: FilePath::from_bytes(path_variable.clone()),
            image: self.image,
        })
    }

    fn program(&self, path: FilePath) -> Result<Program, Problem> {
        match self.look_up(&path) {
            Ok(program) => Ok(program),
            Err(None) => Err(Problem::Directory {
                path,
                image: self.image,
            }),
            Err(Some(lookup)) => Err(Problem::NotFound {
                lookup,
                image: self.image,
            }),
        }
    }

    /// `Err(None)` for a directory.
    fn look_up(&self, path: &FilePath) -> Result<Program, Option<LookupError>> {
        match self.tree.look_up(path).map_err(Some)? {
            Found::File { file, real_path, links } if self.tree.facts(file).is_executable() => Ok(Program {
                file,
                path: path.clone(),
                real_path,
                links,
            }),
            Found::File { real_path, .. } => Err(Some(LookupError::NotExecutable { at: real_path })),
            Found::Directory(_) => Err(None),
        }
    }

    /// Notes that the program may start in this role, and whatever the kernel itself starts for it.
    fn require(&mut self, place: &Place, program: &Program, role: Role, depth: usize) -> Result<(), Problem> {
        let mut chain = place.chain.clone();
        chain.extend(
            program
                .links
                .iter()
                .map(|(link, target)| format!("symbolic link {link} -> {target}")),
        );
        self.uses.push(Use {
            file: program.file,
            path: program.path.clone(),
            real_path: program.real_path.clone(),
            role,
            from: place.from,
            chain,
        });
        let tree = self.tree;
        let interpreter = match &tree.facts(program.file).content {
            FileContent::Elf {
                interpreter: ElfInterpreter::None,
            } => return Ok(()),
            FileContent::Elf {
                interpreter: ElfInterpreter::Unreadable,
            } => {
                return Err(Problem::UnreadableElf {
                    path: program.path.clone(),
                });
            }
            FileContent::Elf {
                interpreter: ElfInterpreter::Path(interpreter),
            } => {
                let found = self.interpreter(place, program, interpreter)?;
                let place = place.step(format!("ELF interpreter of {}", program.path));
                let mut chain = place.chain;
                chain.extend(
                    found
                        .links
                        .iter()
                        .map(|(link, target)| format!("symbolic link {link} -> {target}")),
                );
                self.uses.push(Use {
                    file: found.file,
                    path: found.path,
                    real_path: found.real_path,
                    role: Role::ElfInterpreter,
                    from: place.from,
                    chain,
                });
                return Ok(());
            }
            FileContent::Script(text) => match shebang::parse(&text.bytes) {
                Some(shebang) => shebang.interpreter,
                None => {
                    return Err(Problem::NoFormat {
                        path: program.path.clone(),
                    });
                }
            },
            // Good only where a shell starts it; the first command of a container never does.
            FileContent::Other(_) if place.depth <= 1 => {
                return Err(Problem::NoFormat {
                    path: program.path.clone(),
                });
            }
            FileContent::Other(_) => return Ok(()),
        };
        if depth >= SHEBANG_DEPTH_MAX {
            return Err(Problem::ShebangDepth {
                path: program.path.clone(),
            });
        }
        let found = self.interpreter(place, program, &interpreter)?;
        let place = place.step(format!("#! line of {} names {interpreter}", program.path));
        self.require(&place, &found, Role::ScriptInterpreter, depth + 1)
    }

    fn interpreter(&self, place: &Place, program: &Program, interpreter: &FilePath) -> Result<Program, Problem> {
        let root = FilePath::from("/");
        let directory = place.directory.as_ref().unwrap_or(&root);
        let path = path::absolute(directory, interpreter.as_bytes());
        self.look_up(&path).map_err(|lookup| Problem::Interpreter {
            path: program.path.clone(),
            interpreter: interpreter.clone(),
            lookup: lookup.unwrap_or(LookupError::NotFound { at: path }),
            image: self.image,
        })
    }

    /// What a program starts because of its arguments.
    pub(crate) fn arguments(&mut self, place: &Place, name: &[u8], arguments: &[Argument]) -> Result<(), DeriveError> {
        self.count_step()?;
        if is_own_name(name) {
            let problem = Problem::OwnName { name: shown(name) };
            self.not_listed(place, name, problem)?;
            // The applet runs in the same process; only what it starts is of interest.
            return match arguments.split_first() {
                Some((Argument::Known(applet), rest)) if place.depth <= DEPTH_MAX => {
                    self.arguments(&place.step(format!("applet {}", shown(applet))), applet, rest)
                }
                _ => Ok(()),
            };
        }
        if wrapper::is_shell(name) {
            return self.shell(place, arguments);
        }
        match name {
            b"run-parts" => return self.run_parts(place, arguments),
            b"find" => return self.find_exec(place, arguments),
            b"runsvdir" | b"s6-svscan" => return self.service_folders(place, arguments),
            b"supervisord" | b"s6-overlay-suexec" | b"monit" | b"circusd" => {
                return self.not_listed(
                    place,
                    name,
                    Problem::Supervisor {
                        supervisor: shown(name),
                    },
                );
            }
            b"su" | b"runuser" => return self.switch_user(place, name, arguments),
            _ => {}
        }
        match wrapper::unwrap(name, arguments) {
            None => Ok(()),
            Some(Ok(wrapped)) => {
                let mut place = place.step(format!("started by {}", shown(name)));
                if wrapped.path_variable.is_some() {
                    place.path_variable = wrapped.path_variable;
                }
                if let (Some(new), Some(old)) = (&wrapped.directory, &place.directory) {
                    place.directory = Some(path::absolute(old, new));
                }
                self.start(&place, &wrapped.command)
            }
            Some(Err(Unclear::Option(option))) => self.not_listed(
                place,
                name,
                Problem::UnknownOption {
                    wrapper: shown(name),
                    option,
                },
            ),
            Some(Err(Unclear::Argument(what))) => self.not_listed(place, name, Problem::CannotBeKnown { what }),
        }
    }

    fn shell(&mut self, place: &Place, arguments: &[Argument]) -> Result<(), DeriveError> {
        match wrapper::shell_call(arguments) {
            ShellCall::Input => Ok(()),
            ShellCall::Line {
                line: Argument::Known(line),
                zero,
                arguments,
            } => {
                let place = place.step(format!("shell line {}", shown(&line)));
                let zero = zero.unwrap_or_else(|| Argument::from("sh"));
                self.shell_text(&place, &line, &zero, &arguments)
            }
            ShellCall::File {
                file: Argument::Known(file),
                arguments,
            } => {
                let path = match (&place.directory, file.starts_with(b"/")) {
                    (_, true) => FilePath::from_bytes(file.clone()),
                    (Some(directory), false) => path::absolute(directory, &file),
                    (None, false) => {
                        let what = "the working directory is set by what runs before".into();
                        return self.not_listed(place, &file, Problem::CannotBeKnown { what });
                    }
                };
                match self.text_at(&path) {
                    Some(text) => self.text(place, &path, &text, &arguments),
                    None => self.not_listed(place, &file, Problem::NoText { path }),
                }
            }
            ShellCall::Line {
                line: Argument::Unknown(what),
                ..
            }
            | ShellCall::File {
                file: Argument::Unknown(what),
                ..
            } => self.not_listed(place, what.as_bytes(), Problem::CannotBeKnown { what: what.clone() }),
        }
    }

    /// The text of a file that a shell reads; it needs no execute permission.
    pub(crate) fn text_at(&self, path: &FilePath) -> Option<ScriptText> {
        let Ok(Found::File { file, .. }) = self.tree.look_up(path) else {
            return None;
        };
        match &self.tree.facts(file).content {
            FileContent::Script(text) | FileContent::Other(Some(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// Follows the text of a file of the image. What it names may be missing: scripts try and choose.
    fn text(
        &mut self,
        place: &Place,
        path: &FilePath,
        text: &ScriptText,
        arguments: &[Argument],
    ) -> Result<(), DeriveError> {
        let mut place = place.step(format!("text of {path}"));
        place.strict = false;
        if !text.complete {
            return self.not_listed(&place, path.as_bytes(), Problem::NoText { path: path.clone() });
        }
        self.shell_text(
            &place,
            &text.bytes,
            &Argument::Known(path.as_bytes().to_vec()),
            arguments,
        )
    }

    /// Debian's run-parts: names of letters, digits, `_` and `-`; `--regex` may ask for others.
    fn run_parts(&mut self, place: &Place, arguments: &[Argument]) -> Result<(), DeriveError> {
        let folders = arguments
            .iter()
            .filter_map(Argument::known)
            .filter(|word| word.starts_with(b"/"));
        let any_name = arguments
            .iter()
            .filter_map(Argument::known)
            .any(|word| word.starts_with(b"--regex"));
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        for folder in folders {
            for path in self.tree.list(&FilePath::from_bytes(folder)) {
                if any_name || path::base_name(path.as_bytes()).iter().all(plain) {
                    self.start_if_executable(place, &path, "run-parts")?;
                }
            }
        }
        Ok(())
    }

    /// `runsvdir DIR`, `s6-svscan DIR`: DIR/*/run and DIR/*/finish.
    fn service_folders(&mut self, place: &Place, arguments: &[Argument]) -> Result<(), DeriveError> {
        let folders = arguments
            .iter()
            .filter_map(Argument::known)
            .filter(|word| word.starts_with(b"/"));
        for folder in folders {
            for service in self.tree.list(&FilePath::from_bytes(folder)) {
                for name in [&b"run"[..], b"finish"] {
                    self.start_if_executable(place, &path::absolute(&service, name), "supervisor")?;
                }
            }
        }
        Ok(())
    }

    fn start_if_executable(&mut self, place: &Place, path: &FilePath, by: &str) -> Result<(), DeriveError> {
        if self.look_up(path).is_err() {
            return Ok(());
        }
        let mut place = place.step(format!("{by} starts {path}"));
        place.strict = false;
        self.start(&place, &[Argument::Known(path.as_bytes().to_vec())])
    }

    /// `find … -exec COMMAND… ;`
    fn find_exec(&mut self, place: &Place, arguments: &[Argument]) -> Result<(), DeriveError> {
        let is = |argument: &Argument, words: &[&[u8]]| argument.known().is_some_and(|word| words.contains(&word));
        let mut rest = arguments;
        while let Some(at) = rest
            .iter()
            .position(|word| is(word, &[b"-exec", b"-execdir", b"-ok", b"-okdir"]))
        {
            let command = &rest[at + 1..];
            let end = command
                .iter()
                .position(|word| is(word, &[b";", b"+"]))
                .unwrap_or(command.len());
            self.start(&place.step("find -exec".into()), &command[..end])?;
            rest = &command[end..];
        }
        Ok(())
    }

    /// `su USER -c LINE`, `runuser -u USER -- COMMAND…`: the login shell stands in the image's accounts.
    fn switch_user(&mut self, place: &Place, name: &[u8], arguments: &[Argument]) -> Result<(), DeriveError> {
        if let [Argument::Known(option), _user, rest @ ..] = arguments
            && option == b"-u"
        {
            let rest = if rest.first().and_then(Argument::known) == Some(b"--") {
                &rest[1..]
            } else {
                rest
            };
            return self.start(&place.step(format!("started by {}", shown(name))), rest);
        }
        let what = format!("{} starts the account's login shell", shown(name));
        self.not_listed(place, name, Problem::CannotBeKnown { what })?;
        let line = arguments
            .iter()
            .position(|word| word.known() == Some(b"-c"))
            .and_then(|at| arguments.get(at + 1));
        match line {
            Some(Argument::Known(line)) => {
                let place = place.step(format!("shell line {}", shown(line)));
                self.shell_text(&place, line, &Argument::from("sh"), &[])
            }
            _ => Ok(()),
        }
    }

    /// An error where the place is strict and the specification could be put right; else a diagnostic.
    pub(crate) fn problem(&mut self, place: &Place, word: &[u8], problem: Problem) -> Result<(), DeriveError> {
        if place.strict && !matches!(problem, Problem::CannotBeKnown { .. }) {
            return Err(DeriveError::Command(Box::new(
                self.command_problem(place, word, problem),
            )));
        }
        self.not_listed(place, word, problem)
    }

    /// A diagnostic, whatever the place: nobody could make this known.
    pub(crate) fn not_listed(&mut self, place: &Place, word: &[u8], problem: Problem) -> Result<(), DeriveError> {
        let diagnostic = Diagnostic::NotListed(self.command_problem(place, word, problem));
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
        Ok(())
    }

    fn command_problem(&self, place: &Place, word: &[u8], problem: Problem) -> CommandProblem {
        let word = String::from_utf8_lossy(word).chars().take(200).collect();
        CommandProblem {
            container: self.container.to_owned(),
            field: place.field,
            word,
            problem,
        }
    }

    pub(crate) fn count_step(&mut self) -> Result<(), DeriveError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(DeriveError::TooLarge {
                container: self.container.to_owned(),
                limit: STEPS_MAX,
            });
        }
        Ok(())
    }
}

/// Programs of many applets that take the applet's name as first argument.
pub(crate) fn is_own_name(name: &[u8]) -> bool {
    name.starts_with(b"busybox") || matches!(name, b"toybox" | b"coreutils")
}

fn found_as(word: &[u8], program: &Program) -> String {
    if word.contains(&b'/') {
        format!("names {}", shown(word))
    } else {
        format!("names {}, found in PATH as {}", shown(word), program.path)
    }
}

/// Foreign bytes for a message: quoted, escaped, at most 160 characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = FilePath::from_bytes(bytes).to_string();
    let mut short: String = text.chars().take(160).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("\"{short}\"")
}
