//! The scan of `f32`: checks once, picks a kernel, and runs heads side by side.

use super::{
    CHECKPOINT_TOKENS, MAX_INPUTS, PerInput, ScanShape, Write, reference_backward, reference_column_backward,
    reference_forward,
};
use crate::error::{Result, expect_len};
use crate::kernel::{Cotangents, KernelChoice, Scratch, Sequence, rows_mut};
use crate::kernels::scratch;
use crate::rule::Dims;
use crate::rules::AnyRule;
use crate::simd::Isa;
use std::cell::RefCell;

/// How a scan runs; none of it changes what it computes. The default is the fastest kernel of this machine, on one
/// thread.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Which kernel.
    pub kernel: KernelChoice<'a>,
    /// Whether heads may run on the threads of the current rayon pool. Results have the same bits either way.
    pub parallel: bool,
    /// The instruction set, which the machine must have; the bits of results depend on it.
    pub isa: Isa,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self { kernel: KernelChoice::Auto, parallel: false, isa: Isa::best() }
    }
}

/// Work below which a task is not split further: some ten microseconds, several times what a fork costs.
const SPLIT_FLOPS: f64 = 1e6;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
    static LAYOUTS: RefCell<Vec<Layout>> = const { RefCell::new(Vec::new()) };
}

/// What a rule's lists say at one size, kept so that a call for a single token allocates nothing.
#[derive(Clone)]
struct Layout {
    rule: AnyRule,
    dims: Dims,
    inputs: PerInput<(&'static str, usize)>,
    state_len: usize,
    /// Operations of a token of one head.
    flops: f64,
}

impl Layout {
    /// Rules and sizes that are remembered per thread; a model has a few.
    const KEPT: usize = 16;

    fn new(rule: &AnyRule, dims: Dims) -> Result<Self> {
        rule.check(dims)?;
        let inputs = rule.inputs().iter().map(|input| (input.name, input.width.of(dims))).collect();
        Ok(Self { rule: rule.clone(), dims, inputs, state_len: rule.state_len(dims), flops: rule.flops(dims) })
    }

    /// Calls `use_it` with the layout of a rule.
    fn with<T>(rule: &AnyRule, dims: Dims, use_it: impl FnOnce(&Layout) -> Result<T>) -> Result<T> {
        LAYOUTS.with_borrow_mut(|kept| {
            let at = match kept.iter().position(|l| l.dims == dims && l.rule == *rule) {
                Some(at) => at,
                None => {
                    kept.truncate(Self::KEPT - 1);
                    kept.insert(0, Self::new(rule, dims)?);
                    0
                }
            };
            use_it(&kept[at])
        })
    }

    fn expect_inputs(&self, s: ScanShape, what: &str, lens: impl ExactSizeIterator<Item = usize>) -> Result<()> {
        expect_len("scan", what, self.inputs.len(), lens.len())?;
        for (&(name, width), len) in self.inputs.iter().zip(lens) {
            expect_len("scan", name, s.heads * s.tokens * width, len)?;
        }
        Ok(())
    }
}

/// Runs a memory rule over all heads: layouts as in [`crate::scan`]. `state` goes from its start to its end, `y` is
/// overwritten; `saved`, where given, receives the checkpoints of a training pass.
///
/// # Errors
/// [`crate::Error::Shape`] for a buffer that does not fit, [`crate::Error::Kernel`] for a kernel that is not
/// available, and what the rule's own check says.
pub fn forward_f32(
    rule: &AnyRule,
    s: ScanShape,
    run: Run<'_>,
    inputs: &[&[f32]],
    state: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    write: Write,
) -> Result<()> {
    let (state_len, flops) = Layout::with(rule, s.dims, |layout| {
        layout.expect_inputs(s, "inputs", inputs.iter().map(|x| x.len()))?;
        expect_len("scan", "state", s.heads * layout.state_len, state.len())?;
        expect_len("scan", "y", s.heads * s.tokens * s.dims.dv, y.len())?;
        if let Some(saved) = &saved {
            expect_len("scan", "saved", s.heads * s.checkpoints() * layout.state_len, saved.len())?;
        }
        Ok((layout.state_len, layout.flops))
    })?;
    let job = Job { rule, s, kernel: rule.choose(s.dims, s.tokens, run.kernel)?, isa: run.isa, state_len, flops };
    if s.heads * s.tokens > 0 {
        job.forward(run.parallel, Forward { inputs: inputs.iter().copied().collect(), state, y, saved, write });
    }
    Ok(())
}

/// Transpose of [`forward_f32`] with [`Write::Yes`], from its `saved` states. `dinputs` are added into; `dstate` is
/// dL/dstate at the end on entry, at the start on exit.
///
/// # Errors
/// As [`forward_f32`].
pub fn backward_f32(
    rule: &AnyRule,
    s: ScanShape,
    run: Run<'_>,
    inputs: &[&[f32]],
    saved: &[f32],
    dy: &[f32],
    dinputs: &mut [&mut [f32]],
    dstate: &mut [f32],
) -> Result<()> {
    run_backward(rule, s, run, inputs, saved, dy, dinputs, Some(dstate))
}

/// [`super::reference_column_backward`] by the rule's kernels: every token is a sequence of its own.
///
/// # Errors
/// As [`forward_f32`].
pub fn column_backward_f32(
    rule: &AnyRule,
    s: ScanShape,
    run: Run<'_>,
    inputs: &[&[f32]],
    saved: &[f32],
    dy: &[f32],
    dinputs: &mut [&mut [f32]],
) -> Result<()> {
    run_backward(rule, s, run, inputs, saved, dy, dinputs, None)
}

/// [`backward_f32`] where there is a `dstate`, [`column_backward_f32`] where there is none.
fn run_backward(
    rule: &AnyRule,
    s: ScanShape,
    run: Run<'_>,
    inputs: &[&[f32]],
    saved: &[f32],
    dy: &[f32],
    dinputs: &mut [&mut [f32]],
    dstate: Option<&mut [f32]>,
) -> Result<()> {
    let (state_len, flops) = Layout::with(rule, s.dims, |layout| {
        layout.expect_inputs(s, "inputs", inputs.iter().map(|x| x.len()))?;
        layout.expect_inputs(s, "dinputs", dinputs.iter().map(|x| x.len()))?;
        expect_len("scan", "saved", s.heads * s.checkpoints() * layout.state_len, saved.len())?;
        expect_len("scan", "dy", s.heads * s.tokens * s.dims.dv, dy.len())?;
        if let Some(dstate) = &dstate {
            expect_len("scan", "dstate", s.heads * layout.state_len, dstate.len())?;
        }
        Ok((layout.state_len, layout.flops))
    })?;
    let job = Job { rule, s, kernel: rule.choose(s.dims, s.tokens, run.kernel)?, isa: run.isa, state_len, flops };
    if s.heads * s.tokens > 0 {
        let inputs = inputs.iter().copied().collect();
        let dinputs = dinputs.iter_mut().map(|x| &mut **x).collect();
        job.backward(run.parallel, Backward { inputs, saved, dy, dinputs, dstate });
    }
    Ok(())
}

/// What does not differ from head to head; `s.heads` counts the heads that are left.
#[derive(Clone, Copy)]
struct Job<'a> {
    rule: &'a AnyRule,
    s: ScanShape,
    /// `None` is the reference.
    kernel: Option<usize>,
    isa: Isa,
    state_len: usize,
    flops: f64,
}

/// Buffers of a forward pass, for the heads of a job.
struct Forward<'a> {
    inputs: PerInput<&'a [f32]>,
    state: &'a mut [f32],
    y: &'a mut [f32],
    saved: Option<&'a mut [f32]>,
    write: Write,
}

/// Buffers of a backward pass, for the heads of a job.
struct Backward<'a> {
    inputs: PerInput<&'a [f32]>,
    saved: &'a [f32],
    dy: &'a [f32],
    dinputs: PerInput<&'a mut [f32]>,
    /// `None` for gradients along columns: it is zero behind every token.
    dstate: Option<&'a mut [f32]>,
}

impl<'a> Job<'a> {
    /// The two halves of the heads, or nothing if the work is not to be shared or too small for it.
    fn halves(self, parallel: bool) -> Option<(Self, Self)> {
        let (s, first) = (self.s, self.s.heads / 2);
        let half = |heads| Self { s: ScanShape { heads, ..s }, ..self };
        let flops = s.heads as f64 * s.tokens as f64 * self.flops;
        (parallel && first > 0 && flops > SPLIT_FLOPS).then(|| (half(first), half(s.heads - first)))
    }

    fn forward(self, parallel: bool, x: Forward<'_>) {
        let Some((a, b)) = self.halves(parallel) else {
            return self.forward_heads(x);
        };
        let values = a.s.heads * a.s.tokens * a.s.dims.dv;
        let (inputs_a, inputs_b) = split(a.s, x.inputs, self.s.heads);
        let (state_a, state_b) = x.state.split_at_mut(a.s.heads * a.state_len);
        let (y_a, y_b) = x.y.split_at_mut(values);
        let (saved_a, saved_b) = match x.saved {
            Some(saved) => {
                let (a, b) = saved.split_at_mut(a.s.heads * a.s.checkpoints() * a.state_len);
                (Some(a), Some(b))
            }
            None => (None, None),
        };
        let x_a = Forward { inputs: inputs_a, state: state_a, y: y_a, saved: saved_a, write: x.write };
        let x_b = Forward { inputs: inputs_b, state: state_b, y: y_b, saved: saved_b, write: x.write };
        rayon::join(|| a.forward(true, x_a), || b.forward(true, x_b));
    }

    /// Head after head on this thread.
    fn forward_heads(self, x: Forward<'_>) {
        let Self { rule, s, kernel, .. } = self;
        let Some(kernel) = kernel else {
            return reference_forward(rule, s, &x.inputs, x.state, x.y, x.saved, x.write);
        };
        let (values, kept) = (s.tokens * s.dims.dv, s.checkpoints() * self.state_len);
        let mut saved = x.saved;
        self.with_scratch(|scratch| {
            for h in 0..s.heads {
                let head = Forward {
                    inputs: x.inputs.iter().map(|x| &x[x.len() / s.heads * h..][..x.len() / s.heads]).collect(),
                    state: &mut x.state[h * self.state_len..][..self.state_len],
                    y: &mut x.y[h * values..][..values],
                    saved: saved.as_mut().map(|saved| &mut saved[h * kept..][..kept]),
                    write: x.write,
                };
                self.forward_head(kernel, head, scratch);
            }
        });
    }

    fn forward_head(self, kernel: usize, x: Forward<'_>, scratch: &mut Scratch) {
        let Self { rule, s, .. } = self;
        let seq = Sequence { tokens: s.tokens, pos: s.pos, inputs: &x.inputs };
        match (x.write, x.saved) {
            (Write::No, saved) => {
                rule.kernel_read(kernel, s.dims, seq, x.state, x.y, scratch);
                for saved in saved.into_iter().flat_map(|saved| saved.chunks_exact_mut(self.state_len)) {
                    saved.copy_from_slice(x.state);
                }
            }
            (Write::Yes, saved) => rule.kernel_forward(kernel, s.dims, seq, x.state, x.y, saved, scratch),
        }
    }

    fn backward(self, parallel: bool, mut x: Backward<'_>) {
        let Some((a, b)) = self.halves(parallel) else {
            return self.backward_heads(&mut x);
        };
        let (inputs_a, inputs_b) = split(a.s, x.inputs, self.s.heads);
        let (saved_a, saved_b) = x.saved.split_at(a.s.heads * a.s.checkpoints() * a.state_len);
        let (dy_a, dy_b) = x.dy.split_at(a.s.heads * a.s.tokens * a.s.dims.dv);
        let (mut dinputs_a, mut dinputs_b) = (PerInput::new(), PerInput::new());
        for d in x.dinputs {
            let (a, b) = d.split_at_mut(d.len() / self.s.heads * a.s.heads);
            dinputs_a.push(a);
            dinputs_b.push(b);
        }
        let (dstate_a, dstate_b) = x.dstate.map(|d| d.split_at_mut(a.s.heads * a.state_len)).unzip();
        let x_a = Backward { inputs: inputs_a, saved: saved_a, dy: dy_a, dinputs: dinputs_a, dstate: dstate_a };
        let x_b = Backward { inputs: inputs_b, saved: saved_b, dy: dy_b, dinputs: dinputs_b, dstate: dstate_b };
        rayon::join(|| a.backward(true, x_a), || b.backward(true, x_b));
    }

    /// Head after head on this thread.
    fn backward_heads(self, x: &mut Backward<'_>) {
        let Self { rule, s, kernel, .. } = self;
        let Some(kernel) = kernel else {
            return match &mut x.dstate {
                Some(dstate) => reference_backward(rule, s, &x.inputs, x.saved, x.dy, &mut x.dinputs, dstate),
                None => reference_column_backward(rule, s, &x.inputs, x.saved, x.dy, &mut x.dinputs),
            };
        };
        let (values, kept) = (s.tokens * s.dims.dv, s.checkpoints() * self.state_len);
        self.with_scratch(|scratch| {
            for h in 0..s.heads {
                let head = Backward {
                    inputs: x.inputs.iter().map(|x| &x[x.len() / s.heads * h..][..x.len() / s.heads]).collect(),
                    saved: &x.saved[h * kept..][..kept],
                    dy: &x.dy[h * values..][..values],
                    dinputs: x
                        .dinputs
                        .iter_mut()
                        .map(|d| {
                            let len = d.len() / s.heads;
                            &mut d[len * h..][..len]
                        })
                        .collect(),
                    dstate: x.dstate.as_mut().map(|d| &mut d[h * self.state_len..][..self.state_len]),
                };
                self.backward_head(kernel, head, scratch);
            }
        });
    }

    fn backward_head(self, kernel: usize, mut x: Backward<'_>, scratch: &mut Scratch) {
        let Some(dstate) = x.dstate.take() else {
            return self.column_head(kernel, x, scratch);
        };
        for (i, start) in x.saved.chunks_exact(self.state_len).enumerate().rev() {
            let (first, last) = self.segment(i);
            self.backward_tokens(kernel, &mut x, (first, last), start, dstate, scratch);
        }
    }

    /// Token after token, from the states that the forward pass kept and those that the kernel makes of them again.
    fn column_head(self, kernel: usize, mut x: Backward<'_>, scratch: &mut Scratch) {
        let Self { rule, s, state_len, .. } = self;
        let mut own = scratch::borrow();
        let [state, dstate, unread] = own.take([state_len, state_len, s.dims.dv]);
        for (i, start) in x.saved.chunks_exact(state_len).enumerate() {
            let (first, last) = self.segment(i);
            if self.own_column(kernel, &mut x, (first, last), start, dstate, scratch) {
                continue;
            }
            state.copy_from_slice(start);
            for t in first..last {
                dstate.fill(0.0);
                self.backward_tokens(kernel, &mut x, (t, t + 1), state, dstate, scratch);
                if t + 1 < last {
                    let inputs = self.part(&x.inputs, t, t + 1);
                    let seq = Sequence { tokens: 1, pos: s.pos + t as u64, inputs: &inputs };
                    rule.kernel_forward(kernel, s.dims, seq, state, unread, None, scratch);
                }
            }
        }
    }

    /// The kernel's own way back along columns over tokens `first..last`; false where it has none.
    fn own_column(
        self,
        kernel: usize,
        x: &mut Backward<'_>,
        (first, last): (usize, usize),
        start: &[f32],
        dstate: &mut [f32],
        scratch: &mut Scratch,
    ) -> bool {
        let Self { rule, s, .. } = self;
        self.on_tokens(x, (first, last), start, dstate, |seq, ct| rule.kernel_column(kernel, s.dims, seq, ct, scratch))
    }

    /// The transpose of tokens `first..last` of one head, which found the state `start`.
    fn backward_tokens(
        self,
        kernel: usize,
        x: &mut Backward<'_>,
        (first, last): (usize, usize),
        start: &[f32],
        dstate: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Self { rule, s, .. } = self;
        self.on_tokens(x, (first, last), start, dstate, |seq, ct| {
            rule.kernel_backward(kernel, s.dims, seq, ct, scratch);
        });
    }

    /// Runs a kernel on tokens `first..last` of one head.
    fn on_tokens<T>(
        self,
        x: &mut Backward<'_>,
        (first, last): (usize, usize),
        start: &[f32],
        dstate: &mut [f32],
        run: impl FnOnce(Sequence<'_, f32>, Cotangents<'_>) -> T,
    ) -> T {
        let s = self.s;
        let inputs = self.part(&x.inputs, first, last);
        // A plain array, which nothing is left to do for when it goes.
        let mut dinputs: [&mut [f32]; MAX_INPUTS] = Default::default();
        let cut = rows_mut(&mut x.dinputs, s.tokens, first, last - first);
        dinputs.iter_mut().zip(cut).for_each(|(part, d)| *part = d);
        let seq = Sequence { tokens: last - first, pos: s.pos + first as u64, inputs: &inputs };
        let dy = &x.dy[first * s.dims.dv..last * s.dims.dv];
        run(seq, Cotangents { start, dy, dinputs: &mut dinputs[..inputs.len()], dstate })
    }

    /// Calls `run` with this thread's scratch.
    fn with_scratch(self, run: impl FnOnce(&mut Scratch)) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.set_isa(self.isa);
            run(scratch);
        });
    }

    /// Tokens between checkpoint `i` and the next.
    fn segment(self, i: usize) -> (usize, usize) {
        (i * CHECKPOINT_TOKENS, ((i + 1) * CHECKPOINT_TOKENS).min(self.s.tokens))
    }

    /// One head's inputs of tokens `first..last`.
    fn part<'x>(self, inputs: &[&'x [f32]], first: usize, last: usize) -> PerInput<&'x [f32]> {
        let cut = |x: &&'x [f32]| {
            let width = x.len() / self.s.tokens;
            &x[first * width..last * width]
        };
        inputs.iter().map(cut).collect()
    }
}

/// The inputs of the first heads, as many as `a` has, and those of the others.
fn split(a: ScanShape, inputs: PerInput<&[f32]>, heads: usize) -> (PerInput<&[f32]>, PerInput<&[f32]>) {
    inputs.into_iter().map(|x| x.split_at(x.len() / heads * a.heads)).unzip()
}
