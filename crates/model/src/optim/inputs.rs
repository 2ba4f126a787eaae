//! What some optimizers ask of a training pass besides gradients: the inputs of every matrix, as sums of `x x^T`.

use super::step::is_matrix;
use crate::buffer::place;
use crate::params::ParamLayout;
use std::ops::Range;

/// Where the sums lie, behind the gradient in its buffer: `[rows, rows]` for each matrix of [`is_matrix`].
///
/// Gathering them costs a product as large as a layer of `rows` outputs, per matrix and token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputLayout {
    /// Where a weight begins, and where its sum lies.
    places: Vec<(usize, Range<usize>)>,
    /// Length of a buffer that holds gradient and sums.
    pub len: usize,
}

impl InputLayout {
    /// For the matrices of a model.
    pub fn new(params: &ParamLayout) -> Self {
        let mut layout = Self { places: Vec::new(), len: params.len };
        for spec in params.specs.iter().filter(|spec| is_matrix(spec)) {
            let at = place(layout.len, spec.shape[0] * spec.shape[0]);
            layout.len = at.end;
            layout.places.push((spec.range.start, at));
        }
        layout
    }

    /// Where the sum of the weight at `weight` lies, if it is a matrix.
    pub fn find(&self, weight: &Range<usize>) -> Option<Range<usize>> {
        let at = self.places.binary_search_by_key(&weight.start, |(start, _)| *start).ok()?;
        Some(self.places[at].1.clone())
    }
}
