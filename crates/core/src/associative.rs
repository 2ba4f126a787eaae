//! Associative memory as a plain object: write pairs, read keys, no model around it.
//!
//! [`AssociativeMemory`] is one head of any rule, at the gates that the rule starts from unless the caller gives
//! others. [`PairMemory`] keeps the pairs themselves and answers with their softmax-weighted mean: the estimator of
//! Nadaraya and Watson, which attention is [Atlas v1 eq.17].
//!
//! Both run references, a pair at a time; models and [`crate::scan`] run kernels.
//!
//! ```
//! use hecate_core::{AnyRule, AssociativeMemory, Dims};
//! let mut memory = AssociativeMemory::<f64>::new(AnyRule::named("delta")?, Dims::new(2, 1), 0)?;
//! memory.write(&[1.0, 0.0], &[3.0], &[("rate", &[1.0])])?;
//! memory.write(&[0.0, 1.0], &[5.0], &[("rate", &[1.0])])?;
//! assert_eq!(memory.read(&[1.0, 0.0])?, [3.0]);
//! # Ok::<(), hecate_core::Error>(())
//! ```

use crate::conformance::random::Random;
use crate::erased::Number;
use crate::error::{Error, Result, expect_len};
use crate::ops::{Ops, Reference, gate_specs};
use crate::rule::{Dims, Input, Start, StateTensor, Width, start_state};
use crate::rules::AnyRule;
use crate::scalar::Scalar;

/// What `heads` states of a rule hold before the first token, `[heads, state_len]`; learned starts are drawn from
/// `seed`.
pub fn seeded_start(rule: &AnyRule, d: Dims, heads: usize, seed: u64) -> Vec<f64> {
    let (tensors, mut random) = (rule.state(d), Random::new(seed));
    (0..heads).flat_map(|_| start_state(&tensors, &mut || random.normal())).collect()
}

/// The names of the tensors that start from learned values: where there are some, zeros are no start.
pub fn learned_starts(rule: &AnyRule, d: Dims) -> Vec<String> {
    let learned = |t: &StateTensor| matches!(t.start, Start::Learned { .. } | Start::UnitColumns);
    rule.state(d).into_iter().filter(learned).map(|t| t.name.into_owned()).collect()
}

/// Per input of a rule the values of a token that a gate has where nothing is learned yet; `None` for keys and values.
fn gates_at_start<F: Number>(list: &[Input], d: Dims) -> Vec<Option<Vec<F>>> {
    let (gates, bias) = gate_specs(list, d, 1);
    let mut values = vec![F::zero(); gates.iter().map(|g| g.width).sum()];
    let bias: Vec<F> = bias.into_iter().map(F::from_f64).collect();
    Reference::new().gates_forward(&gates, 1, 1, &vec![F::zero(); bias.len()], &bias, &mut values);
    let mut values = values.into_iter();
    let default = |input: &Input| match input.activation {
        activation if activation.is_convolved() => None,
        _ => Some(values.by_ref().take(input.width.of(d)).collect()),
    };
    list.iter().map(default).collect()
}

/// Per input of a rule the value of its gate where nothing is learned yet, the mean where channels differ; `None` for
/// keys and values.
pub fn gate_defaults(rule: &AnyRule, d: Dims) -> Vec<Option<f64>> {
    let mean = |x: Vec<f64>| x.iter().sum::<f64>() / x.len() as f64;
    gates_at_start(&rule.inputs(), d).into_iter().map(|x| x.map(mean)).collect()
}

/// One memory of any rule; see the module text.
#[derive(Clone, Debug, PartialEq)]
pub struct AssociativeMemory<F> {
    rule: AnyRule,
    inputs: Inputs<F>,
    start: Vec<F>,
    state: Vec<F>,
    position: u64,
}

impl<F: Number> AssociativeMemory<F> {
    /// An empty memory. Tensors that a model would learn the start of are drawn from `seed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the rule does not exist at this size.
    pub fn new(rule: AnyRule, dims: Dims, seed: u64) -> Result<Self> {
        rule.check(dims)?;
        let list = rule.inputs();
        let defaults = gates_at_start(&list, dims);
        let start: Vec<F> = seeded_start(&rule, dims, 1, seed).into_iter().map(F::from_f64).collect();
        let inputs = Inputs { rule: rule.name(), dims, list, defaults };
        Ok(Self { rule, inputs, state: start.clone(), start, position: 0 })
    }

    /// Writes pairs, one after the other: `keys [n, dk]`, `values [n, dv]`.
    ///
    /// `inputs` names what the rule takes besides: `[width]` for all pairs alike, or `[n, width]`. Gates that are not
    /// given have the values that the rule starts from; further keys and values repeat the pair. Everything is a final
    /// value: nothing is normalised or squashed here.
    ///
    /// # Errors
    /// [`Error::Shape`] for a buffer that does not fit, [`Error::Unknown`] for an input that the rule does not take,
    /// [`Error::Invalid`] for one that has no default. Nothing is written then.
    pub fn write(&mut self, keys: &[F], values: &[F], inputs: &[(&str, &[F])]) -> Result<()> {
        let d = self.inputs.dims;
        let n = rows("keys", keys.len(), d.dk)?;
        expect_len("write", "values", n * d.dv, values.len())?;
        let sources = self.inputs.sources(n, keys, values, inputs)?;
        for t in 0..n {
            let x: Vec<&[F]> = sources.iter().map(|s| s.token(t)).collect();
            self.rule.write(d, self.position, &x, &mut self.state);
            self.position += 1;
        }
        Ok(())
    }

    /// What the memory answers to each of `queries [n, dk]`: `[n, dv]`. It reads as the last pair's own token would.
    ///
    /// # Errors
    /// [`Error::Shape`] if `queries` is no list of keys.
    pub fn read(&self, queries: &[F]) -> Result<Vec<F>> {
        let d = self.inputs.dims;
        let n = rows("queries", queries.len(), d.dk)?;
        let (dk, dv) = (d.dk, d.dv);
        let nothing = vec![F::zero(); dv];
        let mut y = vec![F::zero(); n * dv];
        for (q, y) in queries.chunks_exact(dk).zip(y.chunks_exact_mut(dv)) {
            let sources = self.inputs.sources(1, q, &nothing, &[])?;
            let x: Vec<&[F]> = sources.iter().map(|s| s.token(0)).collect();
            self.rule.read(d, self.position.saturating_sub(1), &x, &self.state, y);
        }
        Ok(y)
    }

    /// The tensors of the state by name, with their shapes.
    pub fn state(&self) -> Vec<(StateTensor, &[F])> {
        let mut rest = self.state.as_slice();
        let tensor = |t: StateTensor| {
            let (own, tail) = rest.split_at(t.len());
            rest = tail;
            (t, own)
        };
        self.rule.state(self.inputs.dims).into_iter().map(tensor).collect()
    }

    /// Empty again, as it was made.
    pub fn reset(&mut self) {
        self.state.copy_from_slice(&self.start);
        self.position = 0;
    }

    /// The rule.
    pub fn rule(&self) -> &AnyRule {
        &self.rule
    }
    /// Widths of keys and values.
    pub fn dims(&self) -> Dims {
        self.inputs.dims
    }
    /// Pairs written.
    pub fn position(&self) -> u64 {
        self.position
    }
}

/// What a rule takes, and what it takes where nothing is given.
#[derive(Clone, Debug, PartialEq)]
struct Inputs<F> {
    rule: &'static str,
    dims: Dims,
    list: Vec<Input>,
    /// Per input the values of a token, where they do not depend on the pair.
    defaults: Vec<Option<Vec<F>>>,
}

impl<F> Inputs<F> {
    /// Where the values of each input come from.
    fn sources<'a>(
        &'a self,
        n: usize,
        keys: &'a [F],
        values: &'a [F],
        given: &[(&str, &'a [F])],
    ) -> Result<Vec<Source<'a, F>>> {
        let optional = |i: &&Input| !["k", "v", "q"].contains(&i.name);
        for (name, _) in given {
            if !self.list.iter().filter(optional).any(|i| i.name == *name) {
                let known = self.list.iter().filter(optional).map(|i| i.name).collect::<Vec<_>>().join(", ");
                return Err(Error::Unknown { what: "input", got: name.to_string(), known });
            }
        }
        let source = |(input, default): (&Input, &'a Option<Vec<F>>)| {
            let width = input.width.of(self.dims);
            if let Some((_, data)) = given.iter().find(|(name, _)| *name == input.name) {
                let alike = data.len() == width;
                expect_len("write", input.name, if alike { width } else { n * width }, data.len())?;
                return Ok(Source { data, width, alike });
            }
            match (default, input.width) {
                (Some(data), _) => Ok(Source { data, width, alike: true }),
                (None, Width::Key) => Ok(Source { data: keys, width, alike: false }),
                (None, Width::Value) => Ok(Source { data: values, width, alike: false }),
                (None, _) => Err(Error::Invalid {
                    place: format!("input `{}` of rule `{}`", input.name, self.rule),
                    reason: "it has no default here: give it with every write".into(),
                }),
            }
        };
        self.list.iter().zip(&self.defaults).map(source).collect()
    }
}

/// One input of a run of pairs.
struct Source<'a, F> {
    data: &'a [F],
    width: usize,
    /// One row for all pairs.
    alike: bool,
}

impl<'a, F> Source<'a, F> {
    fn token(&self, t: usize) -> &'a [F] {
        let first = if self.alike { 0 } else { t * self.width };
        &self.data[first..first + self.width]
    }
}

/// How many rows of `width` a buffer holds.
fn rows(what: &str, len: usize, width: usize) -> Result<usize> {
    expect_len("associative memory", what, len / width.max(1) * width, len)?;
    Ok(len / width.max(1))
}

/// A memory without parameters: the pairs themselves, and for a query `q` the mean of their values under weights
/// proportional to `exp(sharpness q . k)`. Nothing stored reads as zero.
///
/// ```
/// use hecate_core::{Dims, PairMemory};
/// let mut memory = PairMemory::<f64>::new(Dims::new(1, 1), 1.0, Some(2))?;
/// memory.write(&[7.0, 1.0, -1.0], &[9.0, 4.0, 2.0])?;
/// // The first pair has left the window; both others are alike to a query of zero.
/// assert_eq!(memory.read(&[0.0])?, [3.0]);
/// # Ok::<(), hecate_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PairMemory<F> {
    dims: Dims,
    sharpness: f64,
    window: Option<usize>,
    keys: Vec<F>,
    values: Vec<F>,
    position: u64,
}

impl<F: Scalar> PairMemory<F> {
    /// An empty memory that keeps the last `window` pairs, or all. For keys of unit length, a sharpness of `sqrt(dk)`
    /// is that of attention.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a width or window of 0, or a sharpness that is not a number from 0 up.
    pub fn new(dims: Dims, sharpness: f64, window: Option<usize>) -> Result<Self> {
        let refuse = |reason: &str| Err(Error::Invalid { place: "pair memory".into(), reason: reason.into() });
        if dims.dk == 0 || dims.dv == 0 {
            return refuse("widths of keys and values must not be 0");
        }
        if window == Some(0) {
            return refuse("a window of 0 pairs keeps nothing: at least 1, or none for all");
        }
        if !(sharpness.is_finite() && sharpness >= 0.0) {
            return refuse("the sharpness must be a number from 0 up");
        }
        Ok(Self { dims, sharpness, window, keys: Vec::new(), values: Vec::new(), position: 0 })
    }

    /// Stores pairs: `keys [n, dk]`, `values [n, dv]`; the oldest leave a full window.
    ///
    /// # Errors
    /// [`Error::Shape`] for a buffer that does not fit.
    pub fn write(&mut self, keys: &[F], values: &[F]) -> Result<()> {
        let n = rows("keys", keys.len(), self.dims.dk)?;
        expect_len("write", "values", n * self.dims.dv, values.len())?;
        self.keys.extend_from_slice(keys);
        self.values.extend_from_slice(values);
        self.position += n as u64;
        let surplus = self.window.map_or(0, |window| self.len().saturating_sub(window));
        self.keys.drain(..surplus * self.dims.dk);
        self.values.drain(..surplus * self.dims.dv);
        Ok(())
    }

    /// What the memory answers to each of `queries [n, dk]`: `[n, dv]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `queries` is no list of keys.
    pub fn read(&self, queries: &[F]) -> Result<Vec<F>> {
        let n = rows("queries", queries.len(), self.dims.dk)?;
        let (dk, dv) = (self.dims.dk, self.dims.dv);
        let mut y = vec![F::zero(); n * dv];
        for (q, y) in queries.chunks_exact(dk).zip(y.chunks_exact_mut(dv)) {
            let dot = |k: &[F]| q.iter().zip(k).map(|(&q, &k)| q * k).sum::<F>() * F::from_f64(self.sharpness);
            let scores: Vec<F> = self.keys.chunks_exact(dk).map(dot).collect();
            let Some(&first) = scores.first() else { continue };
            let most = scores.iter().fold(first, |a, &b| if b > a { b } else { a });
            let weights: Vec<F> = scores.iter().map(|&s| (s - most).exp()).collect();
            let sum = weights.iter().copied().sum::<F>();
            for (&w, value) in weights.iter().zip(self.values.chunks_exact(dv)) {
                y.iter_mut().zip(value).for_each(|(y, &v)| *y += w / sum * v);
            }
        }
        Ok(y)
    }

    /// The keys `[len, dk]` and values `[len, dv]` that it holds, oldest first.
    pub fn pairs(&self) -> (&[F], &[F]) {
        (&self.keys, &self.values)
    }
    /// Pairs that it holds.
    pub fn len(&self) -> usize {
        self.keys.len() / self.dims.dk
    }
    /// True if it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Pairs written, those that have left the window included.
    pub fn position(&self) -> u64 {
        self.position
    }
    /// Widths of keys and values.
    pub fn dims(&self) -> Dims {
        self.dims
    }
    /// Empty again.
    pub fn reset(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.position = 0;
    }
}
