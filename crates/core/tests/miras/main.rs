//! The generic rule at settings by the hundred: drawn so that all values and all pairs occur, held to the suite; what is
//! refused, and why.

mod combinations;
mod draw;
mod refusals;
