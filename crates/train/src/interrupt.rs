//! Ctrl-C: the first one asks whoever is at work to keep what there is and stop, the second one ends the process at once.

use crate::error::{Error, Result};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Exit status of what was stopped by Ctrl-C: 128 and the number of SIGINT, as shells expect.
pub const EXIT_STATUS: i32 = 130;

/// Whether someone has asked the process to stop. Clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    signals: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Watches for Ctrl-C and, on Unix, for SIGTERM and SIGHUP. A process can do this once.
    ///
    /// # Errors
    /// [`Error::Signal`] where the handler cannot be installed, for instance the second time.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let seen = interrupt.clone();
        let handler = move || {
            if seen.signal() > 1 {
                // Saving takes its time and the person does not want to wait. Checkpoints are whole at any moment.
                std::process::exit(EXIT_STATUS);
            }
            // After a hang-up there may be no terminal left, which is no reason to fail.
            let _ = writeln!(std::io::stderr(), "\nstopping; press Ctrl-C again to stop at once");
        };
        ctrlc::set_handler(handler).map_err(|source| Error::Signal { source })?;
        Ok(interrupt)
    }

    /// Counts a request to stop, and says how many there were. Callers other than the signal may use it too.
    pub fn signal(&self) -> usize {
        self.signals.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Goes on, or breaks off once a stop was asked for.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// True once a stop was asked for. Whoever works polls this between steps, tokens or pieces of a text.
    pub fn requested(&self) -> bool {
        self.signals.load(Ordering::SeqCst) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_by_every_clone_and_counted() {
        let interrupt = Interrupt::default();
        let other = interrupt.clone();
        assert!(!other.requested());
        assert_eq!((interrupt.signal(), interrupt.signal()), (1, 2));
        assert!(other.requested());
    }
}
