//! Standard output, which may close or be full before everything is said.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Prints, or ends the program: in silence where the reader has left, with an error where there is no room.
pub fn print(text: Arguments) {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            eprintln!("error: cannot write to standard output: {e}");
            std::process::exit(1);
        }
    }
}

/// As `print!`, without its panic.
macro_rules! out {
    ($($arg:tt)*) => { $crate::out::print(format_args!($($arg)*)) };
}

/// As `println!`, without its panic.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::out::print(format_args!("{}\n", format_args!($($arg)*))) };
}
