//! Classifiers of vectors: exact gradients, samples apart from each other, learning, files.

mod exact;
mod learner;
