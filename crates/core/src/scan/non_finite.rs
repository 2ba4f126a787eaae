//! Where a memory first stops being a number.

use super::{ScanShape, token};
use crate::erased::Number;
use crate::error::{Error, Result};
use crate::rules::AnyRule;
use crate::scalar::Scalar;

/// Whether all values are finite: the cheap check of a state after a call.
pub fn all_finite(values: &[f32]) -> bool {
    // A product with zero is zero for every finite value and NaN for the others, and sums keep the NaN. Lanes are
    // summed apart, so that the loop can be vectorised.
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += 0.0 * x;
        }
    }
    sums.iter().all(|&sum| sum == 0.0) && rest.iter().all(|x| x.is_finite())
}

/// Runs the reference again from `state`, the states before the call, and names the first input or state tensor that
/// is not finite: heads in rising order, then tokens. Layouts are those of [`crate::scan`].
///
/// # Errors
/// [`Error::NonFinite`] if there is such a place, and [`Error::Shape`] for buffers that do not fit.
pub fn first_non_finite<F: Number>(rule: &AnyRule, s: ScanShape, inputs: &[&[F]], state: &[F]) -> Result<()> {
    let (list, tensors, len) = (rule.inputs(), rule.state(s.dims), rule.state_len(s.dims));
    super::check(rule, s, inputs, state, &vec![F::zero(); s.heads * s.tokens * s.dims.dv])?;
    let mut unread = vec![F::zero(); s.dims.dv];
    for head in 0..s.heads {
        let mut state = state[head * len..(head + 1) * len].to_vec();
        for t in 0..s.tokens {
            let at = |what: &str| Error::NonFinite { rule: rule.name(), what: what.to_string(), head, token: t };
            let x = token(&list, s, inputs, head, t);
            if let Some((input, _)) = list.iter().zip(&x).find(|(_, x)| !finite(x)) {
                return Err(at(input.name));
            }
            rule.step(s.dims, s.pos + t as u64, &x, &mut state, &mut unread);
            let mut rest = &state[..];
            for tensor in &tensors {
                let (values, behind) = rest.split_at(tensor.len());
                if !finite(values) {
                    return Err(at(&tensor.name));
                }
                rest = behind;
            }
        }
    }
    Ok(())
}

fn finite<F: Scalar>(values: &[F]) -> bool {
    values.iter().all(|x| x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_finite_is_seen_wherever_it_stands() {
        for len in [1, 15, 16, 17, 40] {
            let mut values = vec![f32::MAX; len];
            assert!(all_finite(&values));
            for at in 0..len {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let old = std::mem::replace(&mut values[at], bad);
                    assert!(!all_finite(&values), "{bad} at {at} of {len}");
                    values[at] = old;
                }
            }
        }
        assert!(all_finite(&[]));
    }
}
