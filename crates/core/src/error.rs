//! What can go wrong in the mathematics: facts, not sentences to parse.

/// An error of the core crate. Every variant names the place and what was expected there.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer does not have the size that its dimensions ask for.
    #[error("{op}: `{arg}` holds {got} values, expected {expected}")]
    Shape {
        /// The operation that was called.
        op: &'static str,
        /// The argument that does not fit.
        arg: String,
        /// Number of values expected.
        expected: usize,
        /// Number of values given.
        got: usize,
    },
    /// A name that is in no list.
    #[error("unknown {what} `{got}`, expected one of {known}")]
    Unknown {
        /// The kind of thing that was named.
        what: &'static str,
        /// The name given.
        got: String,
        /// The known names, for the reader.
        known: String,
    },
    /// A configuration that cannot be built.
    #[error("{place}: {reason}")]
    Invalid {
        /// Where: a rule, an op, a config key.
        place: String,
        /// Why not, and what would be possible.
        reason: String,
    },
    /// A kernel that this machine, rule or shape does not have.
    #[error("kernel `{kernel}` of rule `{rule}` is not available here: {reason}")]
    Kernel {
        /// The rule.
        rule: &'static str,
        /// The kernel asked for.
        kernel: String,
        /// Why, or the kernels that are available.
        reason: String,
    },
    /// A value that is infinite or not a number.
    #[error("{rule}: non-finite {what} in head {head}, token {token}")]
    NonFinite {
        /// The rule.
        rule: &'static str,
        /// What was found to be non-finite: a state tensor or an input.
        what: String,
        /// Head, from 0.
        head: usize,
        /// Token of the call, from 0: the first one after which the value is non-finite.
        token: usize,
    },
}

/// Result of the core crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Checks that `got == expected` and says which argument of which operation is off.
pub fn expect_len(op: &'static str, arg: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::Shape { op, arg: arg.to_string(), expected, got })
}
