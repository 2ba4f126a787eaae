//! Gradients of a training call that go through what its tokens changed, second derivatives and all.
//!
//! The losses of a call depend on parameters and on the weights `W_i` that the tokens of each slice `i` meet, and every `W_i`
//! on what earlier tokens were learned from: `g_s`, the gradient of token `s`'s loss along its own column. Backward over the
//! slices, what later losses ask of the gathered gradients is a matrix `v` per weight, and it is answered by the gradient of
//!
//! ```text
//! <v, g_s> = d/de loss_s, where the weights of token s alone are W_i + e v
//! ```
//!
//! with respect to everything before it: parameters and all `W_j`. That is one pass over the tokens up to `s`, forward and
//! backward, on dual numbers. So the work grows with the square of the call's length, and the numbers are double and the
//! operations the reference's, whatever runs the rest: this is the definition that `first_order` is judged by, and for
//! sequences of some hundred tokens.

use crate::IGNORED;
use crate::access::Access;
use crate::block::{Again, Asked, Block, BlockTape, Cms, Known};
use crate::error::Result;
use crate::model::{Model, Tape};
use crate::params::Params;
use crate::slices::{Lesson, Moving};
use crate::state::State;
use hecate_core::ops::Reference;
use hecate_core::{Dual, Scalar};

type D = Dual<f64>;

/// A training call: what its tokens start from.
pub(crate) struct Unrolled<'a> {
    model: &'a Model,
    ops: Reference<D>,
    /// The values of the parameters, and of the state.
    values: Vec<f64>,
    params: Params<D>,
    start: State<D>,
    tokens: &'a [u32],
    targets: &'a [u32],
}

/// What a pass over some of the tokens gives.
struct Pass {
    grads: Vec<D>,
    known: Vec<Known<D>>,
    /// By block and token, whether each of its perceptrons learns from it.
    learning: Vec<Vec<Vec<bool>>>,
}

impl<'a> Unrolled<'a> {
    /// Of `tokens` behind `state`.
    pub fn new<F: Scalar>(
        model: &'a Model,
        params: &Params<F>,
        state: &State<F>,
        [tokens, targets]: [&'a [u32]; 2],
    ) -> Self {
        let lift = |from: &[F], to: &mut [D]| to.iter_mut().zip(from).for_each(|(to, x)| *to = D::from_f64(x.value()));
        let mut start = model.new_state::<D>();
        lift(&state.data, &mut start.data);
        lift(&state.fast, &mut start.fast);
        start.position = state.position;
        let values: Vec<f64> = params.data.iter().map(|p| p.value()).collect();
        let data: Vec<D> = values.iter().map(|&p| D::from_f64(p)).collect();
        Self { model, ops: Reference::new(), values, params: Params { data: data.into() }, start, tokens, targets }
    }

    /// Gradients of the sum of all losses times `weight`, laid out like the parameters.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) with the place.
    pub fn gradients(&self, weight: f64) -> Result<Vec<f64>> {
        let all = self.pass(self.tokens.len(), weight, None)?;
        let mut grads: Vec<f64> = all.grads.iter().map(|g| g.re).collect();
        // By slice, the gradient of the weights that its tokens meet.
        let mut met: Vec<Vec<f64>> = all.known.iter().map(|k| k.grads.iter().map(|g| g.re).collect()).collect();
        let mut asked = Asked { fast: vec![0.0; self.start.fast.len()], rates: vec![0.0; self.start.fast.len()] };
        let before: Vec<f64> = self.start.fast.iter().map(|x| x.re).collect();
        let (pos, pace) = (self.start.position, self.model.trunk.training_pace());
        for (i, slice) in all.known.iter().enumerate().rev() {
            let ends = [pos, pos + slice.rows.end as u64];
            self.memories().for_each(|(_, cms)| cms.changes_backward(&self.values, &before, ends, pace, &mut asked));
            for s in slice.rows.clone() {
                self.answer(s, &all, &asked, &mut grads, &mut met)?;
            }
            self.memories().for_each(|(_, cms)| cms.add_to_delta(&met[i], |g| g, &mut asked.fast));
        }
        self.memories().for_each(|(_, cms)| cms.rates_from_before(&self.values, &asked, &before, &mut grads));
        Ok(grads)
    }

    fn memories(&self) -> impl Iterator<Item = (usize, &Cms)> {
        self.model.trunk.blocks.iter().enumerate().filter_map(|(b, block)| Some((b, block.cms()?)))
    }

    /// Adds the gradient of what is asked of the gradients that token `s` was learned from by.
    fn answer(&self, s: usize, all: &Pass, asked: &Asked, grads: &mut [f64], met: &mut [Vec<f64>]) -> Result<()> {
        if !self.memories().any(|(b, cms)| cms.asks(asked, &all.learning[b][s])) {
            return Ok(());
        }
        let pass = self.pass(s + 1, 1.0, Some((asked, &all.learning)))?;
        grads.iter_mut().zip(&pass.grads).for_each(|(g, d)| *g += d.eps);
        for known in &pass.known {
            let slice = all.known.iter().position(|k| k.rows.contains(&known.rows.start)).expect("rows lie in slices");
            met[slice].iter_mut().zip(&known.grads).for_each(|(g, d)| *g += d.eps);
        }
        let own = &pass.known.last().expect("a pass has tokens").grads;
        self.memories().for_each(|(b, cms)| cms.rates_backward(&self.values, asked, &all.learning[b][s], own, grads));
        Ok(())
    }

    /// Forward and backward over the first `n` tokens; the loss is that of all of them, or, where something is asked, of the
    /// last one, whose weights then move along it.
    fn pass(&self, n: usize, weight: f64, asked: Option<(&Asked, &[Vec<Vec<bool>>])>) -> Result<Pass> {
        let (model, params) = (self.model, &self.params);
        let (tokens, mut state, mut tape) = (&self.tokens[..n], self.start.clone(), Tape::<D>::default());
        let known = self.first_pass(n, asked, &mut state, &mut tape)?;
        let memories = self.model.trunk.blocks.iter().zip(&tape.blocks);
        let learning =
            |(block, tape): (&Block, &BlockTape<D>)| block.cms().map_or(vec![], |cms| cms.learning(&tape.cms, n));
        let learning = memories.map(learning).collect();
        tape.again = Again { known, ..Again::default() };
        let (mut losses, mut grads) = (vec![D::zero(); n], vec![D::zero(); model.params().len]);
        let mut targets = self.targets[..n].to_vec();
        if asked.is_some() {
            targets[..n - 1].fill(IGNORED);
        }
        let weight = D::from_f64(weight);
        model.second_pass(
            &self.ops,
            params,
            &mut state,
            tokens,
            &targets,
            weight,
            &mut losses,
            &mut grads,
            &mut tape,
        )?;
        Ok(Pass { grads, known: std::mem::take(&mut tape.again.known), learning })
    }

    /// Slice by slice, as training has it, all weights kept.
    fn first_pass(
        &self,
        n: usize,
        asked: Option<(&Asked, &[Vec<Vec<bool>>])>,
        state: &mut State<D>,
        tape: &mut Tape<D>,
    ) -> Result<Vec<Known<D>>> {
        let (model, pace, mut known) = (self.model, self.model.trunk.training_pace(), Vec::new());
        let Tape { blocks, slice, sums, pool, .. } = tape;
        blocks.resize_with(model.trunk.blocks.len(), BlockTape::default);
        let mut data = state.data.to_vec();
        model.trunk.add_up(&self.params, &state.fast, sums);
        let mut from = 0;
        while from < n {
            let pos = state.position + from as u64;
            let mut to = n.min(from + (model.trunk.schedule.end_of_slice(pos, pace) - pos) as usize);
            if let Some((asked, learning)) = asked {
                if from + 1 < n {
                    to = to.min(n - 1);
                } else {
                    let along = |by| D { re: 0.0, eps: by };
                    self.memories().for_each(|(b, cms)| cms.ask(asked, &learning[b][from], sums, along));
                }
            }
            known.push(Known { rows: from..to, sums: sums.clone(), grads: vec![D::zero(); sums.len()] });
            let (tokens, targets) = (&self.tokens[from..to], &self.targets[from..to]);
            let lesson = Lesson { pos, tokens, targets, access: &Access::Learn, pace };
            let moving = Moving { data: &mut data, fast: &mut state.fast, sums, slice, pool };
            let rows = (from..to, to == n);
            model.play_slice(&self.ops, &self.params, state.position, rows, &lesson, moving, blocks)?;
            from = to;
        }
        Ok(known)
    }
}
