//! The words by which documents, the wire and people name the choices of a policy: one table for each type.

use crate::{CodeLoading, FailAction, FileKind, Mode, Origin, Role, Scope};

/// A choice that has a word of its own.
pub trait Word: Copy + PartialEq + 'static {
    /// Each word with what it means, in the order of the documentation.
    const WORDS: &'static [(&'static str, Self)];
}

/// A word that is none of the type's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{word}\" is none of: {known}")]
pub struct UnknownWord {
    /// The word, escaped and cut.
    pub word: String,
    /// What it could be.
    pub known: String,
}

fn value_of<T: Word>(word: &str) -> Result<T, UnknownWord> {
    T::WORDS
        .iter()
        .find(|(candidate, _)| *candidate == word)
        .map(|(_, value)| *value)
        .ok_or_else(|| UnknownWord {
            word: crate::escape::escaped_and_cut(word, 80),
            known: T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "),
        })
}

macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl Word for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl $type {
            /// The word for it in documents, on the wire and in messages.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(self.word())
            }
        }

        impl std::str::FromStr for $type {
            type Err = UnknownWord;

            /// # Errors
            /// When the word is none of the type's.
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                value_of(word)
            }
        }
    };
}

words!(Mode { Monitor = "monitor", Enforce = "enforce", Deny = "deny" });
words!(FailAction { Open = "open", Closed = "closed", Kill = "kill" });
words!(CodeLoading { Off = "off", Note = "note", Image = "image", Listed = "listed" });
words!(Scope { Declared = "declared", Image = "image" });
words!(FileKind { Elf = "elf", Script = "script", Multicall = "multicall" });
words!(Role { Target = "target", ScriptInterpreter = "script-interpreter", ElfInterpreter = "elf-interpreter" });
words!(Origin { Any = "any", Init = "init", ExecSession = "exec-session" });

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: Word + std::str::FromStr + ToString + std::fmt::Debug>(words: &str)
    where
        T::Err: std::fmt::Debug,
    {
        let all: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
        assert_eq!(all.join(" "), words);
        for (word, value) in T::WORDS {
            assert_eq!(value.to_string(), *word);
            assert_eq!(word.parse::<T>().unwrap(), *value);
        }
    }

    #[test]
    fn the_words_are_those_of_the_format() {
        check::<Mode>("monitor enforce deny");
        check::<FailAction>("open closed kill");
        check::<CodeLoading>("off note image listed");
        check::<Scope>("declared image");
        check::<FileKind>("elf script multicall");
        check::<Role>("target script-interpreter elf-interpreter");
        check::<Origin>("any init exec-session");
        assert_eq!(
            "Enforce".parse::<Mode>().unwrap_err().to_string(),
            "\"Enforce\" is none of: monitor, enforce, deny"
        );
    }
}
