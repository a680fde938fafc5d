//! Simple commands out of tokens: reserved words, functions, `case` and loops are told from commands.

use std::collections::{BTreeMap, BTreeSet};

use super::{COMMANDS_MAX, NESTING_MAX, ShellError, lexer, lexer::Token, word::Part, word::Word};

/// `NAME=value` before a command, or alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The variable.
    pub name: String,
    /// The value, with its pieces.
    pub value: Word,
}

/// One simple command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SimpleCommand {
    /// Assignments before it.
    pub assignments: Vec<Assignment>,
    /// The command and its arguments; empty where there are only assignments.
    pub words: Vec<Word>,
    /// It stands beside `||`: that it is missing may be meant.
    pub alternative: bool,
    /// Line of its first word, from 1.
    pub line: usize,
}

/// What a text holds, substitutions included, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Its simple commands.
    pub commands: Vec<SimpleCommand>,
    /// Functions that it defines.
    pub functions: BTreeSet<Vec<u8>>,
    /// Variables of `for NAME in WORDS`, with all words of all such loops.
    pub loops: BTreeMap<String, Vec<Word>>,
}

/// Reads a text.
///
/// # Errors
/// When the text is no shell text that this scanner can read to its end.
pub fn scan(text: &[u8]) -> Result<Script, ShellError> {
    let mut script = Script::default();
    scan_into(text, 0, &mut script)?;
    Ok(script)
}

fn scan_into(text: &[u8], depth: usize, script: &mut Script) -> Result<(), ShellError> {
    if depth > NESTING_MAX {
        return Err(ShellError::TooDeep);
    }
    let tokens = lexer::tokens(text)?;
    for token in &tokens {
        if let Token::Word(word) = token {
            for inner in &word.substitutions {
                scan_into(inner, depth + 1, script)?;
            }
        }
    }
    Parser {
        tokens: &tokens,
        at: 0,
        script,
        cases: 0,
    }
    .run()
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    script: &'a mut Script,
    /// `case` commands that are open.
    cases: usize,
}

impl Parser<'_> {
    fn run(mut self) -> Result<(), ShellError> {
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Newline => self.at += 1,
                Token::Operator(";;" | ";&" | ";;&") => {
                    self.at += 1;
                    self.case_pattern();
                }
                Token::Operator("(") if self.operator_at(self.at + 1) == Some("(") => self.skip_arithmetic(),
                Token::Operator(_) => self.at += 1,
                Token::Redirection => self.at += 2,
                Token::Word(word) => {
                    if !self.reserved(word.bare().unwrap_or_default()) {
                        self.simple_command()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn operator_at(&self, index: usize) -> Option<&'static str> {
        match self.tokens.get(index) {
            Some(Token::Operator(operator)) => Some(operator),
            _ => None,
        }
    }

    fn word_at(&self, index: usize) -> Option<&Word> {
        match self.tokens.get(index) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Takes a reserved word at a command's place. `false` where the word is none.
    fn reserved(&mut self, word: &[u8]) -> bool {
        match word {
            b"if" | b"then" | b"elif" | b"else" | b"fi" | b"do" | b"done" | b"while" | b"until" | b"!" | b"{"
            | b"}" | b"time" => self.at += 1,
            b"esac" => {
                self.cases = self.cases.saturating_sub(1);
                self.at += 1;
            }
            b"for" | b"select" => self.for_loop(),
            b"case" => {
                self.at += 2;
                self.skip_newlines();
                self.at += 1;
                self.cases += 1;
                self.case_pattern();
            }
            b"function" => {
                let name = self.word_at(self.at + 1).and_then(Word::literal);
                self.script.functions.extend(name);
                self.at += 2;
            }
            b"[[" => {
                while self.at < self.tokens.len() && self.word_at(self.at).and_then(Word::bare) != Some(b"]]") {
                    self.at += 1;
                }
                self.at += 1;
            }
            _ => return false,
        }
        true
    }

    fn skip_newlines(&mut self) {
        while matches!(self.tokens.get(self.at), Some(Token::Newline)) {
            self.at += 1;
        }
    }

    /// `for NAME in WORDS` or `for ((…))`.
    fn for_loop(&mut self) {
        self.at += 1;
        let Some(name) = self.word_at(self.at).and_then(Word::literal) else {
            if self.operator_at(self.at) == Some("(") {
                self.skip_arithmetic();
            }
            return;
        };
        self.at += 1;
        self.skip_newlines();
        let mut words = Vec::new();
        if self.word_at(self.at).and_then(Word::bare) == Some(b"in") {
            self.at += 1;
            while let Some(word) = self.word_at(self.at) {
                words.push(word.clone());
                self.at += 1;
            }
        } else {
            let all = Word {
                parts: vec![Part::Variable("@".into())],
                quoted: true,
                ..Word::default()
            };
            words.push(all);
        }
        let name = String::from_utf8_lossy(&name).into_owned();
        self.script.loops.entry(name).or_default().extend(words);
    }

    /// Skips `pattern | pattern )` of a case, or notes its end.
    fn case_pattern(&mut self) {
        self.skip_newlines();
        if self.cases == 0 {
            return;
        }
        if self.word_at(self.at).and_then(Word::bare) == Some(b"esac") {
            return;
        }
        if self.operator_at(self.at) == Some("(") {
            self.at += 1;
        }
        while self.at < self.tokens.len() && self.operator_at(self.at) != Some(")") {
            self.at += 1;
        }
        self.at += 1;
    }

    fn skip_arithmetic(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match token {
                Token::Operator("(") => depth += 1,
                Token::Operator(")") => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    fn simple_command(&mut self) -> Result<(), ShellError> {
        let mut command = SimpleCommand {
            alternative: self.after_or(),
            ..SimpleCommand::default()
        };
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Word(word)) => {
                    if command.words.is_empty() {
                        command.line = word.line;
                        if let Some(assignment) = assignment(word) {
                            self.at += 1;
                            let is_array = assignment.value.parts.is_empty() && self.operator_at(self.at) == Some("(");
                            if is_array {
                                self.skip_arithmetic();
                            }
                            command.assignments.push(assignment);
                            continue;
                        }
                    }
                    command.words.push(word.clone());
                    self.at += 1;
                }
                Some(Token::Redirection) => self.at += 2,
                Some(Token::Operator("("))
                    if command.words.len() == 1 && self.operator_at(self.at + 1) == Some(")") =>
                {
                    self.script.functions.extend(command.words[0].literal());
                    self.at += 2;
                    return Ok(());
                }
                _ => break,
            }
        }
        command.alternative |= self.operator_at(self.at) == Some("||");
        if self.script.commands.len() >= COMMANDS_MAX {
            return Err(ShellError::TooLong);
        }
        self.script.commands.push(command);
        Ok(())
    }

    fn after_or(&self) -> bool {
        let mut index = self.at;
        while index > 0 && matches!(self.tokens[index - 1], Token::Newline) {
            index -= 1;
        }
        index > 0 && self.tokens[index - 1] == Token::Operator("||")
    }
}

/// Reads a word as `NAME=…` or `NAME+=…`, where the name is unquoted.
pub fn assignment(word: &Word) -> Option<Assignment> {
    let Some(Part::Literal(first)) = word.parts.first() else {
        return None;
    };
    let equals = first.iter().position(|byte| *byte == b'=')?;
    let name = first[..equals].strip_suffix(b"+").unwrap_or(&first[..equals]);
    let valid = name
        .first()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if !valid {
        return None;
    }
    let mut value = word.clone();
    if equals + 1 < first.len() {
        value.parts[0] = Part::Literal(first[equals + 1..].to_vec());
    } else {
        value.parts.remove(0);
    }
    Some(Assignment {
        name: String::from_utf8_lossy(name).into_owned(),
        value,
    })
}
