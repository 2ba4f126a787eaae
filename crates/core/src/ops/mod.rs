//! The coarse op set that a model is made of: pairs of `x_forward` and `x_backward`.
//!
//! [`Ops`] is the contract between the model and whatever computes it. [`Reference`] is the slow, generic,
//! single-threaded one: law, and differentiable exactly with [`crate::Dual`]. [`Cpu`] runs `f32` kernels that
//! must equal it.
//!
//! Conventions, for every op: matrices are row-major, slowest axis first; **forward overwrites its output,
//! backward adds into its gradients** (`d` + name); an `Option` gradient that is `None` is not computed.
//! `T` = tokens of the call, `H` = heads, `D` = width of a head, `C = H * D`.
//!
//! Ops that mix tokens have a second transpose, `x_column_backward`: the gradient of each token's output along the
//! column of that token alone, where keys, inputs and states that other positions contributed are constants. It adds
//! what `T` calls of one token each would.
//!
//! **Invariant:** there is no batch axis. A call is one sequence; sequences run side by side above this crate,
//! so nothing that one sequence does can reach another.

pub mod attention;
pub mod conv;
mod cpu;
mod embedding;
mod gates;
mod heads;
mod linear;
mod loss;
mod mlp;
mod norm;
mod reference;
pub mod rope;

pub use cpu::{Cpu, ScanKernel};
pub(crate) use gates::damper;
pub use gates::{GateKind, GateSpec, gate_specs};
pub use reference::Reference;

pub use crate::rules::miras::algorithm::Polynomial;

use crate::Number;
use crate::error::Result;
use crate::rules::AnyRule;
use crate::scan::{ScanShape, Write};

/// Extent of a matrix product `y = x w`: `x [rows, inner]`, `w [inner, outer]`, `y [rows, outer]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of `x` and `y`.
    pub rows: usize,
    /// Columns of `x`, rows of `w`.
    pub inner: usize,
    /// Columns of `w` and `y`.
    pub outer: usize,
}

/// Extent of an op that works on each head of each token: `T`, `H`, `D`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    /// Tokens of the call.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Width of one head.
    pub width: usize,
}

impl HeadShape {
    /// Values in `[T, H * D]` or `[H, T, D]`.
    pub fn len(&self) -> usize {
        self.tokens * self.heads * self.width
    }
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Extent of a short causal convolution, from `[T, C]` to heads `[H, T, D]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Tokens, heads, head width.
    pub heads: HeadShape,
    /// Taps of the convolution; 0 leaves it out (`w` and `tail` are then empty).
    pub taps: usize,
    /// Put the result through SiLU.
    pub silu: bool,
    /// Scale every head's result to unit length, `x / sqrt(sum x^2 + 1e-6)`.
    pub unit: bool,
}

/// Keys per block of the attention cache.
pub const KEY_BLOCK: usize = 64;

/// Extent of causal attention over a prefix and a cache of keys and values.
///
/// The prefix does not live in the cache: every call brings it, see [`Prefix`].
///
/// Key `p` (an absolute position) lies in slot `p % ring`. The cache is cut into blocks of [`KEY_BLOCK`] slots:
/// keys `[kv_heads, ring / KEY_BLOCK, D, KEY_BLOCK]` (each block transposed), values
/// `[kv_heads, ring / KEY_BLOCK, KEY_BLOCK, D]`. Blocks are aligned to absolute positions, so that the order of
/// every sum depends on positions alone and not on how a stream was cut into calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Queries of the call; the first stands at position `pos`.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head `h` uses key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub width: usize,
    /// A query at `i` sees keys `j <= i` with `i - j < window`.
    pub window: usize,
    /// Keys that every query sees besides, wherever it stands; may be 0.
    pub prefix: usize,
    /// Absolute position of the first query.
    pub pos: u64,
    /// Slots per key head: a multiple of [`KEY_BLOCK`] that holds the window of every query of the call,
    /// rounded out to whole blocks.
    pub ring: usize,
}

impl AttentionShape {
    /// The smallest ring that serves calls of `tokens` tokens under `window`.
    pub fn ring_for(window: usize, tokens: usize) -> usize {
        (window - 1 + tokens + KEY_BLOCK - 1).next_multiple_of(KEY_BLOCK)
    }
    /// Values in the key cache, and in the value cache.
    pub fn cache_len(&self) -> usize {
        self.kv_heads * self.ring * self.width
    }
    /// Values in the keys of the prefix, and in its values.
    pub fn prefix_len(&self) -> usize {
        self.kv_heads * self.prefix * self.width
    }
    /// Index of component `c` of key `p` of key head `h` in the key cache.
    pub fn key_index(&self, h: usize, p: u64, c: usize) -> usize {
        let slot = (p % self.ring as u64) as usize;
        h * self.ring * self.width + (slot / KEY_BLOCK * self.width + c) * KEY_BLOCK + slot % KEY_BLOCK
    }
    /// Index of component `c` of value `p` of key head `h` in the value cache.
    pub fn value_index(&self, h: usize, p: u64, c: usize) -> usize {
        let slot = (p % self.ring as u64) as usize;
        h * self.ring * self.width + slot * self.width + c
    }
    /// First key that the query of row `t` sees.
    pub fn first_key(&self, t: usize) -> u64 {
        (self.pos + t as u64 + 1).saturating_sub(self.window as u64)
    }
}

/// Keys and values that every query of a call sees, `[kv_heads, prefix, D]` each, or the gradients of both. The
/// default is the empty one.
///
/// Persistent memory [Titans v1 eq.19]: parameters, so that no call keeps them for the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prefix<S> {
    /// Keys. They have no position: nothing is rotated here.
    pub keys: S,
    /// Values.
    pub values: S,
}

/// Channel non-linearities of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// `silu(a) * b` of a hidden pair: `x [T, 2 F]` holds `a | b` in each row, `y [T, F]`.
    Gated,
    /// `gelu(x)`, tanh form: `x [T, F]`, `y [T, F]`.
    Gelu,
}

impl MlpKind {
    /// Width of the input for hidden width `hidden`.
    pub fn input_width(self, hidden: usize) -> usize {
        match self {
            MlpKind::Gated => 2 * hidden,
            MlpKind::Gelu => hidden,
        }
    }
}

/// Small constant under every root mean square, [Titans v1 sec.4.4] is silent; 1e-6 as in common use.
pub const NORM_EPS: f64 = 1e-6;

/// The operations that a model is generic over.
pub trait Ops: Sync {
    /// The number type of all buffers.
    type F: Number;

    /// `y[t] = table[ids[t]]`: `ids [T]`, `table [V, C]`, `y [T, C]`. Ids are below `V` (checked by the caller).
    fn embedding_forward(&self, width: usize, ids: &[u32], table: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `embedding_forward`.
    fn embedding_backward(&self, width: usize, ids: &[u32], dy: &[Self::F], dtable: &mut [Self::F]);

    /// `y = x w`. Each output is summed over `inner` in rising order, whatever the other rows are.
    fn linear_forward(&self, s: LinearShape, x: &[Self::F], w: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `linear_forward`: `dx += dy w^T`, `dw += x^T dy`. Without `dw`, `x` may be empty; without `dx`, `w`.
    fn linear_backward(
        &self,
        s: LinearShape,
        x: &[Self::F],
        w: &[Self::F],
        dy: &[Self::F],
        dx: Option<&mut [Self::F]>,
        dw: Option<&mut [Self::F]>,
    );
    /// `y = x w^T` with `w [outer, inner]`: the head of a model with tied embeddings.
    fn linear_transposed_forward(&self, s: LinearShape, x: &[Self::F], w: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `linear_transposed_forward`.
    fn linear_transposed_backward(
        &self,
        s: LinearShape,
        x: &[Self::F],
        w: &[Self::F],
        dy: &[Self::F],
        dx: Option<&mut [Self::F]>,
        dw: Option<&mut [Self::F]>,
    );

    /// `y = scale * x / sqrt(mean(x^2) + NORM_EPS)` per row: `x, y [T, width]`, `scale [width]`.
    fn rms_norm_forward(&self, width: usize, x: &[Self::F], scale: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `rms_norm_forward`.
    fn rms_norm_backward(
        &self,
        width: usize,
        x: &[Self::F],
        scale: &[Self::F],
        dy: &[Self::F],
        dx: &mut [Self::F],
        dscale: &mut [Self::F],
    );

    /// Short causal convolution, optional SiLU, optional unit length, and the turn from tokens to heads:
    /// `x [T, C]`, `w [taps, C]` (oldest tap first), `tail [taps - 1, C]` (the inputs before the call, oldest
    /// first), `y [H, T, D]`.
    fn conv_forward(&self, s: ConvShape, x: &[Self::F], w: &[Self::F], tail: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `conv_forward`; the tail is a constant (the gradient is cut at the call).
    fn conv_backward(
        &self,
        s: ConvShape,
        x: &[Self::F],
        w: &[Self::F],
        tail: &[Self::F],
        dy: &[Self::F],
        dx: &mut [Self::F],
        dw: &mut [Self::F],
    );

    /// Transpose of `conv_forward` along columns: `dx` of a token from its own output, through the newest tap.
    fn conv_column_backward(
        &self,
        s: ConvShape,
        x: &[Self::F],
        w: &[Self::F],
        tail: &[Self::F],
        dy: &[Self::F],
        dx: &mut [Self::F],
    );

    /// Activations of a rule's gates, see [`GateKind`]. `pre [T, sum_g H * columns_g]` holds the gates one after the
    /// other in each row, `bias [sum_g H * columns_g]`; `out` holds one `[H, T, width_g]` after the other.
    fn gates_forward(
        &self,
        gates: &[GateSpec],
        tokens: usize,
        heads: usize,
        pre: &[Self::F],
        bias: &[Self::F],
        out: &mut [Self::F],
    );
    /// Transpose of `gates_forward`.
    fn gates_backward(
        &self,
        gates: &[GateSpec],
        tokens: usize,
        heads: usize,
        pre: &[Self::F],
        bias: &[Self::F],
        dout: &[Self::F],
        dpre: &mut [Self::F],
        dbias: &mut [Self::F],
    );

    /// Rotary positions, and the turn from tokens to heads: `x [T, H * D]` to `y [H, T, D]`. `table [T, D]` holds
    /// `D / 2` cosines, then `D / 2` sines a row; pairs are `(c, c + D / 2)`. An empty table only turns.
    fn rope_forward(&self, s: HeadShape, table: &[Self::F], x: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `rope_forward`.
    fn rope_backward(&self, s: HeadShape, table: &[Self::F], dy: &[Self::F], dx: &mut [Self::F]);

    /// Softmax attention, scaled by `1 / sqrt(D)`: `q, y [heads, T, D]`, caches as in [`AttentionShape`] with the
    /// call's own keys already stored, the prefix in front of them; `lse [heads, T]` receives log-sum-exp for the
    /// backward pass.
    fn attention_forward(
        &self,
        s: AttentionShape,
        q: &[Self::F],
        keys: &[Self::F],
        values: &[Self::F],
        prefix: Prefix<&[Self::F]>,
        y: &mut [Self::F],
        lse: &mut [Self::F],
    );
    /// Transpose of `attention_forward`; `dk, dv [kv_heads, T, D]` are for the call's own keys, older ones are
    /// constants.
    fn attention_backward(
        &self,
        s: AttentionShape,
        q: &[Self::F],
        keys: &[Self::F],
        values: &[Self::F],
        prefix: Prefix<&[Self::F]>,
        y: &[Self::F],
        lse: &[Self::F],
        dy: &[Self::F],
        dq: &mut [Self::F],
        dk: &mut [Self::F],
        dv: &mut [Self::F],
        dprefix: Prefix<&mut [Self::F]>,
    );
    /// Transpose of `attention_forward` along columns: `dq` as in `attention_backward`, and `dk, dv` of a token from
    /// its own queries. The prefix is a constant.
    fn attention_column_backward(
        &self,
        s: AttentionShape,
        q: &[Self::F],
        keys: &[Self::F],
        values: &[Self::F],
        prefix: Prefix<&[Self::F]>,
        y: &[Self::F],
        lse: &[Self::F],
        dy: &[Self::F],
        dq: &mut [Self::F],
        dk: &mut [Self::F],
        dv: &mut [Self::F],
    );

    /// Turns heads `x [H, T, D]` back to tokens `y [T, H * D]`.
    fn merge_forward(&self, s: HeadShape, x: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `merge_forward`.
    fn merge_backward(&self, s: HeadShape, dy: &[Self::F], dx: &mut [Self::F]);

    /// The memory's way out: `y = scale * rms(x) * silu(g)`, the norm over each head:
    /// `x [H, T, D]`, `scale [H * D]`, `g, y [T, H * D]`.
    fn gated_norm_forward(&self, s: HeadShape, x: &[Self::F], scale: &[Self::F], g: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `gated_norm_forward`.
    fn gated_norm_backward(
        &self,
        s: HeadShape,
        x: &[Self::F],
        scale: &[Self::F],
        g: &[Self::F],
        dy: &[Self::F],
        dx: &mut [Self::F],
        dscale: &mut [Self::F],
        dg: &mut [Self::F],
    );

    /// `y = a * sigmoid(b)`, element by element: how memory as a gate meets attention.
    fn sigmoid_gate_forward(&self, a: &[Self::F], b: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `sigmoid_gate_forward`.
    fn sigmoid_gate_backward(
        &self,
        a: &[Self::F],
        b: &[Self::F],
        dy: &[Self::F],
        da: &mut [Self::F],
        db: &mut [Self::F],
    );

    /// The non-linearity of an MLP: shapes in [`MlpKind`].
    fn mlp_forward(&self, kind: MlpKind, hidden: usize, x: &[Self::F], y: &mut [Self::F]);
    /// Transpose of `mlp_forward`.
    fn mlp_backward(&self, kind: MlpKind, hidden: usize, x: &[Self::F], dy: &[Self::F], dx: &mut [Self::F]);

    /// Cross-entropy in nats: `logits [T, V]`, `targets [T]`, `loss [T]`.
    fn cross_entropy_forward(&self, vocab: usize, logits: &[Self::F], targets: &[u32], loss: &mut [Self::F]);
    /// Transpose of `cross_entropy_forward`: `dlogits[t] += dloss[t] * (softmax(logits[t]) - onehot(targets[t]))`.
    fn cross_entropy_backward(
        &self,
        vocab: usize,
        logits: &[Self::F],
        targets: &[u32],
        dloss: &[Self::F],
        dlogits: &mut [Self::F],
    );

    /// `out += x^T x`: `x [rows, width]`, `out [width, width]`. What optimizers ask of a layer's inputs; nothing
    /// differentiates through it, so it has no transpose.
    fn add_gram(&self, width: usize, x: &[Self::F], out: &mut [Self::F]);
    /// The nearest thing to an orthogonal matrix that `iterations` of `polynomial` make of `x [rows, columns]`, see
    /// [`crate::rules::miras::algorithm::Muon`]; a single row or column is divided by its length. For optimizers, without
    /// a transpose.
    fn orthogonal(&self, polynomial: Polynomial, iterations: usize, columns: usize, x: &[Self::F], out: &mut [Self::F]);

    /// Runs a memory rule; see [`crate::scan`] for layouts. `saved` receives the checkpoints of a training pass.
    ///
    /// # Errors
    /// If a kernel was asked for by name that cannot run here.
    fn scan_forward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[Self::F]],
        state: &mut [Self::F],
        y: &mut [Self::F],
        saved: Option<&mut [Self::F]>,
        write: Write,
    ) -> Result<()>;
    /// Transpose of `scan_forward` with [`Write::Yes`].
    ///
    /// # Errors
    /// As `scan_forward`.
    fn scan_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[Self::F]],
        saved: &[Self::F],
        dy: &[Self::F],
        dinputs: &mut [&mut [Self::F]],
        dstate: &mut [Self::F],
    ) -> Result<()>;
    /// Transpose of `scan_forward` along columns: what the inputs of a token give to its own read, through its own
    /// write where the rule writes before it reads. The state before the token is a constant.
    ///
    /// # Errors
    /// As `scan_forward`.
    fn scan_column_backward(
        &self,
        rule: &AnyRule,
        s: ScanShape,
        inputs: &[&[Self::F]],
        saved: &[Self::F],
        dy: &[Self::F],
        dinputs: &mut [&mut [Self::F]],
    ) -> Result<()>;
}
