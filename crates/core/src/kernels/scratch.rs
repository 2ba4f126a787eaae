//! Buffers that a thread keeps between calls, so that a warmed-up thread does not allocate.

use crate::kernel::Scratch;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    /// Buffers not in use. A list, because a thread that waits for a part of its work may start another part.
    static FREE: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

/// A [`Scratch`] of this thread, given back when dropped.
///
/// A guard and not a function that takes a closure: a closure would be compiled without the instructions of the
/// kernel that it stands in. Empty only while it is dropped.
pub(crate) struct Borrowed(Option<Scratch>);

/// Takes a scratch of this thread, or a new one if all are in use.
pub(crate) fn borrow() -> Borrowed {
    Borrowed(Some(FREE.with(|free| free.borrow_mut().pop()).unwrap_or_default()))
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        FREE.with(|free| free.borrow_mut().extend(self.0.take()));
    }
}

impl Deref for Borrowed {
    type Target = Scratch;
    fn deref(&self) -> &Scratch {
        self.0.as_ref().expect("a guard that is not dropped holds its scratch")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.0.as_mut().expect("a guard that is not dropped holds its scratch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_uses_get_disjoint_buffers_and_a_later_use_gets_the_same_one_again() {
        let first = {
            let mut scratch = borrow();
            let [a, b] = scratch.take([5, 70]);
            assert_eq!((a.len(), b.len(), a.as_ptr() as usize % 64, b.as_ptr() as usize % 64), (5, 70, 0, 0));
            a.fill(1.0);
            b.fill(2.0);
            borrow().take([100])[0].fill(3.0);
            assert!(a.iter().all(|&x| x == 1.0) && b.iter().all(|&x| x == 2.0));
            a.as_ptr()
        };
        let second = borrow().take([5, 70])[0].as_ptr();
        assert_eq!(first, second);
    }
}
