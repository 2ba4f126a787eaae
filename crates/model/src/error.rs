//! What can go wrong above the mathematics.

/// An error of the model crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mathematics refused.
    #[error("{place}: {source}")]
    Core {
        /// Block and part, or the config key.
        place: String,
        /// What core said.
        source: hecate_core::Error,
    },
    /// A configuration that cannot be built.
    #[error("config key `{key}`: {reason}")]
    Config {
        /// Dotted path of the key.
        key: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// A token outside the vocabulary.
    #[error("token {token} at position {position} is outside the vocabulary of {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Index in the call.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A value that is infinite or not a number.
    #[error("non-finite {what} in {place}")]
    NonFinite {
        /// What was found: a loss, a gradient, an activation.
        what: String,
        /// The place: block, part, rule, head.
        place: String,
    },
    /// Bytes that are not a file of ours, or not of this version.
    #[error("{what}: {reason}")]
    Format {
        /// What was being read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A state or checkpoint that belongs to another model.
    #[error("{what} belongs to another model: its {field} is {got}, this model's is {expected}")]
    Base {
        /// What was being loaded.
        what: &'static str,
        /// The field that differs.
        field: &'static str,
        /// This model's.
        expected: String,
        /// The file's.
        got: String,
    },
}

impl Error {
    /// Wraps an error of core with its place.
    pub(crate) fn core(place: impl Into<String>) -> impl FnOnce(hecate_core::Error) -> Self {
        let place = place.into();
        move |source| Error::Core { place, source }
    }
    /// A config error.
    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Config { key: key.into(), reason: reason.into() }
    }
}

/// Result of the model crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
