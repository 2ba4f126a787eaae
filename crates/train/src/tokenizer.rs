//! From text to tokens and back.
//!
//! The description lies in the run folder as `tokenizer_config.json`, in the layout that other tools expect, and is
//! checked when it is read: a model must never meet tokens of another vocabulary.

use crate::atomic;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// Name of the description in a run folder.
pub const FILE_NAME: &str = "tokenizer_config.json";
/// Version of the description.
pub const FORMAT_VERSION: u64 = 1;

/// A tokenizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tokenizer {
    /// One token per byte, numbered as the byte: any input is valid, and bits per token are bits per byte.
    #[default]
    Bytes,
}

/// The description file. Unknown keys are ignored, since other tools add their own.
#[derive(Serialize, Deserialize)]
struct Description {
    tokenizer_class: String,
    format_version: u64,
    vocab_size: usize,
}

impl Tokenizer {
    /// Name in the description.
    pub fn class(&self) -> &'static str {
        match self {
            Tokenizer::Bytes => "ByteTokenizer",
        }
    }

    /// Number of tokens; ids lie below it.
    pub fn vocab(&self) -> usize {
        match self {
            Tokenizer::Bytes => 256,
        }
    }

    /// The tokens of a text, appended to `ids`.
    pub fn encode_into(&self, text: &[u8], ids: &mut Vec<u32>) {
        match self {
            Tokenizer::Bytes => ids.extend(text.iter().map(|&b| u32::from(b))),
        }
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &[u8]) -> Vec<u32> {
        let mut ids = vec![];
        self.encode_into(text, &mut ids);
        ids
    }

    /// The bytes of one token, appended to `bytes`.
    ///
    /// # Errors
    /// [`Error::Token`] for an id that is not below [`Tokenizer::vocab`].
    pub fn decode_into(&self, id: u32, bytes: &mut Vec<u8>) -> Result<()> {
        match self {
            Tokenizer::Bytes => {
                bytes.push(u8::try_from(id).map_err(|_| Error::Token { id, vocab: self.vocab() })?);
            }
        }
        Ok(())
    }

    /// The bytes of some tokens.
    ///
    /// # Errors
    /// [`Error::Token`] for an id that is not below [`Tokenizer::vocab`].
    pub fn decode(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        ids.iter().try_for_each(|&id| self.decode_into(id, &mut bytes))?;
        Ok(bytes)
    }

    /// The description as JSON, as it lies in the run folder.
    pub fn to_json(&self) -> String {
        let description = Description {
            tokenizer_class: self.class().to_string(),
            format_version: FORMAT_VERSION,
            vocab_size: self.vocab(),
        };
        serde_json::to_string_pretty(&description).expect("a description is plain data") + "\n"
    }

    /// Writes the description into `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the cause.
    pub fn save(&self, folder: &Path) -> Result<()> {
        atomic::write(&folder.join(FILE_NAME), self.to_json().as_bytes())
    }

    /// Reads the description in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Version`] for another version, [`Error::Unsuitable`] for an
    /// unknown class or a vocabulary that the class does not have.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        Self::from_json(&text, &path)
    }

    /// Reads a description; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_json(text: &[u8], path: &Path) -> Result<Self> {
        let description: Description = serde_json::from_slice(text)
            .map_err(|e| Error::unsuitable(path, format!("is no tokenizer description: {e}")))?;
        if description.format_version != FORMAT_VERSION {
            let found = description.format_version;
            return Err(Error::Version { path: path.to_path_buf(), found, known: FORMAT_VERSION });
        }
        let tokenizer = Tokenizer::Bytes;
        if description.tokenizer_class != tokenizer.class() {
            let (got, known) = (description.tokenizer_class, tokenizer.class());
            return Err(Error::unsuitable(path, format!("unknown tokenizer_class `{got}`, expected `{known}`")));
        }
        if description.vocab_size != tokenizer.vocab() {
            let (got, expected) = (description.vocab_size, tokenizer.vocab());
            return Err(Error::unsuitable(path, format!("vocab_size is {got}, expected {expected}")));
        }
        Ok(tokenizer)
    }
}

/// Turns bytes that arrive in pieces into text, without ever splitting a character.
///
/// Bytes that are no UTF-8 come out as U+FFFD. The pieces make up exactly what [`String::from_utf8_lossy`] gives
/// for all bytes at once.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character, at most three bytes.
    pending: Vec<u8>,
}

impl TextStream {
    /// The text that is complete once `bytes` have arrived.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        loop {
            match std::str::from_utf8(&self.pending[done..]) {
                Ok(valid) => {
                    text.push_str(valid);
                    done = self.pending.len();
                    break;
                }
                Err(e) => {
                    let valid = &self.pending[done..done + e.valid_up_to()];
                    text.push_str(&String::from_utf8_lossy(valid));
                    done += e.valid_up_to();
                    let Some(invalid) = e.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += invalid;
                }
            }
        }
        self.pending.drain(..done);
        text
    }

    /// What is left when no more bytes come: nothing, or U+FFFD for a character that was begun.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Replaces control characters other than tab and newline by U+FFFD, so that a model cannot send commands to a
/// terminal.
pub fn printable(text: &str) -> String {
    let safe = |c: char| c == '\n' || c == '\t' || !c.is_control();
    text.chars().map(|c| if safe(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_own_token_and_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let ids = Tokenizer::Bytes.encode(&all);
        assert_eq!(ids, (0..256).collect::<Vec<u32>>());
        assert_eq!(Tokenizer::Bytes.decode(&ids).unwrap(), all);
        assert!(matches!(Tokenizer::Bytes.decode(&[7, 256]), Err(Error::Token { id: 256, vocab: 256 })));
    }

    #[test]
    fn the_description_is_read_back_and_its_lies_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        Tokenizer::Bytes.save(dir.path()).unwrap();
        assert_eq!(Tokenizer::load(dir.path()).unwrap(), Tokenizer::Bytes);
        let text = Tokenizer::Bytes.to_json();
        let read = |text: &str| Tokenizer::from_json(text.as_bytes(), Path::new("t.json")).unwrap_err().to_string();
        assert!(read(&text.replace("ByteTokenizer", "Bpe")).contains("unknown tokenizer_class `Bpe`, expected `Byte"));
        assert!(read(&text.replace("256", "257")).contains("vocab_size is 257, expected 256"));
        assert!(read(&text.replace("\"format_version\": 1", "\"format_version\": 2")).contains("format version 2"));
        assert!(read("{").contains("t.json: is no tokenizer description"));
        assert!(matches!(Tokenizer::load(&dir.path().join("none")), Err(Error::Io { .. })));
    }

    /// Whole, broken and overlong sequences, and every way of ending in the middle of a character.
    const AWKWARD: &[u8] = b"a\xc3\xa9\xe2\x80\x94\xf0\x9f\x90\x8b\xff\xe2\x80x\xf0\x9f\xc3\xc3\xa9\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80z\xe2\x80";

    #[test]
    fn any_cut_of_the_bytes_gives_the_same_text() {
        for end in 0..=AWKWARD.len() {
            let bytes = &AWKWARD[..end];
            for piece in 1..=bytes.len().max(1) {
                let mut stream = TextStream::default();
                let mut text: String = bytes.chunks(piece).map(|b| stream.push(b)).collect();
                text += &stream.finish();
                assert_eq!(text, String::from_utf8_lossy(bytes), "{end} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_character_appears_with_its_last_byte() {
        let mut stream = TextStream::default();
        let shown: Vec<String> = "—".bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(shown, ["", "", "—"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\n\tb\u{1b}[2J\r\u{7f}\u{9b}é"), "a\n\tb\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}é");
    }
}
