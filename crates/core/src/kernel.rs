//! Fused `f32` forms of a rule over a whole sequence, and how one of them is chosen.

use crate::rule::Dims;
use crate::scan::PerInput;
use crate::simd::Isa;
use aligned_vec::{AVec, ConstAlign};

/// One head's inputs for a run of tokens: each input is `[tokens, width]`, row-major, in the rule's order.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a, F> {
    /// Number of tokens.
    pub tokens: usize,
    /// Tokens that the state took before the first of these.
    pub pos: u64,
    /// The inputs, in the order of [`crate::MemoryRule::inputs`].
    pub inputs: &'a [&'a [F]],
}

impl<'a, F> Sequence<'a, F> {
    /// The inputs of `count` of its tokens, from `first` on.
    pub fn rows(&self, first: usize, count: usize) -> PerInput<&'a [F]> {
        let row = |x: &'a [F]| {
            let width = x.len() / self.tokens;
            &x[first * width..(first + count) * width]
        };
        self.inputs.iter().map(|&x| row(x)).collect()
    }
}

/// Runs a sequence: the rule, its size, the inputs, the state (start in, end out), the reads `[tokens, dv]`
/// (overwritten), in training the states before every [`crate::scan::CHECKPOINT_TOKENS`]-th token of the sequence
/// (overwritten), scratch.
pub type Forward<R> = fn(&R, Dims, Sequence<'_, f32>, &mut [f32], &mut [f32], Option<&mut [f32]>, &mut Scratch);
/// Transpose of a [`Forward`].
pub type Backward<R> = fn(&R, Dims, Sequence<'_, f32>, Cotangents<'_>, &mut Scratch);
/// Reads for every token from a state that stays as it is, `[tokens, dv]` (overwritten).
pub type ReadOnly<R> = fn(&R, Dims, Sequence<'_, f32>, &[f32], &mut [f32], &mut Scratch);

/// A fused forward/backward pair for rule `R` over one head's sequence.
///
/// **Invariant:** a kernel computes the function of the reference; where it does not, it is wrong.
pub struct Kernel<R: 'static> {
    /// Name in the bench table and in `kernel = "..."`.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// True if every token's result has the same bits wherever the sequence is cut. Inference uses only these.
    pub canonical: bool,
    /// Whether it can run this rule at this size on this machine.
    pub is_available: fn(&R, Dims) -> bool,
    /// Runs the sequence: `state` goes from its start to its end, `y: [tokens, dv]` is overwritten.
    pub forward: Forward<R>,
    /// Transpose of `forward`.
    pub backward: Backward<R>,
    /// Reads without writing; canonical whatever `forward` is.
    pub read: ReadOnly<R>,
    /// Transpose of `forward` along columns where there is a shorter way than `backward` token by token: no token's read
    /// depends on its own write, say. `dstate` is scratch.
    pub column: Option<Backward<R>>,
}

impl<R> Clone for Kernel<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Kernel<R> {}

/// What a kernel's backward pass takes and gives, besides the inputs.
pub struct Cotangents<'a> {
    /// The state at the start of the sequence.
    pub start: &'a [f32],
    /// Gradient of the reads, `[tokens, dv]`.
    pub dy: &'a [f32],
    /// Gradients of the inputs, shaped like them; **added into**.
    pub dinputs: &'a mut [&'a mut [f32]],
    /// In: gradient of the state at the end. Out: of the state at the start.
    pub dstate: &'a mut [f32],
}

/// The rows of tokens `first..first + count`, of `tokens` in all, in the gradients of every input.
pub(crate) fn rows_mut<'a>(
    dinputs: &'a mut [&mut [f32]],
    tokens: usize,
    first: usize,
    count: usize,
) -> PerInput<&'a mut [f32]> {
    let row = |x: &'a mut &mut [f32]| {
        let width = x.len() / tokens;
        &mut x[first * width..(first + count) * width]
    };
    dinputs.iter_mut().map(row).collect()
}

/// Which kernel a scan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KernelChoice<'a> {
    /// The fastest measured one for the shape.
    #[default]
    Auto,
    /// The one whose bits do not depend on cuts: inference.
    Canonical,
    /// The slow reference.
    Reference,
    /// One by name.
    Named(&'a str),
}

/// Memory that kernels reuse from call to call, so that nothing is allocated in a hot loop, and the instruction
/// set that they run on. Buffers are 64-byte aligned.
#[derive(Debug)]
pub struct Scratch {
    data: AVec<f32, ConstAlign<64>>,
    isa: Isa,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// An empty scratch for the fastest instruction set of this machine; it grows on first use.
    pub fn new() -> Self {
        Self::on(Isa::best())
    }

    /// An empty scratch for one instruction set: how tests reach every version of a kernel.
    pub fn on(isa: Isa) -> Self {
        Self { data: AVec::new(64), isa }
    }

    /// The instruction set that a kernel given this scratch runs on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Makes kernels given this scratch run on another instruction set, which the machine must have.
    pub(crate) fn set_isa(&mut self, isa: Isa) {
        self.isa = isa;
    }

    /// `N` disjoint buffers of the given lengths, each 64-byte aligned. Contents are whatever was there.
    pub fn take<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let padded = lens.map(|n| n.next_multiple_of(16));
        let total: usize = padded.iter().sum();
        if self.data.len() < total {
            self.data.resize(total, 0.0);
        }
        let mut rest: &mut [f32] = &mut self.data;
        let mut i = 0;
        padded.map(|n| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            i += 1;
            &mut head[..lens[i - 1]]
        })
    }
}
