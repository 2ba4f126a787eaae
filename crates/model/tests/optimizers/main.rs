//! Every optimizer of the list: golden trajectories, saved and resumed bits, threads, live settings, levels, descent.

mod descent;
mod golden;
mod inputs;
mod problem;
mod walks;
