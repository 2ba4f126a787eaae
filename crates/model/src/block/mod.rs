//! A block: a mixer and a channel part, each behind a norm, each added to the stream.

mod alone;
mod attention;
mod cms;
mod fast;
mod levels;
mod look;
mod mac;
mod mag;
mod mal;
mod memory;
mod mlp;
mod persistent;
mod starts;

use crate::access::Access;
use crate::config::{BlockConfig, ChannelConfig, MixerConfig, NormConfig};
use crate::error::Result;
use crate::optim::InputLayout;
use crate::params::{Init, Kind, ParamLayout};
use crate::pool::{Pool, fit};
use crate::state::StateLayout;
use alone::{Alone, AloneTape};
pub(crate) use attention::SERVE_TOKENS;
use attention::{Attention, AttentionTape};
pub(crate) use cms::{Again, Asked, Cms, CmsTape, Known, Pace, Predictions, next_change};
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};
use hecate_core::scan::Write;
use levels::{Levels, LevelsTape};
use mac::{Mac, MacTape};
use mag::{Mag, MagTape};
use mal::{Mal, MalTape};
pub use memory::MemoryInfo;
use mlp::{Mlp, MlpTape};
use std::ops::Range;

/// What one call brings to every part.
pub(crate) struct Call<'a, O: Ops> {
    pub ops: &'a O,
    pub params: &'a [O::F],
    /// Tokens of the call.
    pub tokens: usize,
    /// Tokens that the state took before it.
    pub pos: u64,
    /// Keep what the backward pass needs.
    pub record: bool,
    /// What the call may write, and which block is running.
    pub access: &'a Access,
    pub block: usize,
    /// Rotary tables, one per (head width, base) that the model uses, and the position of their first row.
    pub rope: &'a [RopeTable<O::F>],
    pub rope_from: u64,
    /// Where the backward pass adds the inputs of matrices as `x^T x`, if anyone asks.
    pub inputs: Option<&'a InputLayout>,
    /// Weights that the sequence changes, as they are during the call, and the pace at which it does; see [`fast`].
    pub fast: &'a [O::F],
    pub pace: Pace,
    /// The backward pass runs along the column of each token: what other positions contributed is a constant, and no
    /// parameter has a gradient. Its buffer is then scratch, see [`Call::grad`].
    pub column: bool,
}

impl<O: Ops> Clone for Call<'_, O> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<O: Ops> Copy for Call<'_, O> {}

impl<'a, O: Ops> Call<'a, O> {
    /// The same call for other tokens.
    pub fn with(&self, tokens: usize, pos: u64) -> Self {
        Self { tokens, pos, ..*self }
    }

    /// Whether a level of the block's memory writes.
    pub fn write(&self, level: usize) -> Write {
        if self.access.writes(self.block, level) { Write::Yes } else { Write::No }
    }

    /// `y = x w` for the weight at `w`.
    pub fn linear(&self, w: &Range<usize>, x: &[O::F], y: &mut [O::F]) {
        self.product(&self.params[w.clone()], x, y);
    }

    /// `y = x w`.
    pub fn product(&self, w: &[O::F], x: &[O::F], y: &mut [O::F]) {
        self.ops.linear_forward(self.shape(w.len(), x.len()), x, w, y);
    }

    /// `w += x^T dy`.
    pub fn add_outer(&self, x: &[O::F], dy: &[O::F], w: &mut [O::F]) {
        let s = self.shape(w.len(), x.len());
        self.ops.linear_backward(s, x, &[], dy, None, Some(w));
    }

    /// Where the gradient of the parameter at `at` is added.
    pub fn grad<'g>(&self, grads: &'g mut [O::F], at: &Range<usize>) -> &'g mut [O::F] {
        if self.column { &mut grads[..at.len()] } else { &mut grads[at.clone()] }
    }

    /// Transpose of [`Call::linear`].
    pub fn linear_backward(
        &self,
        w: &Range<usize>,
        x: &[O::F],
        dy: &[O::F],
        dx: Option<&mut [O::F]>,
        grads: &mut [O::F],
    ) {
        if let Some(dx) = dx {
            self.product_backward(&self.params[w.clone()], dy, dx);
        }
        if !self.column {
            self.weight_backward(w, x, dy, grads);
        }
    }

    /// Transpose of [`Call::product`] towards its input: `dx += dy w^T`.
    pub fn product_backward(&self, w: &[O::F], dy: &[O::F], dx: &mut [O::F]) {
        let s = self.shape(w.len(), dx.len());
        self.ops.linear_backward(s, &[], w, dy, Some(dx), None);
    }

    /// Transpose of [`Call::linear`] towards its weight.
    pub fn weight_backward(&self, w: &Range<usize>, x: &[O::F], dy: &[O::F], grads: &mut [O::F]) {
        let s = self.shape(w.len(), x.len());
        self.ops.linear_backward(s, x, &self.params[w.clone()], dy, None, Some(&mut grads[w.clone()]));
        if let Some(at) = self.inputs.and_then(|inputs| inputs.find(w)) {
            self.ops.add_gram(s.inner, x, &mut grads[at]);
        }
    }

    /// Of a product of a weight of `weight` values with inputs of `inputs` values, over all tokens.
    fn shape(&self, weight: usize, inputs: usize) -> LinearShape {
        let inner = inputs / self.tokens.max(1);
        LinearShape { rows: self.tokens, inner, outer: weight / inner.max(1) }
    }

    /// The rotary table of the call's positions for heads of `width` under `base`.
    pub fn rope_table(&self, width: usize, base: f64) -> &'a [O::F] {
        let found = self.rope.iter().find(|t| t.width == width && t.base == base);
        let data = &found.expect("the model lists every table that its blocks use").data;
        let first = (self.pos - self.rope_from) as usize * width;
        &data[first..][..self.tokens * width]
    }
}

/// Cosines and sines of a call's positions, `[T, width]`.
#[derive(Debug, Default)]
pub(crate) struct RopeTable<F> {
    pub width: usize,
    pub base: f64,
    pub frequencies: Vec<f64>,
    pub data: Vec<F>,
}

/// Names, depth and width while a model is laid out.
pub(crate) struct Builder<'a> {
    pub params: &'a mut ParamLayout,
    pub state: &'a mut StateLayout,
    /// Width of the stream.
    pub width: usize,
    /// Number of blocks, for the scale of what is added to the stream.
    pub depth: usize,
    /// Tokens of a training sequence.
    pub context: u64,
    /// Prefix of the names.
    pub prefix: String,
    /// Values of the weights that a sequence changes, so far.
    pub sums: usize,
}

impl Builder<'_> {
    /// A weight `[inner, outer]` that keeps the size of its input.
    pub fn weight(&mut self, name: &str, inner: usize, outer: usize) -> Range<usize> {
        let init = Init::Normal((inner as f64).powf(-0.5));
        self.params.add(format!("{}.{name}.weight", self.prefix), &[inner, outer], Kind::Matrix, init)
    }
    /// A weight whose output joins the stream: smaller with depth, so that the stream's size does not grow with it.
    pub fn weight_out(&mut self, name: &str, inner: usize) -> Range<usize> {
        let init = Init::Normal((inner as f64 * 2.0 * self.depth as f64).powf(-0.5));
        self.params.add(format!("{}.{name}.weight", self.prefix), &[inner, self.width], Kind::Matrix, init)
    }
    /// The scale of a norm.
    pub fn norm(&mut self, name: &str, width: usize) -> Range<usize> {
        self.params.add(format!("{}.{name}.scale", self.prefix), &[width], Kind::Norm, Init::Constant(1.0))
    }
}

enum Mixer {
    Attention(Attention),
    Memory(Alone),
    Mag(Mag),
    Mal(Mal),
    Mac(Mac),
    None,
}

/// One block: places of its parameters and state, no numbers.
pub(crate) struct Block {
    norm: NormConfig,
    mixer_norm: Range<usize>,
    mixer: Mixer,
    channel: Channel,
}

enum Channel {
    Mlp(Range<usize>, Mlp),
    Cms(Cms),
    None,
}

/// What a block's backward pass needs of its forward pass.
#[derive(Debug, Default)]
pub(crate) struct BlockTape<F> {
    mixer_side: SideTape<F>,
    attention: AttentionTape<F>,
    memory: AloneTape<F>,
    mag: MagTape<F>,
    mal: MalTape<F>,
    mac: MacTape<F>,
    channel_side: SideTape<F>,
    mlp: MlpTape<F>,
    pub cms: CmsTape<F>,
}

/// The stream at a part of a block.
#[derive(Debug, Default)]
pub(crate) struct SideTape<F> {
    x: Vec<F>,      // what is normed: the stream before the part, or after it where norms come last
    normed: Vec<F>, // what the part takes
}

impl<F> SideTape<F> {
    fn len(&self) -> usize {
        self.x.len() + self.normed.len()
    }
}

impl<F: Scalar> BlockTape<F> {
    /// Whether the stream before and inside the block is finite.
    pub fn is_finite(&self) -> bool {
        let mut sides = [&self.mixer_side, &self.channel_side].into_iter().chain(self.cms.sides());
        sides.all(|side| side.x.iter().chain(&side.normed).all(|x| x.is_finite()))
    }
    /// Number of values that it holds.
    pub fn len(&self) -> usize {
        let sides = self.mixer_side.len() + self.channel_side.len();
        let mixers = self.attention.len() + self.memory.len() + self.mag.len() + self.mal.len() + self.mac.len();
        sides + mixers + self.mlp.len() + self.cms.len()
    }

    /// Forgets that the tokens to come have run through.
    pub fn start(&mut self) {
        self.cms.played = false;
    }
}

impl Block {
    pub fn new(b: &mut Builder<'_>, config: &BlockConfig) -> Self {
        let mixer_norm = if config.mixer == MixerConfig::None { 0..0 } else { b.norm("mixer_norm", b.width) };
        let mixer = match &config.mixer {
            MixerConfig::Attention(a) => Mixer::Attention(Attention::new(b, a, "mixer", true, 0, true)),
            MixerConfig::Memory(m) => Mixer::Memory(Alone::new(b, m, "mixer")),
            MixerConfig::Mag(g) => Mixer::Mag(Mag::new(b, g)),
            MixerConfig::Mal(l) => Mixer::Mal(Mal::new(b, l)),
            MixerConfig::Mac(c) => Mixer::Mac(Mac::new(b, c)),
            MixerConfig::None => Mixer::None,
        };
        let channel = match &config.channel {
            ChannelConfig::Mlp(m) => Channel::Mlp(b.norm("channel_norm", b.width), Mlp::new(b, m, "channel")),
            ChannelConfig::Cms(c) => Channel::Cms(Cms::new(b, c)),
            ChannelConfig::None => Channel::None,
        };
        Self { norm: config.norm, mixer_norm, mixer, channel }
    }

    fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(a) => Some(a),
            Mixer::Mag(g) => Some(&g.attention),
            Mixer::Mal(l) => Some(&l.attention),
            // Its positions are those of a segment.
            Mixer::Mac(_) | Mixer::Memory(_) | Mixer::None => None,
        }
    }

    fn levels(&self) -> Option<&Levels> {
        match &self.mixer {
            Mixer::Memory(m) => Some(&m.levels),
            Mixer::Mag(g) => Some(&g.levels),
            Mixer::Mal(l) => Some(&l.memory.levels),
            Mixer::Mac(c) => Some(&c.levels),
            Mixer::Attention(_) | Mixer::None => None,
        }
    }

    /// Its continuum memory.
    pub fn cms(&self) -> Option<&Cms> {
        match &self.channel {
            Channel::Cms(cms) => Some(cms),
            Channel::Mlp(..) | Channel::None => None,
        }
    }

    /// What inspection shows of the block's memories, level by level.
    pub fn memory_infos(&self) -> Vec<MemoryInfo> {
        self.levels().map(Levels::infos).unwrap_or_default()
    }

    /// Means of the memory's gates in the recorded call; of its last segment in `mac`.
    pub fn gate_means<F: Scalar>(&self, tape: &BlockTape<F>) -> Vec<(String, f64)> {
        let levels: Option<&LevelsTape<F>> = match &self.mixer {
            Mixer::Attention(_) | Mixer::None => None,
            Mixer::Memory(_) => Some(&tape.memory.mixed.levels),
            Mixer::Mag(_) => Some(&tape.mag.levels),
            Mixer::Mal(_) => Some(&tape.mal.memory.mixed.levels),
            Mixer::Mac(_) => tape.mac.last(),
        };
        self.levels().zip(levels).map(|(levels, tape)| levels.gate_means(tape)).unwrap_or_default()
    }

    /// Head width and base of its rotary table.
    pub fn rope_key(&self) -> Option<(usize, f64)> {
        self.attention().map(|a| (a.width, a.base))
    }

    /// Positions that its mixer puts before the sequence.
    pub fn rope_extra(&self) -> usize {
        match &self.mixer {
            Mixer::Mal(l) => l.persistent(),
            _ => 0,
        }
    }

    /// Whether tokens see each other.
    pub fn mixes(&self) -> bool {
        !matches!(self.mixer, Mixer::None)
    }

    /// Adds the block to the stream `x: [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &mut [O::F],
        state: &mut [O::F],
        tape: &mut BlockTape<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        self.mixer_forward(call, x, state, tape, pool)?;
        self.channel_forward(call, x, tape, pool)
    }

    /// The first half of [`Block::forward`]: what mixes tokens.
    pub fn mixer_forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &mut [O::F],
        state: &mut [O::F],
        tape: &mut BlockTape<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        if !self.mixes() {
            return Ok(());
        }
        let mut side = std::mem::take(&mut tape.mixer_side);
        let mut mix = |normed: &[O::F], out: &mut [O::F], pool: &mut Pool<O::F>| match &self.mixer {
            Mixer::Attention(a) => {
                a.mix_forward(call, normed, state, &mut tape.attention, pool, out);
                Ok(())
            }
            Mixer::Memory(m) => m.forward(call, normed, state, &mut tape.memory, out),
            Mixer::Mag(g) => g.forward(call, normed, state, &mut tape.mag, pool, out),
            Mixer::Mal(l) => l.forward(call, normed, state, &mut tape.mal, pool, out),
            Mixer::Mac(c) => c.forward(call, normed, state, &mut tape.mac, pool, out),
            Mixer::None => Ok(()),
        };
        let result = part(self.norm, call, &self.mixer_norm, x, &mut side, pool, &mut mix);
        tape.mixer_side = side;
        result
    }

    /// The second half: what works on each token alone.
    pub fn channel_forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &mut [O::F],
        tape: &mut BlockTape<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let BlockTape { channel_side, mlp: own, cms: own_cms, .. } = tape;
        match &self.channel {
            Channel::Mlp(norm, mlp) => part(self.norm, call, norm, x, channel_side, pool, &mut |normed, out, _| {
                mlp.forward(call, mlp.weights(call), normed, own, out);
                Ok(())
            }),
            Channel::Cms(cms) => cms.forward(self.norm, call, x, own_cms, pool),
            Channel::None => Ok(()),
        }
    }

    /// Transpose of [`Block::forward`]: `dx` is the gradient of the stream after the block on entry, before it on exit.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &mut BlockTape<O::F>,
        dx: &mut [O::F],
        grads: &mut [O::F],
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        self.channel_backward(call, tape, dx, grads, again, pool)?;
        self.mixer_backward(call, tape, dx, grads, pool)
    }

    /// Transpose of [`Block::channel_forward`].
    pub fn channel_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &mut BlockTape<O::F>,
        dx: &mut [O::F],
        grads: &mut [O::F],
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let BlockTape { channel_side, mlp: own, cms: own_cms, .. } = tape;
        match &self.channel {
            Channel::Mlp(norm, mlp) => {
                let mut back =
                    |normed: &[O::F], dout: &[O::F], dx: &mut [O::F], grads: &mut [O::F], pool: &mut Pool<O::F>| {
                        mlp.backward(call, mlp.weights(call), normed, own, dout, dx, grads, pool);
                        Ok(())
                    };
                part_backward(self.norm, call, norm, channel_side, dx, grads, pool, &mut back)
            }
            Channel::Cms(cms) => cms.backward(self.norm, call, own_cms, dx, grads, again, pool),
            Channel::None => Ok(()),
        }
    }

    /// Transpose of [`Block::mixer_forward`].
    pub fn mixer_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &BlockTape<O::F>,
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        if !self.mixes() {
            return Ok(());
        }
        let side = &tape.mixer_side;
        part_backward(self.norm, call, &self.mixer_norm, side, dx, grads, pool, &mut |normed, dout, dx, grads, pool| {
            match &self.mixer {
                Mixer::Attention(a) => {
                    a.mix_backward(call, normed, &tape.attention, dout, dx, grads, pool);
                    Ok(())
                }
                Mixer::Memory(m) => m.backward(call, normed, &tape.memory, dout, dx, grads, pool),
                Mixer::Mag(g) => g.backward(call, normed, &tape.mag, dout, dx, grads, pool),
                Mixer::Mal(l) => l.backward(call, normed, &tape.mal, dout, dx, grads, pool),
                Mixer::Mac(c) => c.backward(call, normed, &tape.mac, dout, dx, grads, pool),
                Mixer::None => Ok(()),
            }
        })
    }

    /// Floating-point operations of one token, forward, in a call of `tokens` tokens that starts at `pos`.
    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        let mixer = match &self.mixer {
            Mixer::Attention(a) => a.flops(tokens, pos),
            Mixer::Memory(m) => m.flops(),
            Mixer::Mag(g) => g.flops(tokens, pos),
            Mixer::Mal(l) => l.flops(tokens, pos),
            Mixer::Mac(c) => c.flops(tokens, pos),
            Mixer::None => 0.0,
        };
        let channel = match &self.channel {
            Channel::Mlp(_, mlp) => mlp.flops(),
            Channel::Cms(cms) => cms.flops(),
            Channel::None => 0.0,
        };
        mixer + channel
    }
}

/// One part behind its norm, or before it: `x + f(norm(x))` or `norm(x + f(x))`.
fn part<O: Ops>(
    config: NormConfig,
    call: &Call<'_, O>,
    norm: &Range<usize>,
    x: &mut [O::F],
    side: &mut SideTape<O::F>,
    pool: &mut Pool<O::F>,
    f: &mut PartForward<'_, O::F>,
) -> Result<()> {
    let scale = &call.params[norm.clone()];
    let mut out = pool.take(x.len());
    let normed = fit(&mut side.normed, x.len());
    match config {
        NormConfig::Pre => {
            if call.record {
                fit(&mut side.x, x.len()).copy_from_slice(x);
            }
            call.ops.rms_norm_forward(norm.len(), x, scale, normed);
            f(normed, &mut out, pool)?;
            add(x, &out);
        }
        NormConfig::Post => {
            normed.copy_from_slice(x);
            f(normed, &mut out, pool)?;
            add(&mut out, x);
            if call.record {
                fit(&mut side.x, x.len()).copy_from_slice(&out);
            }
            call.ops.rms_norm_forward(norm.len(), &out, scale, x);
        }
    }
    pool.give(out);
    Ok(())
}

/// Transpose of [`part`]. `f` takes what the part took and the gradient of what it gave, and adds into the
/// gradients of what it took and of the parameters.
fn part_backward<O: Ops>(
    config: NormConfig,
    call: &Call<'_, O>,
    norm: &Range<usize>,
    side: &SideTape<O::F>,
    dx: &mut [O::F],
    grads: &mut [O::F],
    pool: &mut Pool<O::F>,
    f: &mut PartBackward<'_, O::F>,
) -> Result<()> {
    let scale = &call.params[norm.clone()];
    let mut inner = pool.zeros(dx.len());
    match config {
        NormConfig::Pre => {
            f(&side.normed, dx, &mut inner, grads, pool)?;
            call.ops.rms_norm_backward(norm.len(), &side.x, scale, &inner, dx, call.grad(grads, norm));
        }
        NormConfig::Post => {
            call.ops.rms_norm_backward(norm.len(), &side.x, scale, dx, &mut inner, call.grad(grads, norm));
            dx.copy_from_slice(&inner);
            f(&side.normed, &inner, dx, grads, pool)?;
        }
    }
    pool.give(inner);
    Ok(())
}

/// One part: what it takes, and what it gives.
type PartForward<'f, F> = dyn FnMut(&[F], &mut [F], &mut Pool<F>) -> Result<()> + 'f;

/// Gradients of one part: what it took, the gradient of what it gave; the gradients of what it took and of all
/// parameters, added into.
type PartBackward<'f, F> = dyn FnMut(&[F], &[F], &mut [F], &mut [F], &mut Pool<F>) -> Result<()> + 'f;

fn add<F: Scalar>(x: &mut [F], y: &[F]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
