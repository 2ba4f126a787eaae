//! Which settings the frozen kernels cover, and what they need to know of one at one size.

use super::coefficients::Kind;
use super::maps::Map;
use crate::rule::Dims;
use crate::rules::Miras;
use crate::rules::miras::algorithm::{Algorithm, Solve, with_algorithm};
use crate::rules::miras::features::{Features, MOST_PARTS, with_features};
use crate::rules::miras::plan::{self, Plan, Slots};
use crate::rules::miras::retention::{Pull, Retention, with_retention};
use crate::rules::miras::structure::{Network, Structure, with_structure};
use crate::rules::miras::{Gates, GradientAt, ReadAt};
use arrayvec::ArrayVec;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Most tokens of a block: the products of its tokens among themselves grow with it.
pub(super) const MOST_TOKENS: usize = 64;

/// Most tokens of a block whose tokens each read weights of their own: the state behind each is kept on the way back.
const PIECE: usize = 8;

/// True for the settings whose gradients and steps the block form knows: any structure made of layers, any bias and
/// feature map, a window or none; states that hold their weights, or others by a map or a settling of their own;
/// plain steps, or for the former orthogonal ones; scalar gates; gradients at the chunk start, or without chunks at the state before the token.
pub(super) fn covers(rule: &Miras) -> bool {
    let plain = with_retention!(&rule.retention, r => {
        let pull = matches!(r.pull(), Pull::Keep | Pull::Zero | Pull::Start);
        // A read before the write would need the norms of the chunk before.
        let seen = !(r.is_dual() || r.settles()) || rule.read != ReadAt::Pre && (rule.read == ReadAt::Post || rule.chunk > 1);
        pull && seen && !(r.projects() || r.multiplies() || r.scales_steps() || r.shrinks())
    });
    let dual = with_retention!(&rule.retention, r => r.is_dual() || r.settles());
    let explicit = with_algorithm!(&rule.algorithm, a => {
        a.solve() == Solve::Explicit && (!a.unit_scale() || a.orthogonal().is_some() && !dual)
    });
    let shared = !(dual && has_pairs(rule));
    let known = with_structure!(&rule.structure, s => s.network().is_some());
    let fixed = rule.chunk > 1 || rule.gradient == GradientAt::Prev;
    plain && explicit && shared && known && fixed && rule.gates == Gates::Scalar && rule.steps == 1
}

/// Whether every token and token of its window are a gradient of their own: coefficients are the current token's.
fn has_pairs(rule: &Miras) -> bool {
    rule.window > 1 && with_features!(&rule.features, f => f.coefficients().is_some())
}

/// True for the settings among them whose reads share products of tokens with tokens.
pub(super) fn shares(rule: &Miras) -> bool {
    let every = with_algorithm!(&rule.algorithm, a => a.orthogonal().is_some() && !a.once_per_chunk());
    covers(rule)
        && !every
        && (rule.read == ReadAt::Start || !with_retention!(&rule.retention, r => r.is_dual() || r.settles()))
}

/// One weight tensor.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub rows: usize,
    pub columns: usize,
    /// Where it lies in the flat weights.
    pub at: Range<usize>,
    /// Which input it reads, counted from the output.
    pub level: usize,
}

/// A rule at one size.
#[derive(Debug)]
pub(super) struct Shape {
    pub rule: Miras,
    pub d: Dims,
    pub plan: Plan,
    pub slots: Slots,
    pub net: Network,
    pub layers: Vec<Layer>,
    /// Whether the raw key is added to what the layers give.
    pub residual: bool,
    pub pull: Pull,
    pub kind: Kind,
    /// Whether gradients are pairs of a token and one of its window, and the parts of features that have a coefficient each.
    pub pairs: bool,
    pub parts: ArrayVec<Range<usize>, MOST_PARTS>,
    /// Whether orthogonal steps are taken at every token.
    pub every: bool,
    /// The polynomial and iterations of orthogonal steps.
    pub orthogonal: Option<([f64; 3], usize)>,
    /// Whether weights are made from the state by a map, or the state is settled.
    pub dual: bool,
    pub map: Map,
    /// Values per token of all inputs of layers, and of all their results; the widest of either.
    pub inputs: usize,
    pub results: usize,
    pub widest: usize,
}

thread_local! {
    static SHAPES: RefCell<Vec<Rc<Shape>>> = const { RefCell::new(Vec::new()) };
}
/// Shapes that a thread remembers; a model has a few.
const KEPT: usize = 16;

impl Shape {
    /// The shape of a rule, kept for the next call, so that a call for a single token allocates nothing.
    pub fn of(rule: &Miras, d: Dims) -> Rc<Shape> {
        SHAPES.with_borrow_mut(|kept| {
            let at = kept.iter().position(|s| s.d == d && s.rule == *rule).unwrap_or_else(|| {
                kept.truncate(KEPT - 1);
                kept.insert(0, Rc::new(Shape::new(rule, d)));
                0
            });
            kept[at].clone()
        })
    }

    fn new(rule: &Miras, d: Dims) -> Self {
        let plan = Plan::new(rule, d);
        let net = with_structure!(&rule.structure, s => s.network()).expect("the kernel is available");
        let level = |i: usize| if net.gated && i == 2 { 1 } else { i };
        let layers: Vec<Layer> = plan
            .tensors
            .iter()
            .enumerate()
            .map(|(i, (t, at))| Layer { rows: t.rows, columns: t.columns, at: at.clone(), level: level(i) })
            .collect();
        let (momentum, orthogonal, once) =
            with_algorithm!(&rule.algorithm, a => (a.momentum(), a.orthogonal(), a.once_per_chunk()));
        let mut first = 0;
        let part = |width: usize| {
            first += width;
            first - width..first
        };
        let widest = layers.iter().map(|l| l.rows.max(l.columns)).max().unwrap_or(0);
        Self {
            rule: rule.clone(),
            d,
            slots: plan::inputs(rule).1,
            residual: with_structure!(&rule.structure, s => s.residual()),
            pull: with_retention!(&rule.retention, r => r.pull()),
            dual: with_retention!(&rule.retention, r => r.is_dual() || r.settles()),
            map: Map::of(rule),
            pairs: has_pairs(rule),
            parts: with_features!(&rule.features, f => f.parts(d.dk)).into_iter().map(part).collect(),
            every: orthogonal.is_some() && !once,
            kind: Kind { momentum, steps: orthogonal.is_none() },
            orthogonal,
            inputs: layers.iter().take(net.layers).map(|l| l.columns).sum(),
            results: layers.iter().map(|l| l.rows).sum(),
            widest,
            plan,
            net,
            layers,
        }
    }

    /// Tokens before the first of a block whose gradients it uses: the window's past.
    pub fn halo(&self) -> usize {
        self.rule.window.saturating_sub(1)
    }
    /// Keys of the gradients of a block of `count` tokens.
    pub fn held(&self, count: usize) -> usize {
        count + self.halo()
    }
    /// Gradients of a block of `count` tokens.
    pub fn all(&self, count: usize) -> usize {
        if self.pairs { count * self.rule.window } else { self.held(count) }
    }
    /// The gradients of a block that the step of its token `t` is made of.
    pub fn gradients_of(&self, t: usize) -> Range<usize> {
        match self.slots.window {
            None => t..t + 1,
            Some(_) if self.pairs => t * self.rule.window..(t + 1) * self.rule.window,
            Some(_) => t..t + self.rule.window,
        }
    }
    /// Values of rows of the widest kind in a block of `count` tokens.
    pub fn widest_rows(&self, count: usize) -> usize {
        if !self.pairs {
            return self.all(count) * self.widest;
        }
        let inner = self.layers.iter().map(|l| if self.pairs_at(l.level) { l.rows } else { l.rows.max(l.columns) });
        (self.all(count) * inner.max().unwrap_or(0)).max(count * self.widest)
    }
    /// Whether gradients are taken at a state of their own.
    pub fn anchored(&self) -> bool {
        self.rule.chunk > 1
    }
    /// Whether reads see the anchor.
    pub fn reads_anchor(&self) -> bool {
        self.anchored() && self.rule.read == ReadAt::Start
    }
    /// Whether reads see the state before the token's own write.
    pub fn reads_before(&self) -> bool {
        self.rule.read == ReadAt::Pre || (self.rule.read == ReadAt::Start && !self.anchored())
    }
    /// Tokens of the block that starts at `pos`, of `left` tokens that are left.
    pub fn block(&self, pos: u64, left: usize) -> usize {
        let chunk = self.rule.chunk.max(1) as u64;
        let rest = chunk - pos % chunk;
        let most = if self.pairs { MOST_TOKENS / 2 } else { MOST_TOKENS };
        left.min(most).min(usize::try_from(rest).unwrap_or(usize::MAX))
    }
    /// Tokens of a block on the way back, and of one by products of tokens.
    pub fn products(&self, pos: u64, left: usize) -> usize {
        let count = self.block(pos, left);
        count.min(if self.every {
            1
        } else if self.reads_maps() {
            PIECE
        } else {
            count
        })
    }
    /// Whether a chunk starts at `pos`.
    pub fn begins(&self, pos: u64) -> bool {
        pos.is_multiple_of(self.rule.chunk.max(1) as u64)
    }
    /// Whether an orthogonal step is taken at `pos`.
    pub fn leaps(&self, pos: u64) -> bool {
        self.every || self.orthogonal.is_some() && self.begins(pos + 1)
    }
    /// Whether the token at `pos` reads by itself what its own orthogonal step made.
    pub fn reads_aside(&self, pos: u64) -> bool {
        self.leaps(pos) && !self.reads_before() && !self.reads_anchor()
    }
    /// Where the rows of the input of level `level` lie, in a list of all levels.
    pub fn input(&self, level: usize, rows: usize) -> Range<usize> {
        let before: usize = self.layers[..level].iter().map(|l| l.columns).sum();
        before * rows..(before + self.layers[level].columns) * rows
    }
    /// Where the inputs of level `level` of the gradients of a block of `count` tokens lie: behind the features, those of keys.
    pub fn made(&self, level: usize, count: usize) -> Range<usize> {
        let whole = self.input(level, self.all(count));
        if self.pairs_at(level) {
            whole.start..whole.start + self.held(count) * self.layers[level].columns
        } else {
            whole
        }
    }
    /// Whether the inputs of the gradients at a level are those of keys, shared by pairs.
    pub fn pairs_at(&self, level: usize) -> bool {
        self.pairs && level + 1 == self.net.layers
    }
    /// Where the rows of the result of layer `i` lie, in a list of all layers.
    pub fn result(&self, i: usize, rows: usize) -> Range<usize> {
        let before: usize = self.layers[..i].iter().map(|l| l.rows).sum();
        before * rows..(before + self.layers[i].rows) * rows
    }
    /// The layers that read the input of a level.
    pub fn at_level(&self, level: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let gate = (self.net.gated && level == 1).then_some(2);
        std::iter::once(level).chain(gate)
    }
    /// The result that multiplies the hidden values made from layer `i`.
    pub fn gate(&self, i: usize, rows: usize) -> Range<usize> {
        if self.net.gated && i == 1 { self.result(2, rows) } else { 0..0 }
    }
}
