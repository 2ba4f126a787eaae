//! Rules without their type: what runs any rule is compiled once per number type, and not once more per rule.
//!
//! The functions of a [`MemoryRule`] take any [`Scalar`], so it cannot stand behind a pointer. [`Over`] is a rule over
//! one number type, and can; [`ErasedRule`] is one over every [`Number`], with what else there is to know of it. Every
//! rule is both, and nothing else needs to be.

use crate::error::Result;
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::rule::{About, Dims, Input, MemoryRule, StateTensor};
use crate::rules::AnyRule;
use crate::scalar::{Dual, Scalar};
use std::fmt::Debug;

/// The number types that registered rules are compiled for, in this crate and only here: `f32`, `f64` and `Dual<f64>`.
pub trait Number: Scalar {
    /// The rule over this number type.
    fn over(rule: &AnyRule) -> &dyn Over<Self>;
}

/// The functions of [`MemoryRule`], over one number type.
pub trait Over<F>: Send + Sync {
    /// See [`MemoryRule::write`].
    fn write(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]);
    /// See [`MemoryRule::write_backward`].
    fn write_backward(&self, d: Dims, pos: u64, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]);
    /// See [`MemoryRule::read`].
    fn read(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]);
    /// See [`MemoryRule::read_backward`].
    fn read_backward(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    );
    /// See [`MemoryRule::step`].
    fn step(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]);
    /// See [`MemoryRule::step_backward`].
    fn step_backward(&self, d: Dims, pos: u64, x: &[&[F]], prev: &[F], dy: &[F], dx: &mut [&mut [F]], dstate: &mut [F]);
}

impl<F: Scalar, R: MemoryRule> Over<F> for R {
    fn write(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        MemoryRule::write(self, d, pos, x, state);
    }
    fn write_backward(&self, d: Dims, pos: u64, x: &[&[F]], prev: &[F], dx: &mut [&mut [F]], dstate: &mut [F]) {
        MemoryRule::write_backward(self, d, pos, x, prev, dx, dstate);
    }
    fn read(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        MemoryRule::read(self, d, pos, x, state, y);
    }
    fn read_backward(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        MemoryRule::read_backward(self, d, pos, x, state, dy, dx, dstate);
    }
    fn step(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]) {
        MemoryRule::step(self, d, pos, x, state, y);
    }
    fn step_backward(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        MemoryRule::step_backward(self, d, pos, x, prev, dy, dx, dstate);
    }
}

/// A [`MemoryRule`] without its type: `&Rule::default()` where one is expected, [`AnyRule::erased`] for registered ones.
pub trait ErasedRule: Over<f32> + Over<f64> + Over<Dual<f64>> + Debug {
    /// See [`MemoryRule::name`].
    fn name(&self) -> &'static str;
    /// See [`MemoryRule::about`].
    fn about(&self) -> About;
    /// See [`MemoryRule::inputs`].
    fn inputs(&self) -> Vec<Input>;
    /// See [`MemoryRule::state`].
    fn state(&self, d: Dims) -> Vec<StateTensor>;
    /// See [`MemoryRule::flops`].
    fn flops(&self, d: Dims) -> f64;
    /// See [`MemoryRule::check`].
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the reason.
    fn check(&self, d: Dims) -> Result<()>;
    /// See [`MemoryRule::unbounded`].
    fn unbounded(&self) -> Option<&'static str>;
    /// See [`MemoryRule::reads_first`].
    fn reads_first(&self) -> bool;
    /// See [`MemoryRule::positional`].
    fn positional(&self) -> bool;
    /// See [`MemoryRule::reads`].
    fn reads(&self, input: &Input) -> bool;
    /// [`MemoryRule::brief`], where that differs from the rule itself.
    fn shortened(&self) -> Option<Box<dyn ErasedRule>>;
    /// See [`MemoryRule::KERNELS`].
    fn kernels(&self) -> Vec<Box<dyn BoundKernel + '_>>;
}

impl<R: MemoryRule> ErasedRule for R {
    fn name(&self) -> &'static str {
        MemoryRule::name(self)
    }
    fn about(&self) -> About {
        MemoryRule::about(self)
    }
    fn inputs(&self) -> Vec<Input> {
        MemoryRule::inputs(self)
    }
    fn state(&self, d: Dims) -> Vec<StateTensor> {
        MemoryRule::state(self, d)
    }
    fn flops(&self, d: Dims) -> f64 {
        MemoryRule::flops(self, d)
    }
    fn check(&self, d: Dims) -> Result<()> {
        MemoryRule::check(self, d)
    }
    fn unbounded(&self) -> Option<&'static str> {
        MemoryRule::unbounded(self)
    }
    fn reads_first(&self) -> bool {
        MemoryRule::reads_first(self)
    }
    fn positional(&self) -> bool {
        MemoryRule::positional(self)
    }
    fn reads(&self, input: &Input) -> bool {
        MemoryRule::reads(self, input)
    }
    fn shortened(&self) -> Option<Box<dyn ErasedRule>> {
        let brief = self.brief();
        if brief == *self { None } else { Some(Box::new(brief)) }
    }
    fn kernels(&self) -> Vec<Box<dyn BoundKernel + '_>> {
        let bind = |kernel| Box::new(Bound { rule: self, kernel }) as Box<dyn BoundKernel + '_>;
        R::KERNELS.iter().map(bind).collect()
    }
}

/// A [`Kernel`] together with its rule.
pub trait BoundKernel: Send + Sync {
    /// See [`Kernel::name`].
    fn name(&self) -> &'static str;
    /// See [`Kernel::canonical`].
    fn canonical(&self) -> bool;
    /// See [`Kernel::is_available`].
    fn is_available(&self, d: Dims) -> bool;
    /// See [`Kernel::forward`].
    fn forward(
        &self,
        d: Dims,
        seq: Sequence<'_, f32>,
        state: &mut [f32],
        y: &mut [f32],
        saved: Option<&mut [f32]>,
        scratch: &mut Scratch,
    );
    /// See [`Kernel::backward`].
    fn backward(&self, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch);
    /// See [`Kernel::read`].
    fn read(&self, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch);
}

struct Bound<'a, R: 'static> {
    rule: &'a R,
    kernel: &'static Kernel<R>,
}

impl<R: MemoryRule> BoundKernel for Bound<'_, R> {
    fn name(&self) -> &'static str {
        self.kernel.name
    }
    fn canonical(&self) -> bool {
        self.kernel.canonical
    }
    fn is_available(&self, d: Dims) -> bool {
        (self.kernel.is_available)(self.rule, d)
    }
    fn forward(
        &self,
        d: Dims,
        seq: Sequence<'_, f32>,
        state: &mut [f32],
        y: &mut [f32],
        saved: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        (self.kernel.forward)(self.rule, d, seq, state, y, saved, scratch);
    }
    fn backward(&self, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
        (self.kernel.backward)(self.rule, d, seq, ct, scratch);
    }
    fn read(&self, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
        (self.kernel.read)(self.rule, d, seq, state, y, scratch);
    }
}
