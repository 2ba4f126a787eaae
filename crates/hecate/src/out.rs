//! Standard output and standard error, which may close or be full before everything is said.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Says something on standard error, or nothing where nobody can hear it: that is no reason to fail.
pub fn say(text: Arguments) {
    let _ = std::io::stderr().lock().write_fmt(text);
}

/// As `eprint!`, without its panic.
macro_rules! err {
    ($($arg:tt)*) => { $crate::out::say(format_args!($($arg)*)) };
}

/// As `eprintln!`, without its panic.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::out::say(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Prints, or ends the program: in silence where the reader has left, with an error where there is no room.
pub fn print(text: Arguments) {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => {
            errln!("error: cannot write to standard output: {e}");
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
