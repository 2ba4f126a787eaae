//! The model: an embedding, blocks, a final norm and a head; one way through it for every purpose.

use crate::access::Access;
use crate::block::{Again, BlockTape, Call, MemoryInfo, Pace, RopeTable};
use crate::config::{BlockConfig, ModelConfig};
use crate::error::{Error, Result};
use crate::optim::InputLayout;
use crate::params::{Init, Kind, ParamLayout, Params};
use crate::pool::{Pool, fit};
use crate::slices::{Lesson, Moving, Slice};
use crate::state::{State, StateLayout};
use crate::targets::{ROWS as HEAD_ROWS, Targets};
use crate::trunk::Trunk;
use crate::unroll::Unrolled;
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};
use std::ops::Range;
use std::sync::Arc;

/// Tokens that a serving call takes at once; longer inputs go piece by piece, with the same bits.
const PIECE_TOKENS: usize = crate::block::SERVE_TOKENS;

/// A model without numbers: what [`Params`] and [`State`] mean.
pub struct Model {
    config: ModelConfig,
    params: ParamLayout,
    inputs: InputLayout,
    state: Arc<StateLayout>,
    pub(crate) embedding: Range<usize>,
    pub(crate) trunk: Trunk,
    head: Option<Range<usize>>,
}

/// Buffers of a call, reused from call to call: after warm-up a decoding step allocates nothing.
#[derive(Debug)]
pub struct Workspace<F> {
    pub(crate) pool: Pool<F>,
    /// Weights that the sequence changes, as they are.
    pub(crate) sums: Vec<F>,
    pub(crate) slice: Slice<F>,
    block: BlockTape<F>,
    rope: Vec<RopeTable<F>>,
    x: Vec<F>,
    normed: Vec<F>,
    logits: Vec<F>,
}

impl<F: Scalar> Default for Workspace<F> {
    fn default() -> Self {
        Self {
            pool: Pool::default(),
            sums: Vec::new(),
            slice: Slice::default(),
            block: BlockTape::default(),
            rope: Vec::new(),
            x: Vec::new(),
            normed: Vec::new(),
            logits: Vec::new(),
        }
    }
}

impl<F: Scalar> Workspace<F> {
    /// Values held.
    pub fn len(&self) -> usize {
        let own = [&self.sums, &self.x, &self.normed, &self.logits].map(|v| v.len());
        self.block.len() + self.slice.len() + self.pool.len() + own.iter().sum::<usize>()
    }
    /// True before the first call.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a training step keeps of its forward pass, reused from step to step.
#[derive(Debug)]
pub struct Tape<F> {
    pub(crate) pool: Pool<F>,
    pub(crate) blocks: Vec<BlockTape<F>>,
    rope: Vec<RopeTable<F>>,
    x: Vec<F>,
    normed: Vec<F>,
    gathers_inputs: bool,
    /// Of the pass in which continuum memories move: its slices, the state's memories, and the weights that move.
    pub(crate) slice: Slice<F>,
    pub(crate) data: Vec<F>,
    pub(crate) sums: Vec<F>,
    /// The same weights on the way back.
    pub(crate) again: Again<F>,
}

impl<F: Scalar> Default for Tape<F> {
    fn default() -> Self {
        let (pool, blocks, rope) = (Pool::default(), Vec::new(), Vec::new());
        let [x, normed, data, sums, fast, again] = std::array::from_fn(|_| Vec::new());
        let (slice, again) = (Slice::default(), Again { fast, sums: again, known: Vec::new() });
        Self { pool, blocks, rope, x, normed, gathers_inputs: false, slice, data, sums, again }
    }
}

impl<F: Scalar> Tape<F> {
    /// For passes that, where `inputs` says so, also sum `x^T x` over the inputs x of every matrix: the gradient's buffer is
    /// then laid out by [`Model::inputs`].
    pub fn gathering(inputs: bool) -> Self {
        Self { gathers_inputs: inputs, ..Self::default() }
    }
    /// Values held, temporary buffers included.
    pub fn len(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(BlockTape::len).sum();
        let own = [&self.x, &self.normed, &self.data, &self.sums, &self.again.fast, &self.again.sums].map(|v| v.len());
        blocks + self.slice.len() + self.pool.len() + own.iter().sum::<usize>()
    }
    /// True before the first step.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which logits a call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// `[T, vocab]`.
    All,
    /// `[1, vocab]`: those of the last token.
    Last,
}

impl Model {
    /// Lays out the model that `config` describes.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn new(config: &ModelConfig) -> Result<Self> {
        config.check()?;
        let expanded = config.expanded();
        let config = ModelConfig { blocks: expanded.clone(), ..config.clone() };
        let (mut params, mut state) = (ParamLayout::default(), StateLayout::default());
        let (vocab, width) = (config.vocab, config.width);
        // A tied table is the head too, whose logits must start small: the first loss is ln(vocab) within 2 %.
        let head_std = 0.2 * (width as f64).powf(-0.5);
        let table_std = if config.tie_embeddings { head_std } else { 0.5 };
        let embedding =
            params.add("embedding.weight".into(), &[vocab, width], Kind::Embedding, Init::Normal(table_std));
        let trunk = Trunk::new(&mut params, &mut state, width, config.context as u64, &expanded);
        let head = (!config.tie_embeddings)
            .then(|| params.add("head.weight".into(), &[width, vocab], Kind::Embedding, Init::Normal(head_std)));
        let inputs = InputLayout::new(&params);
        Ok(Self { config, params, inputs, state: Arc::new(state), embedding, trunk, head })
    }

    /// The configuration, `repeat` written out.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    /// Names and places of the parameters.
    pub fn params(&self) -> &ParamLayout {
        &self.params
    }
    /// Where a gradient's buffer has sums of the inputs of matrices, in passes that gather them.
    pub fn inputs(&self) -> &InputLayout {
        &self.inputs
    }
    /// Names and places of a state.
    pub fn state_layout(&self) -> &Arc<StateLayout> {
        &self.state
    }
    /// A state before its first token.
    pub fn new_state<F: Scalar>(&self) -> State<F> {
        State::new(self.state.clone())
    }
    /// The first block in which a token sees tokens behind it, see [`BlockConfig::sees_ahead`](crate::BlockConfig::sees_ahead).
    pub fn sees_ahead(&self) -> Option<usize> {
        self.config.blocks.iter().position(BlockConfig::sees_ahead)
    }
    /// Whether a sequence that is served changes anything that it reads later, attention aside.
    pub fn remembers(&self) -> bool {
        self.memories().next().is_some() || self.levels().next().is_some()
    }
    /// The memories of all blocks, level by level, with their block.
    pub fn memories(&self) -> impl Iterator<Item = (usize, MemoryInfo)> + '_ {
        self.trunk.memories()
    }

    /// Runs tokens through the model: logits `[T, vocab]`, or those of the last token.
    ///
    /// The one way through for prefill, decoding, evaluation and serving. `access` says what may be written. Outputs
    /// and state have the same bits however the tokens are cut into calls, if `ops` is canonical.
    ///
    /// # Errors
    /// [`Error::Token`] before anything is written; [`Error::NonFinite`] with the place.
    pub fn forward<'w, O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        access: &Access,
        want: Logits,
        ws: &'w mut Workspace<O::F>,
    ) -> Result<&'w [O::F]> {
        self.trunk.add_up(params, &state.fast, &mut ws.sums);
        self.go_on(ops, params, state, tokens, access, want, ws)
    }

    /// [`Model::forward`] where the workspace knows the sums of these parameters and this state: nobody else has used any
    /// of the three since.
    pub(crate) fn go_on<'w, O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        access: &Access,
        want: Logits,
        ws: &'w mut Workspace<O::F>,
    ) -> Result<&'w [O::F]> {
        self.check_tokens(tokens)?;
        let rows = if want == Logits::All { tokens.len() } else { tokens.len().min(1) };
        fit(&mut ws.logits, rows * self.config.vocab);
        if *access == Access::Read {
            // What cannot change is lent to the copy.
            let lent = (std::mem::take(&mut state.fast), std::mem::take(&mut state.open));
            let mut copy = state.clone();
            (copy.fast, copy.open) = lent;
            let result = self.advance(ops, params, &mut copy, tokens, access, want, ws);
            (state.fast, state.open) = (copy.fast, copy.open);
            result?;
        } else if self.may_move(access) {
            self.advance_in_slices(ops, params, state, tokens, access, want, ws)?;
        } else {
            if let Some(&next) = tokens.first() {
                self.close(ops, params, state, next, ws)?;
            }
            self.advance(ops, params, state, tokens, access, want, ws)?;
        }
        Ok(&ws.logits)
    }

    /// Slice by slice. One that the call brings whole, with its successor, runs once; tokens of others wait in the state.
    fn advance_in_slices<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        access: &Access,
        want: Logits,
        ws: &mut Workspace<O::F>,
    ) -> Result<()> {
        let (vocab, pace, mut done) = (self.config.vocab, Pace::Serving, 0);
        while done < tokens.len() {
            let rest = &tokens[done..];
            let begin = state.position - state.open.tokens.len() as u64;
            let end = self.trunk.schedule.end_of_slice(begin, pace);
            if state.open.tokens.is_empty() {
                state.open.access.clone_from(access);
            } else if state.position >= end || state.open.access != *access {
                self.close(ops, params, state, rest[0], ws)?;
                continue;
            }
            let room = (end - state.position) as usize;
            if state.open.tokens.is_empty() && rest.len() > room {
                let (tokens, targets) = (&rest[..room], &rest[1..=room]);
                let lesson = Lesson { pos: begin, tokens, targets, access, pace };
                let (State { data, fast, .. }, Workspace { sums, slice, pool, .. }) = (&mut *state, &mut *ws);
                self.serve_slice(ops, params, &lesson, Moving { data, fast, sums, slice, pool })?;
                state.position = end;
                if want == Logits::All {
                    ws.logits[done * vocab..][..room * vocab].copy_from_slice(&ws.slice.logits);
                    self.check_logits(state, &ws.slice.logits)?;
                }
                done += room;
                continue;
            }
            let n = room.min(rest.len());
            if state.open.tokens.is_empty() {
                state.open.keep(&self.state, &state.data);
            }
            state.open.tokens.extend_from_slice(&rest[..n]);
            let (from, last) = (if want == Logits::All { done } else { 0 }, done + n == tokens.len());
            let want = if want == Logits::Last && !last { None } else { Some((want, from)) };
            self.piece(ops, params, state, &rest[..n], access, want, ws)?;
            done += n;
        }
        Ok(())
    }

    fn advance<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        access: &Access,
        want: Logits,
        ws: &mut Workspace<O::F>,
    ) -> Result<()> {
        let last = tokens.len().div_ceil(PIECE_TOKENS).saturating_sub(1);
        for (i, piece) in tokens.chunks(PIECE_TOKENS).enumerate() {
            let want = match want {
                Logits::All => Some((want, i * PIECE_TOKENS)),
                Logits::Last => (i == last).then_some((want, 0)),
            };
            self.piece(ops, params, state, piece, access, want, ws)?;
        }
        Ok(())
    }

    /// Tokens between which no weight changes; where their logits go, from which row, if anyone wants them.
    fn piece<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        access: &Access,
        want: Option<(Logits, usize)>,
        ws: &mut Workspace<O::F>,
    ) -> Result<()> {
        let (width, vocab) = (self.config.width, self.config.vocab);
        let x = fit(&mut ws.x, tokens.len() * width);
        ops.embedding_forward(width, tokens, &params.data[self.embedding.clone()], x);
        self.trunk.fill_rope(&mut ws.rope, tokens.len(), state.position);
        let call = self.trunk.call(ops, params, tokens.len(), state.position, access, &ws.rope);
        let call = Call { fast: &ws.sums, ..call };
        self.trunk.serve(&call, &mut ws.x, &mut state.data, &mut ws.block, &mut ws.pool)?;
        state.position += tokens.len() as u64;
        let (x, at) = match want {
            Some((Logits::All, at)) => (ws.x.as_slice(), at),
            Some((Logits::Last, at)) => (&ws.x[(tokens.len() - 1) * width..], at),
            None => return Ok(()),
        };
        let normed = fit(&mut ws.normed, x.len());
        ops.rms_norm_forward(width, x, &params.data[self.trunk.norm.clone()], normed);
        let logits = &mut ws.logits[at * vocab..][..x.len() / width * vocab];
        self.head_forward(ops, params, normed, logits);
        self.check_logits(state, logits)
    }

    fn check_logits<F: Scalar>(&self, state: &State<F>, logits: &[F]) -> Result<()> {
        // Without a way out of the loop, so that it can be vectorised.
        if logits.iter().fold(true, |finite, l| finite & l.is_finite()) {
            return Ok(());
        }
        Err(self.blame(state, "logits"))
    }

    /// Forward and backward over one sequence: the losses `[T]` in nats, and the gradients of their weighted sum.
    ///
    /// `weight` multiplies every token's loss (1 / tokens of the step gives the mean); a target that is
    /// [`IGNORED`](crate::IGNORED) has none. The state advances; its value at
    /// the start of the call is a constant, so the gradient is cut there. A call at position 0 starts from what the
    /// weights say, and gives learned starts their gradient; later calls give them none. `grads` is laid out like the
    /// parameters, or as [`Tape::gathering`] says, and is **added into**.
    ///
    /// # Errors
    /// [`Error::Token`] before anything is written; [`Error::NonFinite`] with the place.
    pub fn train<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        targets: &[u32],
        weight: O::F,
        losses: &mut [O::F],
        grads: &mut [O::F],
        tape: &mut Tape<O::F>,
    ) -> Result<()> {
        self.check_tokens(tokens)?;
        self.check_targets(targets)?;
        let pace = self.trunk.training_pace();
        let unrolled = self.trunk.schedule.unrolls(pace).then(|| Unrolled::new(self, params, state, [tokens, targets]));
        tape.blocks.resize_with(self.trunk.blocks.len(), BlockTape::default);
        tape.blocks.iter_mut().for_each(BlockTape::start);
        state.open.tokens.clear();
        if self.trunk.schedule.moves(pace) {
            self.play(ops, params, state, tokens, targets, tape)?;
        } else {
            self.trunk.add_up(params, &state.fast, &mut tape.sums);
        }
        let Some(unrolled) = unrolled else {
            return self.second_pass(ops, params, state, tokens, targets, weight, losses, grads, tape);
        };
        // The first-order gradient is of no use; sums of inputs behind it are.
        let mut own = vec![O::F::zero(); grads.len()];
        self.second_pass(ops, params, state, tokens, targets, weight, losses, &mut own, tape)?;
        let (parameters, inputs) = grads.split_at_mut(self.params.len);
        let unrolled = unrolled.gradients(weight.value())?;
        parameters.iter_mut().zip(unrolled).for_each(|(g, d)| *g += O::F::from_f64(d));
        inputs.iter_mut().zip(&own[self.params.len..]).for_each(|(g, &d)| *g += d);
        Ok(())
    }

    /// The pass of a training call through all tokens at once, forward and backward; where continuum memories move, after a
    /// first one in which they did.
    pub(crate) fn second_pass<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        state: &mut State<O::F>,
        tokens: &[u32],
        targets: &[u32],
        weight: O::F,
        losses: &mut [O::F],
        grads: &mut [O::F],
        tape: &mut Tape<O::F>,
    ) -> Result<()> {
        let (width, n, pos) = (self.config.width, tokens.len(), state.position);
        let x = fit(&mut tape.x, n * width);
        ops.embedding_forward(width, tokens, &params.data[self.embedding.clone()], x);
        self.trunk.fill_rope(&mut tape.rope, n, pos);
        let call = self.training_call(ops, params, n, pos, &tape.rope, &tape.sums);
        self.trunk.forward(&call, &mut tape.x, &mut state.data, &mut tape.blocks, &mut tape.pool)?;
        state.position += n as u64;

        let mut dx = tape.pool.zeros(n * width);
        self.head_loss(ops, params, targets, weight, losses, &mut dx, grads, tape);
        if !losses.iter().all(|l| l.is_finite()) {
            tape.pool.give(dx);
            return Err(self.blame_tape(state, tape));
        }
        let call = self.training_call(ops, params, n, pos, &tape.rope, &tape.sums);
        let call = Call { inputs: tape.gathers_inputs.then_some(&self.inputs), ..call };
        self.trunk.backward(&call, &mut tape.blocks, &mut dx, grads, &mut tape.again, &mut tape.pool)?;
        ops.embedding_backward(width, tokens, &dx, &mut grads[self.embedding.clone()]);
        tape.pool.give(dx);
        Ok(())
    }

    /// What the memories did in the call that `tape` recorded and left in `state`: `blocks.N.GATE` is the mean of a gate
    /// over heads and tokens, `blocks.N.memory_norm` the root mean square over heads of the state's Euclidean norm,
    /// `blocks.N.memory_written` the share of late tokens that a memory behind a gate has written, the mean over heads; and
    /// what continuum memories did.
    pub fn traces<F: Scalar>(&self, tape: &Tape<F>, state: &State<F>) -> Vec<(String, f64)> {
        let mut out = Vec::new();
        for (i, (block, own)) in self.trunk.blocks.iter().zip(&tape.blocks).enumerate() {
            let means = block.gate_means(own);
            out.extend(means.into_iter().map(|(gate, mean)| (format!("blocks.{i}.{gate}"), mean)));
            let infos = block.memory_infos();
            for m in &infos {
                let level = if infos.len() > 1 { format!("levels.{}.", m.level) } else { String::new() };
                let own = &state.data[m.state.clone()];
                out.push((format!("blocks.{i}.{level}memory_norm"), m.norm(own)));
                out.extend(m.written(own).map(|share| (format!("blocks.{i}.{level}memory_written"), share)));
            }
        }
        out.extend(self.continuum_traces(state));
        out
    }

    /// Final norm, head and loss, forward and backward, a few rows at a time.
    fn head_loss<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        targets: &[u32],
        weight: O::F,
        losses: &mut [O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        tape: &mut Tape<O::F>,
    ) {
        let (width, vocab) = (self.config.width, self.config.vocab);
        let scale = &params.data[self.trunk.norm.clone()];
        let x = &tape.x;
        ops.rms_norm_forward(width, x, scale, fit(&mut tape.normed, x.len()));
        let mut dnormed = tape.pool.zeros(x.len());
        for (i, targets) in targets.chunks(HEAD_ROWS).enumerate() {
            let (rows, first) = (targets.len(), i * HEAD_ROWS);
            let normed = &tape.normed[first * width..][..rows * width];
            let mut logits = tape.pool.take(rows * vocab);
            self.head_forward(ops, params, normed, &mut logits);
            let targets = Targets::new(targets, weight);
            targets.forward(ops, vocab, &logits, &mut losses[first..first + rows]);
            let mut dlogits = tape.pool.zeros(rows * vocab);
            targets.backward(ops, vocab, &logits, &mut dlogits);
            let dnormed = &mut dnormed[first * width..][..rows * width];
            self.head_backward(ops, params, normed, &dlogits, dnormed, Some(grads));
            tape.pool.give(logits);
            tape.pool.give(dlogits);
        }
        ops.rms_norm_backward(width, &tape.x, scale, &dnormed, dx, &mut grads[self.trunk.norm.clone()]);
        tape.pool.give(dnormed);
    }

    fn head_shape(&self, rows: usize) -> LinearShape {
        LinearShape { rows, inner: self.config.width, outer: self.config.vocab }
    }

    pub(crate) fn head_forward<O: Ops>(&self, ops: &O, params: &Params<O::F>, x: &[O::F], logits: &mut [O::F]) {
        let s = self.head_shape(x.len() / self.config.width);
        match &self.head {
            Some(head) => ops.linear_forward(s, x, &params.data[head.clone()], logits),
            None => ops.linear_transposed_forward(s, x, &params.data[self.embedding.clone()], logits),
        }
    }

    pub(crate) fn head_backward<O: Ops>(
        &self,
        ops: &O,
        params: &Params<O::F>,
        x: &[O::F],
        dlogits: &[O::F],
        dx: &mut [O::F],
        grads: Option<&mut [O::F]>,
    ) {
        let s = self.head_shape(x.len() / self.config.width);
        match &self.head {
            Some(w) => {
                let dw = grads.map(|grads| &mut grads[w.clone()]);
                ops.linear_backward(s, x, &params.data[w.clone()], dlogits, Some(dx), dw);
            }
            None => {
                let w = self.embedding.clone();
                let dw = grads.map(|grads| &mut grads[w.clone()]);
                ops.linear_transposed_backward(s, x, &params.data[w], dlogits, Some(dx), dw);
            }
        }
    }

    fn training_call<'a, O: Ops>(
        &self,
        ops: &'a O,
        params: &'a Params<O::F>,
        tokens: usize,
        pos: u64,
        rope: &'a [RopeTable<O::F>],
        sums: &'a [O::F],
    ) -> Call<'a, O> {
        let call = self.trunk.call(ops, params, tokens, pos, &Access::Learn, rope);
        Call { record: true, fast: sums, pace: self.trunk.training_pace(), ..call }
    }

    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.config.vocab;
        match tokens.iter().position(|&t| t as usize >= vocab) {
            Some(position) => Err(Error::Token { token: tokens[position], position, vocab }),
            None => Ok(()),
        }
    }

    /// Names the first place at which the state or the stream is not finite.
    fn blame<F: Scalar>(&self, state: &State<F>, what: &str) -> Error {
        for (i, m) in self.memories() {
            let len = m.state.len() / m.heads;
            let heads = state.data[m.state.clone()].chunks_exact(len);
            if let Some(h) = { heads }.position(|s| !s.iter().all(|x| x.is_finite())) {
                let place = format!("block {i}, head {h} of the memory (rule `{}`)", m.rule.name());
                return Error::NonFinite { what: "state".into(), place };
            }
        }
        let place = match state.first_non_finite() {
            Some(part) => format!("the state part `{}`", part.name),
            None => "the stream before the head".into(),
        };
        Error::NonFinite { what: what.into(), place }
    }

    fn blame_tape<F: Scalar>(&self, state: &State<F>, tape: &Tape<F>) -> Error {
        match tape.blocks.iter().position(|t| !t.is_finite()) {
            Some(i) => match self.blame(state, "loss") {
                Error::NonFinite { what, place } if what == "state" => Error::NonFinite { what, place },
                _ => Error::NonFinite { what: "activation".into(), place: format!("block {i}") },
            },
            None => self.blame(state, "loss"),
        }
    }
}
