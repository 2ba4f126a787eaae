//! The outer optimizers: what turns gradients into new parameters.
//!
//! An optimizer is one file of [`methods`] and one line of its list. It says, for one tensor at a time, what state that
//! tensor needs and how one step goes; [`Stepper`] holds the state and the count of steps of every tensor, so that
//! tensors may be due at different times. All is written over an op set: double precision for checks, kernels in
//! training.

mod clip;
mod elementwise;
mod inputs;
mod matrix;
pub mod methods;
mod precondition;
pub mod prox;
mod rest;
mod schedule;
mod step;
mod stepper;

pub use clip::{clip, global_norm};
pub use inputs::InputLayout;
pub use methods::{AdamW, AnyOptimizer};
pub use precondition::{Adagrad, AdamScale, Outer, Plain, Preconditioner};
pub use rest::Rest;
pub use schedule::Schedule;
pub use step::{About, Optimizer, Shape, StateSpec, Step, is_matrix};
pub use stepper::{Gradient, StateTensor, Stepper, Treatment};
