//! Held-out bits per byte.
//!
//! Two protocols, both honest about what the model has seen. *Carried*: one pass over the text with the state carried,
//! every byte scored once, before it is learned. *By position*: the text cut into pieces that each start from a new
//! state, so that the n-th token of a piece has exactly n tokens behind it.

use crate::error::{Error, Result};
use crate::stream::{Pass, Stream};
use hecate_core::ops::Ops;
use hecate_model::{Access, Logits, Model, Params, State, Workspace};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Tokens of one forward call.
pub(crate) const CALL_TOKENS: usize = 512;

/// A measurement in bits per byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Bits per byte over the whole text, state carried.
    pub bits_per_byte: f64,
    /// Bytes scored, the first of each document included (charged `log2(vocab)` bits: nothing predicts it).
    pub bytes: u64,
    /// Mean over pieces from a new state, by the number of tokens behind.
    pub by_position: Vec<Position>,
    /// Tokens of a piece.
    pub piece_tokens: usize,
}

/// Bits per byte of the tokens with `from..to` tokens behind them in a piece.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Fewest tokens behind.
    pub from: usize,
    /// One more than the most.
    pub to: usize,
    /// Mean bits per byte.
    pub bits_per_byte: f64,
    /// Tokens in the mean.
    pub tokens: u64,
}

impl Evaluation {
    /// Mean bits per byte of tokens with at least `from` tokens behind them, from a new state; `None` if a piece is
    /// shorter than that.
    pub fn beyond(&self, from: usize) -> Option<f64> {
        let parts: Vec<&Position> = self.by_position.iter().filter(|p| p.from >= from).collect();
        let tokens: u64 = parts.iter().map(|p| p.tokens).sum();
        let bits: f64 = parts.iter().map(|p| p.bits_per_byte * p.tokens as f64).sum();
        (tokens > 0).then(|| bits / tokens as f64)
    }
}

/// Scores a stream of byte tokens: the carried pass goes on from `state` and leaves it at the end of the text, the
/// pieces by position start anew. `tick` hears the number of tokens done and says whether to go on.
///
/// # Errors
/// A non-finite value, with its place; [`Error::Stopped`] where `tick` breaks off.
pub fn evaluate<O: Ops<F = f32>>(
    ops: &O,
    model: &Model,
    params: &Params<f32>,
    stream: &Stream,
    state: &mut State<f32>,
    access: &Access,
    piece_tokens: usize,
    tick: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Evaluation> {
    let mut scorer = Scorer { ops, model, params, ws: Workspace::default(), losses: Vec::new() };
    let mut pass = Pass::new(stream);
    let (mut nats, mut first) = (0.0, true);
    while let Some(segment) = pass.next(CALL_TOKENS) {
        // The caller's state goes on at the very start; later documents begin as the stream says.
        if segment.fresh && !first {
            state.reset();
        }
        first = false;
        let losses = scorer.score(state, segment.inputs(), segment.targets(), access)?;
        nats += losses.iter().map(|&l| f64::from(l)).sum::<f64>();
        ticked(tick, segment.predictions())?;
    }
    let unpredicted = (stream.len() - stream.predictions()) as f64 * (model.config().vocab as f64).ln();
    let bits_per_byte = (nats + unpredicted) / std::f64::consts::LN_2 / stream.len().max(1) as f64;
    let by_position = scorer.by_position(stream, access, piece_tokens, tick)?;
    Ok(Evaluation { bits_per_byte, bytes: stream.len() as u64, by_position, piece_tokens })
}

/// Tells of tokens that are done.
fn ticked(tick: &mut dyn FnMut(usize) -> ControlFlow<()>, tokens: usize) -> Result<()> {
    if tick(tokens).is_break() { Err(Error::Stopped) } else { Ok(()) }
}

struct Scorer<'a, O: Ops<F = f32>> {
    ops: &'a O,
    model: &'a Model,
    params: &'a Params<f32>,
    ws: Workspace<f32>,
    losses: Vec<f32>,
}

impl<O: Ops<F = f32>> Scorer<'_, O> {
    fn score(&mut self, state: &mut State<f32>, x: &[u32], y: &[u32], access: &Access) -> Result<&[f32]> {
        // `Read` promises the caller's state at the end of a call; inside one measurement the stream goes on.
        let inside = if *access == Access::Read { &Access::Learn } else { access };
        let logits = self.model.forward(self.ops, self.params, state, x, inside, Logits::All, &mut self.ws)?;
        self.losses.resize(x.len(), 0.0);
        self.ops.cross_entropy_forward(self.model.config().vocab, logits, y, &mut self.losses);
        Ok(&self.losses)
    }

    fn by_position(
        &mut self,
        stream: &Stream,
        access: &Access,
        piece_tokens: usize,
        tick: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Position>> {
        let mut sums = vec![(0.0_f64, 0_u64); piece_tokens];
        let mut state = self.model.new_state();
        let mut pass = Pass::new(stream);
        while let Some(segment) = pass.next(piece_tokens) {
            state.reset();
            let losses = self.score(&mut state, segment.inputs(), segment.targets(), access)?;
            for (sum, &loss) in sums.iter_mut().zip(losses) {
                *sum = (sum.0 + f64::from(loss), sum.1 + 1);
            }
            ticked(tick, segment.predictions())?;
        }
        Ok(buckets(&sums))
    }
}

/// Positions in buckets that grow by half powers of two, so that a curve over them is smooth on a logarithmic axis.
fn buckets(sums: &[(f64, u64)]) -> Vec<Position> {
    let mut edges: Vec<usize> = vec![0, 1, 2, 3];
    while edges[edges.len() - 1] < sums.len() {
        let n = edges.len();
        edges.push(2 * edges[n - 2]);
    }
    let bucket = |pair: &[usize]| {
        let (from, to) = (pair[0], pair[1].min(sums.len()));
        let part = sums.get(from..to)?;
        let tokens: u64 = part.iter().map(|s| s.1).sum();
        let bits = part.iter().map(|s| s.0).sum::<f64>() / std::f64::consts::LN_2;
        (tokens > 0).then(|| Position { from, to, bits_per_byte: bits / tokens as f64, tokens })
    };
    edges.windows(2).filter_map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_every_position_once() {
        for n in [1, 2, 3, 5, 64, 100, 512] {
            let sums: Vec<(f64, u64)> = (0..n).map(|_| (std::f64::consts::LN_2, 3)).collect();
            let list = buckets(&sums);
            assert_eq!(list.iter().map(|p| p.tokens).sum::<u64>(), 3 * n as u64);
            assert_eq!((list[0].from, list[list.len() - 1].to), (0, n));
            assert!(list.windows(2).all(|w| w[0].to == w[1].from));
            assert!(list.iter().all(|p| (p.bits_per_byte - 1.0 / 3.0).abs() < 1e-12));
        }
        let edges: Vec<usize> = buckets(&vec![(0.0, 1); 512]).iter().map(|p| p.from).collect();
        assert!(edges.contains(&64) && edges.contains(&96) && edges.contains(&256), "{edges:?}");
    }
}
