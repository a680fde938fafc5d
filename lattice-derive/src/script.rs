//! Follows shell text: each simple command, with what of its words is known.

use lattice_policy::FilePath;

use crate::{
    error::{DeriveError, Problem},
    expand::Argument,
    path,
    shell::{self, Part, Script, SimpleCommand, Word},
    walk::{Place, Walk, shown},
};

/// Argument lists that `"$@"` may stand for, and values of one loop's variable, at most.
const ALTERNATIVES_MAX: usize = 64;

/// Commands that POSIX shells, bash and BusyBox run by themselves.
const BUILTINS: &[&str] = &[
    ".",
    ":",
    "[",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "cd",
    "command",
    "compgen",
    "complete",
    "continue",
    "declare",
    "dirs",
    "disown",
    "echo",
    "enable",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "getopts",
    "hash",
    "help",
    "history",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "wait",
];

/// A text while it is followed.
struct Context {
    script: Script,
    zero: Argument,
    /// What `"$@"` may be.
    positional: Vec<Vec<Argument>>,
    /// Names that the text asks for before it uses them.
    asked: Vec<Vec<u8>>,
}

impl Walk<'_> {
    /// Follows `text`, called as `zero` with `arguments`.
    pub(crate) fn shell_text(
        &mut self,
        place: &Place,
        text: &[u8],
        zero: &Argument,
        arguments: &[Argument],
    ) -> Result<(), DeriveError> {
        self.count_step()?;
        let is_session = place.from == lattice_policy::Origin::ExecSession;
        if !self
            .seen
            .insert((text.to_vec(), arguments.to_vec(), is_session, place.strict))
        {
            return Ok(());
        }
        let mut script = match shell::scan(text) {
            Ok(script) => script,
            Err(error) => return self.problem(place, zero.known().unwrap_or(b"sh"), Problem::Shell(error)),
        };
        let commands = std::mem::take(&mut script.commands);
        let asked = commands.iter().flat_map(asked_for).collect();
        let mut context = Context {
            script,
            zero: zero.clone(),
            positional: vec![arguments.to_vec()],
            asked,
        };
        for command in &commands {
            let more = rearranged(command, &context);
            context.positional.extend(more);
            context.positional.truncate(ALTERNATIVES_MAX);
        }
        let mut place = place.clone();
        for command in &commands {
            self.simple_command(&mut place, command, &context)?;
        }
        Ok(())
    }

    fn simple_command(
        &mut self,
        place: &mut Place,
        command: &SimpleCommand,
        context: &Context,
    ) -> Result<(), DeriveError> {
        self.count_step()?;
        let mut here = place.clone();
        for assignment in command
            .assignments
            .iter()
            .filter(|assignment| assignment.name == "PATH")
        {
            here.path_variable = path_value(&assignment.value, &here);
        }
        let Some(first) = command.words.first() else {
            place.path_variable = here.path_variable;
            return Ok(());
        };
        here.strict &= !command.alternative;
        for words in self.alternatives(first, &command.words[1..], context, place) {
            let Some(Argument::Known(name)) = words.first() else {
                let what = format!("line {} starts {}", command.line, shown(first.shown().as_bytes()));
                self.not_listed(&here, first.shown().as_bytes(), Problem::CannotBeKnown { what })?;
                continue;
            };
            if context.script.functions.contains(name) {
                continue;
            }
            if BUILTINS.iter().any(|builtin| builtin.as_bytes() == name) {
                self.builtin(place, &here, command, &words, context)?;
                continue;
            }
            let mut here = here.clone();
            here.strict &= !context.asked.contains(name);
            if first.literal().is_none() {
                here = here.step(format!("line {} starts {}", command.line, first.shown()));
                // What was put together from arguments may be an option and no program.
                here.strict &= !name.starts_with(b"-");
            }
            self.start(&here, &words)?;
        }
        Ok(())
    }

    /// The word lists that a command may have; more than one where it begins with `"$@"` or a loop's variable.
    fn alternatives(&self, first: &Word, rest: &[Word], context: &Context, place: &Place) -> Vec<Vec<Argument>> {
        let uses_all = std::iter::once(first)
            .chain(rest)
            .any(|word| is_all(word) || positional_number(word).is_some());
        let lists: &[Vec<Argument>] = if uses_all {
            &context.positional
        } else {
            &context.positional[..1]
        };
        let mut found: Vec<Vec<Argument>> = Vec::new();
        for list in lists {
            let tail: Vec<Argument> = rest.iter().flat_map(|word| value(word, list, context)).collect();
            for head in self.heads(first, list, context, place) {
                let mut words = head;
                words.extend(tail.iter().cloned());
                if !words.is_empty() && !found.contains(&words) {
                    found.push(words);
                }
            }
        }
        found.truncate(ALTERNATIVES_MAX);
        found
    }

    fn heads(&self, first: &Word, list: &[Argument], context: &Context, place: &Place) -> Vec<Vec<Argument>> {
        if let [Part::Variable(name)] = first.parts.as_slice()
            && let Some(words) = context.script.loops.get(name)
        {
            return words
                .iter()
                .flat_map(|word| self.loop_values(word, list, context, place))
                .map(|one| vec![one])
                .collect();
        }
        vec![value(first, list, context)]
    }

    /// What a loop's variable takes from one word of its list; `*` and `?` in the last component are looked up.
    fn loop_values(&self, word: &Word, list: &[Argument], context: &Context, place: &Place) -> Vec<Argument> {
        let pattern = word
            .text()
            .filter(|text| word.pattern && !text.iter().any(|byte| b"[~{".contains(byte)));
        let (Some(pattern), Some(directory)) = (pattern, &place.directory) else {
            return value(word, list, context);
        };
        let path = path::absolute(directory, &pattern);
        let folder = path::parent(&path);
        if folder.as_bytes().iter().any(|byte| b"*?".contains(byte)) {
            return vec![Argument::Unknown(word.shown())];
        }
        let name = path::base_name(path.as_bytes());
        let matches = |found: &FilePath| {
            let base = path::base_name(found.as_bytes());
            !base.starts_with(b".") && glob(name, base)
        };
        let found = self.tree.list(&folder).into_iter().filter(matches);
        found.map(|path| Argument::Known(path.as_bytes().to_vec())).collect()
    }

    fn builtin(
        &mut self,
        place: &mut Place,
        here: &Place,
        command: &SimpleCommand,
        words: &[Argument],
        context: &Context,
    ) -> Result<(), DeriveError> {
        let arguments = &words[1..];
        match words[0].known().unwrap_or_default() {
            b"exec" => {
                let skip = match arguments.first().and_then(Argument::known) {
                    Some(b"-a") => 2,
                    Some(b"-c" | b"-l" | b"-cl" | b"--") => 1,
                    _ => 0,
                };
                self.start(here, arguments.get(skip..).unwrap_or_default())
            }
            b"command" => match arguments.first().and_then(Argument::known) {
                Some(option) if option.starts_with(b"-") && option != b"-p" && option != b"--" => Ok(()),
                Some(b"-p" | b"--") => self.start(here, &arguments[1..]),
                _ => self.start(here, arguments),
            },
            b"eval" => {
                let known: Option<Vec<&[u8]>> = arguments.iter().map(Argument::known).collect();
                match known {
                    Some(known) => {
                        let text = known.join(&b' ');
                        self.shell_text(&here.step("eval".into()), &text, &context.zero, &context.positional[0])
                    }
                    None => self.cannot_be_known(here, command),
                }
            }
            b"trap" => match arguments.first() {
                Some(Argument::Known(text)) if text != b"-" => {
                    self.shell_text(&here.step("trap".into()), text, &context.zero, &[])
                }
                Some(Argument::Unknown(_)) => self.cannot_be_known(here, command),
                _ => Ok(()),
            },
            b"." | b"source" => self.source(here, command, arguments, context),
            b"cd" => {
                let target = arguments
                    .iter()
                    .find(|word| !matches!(word.known(), Some(b"-P" | b"-L" | b"--")));
                place.directory = match (target, &place.directory) {
                    (Some(Argument::Known(target)), _) if target.starts_with(b"/") => {
                        Some(FilePath::from_bytes(target.clone()))
                    }
                    (Some(Argument::Known(target)), Some(directory)) if target != b"-" => {
                        Some(path::absolute(directory, target))
                    }
                    _ => None,
                };
                Ok(())
            }
            b"export" | b"declare" | b"typeset" | b"readonly" | b"local" => {
                for assignment in command.words[1..].iter().filter_map(shell::assignment) {
                    if assignment.name == "PATH" {
                        place.path_variable = path_value(&assignment.value, place);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn source(
        &mut self,
        here: &Place,
        command: &SimpleCommand,
        arguments: &[Argument],
        context: &Context,
    ) -> Result<(), DeriveError> {
        let Some(Argument::Known(file)) = arguments.first() else {
            return self.cannot_be_known(here, command);
        };
        let Some(directory) = &here.directory else {
            return self.cannot_be_known(here, command);
        };
        let path = path::absolute(directory, file);
        match self.text_at(&path) {
            Some(text) if text.complete => {
                let mut here = here.step(format!("text of {path}"));
                here.strict = false;
                self.shell_text(&here, &text.bytes, &context.zero, &context.positional[0])
            }
            _ => self.not_listed(here, file, Problem::NoText { path }),
        }
    }

    fn cannot_be_known(&mut self, place: &Place, command: &SimpleCommand) -> Result<(), DeriveError> {
        let text = command.words.iter().map(Word::shown).collect::<Vec<_>>().join(" ");
        let what = format!("line {} runs {}", command.line, shown(text.as_bytes()));
        self.not_listed(place, text.as_bytes(), Problem::CannotBeKnown { what })
    }
}

/// `"$@"`, `$@`, `$*`, alone in the word.
fn is_all(word: &Word) -> bool {
    matches!(word.parts.as_slice(), [Part::Variable(name)] if name == "@" || name == "*")
}

/// `$1` … `$9`, alone in the word.
fn positional_number(word: &Word) -> Option<usize> {
    match word.parts.as_slice() {
        [Part::Variable(name)] => name.parse().ok().filter(|number| *number > 0),
        _ => None,
    }
}

/// The arguments that a word becomes.
fn value(word: &Word, positional: &[Argument], context: &Context) -> Vec<Argument> {
    if is_all(word) {
        return positional.to_vec();
    }
    if let Some(number) = positional_number(word) {
        return positional.get(number - 1).cloned().into_iter().collect();
    }
    if let [Part::Variable(name)] = word.parts.as_slice()
        && (name == "0" || name == "BASH_SOURCE")
    {
        return vec![context.zero.clone()];
    }
    match word.literal() {
        Some(bytes) => vec![Argument::Known(bytes)],
        None => vec![Argument::Unknown(word.shown())],
    }
}

/// What `set -- WORDS` and `shift` make of the arguments.
fn rearranged(command: &SimpleCommand, context: &Context) -> Vec<Vec<Argument>> {
    let name = command.words.first().and_then(Word::literal);
    let words = command.words.get(1..).unwrap_or_default();
    let lists = match (name.as_deref(), words.first().and_then(Word::literal).as_deref()) {
        (Some(b"set"), Some(b"--")) => {
            let list = |list: &Vec<Argument>| words[1..].iter().flat_map(|word| value(word, list, context)).collect();
            context.positional.iter().map(list).collect::<Vec<Vec<Argument>>>()
        }
        (Some(b"shift"), None) => context
            .positional
            .iter()
            .filter_map(|list| list.get(1..))
            .map(<[_]>::to_vec)
            .collect(),
        _ => Vec::new(),
    };
    lists
        .into_iter()
        .filter(|list| !list.is_empty() && !context.positional.contains(list))
        .collect()
}

/// `command -v X`, `type X`, `hash X`, `which X`: the text is ready for X to be missing.
fn asked_for(command: &SimpleCommand) -> Vec<Vec<u8>> {
    let words: Vec<Vec<u8>> = command.words.iter().filter_map(Word::literal).collect();
    match words.first().map(Vec::as_slice) {
        Some(b"command") if words.get(1).is_some_and(|option| option == b"-v" || option == b"-V") => {
            words[2..].to_vec()
        }
        Some(b"type" | b"hash" | b"which") => words[1..].to_vec(),
        _ => Vec::new(),
    }
}

/// The new PATH: literal text and the old PATH. `None` where only a run can tell.
fn path_value(value: &Word, place: &Place) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in &value.parts {
        match part {
            Part::Literal(literal) => bytes.extend_from_slice(literal),
            Part::Variable(name) if name == "PATH" => bytes.extend_from_slice(place.path_variable.as_ref()?),
            _ => return None,
        }
    }
    Some(bytes)
}

/// Whether `name` matches a pattern of `*` and `?`.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    // The classic two-pointer match: on a mismatch, let the last star take one byte more.
    let (mut at, mut position, mut star) = (0, 0, None);
    while position < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[position] => {
                at += 1;
                position += 1;
            }
            _ => {
                let Some((star_at, star_position)) = star else {
                    return false;
                };
                star = Some((star_at, star_position + 1));
                at = star_at + 1;
                position = star_position + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.sh", "a.sh", true),
            ("*", "x", true),
            ("a?c*", "abcd", true),
            ("*.sh", "a.sh.bak", false),
            ("a*b*c", "axbyc", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
